//! The phones: their addresses and the requests they send.
//!
//! Every message is a [`Template`] that is filled at a few places. All phones of a flow share its socket; user *n*
//! has flow *n* modulo the number of flows, and contacts there, so that whoever looks a user up can reach it.

use std::net::SocketAddr;

use bytes::{BufMut as _, Bytes, BytesMut};
use sip::Method;
use transport::Transport;

use crate::outbox::FlowIndex;
use crate::run_id::RunId;
use crate::table::Key;
use crate::template::{Template, put_decimal};

/// Stands in every Call-ID of a call before the call's key.
const CALL_MARK: &[u8] = b"c";

/// A user, counted from 0 whatever its name begins with.
pub(crate) type User = u32;

/// Where a template is filled.
#[derive(Clone, Copy, Debug)]
enum Place {
    User,
    Peer,
    Line,
    Contact,
    Instance,
    Address,
    Key,
    Call,
    CSeq,
    Authorization,
    Target,
    Route,
    Local,
    Remote,
    Filler,
}

fn place(name: &str) -> Option<Place> {
    Some(match name {
        "user" => Place::User,
        "peer" => Place::Peer,
        "line" => Place::Line,
        "contact" => Place::Contact,
        "instance" => Place::Instance,
        "address" => Place::Address,
        "key" => Place::Key,
        "call" => Place::Call,
        "cseq" => Place::CSeq,
        "authorization" => Place::Authorization,
        "target" => Place::Target,
        "route" => Place::Route,
        "local" => Place::Local,
        "remote" => Place::Remote,
        "filler" => Place::Filler,
        _ => return None,
    })
}

const REGISTER: &str = "\
REGISTER sip:{domain} SIP/2.0
Via: SIP/2.0/{TRANSPORT} {address};rport;branch=z9hG4bK{run}{key}
Max-Forwards: 70
From: <sip:user{user}@{domain}>;tag={run}
To: <sip:user{user}@{domain}>
Call-ID: {run}r{line}
CSeq: {cseq} REGISTER
Contact: <sip:user{user}{contact}@{address}{transport}>
Expires: {expires}
{authorization}Content-Length: 0

";

/// Stands in a REGISTER for which only a contact is wanted.
const CONTACT: &str = "<sip:user{user}{contact}@{address}{transport}>";

/// What a contact has behind it that names its phone and flow.
const INSTANCE: &str = ";+sip.instance=\"<urn:uuid:00000000-0000-4000-8000-{instance}>\";reg-id=1";

const OPTIONS: &str = "\
OPTIONS sip:{domain} SIP/2.0
Via: SIP/2.0/{TRANSPORT} {address};rport;branch=z9hG4bK{run}{key}
Max-Forwards: 70
From: <sip:user{user}@{domain}>;tag={run}
To: <sip:{domain}>
Call-ID: {run}o{key}
CSeq: 1 OPTIONS
{authorization}Content-Length: 0

";

const INVITE: &str = "\
INVITE sip:user{peer}@{domain} SIP/2.0
Via: SIP/2.0/{TRANSPORT} {address};rport;branch=z9hG4bK{run}{key}
Max-Forwards: 70
From: <sip:user{user}@{domain}>;tag={call}
To: <sip:user{peer}@{domain}>
Call-ID: {run}c{call}
CSeq: {cseq} INVITE
Contact: <sip:user{user}@{address}{transport}>
{authorization}{body}";

/// A request in a dialog, with a method and what follows Content-Length or stands before it.
const IN_DIALOG: &str = "\
{method} {target} SIP/2.0
Via: SIP/2.0/{TRANSPORT} {address};rport;branch=z9hG4bK{run}{key}
Max-Forwards: 70
{route}From: {local}
To: {remote}
Call-ID: {run}c{call}
CSeq: {cseq} {method}
{authorization}{body}";

/// What comes back as a response to itself: a datagram for an echo.
const ECHO: &str = "\
SIP/2.0 200 OK
Via: SIP/2.0/{TRANSPORT} {address};rport;branch=z9hG4bK{run}{key}
From: <sip:echo@{domain}>;tag={run}
To: <sip:echo@{domain}>;tag={run}
Call-ID: {run}e{key}
CSeq: 1 OPTIONS
Content-Length: 0
Subject: {filler}

";

/// No media flows: the addresses are for documentation (RFC 5737).
const SESSION_DESCRIPTION: &str = "\
v=0
o=load 1 1 IN IP4 192.0.2.1
s=-
c=IN IP4 192.0.2.1
t=0 0
m=audio 49170 RTP/AVP 0 8
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=sendrecv
";

/// Whether contacts name their phone and flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outbound {
    Yes,
    No,
}

/// What every phone of a run has in common.
#[derive(Clone, Debug)]
pub(crate) struct PhoneSettings {
    /// This run.
    pub(crate) run: RunId,
    /// Domain of all addresses-of-record.
    pub(crate) domain: String,
    /// What carries the messages.
    pub(crate) transport: Transport,
    /// How long registrations are asked for, in seconds.
    pub(crate) expires: u32,
    /// Number of the first user.
    pub(crate) first_user: u32,
    /// Whether contacts name their phone and flow (RFC 5626 §4.1).
    pub(crate) outbound: Outbound,
    /// Length of an echo's datagram, at least that of its header.
    pub(crate) echo_bytes: usize,
}

/// What differs between requests of one kind. Which of it is used depends on the kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Values<'a> {
    /// Who sends.
    pub(crate) user: User,
    /// Who is called.
    pub(crate) peer: User,
    /// Which of the user's contacts.
    pub(crate) contact: u32,
    /// Which registration: of all contacts of all users.
    pub(crate) line: u32,
    pub(crate) cseq: u32,
    /// A whole header line, or nothing.
    pub(crate) authorization: &'a [u8],
    /// Request-URI of a request in a dialog.
    pub(crate) target: &'a [u8],
    /// Whole Route lines, or nothing.
    pub(crate) route: &'a [u8],
    /// From of a request in a dialog.
    pub(crate) local: &'a [u8],
    /// To of a request in a dialog.
    pub(crate) remote: &'a [u8],
}

#[derive(Debug)]
struct Templates {
    register: Template<Place>,
    unregister_all: Template<Place>,
    options: Template<Place>,
    invite: Template<Place>,
    ack: Template<Place>,
    bye: Template<Place>,
    info: Template<Place>,
    reinvite: Template<Place>,
    echo: Template<Place>,
}

impl Templates {
    fn new(settings: &PhoneSettings) -> Templates {
        let make = |text: &str, method: &str, body: &str| {
            let constant = |name: &str| settings.constant(name, method, body);
            Template::new(text, constant, place)
        };
        let (empty, session) = ("Content-Length: 0\n\n".to_owned(), session_body());
        let contact = "Contact: <sip:user{user}@{address}{transport}>\n";
        let reinvite = IN_DIALOG.replace("{authorization}", &format!("{contact}{{authorization}}"));
        let unregister_all = REGISTER.replace(CONTACT, "*").replace("{expires}", "0");
        let register = match settings.outbound {
            Outbound::No => REGISTER.to_owned(),
            Outbound::Yes => REGISTER
                .replace(CONTACT, &format!("{CONTACT}{INSTANCE}"))
                .replace("{authorization}", "Supported: path, outbound\n{authorization}"),
        };
        Templates {
            unregister_all: make(&unregister_all, "REGISTER", ""),
            register: make(&register, "REGISTER", ""),
            options: make(OPTIONS, "OPTIONS", ""),
            invite: make(INVITE, "INVITE", &session),
            // A transaction of its own that nobody answers: no other request may have its branch.
            ack: make(&IN_DIALOG.replace("{key}", "a{key}.{cseq}"), "ACK", &empty),
            bye: make(IN_DIALOG, "BYE", &empty),
            info: make(IN_DIALOG, "INFO", &empty),
            reinvite: make(&reinvite, "INVITE", &session),
            echo: make(ECHO, "OPTIONS", ""),
        }
    }
}

impl PhoneSettings {
    fn constant(&self, name: &str, method: &str, body: &str) -> Option<String> {
        Some(match name {
            "domain" => self.domain.clone(),
            "run" => self.run.as_str().to_owned(),
            "TRANSPORT" => self.transport.via_name().to_owned(),
            "transport" if self.transport == Transport::Udp => String::new(),
            "transport" => format!(";transport={}", self.transport.uri_name()),
            "expires" => self.expires.to_string(),
            "method" => method.to_owned(),
            "body" => body.to_owned(),
            _ => return None,
        })
    }
}

/// Content headers and body of an offer or answer.
fn session_body() -> String {
    // Lines end with CRLF on the wire.
    let length = SESSION_DESCRIPTION.len() + SESSION_DESCRIPTION.lines().count();
    format!("Content-Type: application/sdp\nContent-Length: {length}\n\n{SESSION_DESCRIPTION}")
}

/// The body of an answer to an offer.
pub(crate) fn session_description() -> Bytes {
    SESSION_DESCRIPTION.replace('\n', "\r\n").into()
}

/// Renders requests.
#[derive(Debug)]
pub(crate) struct Phones {
    settings: PhoneSettings,
    templates: Templates,
    domain_uri: String,
    /// Local address of each flow, as text; empty while a TCP flow has none.
    addresses: Vec<String>,
}

impl Phones {
    /// Phones with so many flows, whose addresses are told when they are known.
    pub(crate) fn new(settings: PhoneSettings, flows: usize) -> Phones {
        let templates = Templates::new(&settings);
        let domain_uri = format!("sip:{}", settings.domain);
        Phones { settings, templates, domain_uri, addresses: vec![String::new(); flows] }
    }

    /// A flow has this local address from now on.
    pub(crate) fn set_address(&mut self, flow: FlowIndex, local: SocketAddr) {
        self.addresses[flow.0 as usize] = local.to_string();
    }

    /// How many flows there are.
    pub(crate) fn flows(&self) -> u32 {
        u32::try_from(self.addresses.len()).expect("flows are bounded by descriptors")
    }

    /// The flow of a user.
    pub(crate) fn flow_of(&self, user: User) -> FlowIndex {
        FlowIndex(user % self.flows())
    }

    /// The URI of the domain, to which REGISTER goes.
    pub(crate) fn domain_uri(&self) -> &[u8] {
        self.domain_uri.as_bytes()
    }

    /// The address-of-record of a user.
    pub(crate) fn address_of_record(&self, user: User) -> Vec<u8> {
        format!("sip:user{}@{}", self.settings.first_user + user, self.settings.domain).into()
    }

    /// The user's contact, by the flow it is at.
    pub(crate) fn contact(&self, user: User) -> Vec<u8> {
        let number = self.settings.first_user + user;
        let address = &self.addresses[self.flow_of(user).0 as usize];
        let parameter = match self.settings.transport {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
        };
        format!("<sip:user{number}@{address}{parameter}>").into()
    }

    /// The key of the call that a Call-ID of ours names.
    pub(crate) fn call_of(&self, call_id: &[u8]) -> Option<Key> {
        let rest = call_id.strip_prefix(self.settings.run.as_bytes())?;
        Key::parse(rest.strip_prefix(CALL_MARK)?)
    }

    fn render(
        &self,
        template: &Template<Place>,
        flow: FlowIndex,
        key: Key,
        call: Key,
        values: &Values<'_>,
    ) -> Bytes {
        template.render(|place, out: &mut BytesMut| match place {
            Place::User => put_decimal(out, u64::from(self.settings.first_user + values.user)),
            Place::Peer => put_decimal(out, u64::from(self.settings.first_user + values.peer)),
            Place::Line => put_decimal(out, u64::from(values.line)),
            Place::Contact if values.contact == 0 => {}
            Place::Contact => {
                out.put_u8(b'.');
                put_decimal(out, u64::from(values.contact));
            }
            // The last field of a UUID: twelve digits.
            Place::Instance => out.put_slice(format!("{:012}", values.line).as_bytes()),
            Place::Address => out.put_slice(self.addresses[flow.0 as usize].as_bytes()),
            Place::Key => key.put(out),
            Place::Call => call.put(out),
            Place::CSeq => put_decimal(out, u64::from(values.cseq)),
            Place::Authorization => out.put_slice(values.authorization),
            Place::Target => out.put_slice(values.target),
            Place::Route => out.put_slice(values.route),
            Place::Local => out.put_slice(values.local),
            Place::Remote => out.put_slice(values.remote),
            // Two line ends follow.
            Place::Filler => {
                out.resize(out.len().max(self.settings.echo_bytes.saturating_sub(4)), b'x');
            }
        })
    }

    /// A REGISTER by this flow; `key` is that of its transaction.
    pub(crate) fn register(&self, flow: FlowIndex, key: Key, values: &Values<'_>) -> Bytes {
        self.render(&self.templates.register, flow, key, key, values)
    }

    /// A REGISTER that removes all contacts of the user, whoever registered them (RFC 3261 §10.2.2).
    pub(crate) fn unregister_all(&self, flow: FlowIndex, key: Key, values: &Values<'_>) -> Bytes {
        self.render(&self.templates.unregister_all, flow, key, key, values)
    }

    /// An OPTIONS to the domain.
    pub(crate) fn options(&self, key: Key, values: &Values<'_>) -> Bytes {
        self.render(&self.templates.options, self.flow_of(values.user), key, key, values)
    }

    /// A datagram for an echo.
    pub(crate) fn echo(&self, key: Key, values: &Values<'_>) -> Bytes {
        self.render(&self.templates.echo, self.flow_of(values.user), key, key, values)
    }

    /// The INVITE of a call.
    pub(crate) fn invite(&self, key: Key, call: Key, values: &Values<'_>) -> Bytes {
        self.render(&self.templates.invite, self.flow_of(values.user), key, call, values)
    }

    /// A request in the dialog of a call: ACK, BYE, INFO or INVITE.
    ///
    /// # Panics
    /// For any other method.
    pub(crate) fn in_dialog(
        &self,
        method: Method<'_>,
        key: Key,
        call: Key,
        values: &Values<'_>,
    ) -> Bytes {
        let template = match method {
            Method::Ack => &self.templates.ack,
            Method::Bye => &self.templates.bye,
            Method::Info => &self.templates.info,
            Method::Invite => &self.templates.reinvite,
            other => unreachable!("no phone here sends {other:?} in a dialog"),
        };
        self.render(template, self.flow_of(values.user), key, call, values)
    }
}

#[cfg(test)]
mod tests;
