//! One user's phone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sip::{Message, Method};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

use crate::draft::TEXT;
use crate::registration::Registration;
use crate::router::{NewCall, Shared};
use crate::watch::Watcher;
use crate::{Draft, Invitation, Line, LineTransport, PATIENCE, PhoneError, Ringing};

/// Calls that wait for the test to look at them; one over it is dropped, as on a busy phone.
const INBOX_LENGTH: usize = 1_024;

/// One user's phone: a handle, whose clones are the same phone.
#[derive(Debug, Clone)]
pub struct Phone(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    identity: Identity,
    lines: Vec<Arc<Line>>,
    inbox: Mutex<mpsc::Receiver<NewCall>>,
    shared: Arc<Shared>,
    registration: Mutex<Registration>,
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
        Phone::open(user, domain, password, None, &[(transport, edge)]).await
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
        Phone::open(user, domain, password, Some(instance.to_owned()), flows).await
    }

    async fn open(
        user: &str,
        domain: &str,
        password: &str,
        instance: Option<String>,
        flows: &[(LineTransport, SocketAddr)],
    ) -> Result<Phone, PhoneError> {
        let (sender, inbox) = mpsc::channel(INBOX_LENGTH);
        let shared = Arc::new(Shared::new(user));
        let mut lines = Vec::new();
        for (index, (transport, edge)) in flows.iter().enumerate() {
            let opened = Line::open(index, *transport, *edge, Arc::clone(&shared), sender.clone());
            lines.push(opened.await?);
        }
        let first = lines.first().expect("a phone has a line").local();
        let registration = Registration::new(&format!("registration-{user}-{first}"));
        let identity = Identity {
            user: user.to_owned(),
            domain: domain.to_owned(),
            password: password.to_owned(),
            instance,
        };
        Ok(Phone(Arc::new(Parts {
            identity,
            lines,
            inbox: Mutex::new(inbox),
            shared,
            registration: Mutex::new(registration),
        })))
    }

    /// The lines, in the order they were opened.
    pub fn lines(&self) -> &[Arc<Line>] {
        &self.0.lines
    }

    /// The user part of its address.
    pub fn user(&self) -> &str {
        &self.0.identity.user
    }

    /// `sip:user@domain`.
    pub fn uri(&self) -> String {
        format!("sip:{}@{}", self.0.identity.user, self.0.identity.domain)
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.0.identity
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    pub(crate) fn registration(&self) -> &Mutex<Registration> {
        &self.0.registration
    }

    /// INVITEs that rang so far, retransmissions not counted: "the callee rang once" is `1`.
    pub fn invites(&self) -> u64 {
        self.shared().rings().count()
    }

    /// The calls that rang more than once (by another branch, or with another Call-ID for the same session), each
    /// with its rings.
    pub fn rang_again(&self) -> Vec<String> {
        self.shared().rings().again()
    }

    /// What came that breaks the order of a dialog or a transaction, in the order it came.
    pub fn violations(&self) -> Vec<String> {
        self.shared().violations.all()
    }

    /// How many requests in calls came again by another hop, with the CSeq that they had had (RFC 3263 §4.3). They were
    /// answered 500 and not taken, for whoever sent them may send a further one.
    pub fn failovers(&self) -> u32 {
        self.shared().failovers.load(Ordering::Relaxed)
    }

    /// Shows every message from now on to `watcher`.
    pub fn watch(&self, watcher: Watcher) {
        self.shared().watch.set(watcher);
    }

    /// A number that this phone has not used yet.
    pub(crate) fn next_number(&self) -> u32 {
        self.shared().next_number()
    }

    /// Calls a URI by a line; answers one challenge.
    ///
    /// # Errors
    /// When the line is closed.
    pub async fn call(&self, line: usize, uri: &str) -> Result<Invitation, PhoneError> {
        self.call_with(line, uri, &[]).await
    }

    /// Calls a URI with further headers in the INVITE.
    ///
    /// # Errors
    /// As [`Phone::call`].
    pub async fn call_with(
        &self,
        line: usize,
        uri: &str,
        headers: &[(&str, &str)],
    ) -> Result<Invitation, PhoneError> {
        let invite = self.request(line, Method::Invite, uri);
        let invite =
            headers.iter().fold(invite, |invite, (name, value)| invite.header(name, value));
        Invitation::send(self, line, invite).await
    }

    /// Calls a URI under a Call-ID of the caller's choice, which decides on the container that gets the call.
    ///
    /// # Errors
    /// As [`Phone::call`].
    pub async fn call_as(
        &self,
        line: usize,
        uri: &str,
        call_id: &str,
    ) -> Result<Invitation, PhoneError> {
        let invite = self.request(line, Method::Invite, uri).call_id(call_id);
        Invitation::send(self, line, invite).await
    }

    /// The next call that comes in.
    ///
    /// # Errors
    /// When none comes within [`PATIENCE`].
    pub async fn incoming(&self) -> Result<Ringing, PhoneError> {
        let mut inbox = self.0.inbox.lock().await;
        let call = timeout(PATIENCE, inbox.recv()).await.ok().flatten();
        let call = call.ok_or_else(|| PhoneError::TimedOut(format!("a call to {}", self.uri())))?;
        Ok(Ringing::new(self.clone(), call))
    }

    /// Sends a user a text by MESSAGE (RFC 3428), outside of any dialog, and gives the final response.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn say(&self, line: usize, uri: &str, text: &str) -> Result<Message, PhoneError> {
        let message = self.request(line, Method::Message, uri).body(TEXT, text.to_owned());
        message.send().await?.final_response().await
    }

    /// Begins a request by a line: complete, but To, Call-ID and CSeq can be replaced.
    pub fn request(&self, line: usize, method: Method<'_>, request_uri: &str) -> Draft {
        Draft::new(self, line, method, request_uri)
    }
}
