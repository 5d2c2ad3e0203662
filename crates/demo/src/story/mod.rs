//! The story of `outlast demo`: phones register, calls come up, processes die, versions of an application come, and
//! everything that was there before is there after.
//!
//! ```text
//! 20 calls up ─▶ 10 ringing: kill -9 a container ─▶ 10 more: stop the other ─▶ 10 more: kill -9 the edge
//!        └── after each fault: the ringing ones are answered, every call is tried, every phone is looked up
//! 50 calls up ─▶ 1.1.0 of the WebAssembly agent ─▶ 5 more calls ─▶ 1.2.0 of it, which falls over ─▶ 5 more calls
//!        └── while it comes in others call again and again; then every call is tried and asked for its version
//! ```
//!
//! A call counts as surviving when the caller hears what it asked for: ringing calls are answered and acknowledged,
//! established ones get through a re-INVITE. Whoever is over TCP asks, because after the death of an edge only a
//! phone itself can open its connection anew; and the calls that ring at that moment are over UDP (a stream that dies
//! takes its transactions with it).

mod calls;
mod faults;
mod upgrades;

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use phone::{LineTransport, Phone, PhoneError};
use tokio::task::{JoinSet, spawn_blocking};
use topology::{ListenerTransport, ProcessType, TopologyView};

use crate::report::{Count, Fault, Outcome, Report};
use crate::webassembly::Version;
pub use calls::Way;
use calls::{Pair, State};
use faults::{Kind, breaks, serving, watch};
pub use upgrades::{BringIn, Rollout};

/// The domain that the phones are of.
pub const DOMAIN: &str = "demo.example";
/// Calls of the story; each has two phones of its own.
const CALLS: usize = FAULT_CALLS + UPGRADES.len() * UPGRADE_CALLS;
/// Those of them that are up when the last fault is over.
const FAULT_CALLS: usize = FIRST_CALLS + FAULTS.len() * RINGING_CALLS;
/// Calls that are up before the first fault.
const FIRST_CALLS: usize = 20;
/// Calls that ring at each fault.
const RINGING_CALLS: usize = 10;
/// The faults, in this order.
const FAULTS: [(Kind, ProcessType); 3] = [
    (Kind::Kill, ProcessType::Container),
    (Kind::Stop, ProcessType::Container),
    (Kind::Kill, ProcessType::Edge),
];
/// Then these versions come, one after the other.
const UPGRADES: [Version; 2] = [Version::Second, Version::Broken];
/// Calls that begin with each of them.
const UPGRADE_CALLS: usize = 5;
/// How calls get from one phone to the other, by turns.
const WAYS: [Way; 3] = [Way::Direct, Way::BackToBack, Way::WebAssembly];
/// How long a registration of the story lasts, in seconds.
const EXPIRES: u32 = 600;
/// Whatever takes longer counts as lost. A hung container is missed after 1.5 s; a request that waited for it over
/// UDP may have to be sent once or twice more.
const PATIENCE: Duration = Duration::from_secs(12);

/// The node on which the story is told.
#[derive(Clone)]
pub struct Stage {
    /// Looks at its processes; blocks for a moment.
    pub look: Look,
    /// Brings versions of the application in; blocks for some seconds.
    pub bring_in: BringIn,
}

/// Looks at the node's processes.
pub type Look = Arc<dyn Fn() -> Result<TopologyView, String> + Send + Sync>;

/// Hears what happens while the story is told.
pub trait Listener {
    /// Something begins that may take a while.
    fn begins(&mut self, what: &str);
    /// It is done.
    fn done(&mut self, what: &str);
}

/// Why the story could not be told to its end. What was lost is no such reason: that is in the report.
#[derive(Debug, thiserror::Error)]
pub enum StoryError {
    /// Something did not work though nothing was broken, or all that was broken is well again.
    #[error("{what} failed with nothing broken: {why}")]
    Unbroken {
        /// What was tried.
        what: &'static str,
        /// The first reason.
        why: String,
    },
    /// The node does not show its processes.
    #[error("the node's manager does not answer: {0}")]
    Look(String),
    /// The edge listens nowhere.
    #[error("the node has no edge that listens for SIP over {0}")]
    NoAddress(ListenerTransport),
    /// A version of the WebAssembly agent came neither in nor was it taken back.
    #[error("the WebAssembly agent was not deployed: {0}")]
    Deploy(String),
    /// A process could not be killed or stopped.
    #[error("{signal} of process {pid} failed: {source}")]
    Signal {
        /// What was done.
        signal: &'static str,
        /// To whom.
        pid: u32,
        /// The system's reason.
        source: std::io::Error,
    },
    /// There is no process of a type left to break.
    #[error("no {0} of the node is ready")]
    Nobody(ProcessType),
}

/// Tells the story.
///
/// # Errors
/// [`StoryError`], when it could not be told to its end.
pub async fn run(stage: &Stage, listener: &mut dyn Listener) -> Result<Report, StoryError> {
    let began = Instant::now();
    let phones = CALLS * 2;
    listener.begins(&format!("{phones} phones register"));
    let mut cast = Cast::gather(stage).await?;
    listener.done(&format!("{phones} phones registered, over UDP and TCP"));
    let first = Version::First;
    listener.begins(&format!("WebAssembly agent {first}"));
    cast.deploy().await?;
    listener.done(&format!("WebAssembly agent {first} assembled, compiled and deployed"));
    listener.begins(&format!("{FIRST_CALLS} calls"));
    let acts = [Act::Call(CallAct::Ring), Act::Call(CallAct::Answer)];
    works("a call", cast.all_do(0..FIRST_CALLS, |_| acts.to_vec()).await)?;
    listener.done(&format!("{FIRST_CALLS} calls up: {}", ways()));

    let mut losses = Vec::new();
    let mut told = Vec::new();
    for (number, (kind, process_type)) in FAULTS.into_iter().enumerate() {
        let up = FIRST_CALLS + number * RINGING_CALLS;
        told.push(cast.scene(kind, process_type, up, &mut losses, listener).await?);
    }
    let mut upgrades = Vec::new();
    for (number, version) in UPGRADES.into_iter().enumerate() {
        let up = FAULT_CALLS + number * UPGRADE_CALLS;
        let callers = up..up + UPGRADE_CALLS;
        upgrades.push(cast.upgrade(version, callers, &mut losses, listener).await?);
    }
    let afterwards = cast.end(&mut losses, listener).await;
    Ok(Report::new(told, upgrades, afterwards, losses, began.elapsed()))
}

/// `direct, by the native agent, by the WebAssembly agent in turn`
fn ways() -> String {
    format!("{} in turn", WAYS.map(|way| way.to_string()).join(", "))
}

/// How the call of a pair gets from one phone to the other.
fn way(number: usize) -> Way {
    if number < FAULT_CALLS { WAYS[number % WAYS.len()] } else { Way::WebAssembly }
}

/// What a pair of phones does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// Both together.
    Call(CallAct),
    /// Each of them.
    Phones(PhoneAct),
}

/// What becomes of the call of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CallAct {
    /// One calls, the other rings.
    Ring,
    /// The other answers.
    Answer,
    /// One invites anew.
    Try,
    /// One asks which version has it.
    Ask(Version),
    /// One hangs up.
    HangUp,
}

/// What a phone does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PhoneAct {
    /// It waits until its connection is lost, if it has one, opens another and registers.
    Reconnect,
    /// It is looked up in the registrar.
    LookUp,
    /// It registers.
    Register,
}

impl fmt::Display for CallAct {
    /// As one says it of a call.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CallAct::Ring => "to ring",
            CallAct::Answer => "to be answered",
            CallAct::Try => "to get a re-INVITE through",
            CallAct::Ask(_) => "to be with its version",
            CallAct::HangUp => "to be hung up",
        })
    }
}

impl fmt::Display for PhoneAct {
    /// As one says it of a phone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PhoneAct::Reconnect => "to connect again",
            PhoneAct::LookUp => "to be found in the registrar",
            PhoneAct::Register => "to register",
        })
    }
}

/// What became of each act of each pair.
type Done = Vec<(Act, Outcome)>;

/// The outcomes of one kind of act.
fn of(act: Act, done: &Done) -> Vec<Outcome> {
    let those = done.iter().filter(|(did, _)| *did == act);
    those.map(|(_, outcome)| outcome.clone()).collect()
}

/// Nothing is broken: everything must have worked.
fn works(what: &'static str, done: Done) -> Result<(), StoryError> {
    let why = done.into_iter().find_map(|(_, outcome)| outcome.err());
    why.map_or(Ok(()), |why| Err(StoryError::Unbroken { what, why }))
}

/// The phones of the story.
struct Cast {
    stage: Stage,
    pairs: Vec<Pair>,
    /// The processes that were broken so far.
    broken: Vec<String>,
}

impl Cast {
    /// All phones open their lines and register.
    async fn gather(stage: &Stage) -> Result<Cast, StoryError> {
        let (udp, tcp) =
            (address(stage, ListenerTransport::Udp)?, address(stage, ListenerTransport::Tcp)?);
        let unbroken = |why: PhoneError| StoryError::Unbroken {
            what: "opening a phone's line",
            why: why.to_string(),
        };
        let mut pairs = Vec::new();
        for number in 0..CALLS {
            let [caller, callee] = transports(number);
            let caller = phone(number * 2 + 1, caller, udp, tcp).await.map_err(unbroken)?;
            let callee = phone(number * 2 + 2, callee, udp, tcp).await.map_err(unbroken)?;
            pairs.push(Pair::new(number, way(number), caller, callee));
        }
        let mut cast = Cast { stage: stage.clone(), pairs, broken: Vec::new() };
        works(
            "registering",
            cast.all_do(0..CALLS, |_| vec![Act::Phones(PhoneAct::Register)]).await,
        )?;
        Ok(cast)
    }

    /// Every pair of the range does its acts one after the other, all pairs at a time.
    async fn all_do(&mut self, range: Range<usize>, acts: impl Fn(&Pair) -> Vec<Act>) -> Done {
        let done = self.each(range, |mut pair| {
            let acts = acts(&pair);
            async move {
                let mut done = Vec::new();
                for act in acts {
                    done.extend(pair.does(act).await.into_iter().map(|outcome| (act, outcome)));
                }
                (pair, done)
            }
        });
        done.await.into_iter().flatten().collect()
    }

    /// Every pair of the range does something, all at a time: what came of it, in their order.
    async fn each<T, F>(&mut self, range: Range<usize>, does: impl Fn(Pair) -> F) -> Vec<T>
    where
        T: Send + 'static,
        F: Future<Output = (Pair, T)> + Send + 'static,
    {
        let mut running = JoinSet::new();
        for pair in self.pairs.drain(range.clone()) {
            running.spawn(does(pair));
        }
        let mut back = running.join_all().await;
        back.sort_by_key(|(pair, _)| pair.number);
        let (pairs, done): (Vec<Pair>, Vec<T>) = back.into_iter().unzip();
        self.pairs.splice(range.start..range.start, pairs);
        done
    }

    /// Some calls are up, some more ring, a process is broken, and all of them go on.
    async fn scene(
        &mut self,
        kind: Kind,
        process_type: ProcessType,
        up: usize,
        losses: &mut Vec<String>,
        listener: &mut dyn Listener,
    ) -> Result<Fault, StoryError> {
        let ringing = up..up + RINGING_CALLS;
        listener.begins(&format!("{RINGING_CALLS} more calls ring"));
        works("a call", self.all_do(ringing, |_| vec![Act::Call(CallAct::Ring)]).await)?;
        let (name, pid) = self.victim(process_type)?;
        let with = match process_type {
            ProcessType::Container => {
                let with = self.pairs.iter().filter(|pair| pair.is_with(&name)).count();
                format!(", which has {with} of the calls")
            }
            ProcessType::Edge => ", through which everything goes".to_owned(),
            ProcessType::Store | ProcessType::Repository => String::new(),
        };
        let what = format!("{} {name}{with}", kind.name());
        listener.begins(&what);

        let broken = Instant::now();
        breaks(kind, pid)?;
        self.broken.push(name.clone());
        let seen = {
            let (look, name) = (Arc::clone(&self.stage.look), name.clone());
            spawn_blocking(move || watch(&look, &name, pid, broken))
        };
        let done = self.all_do(0..CALLS, |pair| goes_on(pair, process_type)).await;
        let seen = seen.await.expect("looking at processes does not panic");
        let mut counts = Vec::new();
        for (what, act) in [
            ("calls ringing", Act::Call(CallAct::Answer)),
            ("phones connected", Act::Phones(PhoneAct::Reconnect)),
            ("calls up", Act::Call(CallAct::Try)),
            ("phones registered", Act::Phones(PhoneAct::LookUp)),
        ] {
            let outcomes = of(act, &done);
            if !outcomes.is_empty() {
                counts.push(Count::of(what, outcomes, losses));
            }
        }
        let lost: usize = counts.iter().map(|count| count.of - count.survived).sum();
        let outcome = if lost == 0 { "nothing lost".to_owned() } else { format!("{lost} LOST") };
        listener.done(&format!("{what}: {outcome}"));
        Ok(Fault {
            fault: kind.name().to_owned(),
            process: name,
            noticed_after_ms: seen.noticed,
            back_after_ms: seen.back,
            counts,
        })
    }

    /// The process of a type that has most to lose, of those that were not broken before if there is one.
    fn victim(&self, process_type: ProcessType) -> Result<(String, u32), StoryError> {
        let serving = serving(&self.stage.look, process_type)?;
        let calls = |name: &str| self.pairs.iter().filter(|pair| pair.is_with(name)).count();
        let most = serving.into_iter().max_by_key(|(name, _)| {
            let is_new = !self.broken.contains(name);
            (is_new, calls(name))
        });
        most.ok_or(StoryError::Nobody(process_type))
    }

    /// Everybody hangs up and registers once more.
    async fn end(&mut self, losses: &mut Vec<String>, listener: &mut dyn Listener) -> Vec<Count> {
        listener.begins("everybody hangs up");
        let register = Act::Phones(PhoneAct::Register);
        let hang_up = Act::Call(CallAct::HangUp);
        let done = self
            .all_do(0..CALLS, |pair| match pair.state {
                State::Up(_) => vec![hang_up, register],
                State::Idle | State::Ringing(_) | State::Lost => vec![register],
            })
            .await;
        let mut hung_up = Count::of("calls hung up on both sides", of(hang_up, &done), losses);
        // Those that are missing were told when they were lost.
        hung_up.of = CALLS;
        let mut counts =
            vec![hung_up, Count::of("phones registered again", of(register, &done), losses)];
        // Whoever rang twice, and whatever came in the wrong order, is known only now.
        let odd = self.pairs.iter().map(|pair| match pair.oddities().into_iter().next() {
            None => Ok(Duration::ZERO),
            Some(oddity) => Err(format!("{pair}: {oddity}")),
        });
        counts.push(Count::of("calls that rang once, all in order", odd.collect(), losses));
        listener.done("everybody hung up and registered again");
        counts
    }
}

/// What a pair does once a process of that type is broken: whatever it is in the middle of.
fn goes_on(pair: &Pair, broken: ProcessType) -> Vec<Act> {
    let look_up = Act::Phones(PhoneAct::LookUp);
    let call = match &pair.state {
        State::Ringing(_) => Some(Act::Call(CallAct::Answer)),
        State::Up(_) => Some(Act::Call(CallAct::Try)),
        State::Idle | State::Lost => None,
    };
    let reconnect = match broken {
        ProcessType::Edge => Some(Act::Phones(PhoneAct::Reconnect)),
        ProcessType::Container | ProcessType::Store | ProcessType::Repository => None,
    };
    [reconnect, call, Some(look_up)].into_iter().flatten().collect()
}

/// Over what caller and callee of a pair talk. At most one of the two is over TCP: he asks for both.
fn transports(number: usize) -> [LineTransport; 2] {
    use LineTransport::{Tcp, Udp};
    // These calls ring while the edge dies: a connection would take its transactions with it.
    if (FAULT_CALLS - RINGING_CALLS..FAULT_CALLS).contains(&number) {
        return [Udp, Udp];
    }
    // Neighbours are alike, so that all ways of calling see all transports.
    [[Udp, Udp], [Tcp, Udp], [Udp, Tcp]][number / WAYS.len() % 3]
}

async fn phone(
    number: usize,
    transport: LineTransport,
    udp: SocketAddr,
    tcp: SocketAddr,
) -> Result<Phone, PhoneError> {
    let user = format!("phone{number}");
    match transport {
        LineTransport::Udp => Phone::new(&user, DOMAIN, "", transport, udp).await,
        // By its instance the registrar knows that another connection is the same phone (RFC 5626).
        LineTransport::Tcp => {
            let instance = format!("urn:uuid:00000000-0000-4000-8000-{number:012}");
            Phone::with_flows(&user, DOMAIN, "", &instance, &[(transport, tcp)]).await
        }
    }
}

/// Where the node's first edge listens.
fn address(stage: &Stage, transport: ListenerTransport) -> Result<SocketAddr, StoryError> {
    let view = (stage.look)().map_err(StoryError::Look)?;
    let mut addresses = view.edges().flat_map(|edge| &edge.addresses);
    let address = addresses.find(|address| address.transport == transport);
    address.map(|address| address.own).ok_or(StoryError::NoAddress(transport))
}

#[cfg(test)]
mod tests {
    use LineTransport::{Tcp, Udp};

    use super::*;

    #[test]
    fn every_pair_has_somebody_who_is_reached_when_the_edge_has_died() {
        for number in 0..CALLS {
            assert_ne!(transports(number), [Tcp, Tcp], "{number}");
        }
        for number in FAULT_CALLS - RINGING_CALLS..FAULT_CALLS {
            assert_eq!(transports(number), [Udp, Udp], "rings while the edge dies: {number}");
        }
    }

    #[test]
    fn every_fault_meets_all_ways_over_all_transports() {
        let ranges = [0..FIRST_CALLS, FIRST_CALLS..FIRST_CALLS + RINGING_CALLS];
        for range in ranges {
            for wanted_way in WAYS {
                let seen = |wanted| {
                    range.clone().any(|call| way(call) == wanted_way && transports(call) == wanted)
                };
                assert!(seen([Udp, Udp]) && seen([Tcp, Udp]) && seen([Udp, Tcp]), "{range:?}");
            }
        }
    }

    #[test]
    fn outcomes_are_told_apart_by_their_acts() {
        let (try_it, look_up) = (Act::Call(CallAct::Try), Act::Phones(PhoneAct::LookUp));
        let lost = || Err("silent".to_owned());
        let done = vec![(try_it, Ok(Duration::ZERO)), (look_up, lost()), (try_it, lost())];
        assert_eq!(of(try_it, &done).len(), 2);
        assert_eq!(of(look_up, &done), [lost()]);
        let unbroken = works("a call", done);
        assert!(matches!(unbroken, Err(StoryError::Unbroken { why, .. }) if why == "silent"));
    }
}
