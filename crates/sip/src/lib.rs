//! SIP messages, transactions and digest: pure, no I/O, no clock.
//!
//! Octets come in through [`framer`], become a [`Message`] (offsets into one shared buffer), are judged by
//! [`Message::check_request`] or [`Message::check_response`], and leave as they came but for the [`Edits`] somebody
//! made. Typed parsers ([`Via`], [`NameAddr`], [`Uri`], ...) read a header when it is asked for. Nothing here opens a
//! socket, looks at a clock or draws a random number.

pub mod ack;
mod address_of_record;
mod check;
mod contact;
mod cseq;
pub mod dialog;
pub mod digest;
mod edits;
mod error;
mod escape;
pub mod framer;
mod grammar;
mod header_name;
mod host;
mod message;
mod method;
mod name_addr;
mod params;
mod reason;
mod request;
mod response;
mod structure;
pub mod stun;
pub mod transaction;
mod uri;
mod values;
mod via;
mod write;

pub use address_of_record::AddressOfRecord;
pub use check::{CheckedRequest, CheckedResponse};
pub use contact::{Contact, Contacts, QValue};
pub use cseq::CSeq;
pub use edits::Edits;
pub use error::{HeaderError, ParseError, Rejection, UriError};
pub use escape::unescape;
pub use framer::{Frame, Framing, FramingError, StreamFramer};
pub use grammar::is_token;
pub use header_name::HeaderName;
pub use host::{Host, parse_address};
pub use message::Message;
pub use method::Method;
pub use name_addr::{NameAddr, NameAddrError};
pub use params::{Params, unquote};
pub use reason::reason_phrase;
pub use request::{MAX_FORWARDS_INITIAL, RequestBuilder};
pub use response::{ResponseBuilder, forms_dialog};
pub use structure::{FIELDS_MAX, MESSAGE_BYTES_MAX};
pub use uri::{SipUri, Uri};
pub use values::Values;
pub use via::{BRANCH_COOKIE, Via};
