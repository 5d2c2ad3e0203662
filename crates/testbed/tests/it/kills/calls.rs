//! Calls all the time, and what became of each.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use phone::{Call, LineTransport, Phone, PhoneError, Ringing};
use sip::Method;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::world::{DOMAIN, PASSWORD};

/// Each pair begins a call so often: 100 pairs make 50 calls a second.
const EVERY: Duration = Duration::from_secs(2);
/// How long a call is up.
const HELD: Duration = Duration::from_millis(800);
/// A call that is not over by then is lost.
const LIMIT: Duration = Duration::from_secs(75);

/// A caller who is told to try again does so after this.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// By which edges a pair of phones calls.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub(crate) caller: SocketAddr,
    /// One, or the flows of a phone that has several (RFC 5626).
    pub(crate) callee: Vec<SocketAddr>,
}

/// How callers behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Callers {
    /// Whatever is refused is lost.
    Plain,
    /// Who is refused for now does it again, until the call is over its limit; and each asks something while the call is up.
    Persistent,
}

/// A part of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// From the wish to call to the answer, refusals included.
    SetUp,
    /// A request in the call.
    Asked,
    HungUp,
}

/// A part of a call as its caller saw it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) part: Part,
    pub(crate) due: Instant,
    pub(crate) took: Duration,
    /// The edges that it had to go by.
    pub(crate) edges: [Option<SocketAddr>; 2],
    /// It never came to its end.
    pub(crate) is_lost: bool,
}

/// What became of the calls.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// Rang once, were answered and hung up, with everything in order.
    pub(crate) whole: usize,
    /// What happened to the others.
    pub(crate) losses: Vec<String>,
    /// Of these, those that were lost when they had been answered.
    pub(crate) established_lost: usize,
    /// When each call was made, and how long it took until its callee rang.
    pub(crate) rang: Vec<(Instant, Duration)>,
    /// The parts of each call.
    pub(crate) steps: Vec<Step>,
    /// How often a caller was told to try again.
    pub(crate) refusals: usize,
    /// How often somebody was told so in a call that was up.
    pub(crate) refusals_within: usize,
    /// Requests in a call that a callee was sent again by another edge, though it had them.
    pub(crate) failovers: u32,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Tally) {
        self.whole += other.whole;
        self.rang.extend(other.rang);
        self.steps.extend(other.steps);
        self.refusals += other.refusals;
        self.refusals_within += other.refusals_within;
        self.failovers += other.failovers;
        self.losses.extend(other.losses);
        self.established_lost += other.established_lost;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} calls", self.whole, self.whole + self.losses.len())
    }
}

/// Calls that go on until they are told to stop.
pub(crate) struct Calls {
    is_over: Arc<AtomicBool>,
    pairs: JoinSet<Tally>,
}

impl Calls {
    /// Registers so many pairs of phones over UDP by these ways in turn, and begins to call; every second pair calls through the
    /// back-to-back agent, by this domain.
    ///
    /// # Panics
    /// When a phone cannot register.
    pub(crate) async fn begin(ways: &[Way], agent: &str, count: usize, callers: Callers) -> Calls {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut pairs = JoinSet::new();
        for number in 0..count {
            // Both kinds of call by every way.
            let by = &ways[number / 2 % ways.len()];
            // By the name an application may tell whose call it is.
            let (way, domain) = if number % 2 == 0 { ("direct", DOMAIN) } else { ("agent", agent) };
            let caller = registered(&format!("{way}{number}-caller"), &[by.caller]).await;
            let callee = registered(&format!("{way}{number}-callee"), &by.callee).await;
            let uri = format!("sip:{}@{domain}", callee.user());
            let pair = Pair { caller, callee, uri, callers };
            let is_over = Arc::clone(&is_over);
            let late = EVERY.mul_f64(number as f64 / count as f64);
            pairs.spawn(async move {
                tokio::time::sleep(late).await;
                pair.call_until(&is_over).await
            });
        }
        Calls { is_over, pairs }
    }

    /// Begins no further call, and waits for the end of those that are up.
    pub(crate) async fn end(mut self) -> Tally {
        self.is_over.store(true, Ordering::Relaxed);
        let mut tally = Tally::default();
        while let Some(pair) = self.pairs.join_next().await {
            tally.add(pair.expect("no phone panics"));
        }
        tally
    }
}

/// In UTC, as the logs tell it.
fn time_of_day() -> String {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, millis) = (since_epoch.as_secs() % 86_400, since_epoch.subsec_millis());
    format!("{:02}:{:02}:{:02}.{millis:03}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

async fn registered(user: &str, edges: &[SocketAddr]) -> Phone {
    let flows: Vec<_> = edges.iter().map(|edge| (LineTransport::Udp, *edge)).collect();
    let phone = match flows[..] {
        [(transport, edge)] => Phone::new(user, DOMAIN, PASSWORD, transport, edge).await,
        _ => {
            let instance = format!("urn:uuid:00000000-0000-4000-8000-{:012x}", number_of(user));
            Phone::with_flows(user, DOMAIN, PASSWORD, &instance, &flows).await
        }
    };
    let phone = phone.expect("a socket");
    let began = Instant::now();
    loop {
        match phone.register(36_000).await {
            Ok(_) => return phone,
            // On a busy machine a store may be silent for too long.
            Err(PhoneError::Refused { status, .. })
                if is_for_now(status) && began.elapsed() < LIMIT =>
            {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            Err(error) => panic!("{user} cannot register: {error}"),
        }
    }
}

/// The number in a name.
fn number_of(user: &str) -> u64 {
    let digits: String = user.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

/// How far a call has come; read also when it is given up.
#[derive(Debug, Default)]
struct Course {
    steps: Vec<Step>,
    refusals: usize,
    refusals_within: usize,
    rang: Option<(Instant, Duration)>,
    is_up: bool,
}

impl Course {
    fn begin(&mut self, part: Part, edges: [Option<SocketAddr>; 2]) {
        let step = Step { part, due: Instant::now(), took: Duration::ZERO, edges, is_lost: false };
        self.steps.push(step);
    }

    fn end(&mut self) {
        let step = self.steps.last_mut().expect("it was begun");
        step.took = step.due.elapsed();
        self.is_up |= step.part == Part::SetUp;
    }

    /// The call is lost, by its last step.
    fn lose(&mut self) {
        let step = self.steps.last_mut().expect("a call begins to be set up");
        step.took = step.due.elapsed();
        step.is_lost = true;
    }
}

/// Whether the same may be done in a moment: 503, which an agent that hears it on its other leg gives on as 500 (RFC 3261 §16.7).
fn is_for_now(status: u16) -> bool {
    matches!(status, 500 | 503)
}

/// Asks again what is refused for now. A BYE that is answered 481 has ended the call, too (RFC 3261 §15.1.1): it was repeated by
/// another edge when the callee had answered it.
async fn ask_until_done<'c>(
    call: &mut Call,
    method: Method<'static>,
    at: impl Fn() -> MutexGuard<'c, Course>,
) -> Result<(), PhoneError> {
    loop {
        let response = call.request_by(0, method).await?;
        match response.status().unwrap_or_default() {
            200 => return Ok(()),
            481 if method == Method::Bye => return Ok(()),
            status if is_for_now(status) => {
                at().refusals_within += 1;
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            status => {
                let method = String::from_utf8_lossy(method.as_bytes()).into_owned();
                let reason = String::from_utf8_lossy(response.reason()).into_owned();
                return Err(PhoneError::Refused { method, status, reason });
            }
        }
    }
}

struct Pair {
    caller: Phone,
    callee: Phone,
    uri: String,
    callers: Callers,
}

impl Pair {
    async fn call_until(self, is_over: &AtomicBool) -> Tally {
        let mut tally = Tally::default();
        let mut next = tokio::time::interval(EVERY);
        // A call that a fault held up is followed by the next one in its turn, not by a burst.
        next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !is_over.load(Ordering::Relaxed) {
            next.tick().await;
            let began = time_of_day();
            let course = Mutex::new(Course::default());
            let lost = match tokio::time::timeout(LIMIT, self.call(&course)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("not over after {LIMIT:?}")),
            };
            let mut course = course.into_inner().expect("no panic under the lock");
            match lost {
                None => {
                    tally.whole += 1;
                    tally.rang.extend(course.rang);
                }
                Some(why) => {
                    course.lose();
                    tally.losses.push(self.loss(&began, &course, &why));
                    tally.established_lost += usize::from(course.is_up);
                }
            }
            tally.refusals += course.refusals;
            tally.refusals_within += course.refusals_within;
            tally.steps.append(&mut course.steps);
        }
        for phone in [&self.caller, &self.callee] {
            tally.losses.extend(phone.rang_again());
            tally.losses.extend(phone.violations());
            tally.failovers += phone.failovers();
        }
        tally
    }

    /// With the times that the logs have, so that the fault is found that it met.
    fn loss(&self, began: &str, course: &Course, why: &str) -> String {
        let (uri, ended) = (&self.uri, time_of_day());
        let stage = if course.is_up { "answered" } else { "not answered" };
        let edges = course.steps.last().map(|step| step.edges.map(|edge| edge.map(|it| it.ip())));
        let loss = format!("{began} to {ended} {uri}, {stage}: {why}; by {edges:?}");
        println!("lost: {loss}");
        loss
    }

    async fn call(&self, course: &Mutex<Course>) -> Result<(), PhoneError> {
        let at = || course.lock().expect("no panic under the lock");
        let caller_by = Some(self.caller.lines()[0].edge());
        at().begin(Part::SetUp, [caller_by, None]);
        let (mut caller, callee, callee_by) = loop {
            match self.set_up(at).await {
                Err(PhoneError::Refused { status, .. })
                    if self.callers == Callers::Persistent && is_for_now(status) =>
                {
                    at().refusals += 1;
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                other => break other?,
            }
        };
        at().end();
        let edges = [caller_by, Some(callee_by)];
        let calling = async {
            if self.callers == Callers::Plain {
                tokio::time::sleep(HELD).await;
                at().begin(Part::HungUp, edges);
                return caller.hang_up().await;
            }
            tokio::time::sleep(HELD / 2).await;
            at().begin(Part::Asked, edges);
            ask_until_done(&mut caller, Method::Info, at).await?;
            at().end();
            tokio::time::sleep(HELD / 2).await;
            at().begin(Part::HungUp, edges);
            ask_until_done(&mut caller, Method::Bye, at).await
        };
        tokio::try_join!(calling, callee.hung_up())?;
        at().end();
        Ok(())
    }

    /// Both sides of a call that is up, and the edge by which the callee has it.
    async fn set_up<'c>(
        &self,
        at: impl Fn() -> MutexGuard<'c, Course>,
    ) -> Result<(Call, Call, SocketAddr), PhoneError> {
        let began = Instant::now();
        let (sender, offer) = oneshot::channel();
        let calling = async {
            let invitation = self.caller.call(0, &self.uri).await?;
            // Who listens no more has failed.
            let _ = sender.send(Bytes::copy_from_slice(invitation.invite().body()));
            invitation.answered().await
        };
        let answering = async {
            let offer = offer.await.unwrap_or_default();
            let ringing = self.incoming(&offer).await?;
            at().rang = Some((began, began.elapsed()));
            let edge = self.callee.lines()[ringing.line()].edge();
            ringing.ring().await?;
            Ok((ringing.answer().await?, edge))
        };
        let (caller, (callee, edge)) = tokio::try_join!(calling, answering)?;
        Ok((caller, callee, edge))
    }

    /// The call with this offer; what is left of one that its caller has given up is refused.
    async fn incoming(&self, offer: &[u8]) -> Result<Ringing, PhoneError> {
        loop {
            let ringing = self.callee.incoming().await?;
            if ringing.invite().body() == offer {
                return Ok(ringing);
            }
            ringing.reject(486).await?;
        }
    }
}
