//! A call that a phone asked for and that nobody has finally answered yet.

use bytes::Bytes;
use sip::{Message, Method};

use crate::dialog::Dialog;
use crate::exchange::{answer_challenge, expect_success};
use crate::router::CallInbox;
use crate::session_description::describe;
use crate::{Call, Draft, Exchange, Phone, PhoneError};

/// A call that this phone asked for and that nobody has finally answered yet.
#[derive(Debug)]
pub struct Invitation {
    phone: Phone,
    line: usize,
    exchange: Exchange,
    /// The request without credentials, until it was challenged.
    unauthorized: Option<Draft>,
    inbox: CallInbox,
    session: String,
    provisionals: Vec<u16>,
}

impl Invitation {
    pub(crate) async fn send(
        phone: &Phone,
        line: usize,
        invite: Draft,
    ) -> Result<Invitation, PhoneError> {
        let local = phone.lines()[line].local();
        let session = format!("{} {}{}", phone.user(), local.port(), phone.next_number());
        let contact = format!("<{}>", phone.lines()[line].contact_uri(phone.user()));
        let draft = invite.header("Contact", &contact).session_description(describe(&session, 1));
        let inbox = phone.shared().join(Bytes::from(draft.call_id.clone()), "");
        let exchange = draft.clone().send().await?;
        Ok(Invitation {
            phone: phone.clone(),
            line,
            exchange,
            unauthorized: Some(draft),
            inbox,
            session,
            provisionals: Vec::new(),
        })
    }

    /// The provisional responses so far, in the order they came.
    pub fn provisionals(&self) -> &[u16] {
        &self.provisionals
    }

    /// The INVITE as it was last sent.
    pub fn invite(&self) -> &Message {
        self.exchange.request()
    }

    /// The next response, provisional ones included; a non-2xx final one is acknowledged already. The first
    /// challenge is answered, whenever it comes, and not given.
    ///
    /// # Errors
    /// When a challenge cannot be answered or nothing comes.
    pub async fn next(&mut self) -> Result<Message, PhoneError> {
        loop {
            let response = self.exchange.next().await?;
            if let Some(status @ 100..=199) = response.status() {
                self.provisionals.push(status);
            }
            let challenged = matches!(response.status(), Some(401 | 407));
            let Some(draft) = self.unauthorized.take_if(|_| challenged) else {
                return Ok(response);
            };
            let identity = self.phone.identity();
            let (name, value) =
                answer_challenge(identity, &response, b"INVITE", &draft.request_uri)?;
            let branch = format!("{}-authorized", draft.branch);
            self.exchange = draft.cseq(2).branch(&branch).header(name, &value).send().await?;
        }
    }

    /// Waits until the callee rings (180).
    ///
    /// # Errors
    /// When the call is refused before that, or nothing comes.
    pub async fn ringing(&mut self) -> Result<Message, PhoneError> {
        loop {
            let response = self.next().await?;
            match response.status() {
                Some(180) => return Ok(response),
                Some(100..=199) => {}
                _ => return expect_success(Method::Invite, response),
            }
        }
    }

    /// The final response, whatever it is.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn final_response(&mut self) -> Result<Message, PhoneError> {
        loop {
            let response = self.next().await?;
            if response.status().is_some_and(|status| status >= 200) {
                return Ok(response);
            }
        }
    }

    /// Waits for the answer, acknowledges it, and gives the call.
    ///
    /// # Errors
    /// [`PhoneError::Refused`] with any other final status.
    pub async fn answered(mut self) -> Result<Call, PhoneError> {
        let response = expect_success(Method::Invite, self.final_response().await?)?;
        self.established(&response).await
    }

    async fn established(self, response: &Message) -> Result<Call, PhoneError> {
        let dialog = Dialog::of_caller(self.exchange.request(), response);
        let mut call = Call::new(self.phone, self.line, dialog, self.inbox, self.session);
        call.acknowledge(self.exchange.request(), response).await?;
        Ok(call)
    }

    /// Gives the call up (RFC 3261 §9.1), by another line when `line` says so, and gives the final
    /// response to the INVITE: 487, or a 2xx that crossed the CANCEL; such a call is hung up at once.
    /// Nothing is cancelled before somebody has answered at all.
    ///
    /// # Errors
    /// When the CANCEL is refused or nothing comes.
    pub async fn cancel_by(mut self, line: usize) -> Result<Message, PhoneError> {
        let mut last = None;
        if self.provisionals.is_empty() {
            last = Some(self.next().await?).filter(|response| response.status() >= Some(200));
        }
        let response = match last {
            Some(response) => response,
            None => {
                let cancel = sip::ack::cancel(self.exchange.request());
                let mut exchange = Exchange::start(&self.phone.lines()[line], cancel).await?;
                expect_success(Method::Cancel, exchange.final_response().await?)?;
                self.final_response().await?
            }
        };
        if response.status().is_some_and(|status| status < 300) {
            self.established(&response).await?.hang_up().await?;
        }
        Ok(response)
    }

    /// Gives the call up by the line it was asked for.
    ///
    /// # Errors
    /// As [`Invitation::cancel_by`].
    pub async fn cancel(self) -> Result<Message, PhoneError> {
        let line = self.line;
        self.cancel_by(line).await
    }
}
