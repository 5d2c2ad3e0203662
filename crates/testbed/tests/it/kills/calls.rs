//! Calls all the time, and what became of each.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use phone::{LineTransport, Phone, PhoneError};
use tokio::task::JoinSet;

use crate::world::{DOMAIN, PASSWORD};

/// Each pair begins a call so often: 100 pairs make 50 calls a second.
const EVERY: Duration = Duration::from_secs(2);
/// How long a call is up.
const HELD: Duration = Duration::from_millis(800);
/// A call that is not over by then is lost.
const LIMIT: Duration = Duration::from_secs(75);

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
}

impl Tally {
    pub(crate) fn add(&mut self, other: Tally) {
        self.whole += other.whole;
        self.rang.extend(other.rang);
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
    /// Registers so many pairs of phones over UDP, callers and callees by these edges in turn, and begins to call; every second
    /// pair calls through the back-to-back agent, by this domain.
    ///
    /// # Panics
    /// When a phone cannot register.
    pub(crate) async fn begin(edges: &[[SocketAddr; 2]], agent: &str, count: usize) -> Calls {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut pairs = JoinSet::new();
        for number in 0..count {
            // Both kinds of call by every edge.
            let [callers, callees] = edges[number / 2 % edges.len()];
            // By the name an application may tell whose call it is.
            let (way, domain) = if number % 2 == 0 { ("direct", DOMAIN) } else { ("agent", agent) };
            let caller = registered(&format!("{way}{number}-caller"), callers).await;
            let callee = registered(&format!("{way}{number}-callee"), callees).await;
            let uri = format!("sip:{}@{domain}", callee.user());
            let pair = Pair { caller, callee, uri };
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

async fn registered(user: &str, edge: SocketAddr) -> Phone {
    let phone = Phone::new(user, DOMAIN, PASSWORD, LineTransport::Udp, edge).await;
    let phone = phone.expect("a loopback socket");
    phone.register(36_000).await.expect("anybody may register");
    phone
}

struct Pair {
    caller: Phone,
    callee: Phone,
    uri: String,
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
            let is_up = AtomicBool::new(false);
            let lost = match tokio::time::timeout(LIMIT, self.call(&is_up)).await {
                Ok(Ok(rang)) => {
                    tally.whole += 1;
                    tally.rang.push(rang);
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("not over after {LIMIT:?}"),
            };
            // With the times that the logs have, so that the fault is found that it met.
            let (uri, ended) = (&self.uri, time_of_day());
            let stage = if is_up.into_inner() {
                tally.established_lost += 1;
                "answered"
            } else {
                "not answered"
            };
            let loss = format!("{began} to {ended} {uri}, {stage}: {lost}");
            println!("lost: {loss}");
            tally.losses.push(loss);
        }
        for phone in [&self.caller, &self.callee] {
            tally.losses.extend(phone.rang_again());
            tally.losses.extend(phone.violations());
        }
        tally
    }

    /// Gives when it was made, and how long it took until the callee rang.
    async fn call(&self, is_up: &AtomicBool) -> Result<(Instant, Duration), PhoneError> {
        let began = Instant::now();
        let calling = async { self.caller.call(0, &self.uri).await?.answered().await };
        let answering = async {
            let ringing = self.callee.incoming().await?;
            let rang_after = began.elapsed();
            ringing.ring().await?;
            Ok((ringing.answer().await?, rang_after))
        };
        let (caller, (callee, rang_after)) = tokio::try_join!(calling, answering)?;
        is_up.store(true, Ordering::Relaxed);
        tokio::time::sleep(HELD).await;
        tokio::try_join!(caller.hang_up(), callee.hung_up())?;
        Ok((began, rang_after))
    }
}
