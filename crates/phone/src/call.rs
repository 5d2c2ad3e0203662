//! An established call, seen from one of its sides.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use sip::{HeaderName, Message, Method, ResponseBuilder};

use crate::dialog::Dialog;
use crate::draft::TEXT;
use crate::exchange::expect_success;
use crate::router::{Arrived, CallInbox};
use crate::session_description::{CONTENT_TYPE, describe};
use crate::{Draft, LineTransport, Phone, PhoneError};

/// Bodies that are kept of what comes in a call; further ones are answered and forgotten.
const HEARD_MAX: usize = 1_024;

/// An established call. What comes in is answered while the phone waits for something in the call.
#[derive(Debug)]
pub struct Call {
    phone: Phone,
    line: usize,
    dialog: Dialog,
    inbox: CallInbox,
    /// Origin of the own session descriptions, and the version of the last one.
    session: String,
    version: u32,
    /// The other side's last session description.
    remote_description: Bytes,
    /// Bodies of other requests than INVITE, in the order they came.
    heard: Vec<String>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    /// An INVITE of our own waits for its final response.
    Inviting,
    /// The other side said BYE, and it was answered.
    HungUp,
}

/// What a request of the other side was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Took {
    Ack,
    Invite,
    Bye,
    Other,
}

impl Call {
    pub(crate) fn new(
        phone: Phone,
        line: usize,
        dialog: Dialog,
        inbox: CallInbox,
        session: String,
    ) -> Call {
        Call {
            phone,
            line,
            dialog,
            inbox,
            session,
            version: 1,
            remote_description: Bytes::new(),
            heard: Vec::new(),
            state: State::Up,
        }
    }

    /// Keeps the other side's session description, if there is one.
    pub(crate) fn offered(&mut self, message: &Message) {
        if !message.body().is_empty() {
            self.remote_description = Bytes::copy_from_slice(message.body());
        }
    }

    /// The Call-ID.
    pub fn call_id(&self) -> &str {
        &self.dialog.call_id
    }

    /// URI of the other side's Contact: where requests in the call go.
    pub fn remote_target(&self) -> &str {
        &self.dialog.target
    }

    /// The session description this side sent last.
    pub fn local_description(&self) -> String {
        describe(&self.session, self.version)
    }

    /// The session description that came last from the other side.
    pub fn remote_description(&self) -> &[u8] {
        &self.remote_description
    }

    /// The bodies that other requests of the other side than INVITE had, in the order they came; a repetition of a
    /// request does not count.
    pub fn heard(&self) -> &[String] {
        &self.heard
    }

    /// Whether this side sends over UDP.
    pub fn over_udp(&self) -> bool {
        self.phone.lines()[self.line].transport() == LineTransport::Udp
    }

    /// Acknowledges the 2xx to our INVITE, and every repetition of it.
    pub(crate) async fn acknowledge(
        &mut self,
        invite: &Message,
        response: &Message,
    ) -> Result<(), PhoneError> {
        self.offered(response);
        let ack = self.dialog.ack(&self.phone, self.line).build();
        let branch = invite.top_via().ok().and_then(|via| via.branch()).unwrap_or_default();
        let to_tag = response.to().ok().and_then(|to| to.tag()).unwrap_or_default().to_vec();
        let branch = Bytes::copy_from_slice(branch);
        self.phone.shared().remember_acknowledgement(branch, to_tag, ack.clone());
        self.phone.lines()[self.line].send(ack).await
    }

    /// Waits for the ACK to our 2xx.
    pub(crate) async fn acknowledged(&mut self) -> Result<(), PhoneError> {
        loop {
            let arrived = self.inbox.next("the ACK to a 200").await?;
            match self.take(arrived).await? {
                Took::Ack => return Ok(()),
                Took::Bye => return Err(PhoneError::HungUp),
                Took::Invite | Took::Other => {}
            }
        }
    }

    /// Judges and answers a request of the other side.
    async fn take(&mut self, arrived: Arrived) -> Result<Took, PhoneError> {
        let Arrived { request, line } = arrived;
        let line = Arc::clone(&self.phone.lines()[line]);
        // The router has answered it; it comes too late to mean anything (RFC 3261 §9.2).
        if request.method() == Some(Method::Cancel) {
            return Ok(Took::Other);
        }
        if let Err(misfit) = self.dialog.take(&request) {
            if request.method() != Some(Method::Ack) {
                let refusal = ResponseBuilder::new(&request, misfit.status).build();
                line.answer(&request, refusal).await?;
            }
            if misfit.is_failover {
                self.phone.shared().failovers.fetch_add(1, Ordering::Relaxed);
                return Ok(Took::Other);
            }
            return Err(self.phone.shared().violations.note(misfit.why));
        }
        match request.method() {
            Some(Method::Ack) if self.dialog.is_ack_to_last(&request) => {
                self.offered(&request);
                Ok(Took::Ack)
            }
            Some(Method::Ack) => Ok(Took::Other),
            // RFC 3261 §14.2: both sides at a time.
            Some(Method::Invite) if self.state == State::Inviting => {
                let pending = ResponseBuilder::new(&request, 491).build();
                line.answer(&request, pending).await?;
                Ok(Took::Other)
            }
            Some(Method::Invite) => {
                self.dialog.refresh_target(&request);
                self.offered(&request);
                self.version += 1;
                let contact = line.contact_uri(self.phone.user());
                let ok = ResponseBuilder::new(&request, 200)
                    .header(HeaderName::Contact, format!("<{contact}>").as_bytes())
                    .body(CONTENT_TYPE.as_bytes(), describe(&self.session, self.version));
                line.answer(&request, ok.build()).await?;
                Ok(Took::Invite)
            }
            method @ (Some(_) | None) => {
                line.answer(&request, ResponseBuilder::new(&request, 200).build()).await?;
                if method != Some(Method::Bye) {
                    if !request.body().is_empty() && self.heard.len() < HEARD_MAX {
                        self.heard.push(String::from_utf8_lossy(request.body()).into_owned());
                    }
                    return Ok(Took::Other);
                }
                self.state = State::HungUp;
                Ok(Took::Bye)
            }
        }
    }

    /// Sends a request in the dialog by a line and gives the final response; what the other side asks meanwhile
    /// is answered.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn request_by(
        &mut self,
        line: usize,
        method: Method<'_>,
    ) -> Result<Message, PhoneError> {
        let mut draft = self.dialog.request(&self.phone, line, method);
        if method == Method::Invite {
            self.version += 1;
            draft = draft.session_description(describe(&self.session, self.version));
        }
        self.ask(line, method, draft).await
    }

    /// Says a text by MESSAGE in the call.
    ///
    /// # Errors
    /// When no final response comes in time.
    pub async fn say(&mut self, text: &str) -> Result<Message, PhoneError> {
        let line = self.line;
        let draft = self.dialog.request(&self.phone, line, Method::Message);
        let draft = draft.body(TEXT, text.to_owned());
        self.ask(line, Method::Message, draft).await
    }

    async fn ask(
        &mut self,
        line: usize,
        method: Method<'_>,
        draft: Draft,
    ) -> Result<Message, PhoneError> {
        let contact = self.phone.lines()[line].contact_uri(self.phone.user());
        let draft = draft.header("Contact", &format!("<{contact}>"));
        let mut exchange = draft.send().await?;
        let response = {
            let answer = exchange.final_response();
            tokio::pin!(answer);
            loop {
                tokio::select! {
                    biased;
                    response = &mut answer => break response?,
                    arrived = self.inbox.next("a request") => drop(self.take(arrived?).await?),
                }
            }
        };
        if method == Method::Invite && response.status().is_some_and(|status| status < 300) {
            self.dialog.refresh_target(&response);
            self.acknowledge(exchange.request(), &response).await?;
        }
        Ok(response)
    }

    /// Answers whatever comes until what was [`heard`](Self::heard) is enough.
    ///
    /// # Errors
    /// [`PhoneError::HungUp`] when the other side hangs up instead; when nothing comes for long.
    pub async fn listen(
        &mut self,
        is_enough: impl Fn(&[String]) -> bool,
    ) -> Result<(), PhoneError> {
        while !is_enough(&self.heard) {
            let arrived = self.inbox.next("something to hear").await?;
            if self.take(arrived).await? == Took::Bye {
                return Err(PhoneError::HungUp);
            }
        }
        Ok(())
    }

    /// Invites the other side anew in the call, with a new offer, and acknowledges its 2xx, which it gives.
    ///
    /// # Errors
    /// [`PhoneError::Refused`] with any other final status.
    pub async fn reinvite(&mut self) -> Result<Message, PhoneError> {
        let line = self.line;
        self.state = State::Inviting;
        let response = self.request_by(line, Method::Invite).await;
        if self.state == State::Inviting {
            self.state = State::Up;
        }
        expect_success(Method::Invite, response?)
    }

    /// Waits until the other side invites anew, answers 200 and waits for the ACK.
    ///
    /// # Errors
    /// [`PhoneError::HungUp`] when it hangs up instead; when nothing comes.
    pub async fn reinvited(&mut self) -> Result<(), PhoneError> {
        loop {
            let arrived = self.inbox.next("another INVITE").await?;
            match self.take(arrived).await? {
                Took::Invite => return self.acknowledged().await,
                Took::Bye => return Err(PhoneError::HungUp),
                Took::Ack | Took::Other => {}
            }
        }
    }

    /// Hangs up and waits for the 200.
    ///
    /// # Errors
    /// When the BYE is refused or nothing comes.
    pub async fn hang_up(self) -> Result<(), PhoneError> {
        let line = self.line;
        self.hang_up_by(line).await
    }

    /// Hangs up by another line of the phone.
    ///
    /// # Errors
    /// As [`Call::hang_up`].
    pub async fn hang_up_by(mut self, line: usize) -> Result<(), PhoneError> {
        let response = self.request_by(line, Method::Bye).await?;
        expect_success(Method::Bye, response).map(drop)
    }

    /// Answers whatever comes until the other side has hung up.
    ///
    /// # Errors
    /// When no BYE comes in time.
    pub async fn hung_up(mut self) -> Result<(), PhoneError> {
        while self.state != State::HungUp {
            let arrived = self.inbox.next("a BYE").await?;
            self.take(arrived).await?;
        }
        Ok(())
    }
}
