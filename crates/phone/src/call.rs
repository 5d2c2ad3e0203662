//! Calls: the caller's invitation, the callee's ringing, and the established call of both.

use bytes::Bytes;
use sip::{HeaderName, Message, Method, NameAddr, ResponseBuilder};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, timeout};

use crate::exchange::{answer_challenge, expect_success};
use crate::{Arrived, Draft, Exchange, LineTransport, PATIENCE, Phone, PhoneError};

/// Requests of one call that wait to be looked at.
const CALL_INBOX_LENGTH: usize = 64;
/// First interval at which a 2xx is sent again until its ACK comes (RFC 3261 §13.3.1.4).
const T1: Duration = Duration::from_millis(500);

/// A call that this phone asked for and that nobody has finally answered yet.
#[derive(Debug)]
pub struct Invitation<'p> {
    phone: &'p Phone,
    line: usize,
    exchange: Exchange<'p>,
    /// The request without credentials, until it was challenged.
    unauthorized: Option<Draft<'p>>,
    inbox: mpsc::Receiver<Arrived>,
}

impl<'p> Invitation<'p> {
    pub(crate) async fn send(
        phone: &'p Phone,
        line: usize,
        uri: &str,
    ) -> Result<Invitation<'p>, PhoneError> {
        let contact = format!("<{}>", phone.lines[line].contact_uri(&phone.identity.user));
        let draft = phone.request(line, Method::Invite, uri).header("Contact", &contact);
        let call_id = Bytes::from(draft.call_id.clone());
        let (sender, inbox) = mpsc::channel(CALL_INBOX_LENGTH);
        phone.shared.dialogs.lock().expect("no panic under the lock").insert(call_id, sender);
        let exchange = draft.clone().send().await?;
        Ok(Invitation { phone, line, exchange, unauthorized: Some(draft), inbox })
    }

    /// The next response, provisional ones included; a non-2xx final one is acknowledged already. The first
    /// challenge is answered, whenever it comes, and not given.
    ///
    /// # Errors
    /// When a challenge cannot be answered or nothing comes.
    pub async fn next(&mut self) -> Result<Message, PhoneError> {
        loop {
            let response = self.exchange.next().await?;
            let challenged = matches!(response.status(), Some(401 | 407));
            let Some(draft) = self.unauthorized.take_if(|_| challenged) else {
                return Ok(response);
            };
            let identity = &self.phone.identity;
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
    pub async fn answered(mut self) -> Result<Call<'p>, PhoneError> {
        let response = expect_success(Method::Invite, self.final_response().await?)?;
        self.acknowledge(&response).await?;
        Ok(Call::of_caller(self.phone, self.line, self.exchange.request(), &response, self.inbox))
    }

    async fn acknowledge(&self, response: &Message) -> Result<(), PhoneError> {
        let dialog = Dialog::of_caller(self.exchange.request(), response);
        let number = self.exchange.request().cseq().expect("our own request").number;
        let ack = dialog.draft(self.phone, self.line, Method::Ack, number).build();
        let branch = self.exchange.request().top_via().expect("our own request");
        let branch = Bytes::copy_from_slice(branch.branch().expect("our own request"));
        self.phone
            .shared
            .acknowledgements
            .lock()
            .expect("no panic under the lock")
            .insert(branch, (ack.clone(), self.line));
        self.exchange.line().send(ack).await
    }

    /// Gives the call up (RFC 3261 §9.1), by another line when `line` says so, and gives the final
    /// response to the INVITE: 487, or a 2xx that crossed the CANCEL.
    ///
    /// # Errors
    /// When the CANCEL is refused or nothing comes.
    pub async fn cancel_by(mut self, line: usize) -> Result<Message, PhoneError> {
        let cancel = sip::ack::cancel(self.exchange.request());
        let mut exchange = Exchange::start(&self.phone.lines[line], cancel).await?;
        expect_success(Method::Cancel, exchange.final_response().await?)?;
        self.final_response().await
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

/// A call that came in and that this phone has not finally answered yet.
#[derive(Debug)]
pub struct Ringing<'p> {
    phone: &'p Phone,
    invite: Message,
    line: usize,
    tag: String,
    inbox: mpsc::Receiver<Arrived>,
}

impl<'p> Ringing<'p> {
    pub(crate) fn new(phone: &'p Phone, arrived: Arrived) -> Ringing<'p> {
        let (sender, inbox) = mpsc::channel(CALL_INBOX_LENGTH);
        let call_id = arrived.request.call_id().map(Bytes::copy_from_slice).unwrap_or_default();
        let tag =
            format!("callee-{}-{}", phone.identity.user, phone.lines[arrived.line].local().port());
        phone.shared.dialogs.lock().expect("no panic under the lock").insert(call_id, sender);
        Ringing { phone, invite: arrived.request, line: arrived.line, tag, inbox }
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
        let contact = self.phone.lines[self.line].contact_uri(&self.phone.identity.user);
        ResponseBuilder::new(&self.invite, status)
            .to_tag(self.tag.as_bytes())
            .record_route()
            .header(HeaderName::Contact, format!("<{contact}>").as_bytes())
    }

    async fn respond(&self, status: u16) -> Result<(), PhoneError> {
        let response = self.response(status).build();
        self.phone.lines[self.line].answer(&self.invite, response).await
    }

    /// Says 180.
    ///
    /// # Errors
    /// When the line is closed.
    pub async fn ring(&self) -> Result<(), PhoneError> {
        self.respond(180).await
    }

    /// Refuses with a final status of 300 or above.
    ///
    /// # Errors
    /// When the line is closed.
    pub async fn reject(self, status: u16) -> Result<(), PhoneError> {
        self.respond(status).await
    }

    /// Answers 200 and sends it again until the ACK comes (RFC 3261 §13.3.1.4).
    ///
    /// # Errors
    /// When no ACK comes.
    pub async fn answer(mut self) -> Result<Call<'p>, PhoneError> {
        self.respond(200).await?;
        let deadline = Instant::now() + PATIENCE;
        let mut interval = T1;
        loop {
            match timeout(interval, self.inbox.recv()).await {
                Ok(Some(arrived)) if arrived.request.method() == Some(Method::Ack) => {
                    return Ok(Call::of_callee(
                        self.phone,
                        self.line,
                        &self.invite,
                        &self.tag,
                        self.inbox,
                    ));
                }
                Ok(_) => {}
                Err(_) if Instant::now() > deadline => {
                    return Err(PhoneError::TimedOut("the ACK to a 200".to_owned()));
                }
                Err(_) => {
                    interval *= 2;
                    self.respond(200).await?;
                }
            }
        }
    }

    /// Waits for the CANCEL, answers it 200 and the INVITE 487.
    ///
    /// # Errors
    /// When no CANCEL comes.
    pub async fn canceled(mut self) -> Result<(), PhoneError> {
        let limit = timeout(PATIENCE, async {
            while let Some(arrived) = self.inbox.recv().await {
                if arrived.request.method() == Some(Method::Cancel) {
                    return Some(arrived);
                }
            }
            None
        });
        let arrived = limit
            .await
            .ok()
            .flatten()
            .ok_or_else(|| PhoneError::TimedOut("a CANCEL".to_owned()))?;
        let ok = ResponseBuilder::new(&arrived.request, 200).to_tag(self.tag.as_bytes()).build();
        self.phone.lines[arrived.line].answer(&arrived.request, ok).await?;
        self.respond(487).await
    }
}

/// What both sides of a call keep of it (RFC 3261 §12).
#[derive(Debug, Clone)]
struct Dialog {
    call_id: String,
    local: String,
    remote: String,
    target: String,
    routes: Vec<String>,
}

impl Dialog {
    /// RFC 3261 §12.1.2: the route set is the Record-Route of the response in reverse order.
    fn of_caller(invite: &Message, response: &Message) -> Dialog {
        let mut routes: Vec<String> = response.values(HeaderName::RecordRoute).map(text).collect();
        routes.reverse();
        Dialog {
            call_id: text(invite.call_id().expect("our own request")),
            local: text(invite.field(HeaderName::From).expect("our own request")),
            remote: text(response.field(HeaderName::To).unwrap_or_default()),
            target: contact_uri(response),
            routes,
        }
    }

    /// RFC 3261 §12.1.1: the route set is the Record-Route of the request in its order.
    fn of_callee(invite: &Message, tag: &str) -> Dialog {
        Dialog {
            call_id: text(invite.call_id().unwrap_or_default()),
            local: format!("{};tag={tag}", text(invite.field(HeaderName::To).unwrap_or_default())),
            remote: text(invite.field(HeaderName::From).unwrap_or_default()),
            target: contact_uri(invite),
            routes: invite.values(HeaderName::RecordRoute).map(text).collect(),
        }
    }

    fn draft<'p>(&self, phone: &'p Phone, line: usize, method: Method<'_>, cseq: u32) -> Draft<'p> {
        let mut draft = phone
            .request(line, method, &self.target)
            .from(&self.local)
            .to(&self.remote)
            .call_id(&self.call_id)
            .cseq(cseq);
        for route in &self.routes {
            draft = draft.header("Route", route);
        }
        draft
    }
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

fn contact_uri(message: &Message) -> String {
    message
        .field(HeaderName::Contact)
        .and_then(|value| NameAddr::parse(value).ok())
        .map(|contact| text(contact.uri()))
        .unwrap_or_default()
}

/// An established call.
#[derive(Debug)]
pub struct Call<'p> {
    phone: &'p Phone,
    line: usize,
    dialog: Dialog,
    cseq: u32,
    inbox: mpsc::Receiver<Arrived>,
}

impl<'p> Call<'p> {
    fn of_caller(
        phone: &'p Phone,
        line: usize,
        invite: &Message,
        response: &Message,
        inbox: mpsc::Receiver<Arrived>,
    ) -> Call<'p> {
        let cseq = invite.cseq().expect("our own request").number;
        Call { phone, line, dialog: Dialog::of_caller(invite, response), cseq, inbox }
    }

    fn of_callee(
        phone: &'p Phone,
        line: usize,
        invite: &Message,
        tag: &str,
        inbox: mpsc::Receiver<Arrived>,
    ) -> Call<'p> {
        Call { phone, line, dialog: Dialog::of_callee(invite, tag), cseq: 0, inbox }
    }

    /// Sends a request in the dialog by a line and gives the final response.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn request_by(
        &mut self,
        line: usize,
        method: Method<'_>,
    ) -> Result<Message, PhoneError> {
        self.cseq += 1;
        let draft = self.dialog.draft(self.phone, line, method, self.cseq);
        let contact = self.phone.lines[line].contact_uri(&self.phone.identity.user);
        let mut exchange = draft.header("Contact", &format!("<{contact}>")).send().await?;
        exchange.final_response().await
    }

    /// Hangs up and waits for the 200.
    ///
    /// # Errors
    /// When the BYE is refused or nothing comes.
    pub async fn hang_up(mut self) -> Result<(), PhoneError> {
        let line = self.line;
        let response = self.request_by(line, Method::Bye).await?;
        expect_success(Method::Bye, response).map(drop)
    }

    /// Waits for the other side's BYE and answers it.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn hung_up(mut self) -> Result<(), PhoneError> {
        loop {
            let arrived = timeout(PATIENCE, self.inbox.recv())
                .await
                .ok()
                .flatten()
                .ok_or_else(|| PhoneError::TimedOut("a BYE".to_owned()))?;
            let method = arrived.request.method();
            if method == Some(Method::Ack) {
                continue;
            }
            let bye = method == Some(Method::Bye);
            let ok = ResponseBuilder::new(&arrived.request, 200).build();
            self.phone.lines[arrived.line].answer(&arrived.request, ok).await?;
            if bye {
                return Ok(());
            }
        }
    }

    /// Whether this side sends over UDP.
    pub fn over_udp(&self) -> bool {
        self.phone.lines[self.line].transport() == LineTransport::Udp
    }
}
