//! A small SIP phone for tests and for the demo: registers, calls, answers, cancels, and holds several flows.
//!
//! It does what a well-behaved phone does (retransmits over UDP, answers retransmissions from memory,
//! acknowledges every 2xx again, RFC 3261 §17 and §13.2.2.4) and counts what arrives, so that a test can say
//! "the callee rang once". One [`Phone`] is one user; each of its [`Line`]s is one flow to an edge.
//!
//! Deliberately absent: media, offers and answers, TLS. SIPp is the peer that we did not write ourselves.

mod call;
mod exchange;
mod line;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use sip::{HeaderName, Message, Method, RequestBuilder};
use tokio::sync::mpsc;

pub use call::{Call, Invitation, Ringing};
pub use exchange::Exchange;
pub use line::Line;

/// How long a phone waits for anything that must come: longer than Timer B and F (64·T1 = 32 s).
pub const PATIENCE: Duration = Duration::from_secs(40);
/// Requests that wait for the test to look at them; a request over it is dropped, as on a busy phone.
const INBOX_LENGTH: usize = 1_024;

/// What went wrong on a phone; tests unwrap it.
#[derive(Debug, thiserror::Error)]
pub enum PhoneError {
    /// Nothing came within [`PATIENCE`].
    #[error("waited {PATIENCE:?} for {0}")]
    TimedOut(String),
    /// Another final response than the one that was asked for.
    #[error("{method} was answered {status} {reason}")]
    Refused {
        /// Method of the request.
        method: String,
        /// Status of the final response.
        status: u16,
        /// Its reason phrase.
        reason: String,
    },
    /// A socket failed.
    #[error("socket: {0}")]
    Socket(#[from] std::io::Error),
    /// The challenge cannot be answered.
    #[error("challenge: {0}")]
    Challenge(String),
}

/// Transport of a [`Line`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineTransport {
    /// A UDP socket of its own.
    Udp,
    /// A TCP connection of its own; everything comes and goes by it.
    Tcp,
}

impl LineTransport {
    /// Name in a Via, `UDP` or `TCP`.
    pub fn name(self) -> &'static str {
        match self {
            LineTransport::Udp => "UDP",
            LineTransport::Tcp => "TCP",
        }
    }
}

/// One user's phone.
#[derive(Debug)]
pub struct Phone {
    identity: Identity,
    lines: Vec<Line>,
    inbox: mpsc::Receiver<Arrived>,
    shared: Arc<Shared>,
    registration: Registration,
}

/// Who the phone is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) user: String,
    pub(crate) domain: String,
    pub(crate) password: String,
    /// `urn:uuid:…` of `+sip.instance`; set = outbound registrations with reg-id (RFC 5626 §4.2).
    pub(crate) instance: Option<String>,
}

impl Identity {
    pub(crate) fn uri(&self) -> String {
        format!("sip:{}@{}", self.user, self.domain)
    }
}

/// A request that begins something new (no dialog of ours), and the line it came by.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) request: Message,
    pub(crate) line: usize,
}

/// What the lines' reading tasks and the phone share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Responses by branch and method of the request that waits for them.
    pub(crate) waiting: Mutex<HashMap<(Bytes, Bytes), mpsc::Sender<Message>>>,
    /// Requests in a dialog, by Call-ID.
    pub(crate) dialogs: Mutex<HashMap<Bytes, mpsc::Sender<Arrived>>>,
    /// Last response to each request that came, by branch and method: a retransmission gets it again.
    pub(crate) answered: Mutex<HashMap<(Bytes, Bytes), Option<Bytes>>>,
    /// ACKs to 2xx, by branch of the INVITE: a 2xx that comes again gets it again.
    pub(crate) acknowledgements: Mutex<HashMap<Bytes, (Bytes, usize)>>,
    /// New INVITEs that arrived, retransmissions not counted.
    pub(crate) invites: AtomicU64,
    pub(crate) counter: AtomicU32,
}

#[derive(Debug)]
struct Registration {
    call_id: String,
    cseq: u32,
}

impl Phone {
    /// A phone with one line to an edge.
    ///
    /// # Errors
    /// When the socket cannot be opened or the edge does not accept the connection.
    pub async fn new(
        user: &str,
        domain: &str,
        password: &str,
        transport: LineTransport,
        edge: SocketAddr,
    ) -> Result<Phone, PhoneError> {
        let (sender, inbox) = mpsc::channel(INBOX_LENGTH);
        let shared = Arc::new(Shared::default());
        let line = Line::open(0, transport, edge, Arc::clone(&shared), sender).await?;
        Ok(Phone {
            identity: Identity {
                user: user.to_owned(),
                domain: domain.to_owned(),
                password: password.to_owned(),
                instance: None,
            },
            registration: Registration {
                call_id: format!("registration-{user}-{}", line.local()),
                cseq: 0,
            },
            lines: vec![line],
            inbox,
            shared,
        })
    }

    /// A phone that holds several flows at once and registers each (RFC 5626): `instance` is its
    /// `+sip.instance` URN, reg-id counts the lines from 1.
    ///
    /// # Errors
    /// As [`Phone::new`].
    pub async fn with_flows(
        user: &str,
        domain: &str,
        password: &str,
        instance: &str,
        flows: &[(LineTransport, SocketAddr)],
    ) -> Result<Phone, PhoneError> {
        let (sender, inbox) = mpsc::channel(INBOX_LENGTH);
        let shared = Arc::new(Shared::default());
        let mut lines = Vec::new();
        for (index, (transport, edge)) in flows.iter().enumerate() {
            let opened = Line::open(index, *transport, *edge, Arc::clone(&shared), sender.clone());
            lines.push(opened.await?);
        }
        Ok(Phone {
            identity: Identity {
                user: user.to_owned(),
                domain: domain.to_owned(),
                password: password.to_owned(),
                instance: Some(instance.to_owned()),
            },
            registration: Registration {
                call_id: format!("registration-{user}-{instance}"),
                cseq: 0,
            },
            lines,
            inbox,
            shared,
        })
    }

    /// The lines, in the order they were opened.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// `sip:user@domain`.
    pub fn uri(&self) -> String {
        self.identity.uri()
    }

    /// New INVITEs that arrived so far, retransmissions not counted: "the callee rang once" is `1`.
    pub fn invites(&self) -> u64 {
        self.shared.invites.load(Ordering::Relaxed)
    }

    /// Registers every line for `expires` seconds and gives the last 200.
    ///
    /// # Errors
    /// [`PhoneError::Refused`] with the status of the first line that was refused.
    pub async fn register(&mut self, expires: u32) -> Result<Message, PhoneError> {
        let mut last = None;
        for line in 0..self.lines.len() {
            let contact = self.contact(line);
            last = Some(self.register_contact(line, &contact, expires).await?);
        }
        Ok(last.expect("a phone has a line"))
    }

    /// Registers the first line for another address-of-record than the phone's own.
    ///
    /// # Errors
    /// As [`Phone::register_contact`].
    pub async fn register_as(&mut self, aor: &str, expires: u32) -> Result<Message, PhoneError> {
        let contact = self.contact(0);
        self.register_binding(aor, 0, &contact, expires).await
    }

    /// Sends one REGISTER with this Contact value by one line and gives the 200.
    ///
    /// # Errors
    /// [`PhoneError::Refused`] with the status of any other final response.
    pub async fn register_contact(
        &mut self,
        line: usize,
        contact: &str,
        expires: u32,
    ) -> Result<Message, PhoneError> {
        let uri = self.identity.uri();
        self.register_binding(&uri, line, contact, expires).await
    }

    async fn register_binding(
        &mut self,
        uri: &str,
        line: usize,
        contact: &str,
        expires: u32,
    ) -> Result<Message, PhoneError> {
        let call_id = self.registration.call_id.clone();
        let expires = expires.to_string();
        let mut authorization: Option<(&'static str, String)> = None;
        // One challenge, and one more when the nonce was stale.
        for _ in 0..3 {
            self.registration.cseq += 1;
            let mut request = self
                .request(line, Method::Register, &format!("sip:{}", self.identity.domain))
                .to(&format!("<{uri}>"))
                .call_id(&call_id)
                .cseq(self.registration.cseq)
                .header("Contact", contact)
                .header("Expires", &expires);
            if self.identity.instance.is_some() {
                request = request.header("Supported", "path, outbound");
            }
            if let Some((name, value)) = authorization.take() {
                request = request.header(name, &value);
            }
            let response = request.send().await?.final_response().await?;
            match response.status() {
                Some(401 | 407) => {
                    authorization = Some(exchange::answer_challenge(
                        &self.identity,
                        &response,
                        b"REGISTER",
                        &format!("sip:{}", self.identity.domain),
                    )?);
                }
                _ => return exchange::expect_success(Method::Register, response),
            }
        }
        Err(PhoneError::Challenge("challenged again with the right password".to_owned()))
    }

    /// The Contact value that a line registers.
    pub fn contact(&self, line: usize) -> String {
        let opened = &self.lines[line];
        let uri = format!("<{}>", opened.contact_uri(&self.identity.user));
        match &self.identity.instance {
            Some(instance) => format!("{uri};+sip.instance=\"<{instance}>\";reg-id={}", line + 1),
            None => uri,
        }
    }

    /// Calls a URI by a line; answers one challenge.
    ///
    /// # Errors
    /// When a challenge cannot be answered or nothing comes.
    pub async fn call(&self, line: usize, uri: &str) -> Result<Invitation<'_>, PhoneError> {
        Invitation::send(self, line, uri).await
    }

    /// The next call that comes in.
    ///
    /// # Errors
    /// When none comes within [`PATIENCE`].
    pub async fn incoming(&mut self) -> Result<Ringing<'_>, PhoneError> {
        loop {
            let arrived = tokio::time::timeout(PATIENCE, self.inbox.recv())
                .await
                .ok()
                .flatten()
                .ok_or_else(|| PhoneError::TimedOut(format!("a call to {}", self.uri())))?;
            match arrived.request.method() {
                Some(Method::Invite) => return Ok(Ringing::new(self, arrived)),
                Some(Method::Ack) | None => {}
                // Anything else out of a dialog, an OPTIONS for example, is answered on the way.
                Some(_) => {
                    let response =
                        sip::ResponseBuilder::new(&arrived.request, 200).to_tag(b"phone").build();
                    self.lines[arrived.line].answer(&arrived.request, response).await?;
                }
            }
        }
    }

    /// Begins a request by a line: complete but for To, Call-ID and CSeq, which the [`Draft`] fills with
    /// new ones when none are given.
    pub fn request(&self, line: usize, method: Method<'_>, request_uri: &str) -> Draft<'_> {
        let number = self.shared.counter.fetch_add(1, Ordering::Relaxed);
        let opened = &self.lines[line];
        let branch = format!("z9hG4bK-{}-{}-{number}", opened.local().port(), self.identity.user);
        Draft {
            phone: self,
            line,
            method: method.as_bytes().to_vec(),
            request_uri: request_uri.to_owned(),
            from: format!("<{}>;tag=f{number}-{}", self.uri(), opened.local().port()),
            to: format!("<{request_uri}>"),
            call_id: format!("call-{number}-{}-{}", self.identity.user, opened.local()),
            cseq: 1,
            branch,
            headers: Vec::new(),
        }
    }
}

/// A request that is being written.
#[derive(Debug, Clone)]
pub struct Draft<'p> {
    phone: &'p Phone,
    line: usize,
    method: Vec<u8>,
    request_uri: String,
    from: String,
    to: String,
    call_id: String,
    cseq: u32,
    branch: String,
    headers: Vec<(String, String)>,
}

impl<'p> Draft<'p> {
    /// With this To value.
    pub fn to(mut self, to: &str) -> Self {
        to.clone_into(&mut self.to);
        self
    }

    /// With this From value.
    pub fn from(mut self, from: &str) -> Self {
        from.clone_into(&mut self.from);
        self
    }

    /// With this Call-ID.
    pub fn call_id(mut self, call_id: &str) -> Self {
        call_id.clone_into(&mut self.call_id);
        self
    }

    /// With this CSeq number.
    pub fn cseq(mut self, cseq: u32) -> Self {
        self.cseq = cseq;
        self
    }

    /// With this Via branch: a CANCEL has its INVITE's.
    pub fn branch(mut self, branch: &str) -> Self {
        branch.clone_into(&mut self.branch);
        self
    }

    /// By another line than the one it was begun for.
    pub fn by_line(mut self, line: usize) -> Self {
        self.line = line;
        self
    }

    /// With one more header field.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The octets.
    pub fn build(&self) -> Bytes {
        let line = &self.phone.lines[self.line];
        let via = format!(
            "SIP/2.0/{} {};branch={};rport",
            line.transport().name(),
            line.local(),
            self.branch
        );
        let method = Method::parse(&self.method).expect("a draft begins with a method");
        let mut builder = RequestBuilder::new(method, self.request_uri.as_bytes())
            .header(HeaderName::Via, via.as_bytes())
            .header(HeaderName::From, self.from.as_bytes())
            .header(HeaderName::To, self.to.as_bytes())
            .header(HeaderName::CallId, self.call_id.as_bytes());
        let method = String::from_utf8_lossy(&self.method);
        builder = builder.header(HeaderName::CSeq, format!("{} {method}", self.cseq).as_bytes());
        for (name, value) in &self.headers {
            builder = builder.header_named(name.as_bytes(), value.as_bytes());
        }
        builder.build()
    }

    /// Sends it and waits for responses on the returned exchange.
    ///
    /// # Errors
    /// When the line is closed.
    pub async fn send(self) -> Result<Exchange<'p>, PhoneError> {
        let request = self.build();
        Exchange::start(&self.phone.lines[self.line], request).await
    }
}
