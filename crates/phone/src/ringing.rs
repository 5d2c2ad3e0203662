//! A call that came in and that the phone has not finally answered yet.

use sip::{HeaderName, Message, Method, ResponseBuilder};

use crate::dialog::Dialog;
use crate::router::{CallInbox, NewCall};
use crate::session_description::{CONTENT_TYPE, describe};
use crate::{Call, Phone, PhoneError};

/// A call that came in and that this phone has not finally answered yet.
#[derive(Debug)]
pub struct Ringing {
    phone: Phone,
    invite: Message,
    line: usize,
    tag: String,
    inbox: CallInbox,
    session: String,
}

impl Ringing {
    pub(crate) fn new(phone: Phone, call: NewCall) -> Ringing {
        let NewCall { invite, line, tag, inbox } = call;
        let port = phone.lines()[line].local().port();
        let session = format!("{} {port}{}", phone.user(), phone.next_number());
        Ringing { phone, invite, line, tag, inbox, session }
    }

    /// The INVITE as it arrived.
    pub fn invite(&self) -> &Message {
        &self.invite
    }

    /// The line it came by.
    pub fn line(&self) -> usize {
        self.line
    }

    fn response(&self, status: u16) -> ResponseBuilder<'_> {
        let contact = self.phone.lines()[self.line].contact_uri(self.phone.user());
        let response = ResponseBuilder::new(&self.invite, status).to_tag(self.tag.as_bytes());
        let response =
            response.record_route().header(HeaderName::Contact, format!("<{contact}>").as_bytes());
        // An offer is answered, and an INVITE without one gets one (RFC 3261 §13.3.1.4).
        if (200..300).contains(&status) {
            response.body(CONTENT_TYPE.as_bytes(), describe(&self.session, 1))
        } else {
            response
        }
    }

    async fn respond(&self, status: u16) -> Result<(), PhoneError> {
        let response = self.response(status).build();
        self.phone.lines()[self.line].answer(&self.invite, response).await
    }

    /// Says 180.
    ///
    /// # Errors
    /// When the line is closed.
    pub async fn ring(&self) -> Result<(), PhoneError> {
        self.progress(180).await
    }

    /// Says 101 to 199.
    ///
    /// # Errors
    /// When the line is closed.
    pub async fn progress(&self, status: u16) -> Result<(), PhoneError> {
        self.respond(status).await
    }

    /// Refuses with a final status of 300 or above; over UDP it is sent until the ACK comes.
    ///
    /// # Errors
    /// When the line is closed.
    pub async fn reject(self, status: u16) -> Result<(), PhoneError> {
        self.respond(status).await
    }

    /// Answers 200, sends it until the ACK comes (RFC 3261 §13.3.1.4), and gives the call.
    ///
    /// # Errors
    /// [`PhoneError::Cancelled`] when the caller gave the call up before; the INVITE is answered 487 then.
    /// [`PhoneError::HungUp`] when a BYE comes in place of the ACK. When no ACK comes.
    pub async fn answer(mut self) -> Result<Call, PhoneError> {
        if let Some(Method::Cancel) =
            self.inbox.try_next().as_ref().and_then(|arrived| arrived.request.method())
        {
            self.respond(487).await?;
            return Err(PhoneError::Cancelled);
        }
        self.respond(200).await?;
        let Ringing { phone, invite, line, tag, inbox, session } = self;
        let dialog = Dialog::of_callee(&invite, &tag);
        let mut call = Call::new(phone, line, dialog, inbox, session);
        call.offered(&invite);
        call.acknowledged().await?;
        Ok(call)
    }

    /// Waits for the CANCEL, which the phone has answered, and answers the INVITE 487.
    ///
    /// # Errors
    /// When no CANCEL comes.
    pub async fn canceled(mut self) -> Result<(), PhoneError> {
        loop {
            let arrived = self.inbox.next("a CANCEL").await?;
            if arrived.request.method() == Some(Method::Cancel) {
                return self.respond(487).await;
            }
        }
    }
}
