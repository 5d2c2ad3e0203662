//! Two phones and the one call between them.

use std::fmt;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use phone::{Call, Invitation, LineTransport, Phone, PhoneError, Ringing};
use sip::{HeaderName, Message, Method, Via};
use tokio::time::timeout;

use super::{Act, CallAct, DOMAIN, EXPIRES, PATIENCE, PhoneAct};
use crate::report::Outcome;
use crate::webassembly::{self, Version};

/// What the hosts end with by which containers name themselves in Via.
const CONTAINERS: &str = ".outlast.invalid";

/// How a call gets from one phone to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Through the registrar.
    Direct,
    /// Through the back-to-back agent and the registrar.
    BackToBack,
    /// Through the WebAssembly agent and the registrar.
    WebAssembly,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::Direct => "direct",
            Way::BackToBack => "by the native agent",
            Way::WebAssembly => "by the WebAssembly agent",
        })
    }
}

/// Two phones and their call.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) number: usize,
    pub(super) way: Way,
    pub(super) caller: Phone,
    pub(super) callee: Phone,
    pub(super) state: State,
    /// The containers that the call came through, the one that holds its session last.
    containers: Vec<String>,
}

/// How far the call is.
#[derive(Debug)]
pub(super) enum State {
    Idle,
    Ringing(Box<(Invitation, Ringing)>),
    Up(Box<(Call, Call)>),
    /// Something was lost, and was told; nothing more is asked of it.
    Lost,
}

/// Why there is no call.
#[derive(Debug)]
pub(super) enum NoCall {
    /// Its INVITE got that answer.
    Refused(u16),
    /// Anything else.
    Lost(String),
}

impl fmt::Display for NoCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoCall::Refused(status) => write!(f, "it was answered {status}"),
            NoCall::Lost(why) => f.write_str(why),
        }
    }
}

impl From<String> for NoCall {
    fn from(why: String) -> NoCall {
        NoCall::Lost(why)
    }
}

impl fmt::Display for Pair {
    /// `call 7 (phone15 over UDP to phone16 over TCP, direct)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |phone: &Phone| {
            format!("{} over {}", phone.user(), phone.lines()[0].transport().name())
        };
        let (caller, callee) = (side(&self.caller), side(&self.callee));
        write!(f, "call {} ({caller} to {callee}, {})", self.number + 1, self.way)
    }
}

impl Pair {
    pub(super) fn new(number: usize, way: Way, caller: Phone, callee: Phone) -> Pair {
        Pair { number, way, caller, callee, state: State::Idle, containers: Vec::new() }
    }

    /// Whether a container has something to lose of this call: while it rings all that it came through, later
    /// the one that holds its session.
    pub(super) fn is_with(&self, container: &str) -> bool {
        match &self.state {
            State::Ringing(_) => self.containers.iter().any(|name| name == container),
            State::Up(_) => {
                self.way != Way::Direct
                    && self.containers.last().is_some_and(|name| name == container)
            }
            State::Idle | State::Lost => false,
        }
    }

    /// Does it, and says how long it took or why it is lost: once for a call, or for each phone.
    pub(super) async fn does(&mut self, act: Act) -> Vec<Outcome> {
        let began = Instant::now();
        let results = match act {
            Act::Call(act) => {
                let done = in_time(self.tries(act)).await;
                if done.is_err() {
                    self.state = State::Lost;
                }
                vec![done.map_err(|why| format!("{self} was {act}: {why}"))]
            }
            Act::Phones(act) => {
                let phones = [&self.caller, &self.callee];
                let concerned = phones.into_iter().filter(|phone| concerns(act, phone));
                let asked = concerned.map(|phone| async move {
                    let done = in_time(asked(phone, act)).await;
                    done.map_err(|why| format!("{} was {act}: {why}", phone.user()))
                });
                join_all(asked).await
            }
        };
        results.into_iter().map(|done| done.map(|()| began.elapsed())).collect()
    }

    async fn tries(&mut self, act: CallAct) -> Result<(), String> {
        match act {
            CallAct::Ring => self.rings().await.map_err(|why| why.to_string()),
            CallAct::Answer => self.is_answered().await,
            CallAct::Try => self.is_tried().await,
            CallAct::Ask(version) => self.is_asked(&[version]).await,
            CallAct::HangUp => self.hangs_up().await,
        }
    }

    /// One call from its beginning to its end, which one of these versions must have: how long it took to come up.
    pub(super) async fn calls_once(&mut self, versions: &[Version]) -> Result<Duration, NoCall> {
        let began = Instant::now();
        let call = async {
            self.rings().await?;
            self.is_answered().await?;
            let took = began.elapsed();
            self.is_asked(versions).await?;
            self.hangs_up().await?;
            Ok(took)
        };
        let in_time = timeout(PATIENCE, call).await;
        let called = in_time.unwrap_or_else(|_| Err(format!("not over after {PATIENCE:?}").into()));
        self.state = match &called {
            Ok(_) | Err(NoCall::Refused(_)) => State::Idle,
            Err(NoCall::Lost(_)) => State::Lost,
        };
        called
    }

    async fn rings(&mut self) -> Result<(), NoCall> {
        let host = match self.way {
            Way::Direct => DOMAIN.to_owned(),
            Way::BackToBack => format!("b2b.{DOMAIN}"),
            Way::WebAssembly => format!("{}.{DOMAIN}", webassembly::LABEL),
        };
        let uri = format!("sip:{}@{host}", self.callee.user());
        let mut invitation = self.caller.call(0, &uri).await.map_err(|error| error.to_string())?;
        let hears = async {
            invitation.ringing().await.map_err(|error| match error {
                PhoneError::Refused { status, .. } => NoCall::Refused(status),
                error => NoCall::Lost(format!("the caller says: {error}")),
            })
        };
        let (_, ringing) = tokio::try_join!(hears, async {
            let ringing = said("the callee", self.callee.incoming()).await?;
            said("the callee", ringing.ring()).await?;
            Ok(ringing)
        })?;
        self.containers = containers(ringing.invite());
        self.state = State::Ringing(Box::new((invitation, ringing)));
        Ok(())
    }

    async fn is_answered(&mut self) -> Result<(), String> {
        let State::Ringing(call) = std::mem::replace(&mut self.state, State::Lost) else {
            return Err("it does not ring".to_owned());
        };
        let (invitation, ringing) = *call;
        let (caller, callee) = tokio::try_join!(
            said("the caller", invitation.answered()),
            said("the callee", ringing.answer())
        )?;
        if caller.remote_description() != callee.local_description().as_bytes() {
            return Err("the callee's answer did not reach the caller as it was".to_owned());
        }
        self.state = State::Up(Box::new((caller, callee)));
        Ok(())
    }

    /// Whoever is over TCP asks: only he can open his connection anew.
    fn callee_asks(&self) -> bool {
        is_connected(&self.callee)
    }

    async fn is_tried(&mut self) -> Result<(), String> {
        let callee_asks = self.callee_asks();
        let State::Up(call) = &mut self.state else { return Err("it is not up".to_owned()) };
        let (caller, callee) = call.as_mut();
        let (asks, answers) = if callee_asks { (callee, caller) } else { (caller, callee) };
        tokio::try_join!(
            said("who asked", asks.reinvite()),
            said("who was asked", answers.reinvited())
        )?;
        Ok(())
    }

    /// Whoever is over TCP asks by OPTIONS, which the agent answers itself: which version has the call?
    async fn is_asked(&mut self, expected: &[Version]) -> Result<(), String> {
        let callee_asks = self.callee_asks();
        let State::Up(call) = &mut self.state else { return Err("it is not up".to_owned()) };
        let (caller, callee) = call.as_mut();
        let asks = if callee_asks { callee } else { caller };
        let answer = said("who asked", asks.request_by(0, Method::Options)).await?;
        let server = String::from_utf8_lossy(answer.field(HeaderName::Server).unwrap_or_default());
        if expected.iter().any(|version| server == version.server()) {
            return Ok(());
        }
        let status = answer.status().unwrap_or_default();
        let expected: Vec<&str> = expected.iter().map(|version| version.number()).collect();
        Err(format!("it is with {server:?} ({status}), not with {}", expected.join(" or ")))
    }

    async fn hangs_up(&mut self) -> Result<(), String> {
        let callee_asks = self.callee_asks();
        let State::Up(call) = std::mem::replace(&mut self.state, State::Idle) else {
            return Err("it is not up".to_owned());
        };
        let (caller, callee) = *call;
        let (hangs_up, other) = if callee_asks { (callee, caller) } else { (caller, callee) };
        tokio::try_join!(
            said("who hung up", hangs_up.hang_up()),
            said("the other side", other.hung_up())
        )?;
        Ok(())
    }

    /// What came to its phones that should not have.
    pub(super) fn oddities(&self) -> Vec<String> {
        let phones = [&self.caller, &self.callee];
        let all = phones.iter().flat_map(|phone| {
            let odd = phone.rang_again().into_iter().chain(phone.violations());
            odd.map(|what| format!("{}: {what}", phone.user()))
        });
        all.collect()
    }
}

/// Whether a phone can do it at all: without a connection there is none to lose.
fn concerns(act: PhoneAct, phone: &Phone) -> bool {
    match act {
        PhoneAct::Reconnect => is_connected(phone),
        PhoneAct::LookUp | PhoneAct::Register => true,
    }
}

fn is_connected(phone: &Phone) -> bool {
    phone.lines()[0].transport() == LineTransport::Tcp
}

/// A phone does something by itself.
async fn asked(phone: &Phone, act: PhoneAct) -> Result<(), String> {
    let done = match act {
        PhoneAct::Reconnect => {
            phone.lines()[0].lost().await;
            phone.recover(EXPIRES).await.map(drop)
        }
        PhoneAct::LookUp => return is_registered(phone).await,
        PhoneAct::Register => phone.register(EXPIRES).await.map(drop),
    };
    done.map_err(|error| error.to_string())
}

/// Whether the registrar knows where the phone is, without registering it.
async fn is_registered(phone: &Phone) -> Result<(), String> {
    let contacts = phone.registered_contacts(0).await.map_err(|error| error.to_string())?;
    let own = phone.contact(0);
    if contacts.iter().any(|contact| own.contains(contact.as_str())) {
        Ok(())
    } else {
        Err(format!("the registrar knows {contacts:?}, not {own}"))
    }
}

/// The error with who says it.
async fn said<T>(
    who: &str,
    what: impl Future<Output = Result<T, PhoneError>>,
) -> Result<T, String> {
    what.await.map_err(|error| format!("{who} says: {error}"))
}

/// What takes longer than the story's patience is lost.
async fn in_time(what: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let done = timeout(PATIENCE, what).await;
    done.unwrap_or_else(|_| Err(format!("not done after {PATIENCE:?}")))
}

/// The containers in the Vias of an INVITE, the nearest to the callee first.
fn containers(invite: &Message) -> Vec<String> {
    let hosts = invite.values(HeaderName::Via).filter_map(|value| {
        let via = Via::parse(value).ok()?;
        let host = String::from_utf8_lossy(via.sent_by()).into_owned();
        let name = host.split_once('.')?.0.to_owned();
        host.ends_with(CONTAINERS).then_some(name)
    });
    hosts.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn containers_are_known_by_their_names_in_via() {
        let text = "INVITE sip:b@x SIP/2.0\r\n\
                    Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKe\r\n\
                    Via: SIP/2.0/TCP container2.node1.outlast.invalid;branch=z9hG4bKd\r\n\
                    Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKc\r\n\
                    Via: SIP/2.0/TCP container1.node1.outlast.invalid;branch=z9hG4bKb\r\n\
                    Via: SIP/2.0/UDP 127.0.0.1:4000;branch=z9hG4bKa\r\n\r\n";
        let invite = Message::parse(bytes::Bytes::from_static(text.as_bytes())).unwrap();
        assert_eq!(containers(&invite), ["container2", "container1"]);
    }
}
