//! Where each message of a line goes.
//!
//! Responses go to the [`Exchange`](crate::Exchange) that waits for them, requests in a dialog to their call, new
//! calls to the phone. What needs no call is answered here: a request that came before (with its answer), an
//! INVITE that rings a second time (482), a CANCEL (200 or 481), a request of a call that is over (481), anything
//! out of a dialog (200).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use sip::framer::Frame;
use sip::{Message, Method, ResponseBuilder};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::answers::{Answers, Came, TransactionKey, transaction_key};
use crate::line::Outgoing;
use crate::rings::Rings;
use crate::violations::Violations;
use crate::watch::{Direction, Watch};
use crate::{PATIENCE, PhoneError};

/// Requests of one call that wait to be looked at; more are dropped, as on a busy phone.
const CALL_INBOX_LENGTH: usize = 64;
/// ACKs to 2xx that are remembered; past it all are forgotten.
const ACKNOWLEDGEMENTS_MAX: usize = 4_096;

/// A request in a dialog, and the line it came by.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) request: Message,
    pub(crate) line: usize,
}

/// A call that comes in.
#[derive(Debug)]
pub(crate) struct NewCall {
    pub(crate) invite: Message,
    pub(crate) line: usize,
    /// The To tag of every response to it.
    pub(crate) tag: String,
    pub(crate) inbox: CallInbox,
}

/// What the tasks of the lines and the phone share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) user: String,
    /// Responses by branch and method of the request that waits for them.
    pub(crate) waiting: Mutex<HashMap<TransactionKey, mpsc::Sender<Message>>>,
    /// Requests in a dialog, by Call-ID.
    dialogs: Mutex<HashMap<Bytes, Known>>,
    answers: Mutex<Answers>,
    /// ACKs to 2xx, by branch of the INVITE, with the To tag of the 2xx: one that comes again gets it again.
    acknowledgements: Mutex<HashMap<Bytes, (Vec<u8>, Bytes)>>,
    rings: Mutex<Rings>,
    pub(crate) violations: Violations,
    /// Requests in calls that came again by another hop.
    pub(crate) failovers: AtomicU32,
    pub(crate) watch: Watch,
    counter: AtomicU32,
}

/// A call that the phone takes part in.
#[derive(Debug)]
struct Known {
    sender: mpsc::Sender<Arrived>,
    tag: String,
}

impl Shared {
    pub(crate) fn new(user: &str) -> Shared {
        Shared {
            user: user.to_owned(),
            waiting: Mutex::default(),
            dialogs: Mutex::default(),
            answers: Mutex::default(),
            acknowledgements: Mutex::default(),
            rings: Mutex::default(),
            violations: Violations::default(),
            failovers: AtomicU32::new(0),
            watch: Watch::default(),
            counter: AtomicU32::new(0),
        }
    }

    pub(crate) fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().expect("no panic under the lock")
    }

    pub(crate) fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().expect("no panic under the lock")
    }

    fn dialogs(&self) -> MutexGuard<'_, HashMap<Bytes, Known>> {
        self.dialogs.lock().expect("no panic under the lock")
    }

    /// A number that this phone has not used yet.
    pub(crate) fn next_number(&self) -> u32 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// From now on the requests of this call go to the returned inbox; `tag` is the phone's own.
    pub(crate) fn join(self: &Arc<Self>, call_id: Bytes, tag: &str) -> CallInbox {
        let (sender, requests) = mpsc::channel(CALL_INBOX_LENGTH);
        let known = Known { sender, tag: tag.to_owned() };
        self.dialogs().insert(call_id.clone(), known);
        CallInbox { call_id, requests, shared: Arc::clone(self) }
    }

    /// This ACK was sent for the 2xx with this To tag.
    pub(crate) fn remember_acknowledgement(&self, branch: Bytes, to_tag: Vec<u8>, ack: Bytes) {
        let mut acknowledgements = self.acknowledgements.lock().expect("no panic under the lock");
        if acknowledgements.len() >= ACKNOWLEDGEMENTS_MAX {
            acknowledgements.clear();
        }
        acknowledgements.insert(branch, (to_tag, ack));
    }
}

/// The requests of one call; the phone takes no part in the call any more when it ends.
#[derive(Debug)]
pub(crate) struct CallInbox {
    call_id: Bytes,
    requests: mpsc::Receiver<Arrived>,
    shared: Arc<Shared>,
}

impl CallInbox {
    /// The next request; `what` is waited for.
    pub(crate) async fn next(&mut self, what: &str) -> Result<Arrived, PhoneError> {
        let limit = timeout(PATIENCE, self.requests.recv());
        limit.await.ok().flatten().ok_or_else(|| {
            let call_id = String::from_utf8_lossy(&self.call_id);
            PhoneError::TimedOut(format!("{what} of {call_id} at {}", self.shared.user))
        })
    }

    /// A request that is there already.
    pub(crate) fn try_next(&mut self) -> Option<Arrived> {
        self.requests.try_recv().ok()
    }
}

impl Drop for CallInbox {
    fn drop(&mut self) {
        self.shared.dialogs().remove(&self.call_id);
    }
}

/// Takes every message of one line to where it belongs.
pub(crate) struct Router {
    index: usize,
    outbox: mpsc::Sender<Outgoing>,
    shared: Arc<Shared>,
    inbox: mpsc::Sender<NewCall>,
}

impl Router {
    pub(crate) fn new(
        index: usize,
        outbox: mpsc::Sender<Outgoing>,
        shared: Arc<Shared>,
        inbox: mpsc::Sender<NewCall>,
    ) -> Router {
        Router { index, outbox, shared, inbox }
    }

    pub(crate) async fn frame(&self, frame: Frame) {
        match frame {
            Frame::Message(octets) => {
                let shared = &self.shared;
                shared.watch.passes(&shared.user, self.index, Direction::Received, &octets);
                let Ok(message) = Message::parse(octets) else { return };
                if message.is_request() {
                    self.request(message).await;
                } else {
                    self.response(message).await;
                }
            }
            Frame::Ping => self.send(Bytes::from_static(b"\r\n")).await,
            Frame::Pong | Frame::Stun(_) => {}
        }
    }

    async fn send(&self, octets: Bytes) {
        // The writer is gone when the line is closing: nothing is lost that a test waits for.
        let _ = self.outbox.send(Outgoing::of(octets)).await;
    }

    async fn response(&self, response: Message) {
        let (Ok(via), Ok(cseq)) = (response.top_via(), response.cseq()) else { return };
        let Some(branch) = via.branch().map(Bytes::copy_from_slice) else { return };
        let success = response.status().is_some_and(|status| (200..300).contains(&status));
        if success && cseq.method == Method::Invite {
            let known = {
                let known = self.shared.acknowledgements.lock().expect("no panic under the lock");
                known.get(&branch).cloned()
            };
            if let Some((to_tag, ack)) = known {
                let same = response.to().is_ok_and(|to| to.tag() == Some(&to_tag));
                if !same {
                    let text = String::from_utf8_lossy(response.buffer()).into_owned();
                    self.shared.violations.note(format!("a second one answered a call: {text:?}"));
                }
                return self.send(ack).await;
            }
        }
        let key = (branch, Bytes::copy_from_slice(cseq.method.as_bytes()));
        let sender = {
            let waiting = self.shared.waiting.lock().expect("no panic under the lock");
            waiting.get(&key).cloned()
        };
        if let Some(sender) = sender {
            // Nobody waits any more: a late retransmission.
            let _ = sender.send(response).await;
        }
    }

    async fn request(&self, request: Message) {
        if request.method() == Some(Method::Ack) {
            let ends_here = self.shared.answers().acknowledged(&request);
            if !ends_here {
                self.pass_on(request);
            }
            return;
        }
        let Some(key) = transaction_key(&request) else { return };
        let came = self.shared.answers().came(key.clone());
        match came {
            Came::Again(Some(answer)) => {
                // As when the line is closing, above.
                let _ = self.outbox.send(Outgoing::again(answer, &request)).await;
                return;
            }
            Came::Again(None) => return,
            Came::First => {}
        }
        let in_dialog = request.to().is_ok_and(|to| to.tag().is_some());
        let call_id = request.call_id().unwrap_or_default();
        let tag = self.shared.dialogs().get(call_id).map(|known| known.tag.clone());
        match (request.method(), tag) {
            (Some(Method::Cancel), tag) => {
                let known = self.shared.answers().knows_invite(&key.0);
                // First the call: whoever sees the answer may rely on it.
                self.pass_on(request.clone());
                let status = if known { 200 } else { 481 };
                self.answer(&request, status, tag.as_deref().unwrap_or("phone")).await;
            }
            (Some(Method::Invite), tag) if !in_dialog => {
                self.shared.rings().ring(&request);
                match tag {
                    None => self.new_call(request),
                    // RFC 3261 §8.2.2.2: the same request by another way.
                    Some(tag) => self.answer(&request, 482, &tag).await,
                }
            }
            (_, Some(_)) => self.pass_on(request),
            (_, None) if in_dialog => self.answer(&request, 481, "phone").await,
            (_, None) => self.answer(&request, 200, "phone").await,
        }
    }

    async fn answer(&self, request: &Message, status: u16, tag: &str) {
        let response = ResponseBuilder::new(request, status).to_tag(tag.as_bytes()).build();
        self.shared.remember_answer(request, &response);
        self.send(response).await;
    }

    fn new_call(&self, invite: Message) {
        let Ok(call_id) = invite.call_id().map(Bytes::copy_from_slice) else { return };
        let tag = format!("callee-{}-{}", self.shared.user, self.shared.next_number());
        let inbox = self.shared.join(call_id, &tag);
        let call = NewCall { invite, line: self.index, tag, inbox };
        // Full: dropped, as on a busy phone, and with it its inbox.
        let dropped = self.inbox.try_send(call);
        drop(dropped);
    }

    /// To its call; dropped when there is none, or too much waits there.
    fn pass_on(&self, request: Message) {
        let call_id = request.call_id().unwrap_or_default();
        let sender = self.shared.dialogs().get(call_id).map(|known| known.sender.clone());
        if let Some(sender) = sender {
            drop(sender.try_send(Arrived { request, line: self.index }));
        }
    }
}
