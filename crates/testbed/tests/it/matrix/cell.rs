//! One call of the matrix: it stands still when its message has passed, until it is told to go on.
//!
//! Each has a thread with a runtime of its own, so that the whole call stands (all its phones, their timers too)
//! while the others go on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use phone::{LineTransport, Phone, PhoneError, Watcher};
use testbed::node::Node;

use super::Route;
use super::owner::Owner;
use super::scripts::{Parties, Script};
use crate::world;

/// A call that has not ended by then waits for ever: over Timer B, Timer C is not waited for.
const CALL_LIMIT: Duration = Duration::from_secs(75);

/// How long the phones are watched after the end of their call: an INVITE that found nobody is sent again by its
/// transaction within that (Timer A: 500 ms, 1 s).
const WATCHED_ON: Duration = Duration::from_secs(2);

/// One call and the message at which it stands.
pub(crate) struct Cell {
    /// `matrix:script:transport:message`.
    pub(crate) id: String,
    pub(crate) script: Script,
    pub(crate) transport: LineTransport,
    /// From 1, in the order in which they pass the phones; repetitions do not count.
    pub(crate) stands_at: usize,
}

/// What a call came to.
pub(crate) struct Verdict {
    id: String,
    /// The message it stood at; empty when the call was over before.
    moment: String,
    result: Result<(), String>,
    /// Every message, in order, for whoever looks for the reason.
    trace: Vec<String>,
}

impl Verdict {
    /// Whether its message came: two that cross (a 180 and the 100) may make one message less than in rehearsal.
    pub(crate) fn was_struck(&self) -> bool {
        !self.moment.is_empty()
    }

    /// What went wrong, if anything.
    pub(crate) fn complaint(&self) -> Option<String> {
        let error = self.result.as_ref().err()?;
        let Verdict { id, moment, trace, .. } = self;
        Some(format!("{id}, fault after \"{moment}\": {error}\n    {}", trace.join("\n    ")))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Comes,
    Stands,
    GoesOn,
}

/// Where a call stands still.
struct Turnstile {
    stand: Mutex<Stand>,
    changed: Condvar,
    passed: AtomicUsize,
    stands_at: usize,
    moment: Mutex<String>,
    trace: Mutex<Vec<String>>,
}

impl Turnstile {
    fn new(stands_at: usize) -> Arc<Turnstile> {
        Arc::new(Turnstile {
            stand: Mutex::new(Stand::Comes),
            changed: Condvar::new(),
            passed: AtomicUsize::new(0),
            stands_at,
            moment: Mutex::default(),
            trace: Mutex::default(),
        })
    }

    /// The watcher of all phones of the call.
    fn watcher(self: &Arc<Turnstile>) -> Watcher {
        let turnstile = Arc::clone(self);
        Arc::new(move |passed| {
            turnstile.trace.lock().unwrap().push(passed.to_string());
            if passed.repeated
                || turnstile.passed.fetch_add(1, Ordering::SeqCst) + 1 != turnstile.stands_at
            {
                return;
            }
            *turnstile.moment.lock().unwrap() = passed.to_string();
            turnstile.trace.lock().unwrap().push("== the fault ==".to_owned());
            let mut stand = turnstile.stand.lock().unwrap();
            if *stand == Stand::Comes {
                *stand = Stand::Stands;
            }
            while *stand != Stand::GoesOn {
                stand = turnstile.changed.wait(stand).unwrap();
            }
        })
    }
}

/// A call on its way.
pub(crate) struct Running {
    id: String,
    turnstile: Arc<Turnstile>,
    thread: JoinHandle<Result<(), String>>,
}

impl Running {
    pub(crate) fn id(&self) -> String {
        self.id.clone()
    }

    /// Whether it stands at its message (or has ended before it, which its verdict tells).
    pub(crate) fn stands(&self) -> bool {
        *self.turnstile.stand.lock().unwrap() == Stand::Stands || self.thread.is_finished()
    }

    pub(crate) fn go_on(&self) {
        *self.turnstile.stand.lock().unwrap() = Stand::GoesOn;
        self.turnstile.changed.notify_all();
    }

    /// Waits for its end.
    pub(crate) fn verdict(self) -> Verdict {
        let Running { id, turnstile, thread } = self;
        let result = match thread.join() {
            Ok(result) => result,
            Err(_) => Err("a phone panicked".to_owned()),
        };
        let moment = turnstile.moment.lock().unwrap().clone();
        let trace = turnstile.trace.lock().unwrap().clone();
        Verdict { id, moment, result, trace }
    }
}

/// Begins a call on a thread of its own.
pub(crate) fn begin(cell: Cell, node: &Node, route: Route, owner: &Owner) -> Running {
    let Cell { id, script, transport, stands_at } = cell;
    let turnstile = Turnstile::new(stands_at);
    let stage = Stage {
        // A user name for a phone: no colons.
        name: id.replace(':', "-"),
        edge: world::address(node, transport),
        transport,
        route,
        script,
        call_id: owner.call_id(&id.replace(':', "-")),
    };
    let thread = {
        let turnstile = Arc::clone(&turnstile);
        thread::spawn(move || stage.run(&turnstile))
    };
    Running { id, turnstile, thread }
}

/// A script on its way without any fault.
pub(crate) struct Rehearsal {
    pub(crate) script: Script,
    pub(crate) transport: LineTransport,
    turnstile: Arc<Turnstile>,
    thread: JoinHandle<Result<(), String>>,
}

/// Begins a script on a thread of its own, to find out how many messages its phones see.
pub(crate) fn rehearse(
    node: &Node,
    route: Route,
    script: &Script,
    transport: LineTransport,
) -> Rehearsal {
    let turnstile = Turnstile::new(usize::MAX);
    let name = format!("rehearsal-{}-{}", script.name, transport.name().to_lowercase());
    let stage = Stage {
        call_id: name.clone(),
        name,
        edge: world::address(node, transport),
        transport,
        route,
        script: *script,
    };
    let thread = {
        let turnstile = Arc::clone(&turnstile);
        thread::spawn(move || stage.run(&turnstile))
    };
    Rehearsal { script: *script, transport, turnstile, thread }
}

impl Rehearsal {
    /// Waits for its end.
    ///
    /// # Panics
    /// When something went wrong without any fault.
    pub(crate) fn count_messages(self) -> usize {
        let result = self.thread.join().expect("the rehearsal runs to its end");
        if let Err(error) = result {
            let trace = self.turnstile.trace.lock().unwrap().join("\n    ");
            let (script, transport) = (self.script.name, self.transport.name());
            panic!("{script} over {transport} without any fault: {error}\n    {trace}");
        }
        self.turnstile.passed.load(Ordering::SeqCst)
    }
}

/// All that a call's thread needs.
struct Stage {
    name: String,
    edge: std::net::SocketAddr,
    transport: LineTransport,
    route: Route,
    script: Script,
    call_id: String,
}

impl Stage {
    fn run(self, turnstile: &Arc<Turnstile>) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime for one call");
        runtime.block_on(async {
            let mut parties = self.parties().await.map_err(|error| error.to_string())?;
            let phones: Vec<Phone> =
                std::iter::once(&parties.caller).chain(&parties.callees).cloned().collect();
            for phone in &phones {
                phone.watch(turnstile.watcher());
            }
            let played = tokio::time::timeout(CALL_LIMIT, (self.script.play)(&mut parties));
            match played.await {
                Ok(result) => result.map_err(|error| error.to_string())?,
                Err(_) => return Err(format!("not over after {CALL_LIMIT:?}")),
            }
            tokio::time::sleep(WATCHED_ON).await;
            judge(&phones)
        })
    }

    async fn parties(&self) -> Result<Parties, PhoneError> {
        let caller = self.phone(&format!("{}-caller", self.name), "1.0").await?;
        let user = format!("{}-callee", self.name);
        let mut callees = Vec::new();
        for q in self.script.callees {
            callees.push(self.phone(&user, q).await?);
        }
        let uri = format!("sip:{user}@{}", self.route.callee_domain());
        Ok(Parties { caller, callees, uri, call_id: self.call_id.clone() })
    }

    async fn phone(&self, user: &str, q: &str) -> Result<Phone, PhoneError> {
        let (transport, edge) = (self.transport, self.edge);
        let phone = Phone::new(user, world::DOMAIN, world::PASSWORD, transport, edge).await?;
        let contact = format!("{};q={q}", phone.contact(0));
        phone.register_contact(0, &contact, 3_600).await?;
        Ok(phone)
    }
}

/// What the phones saw of broken order.
fn judge(phones: &[Phone]) -> Result<(), String> {
    let again = phones.iter().flat_map(Phone::rang_again);
    let violations = phones.iter().flat_map(Phone::violations);
    let seen: Vec<String> = again.chain(violations).collect();
    if seen.is_empty() { Ok(()) } else { Err(seen.join("; ")) }
}
