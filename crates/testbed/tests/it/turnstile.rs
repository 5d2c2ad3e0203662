//! Calls that stand still at a message each, until the container that owns them has got its fault.
//!
//! Each has a thread with whatever it needs, so that the whole call stands (all its phones, their timers too) while the others
//! go on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use phone::Watcher;
use rustix::process::{Pid, Signal, kill_process};
use testbed::node::Node;
use testbed::wait;

/// What happens to the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGSTOP: it neither answers nor dies until somebody notices.
    Stop,
}

/// The container that gets the fault.
pub(crate) const VICTIM: &str = "container1";

/// All calls stand at their message within this.
const STANDING_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Comes,
    Stands,
    GoesOn,
}

/// Where a call stands still.
pub(crate) struct Turnstile {
    stand: Mutex<Stand>,
    changed: Condvar,
    passed: AtomicUsize,
    /// From 1, in the order in which they pass; repetitions do not count.
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
    pub(crate) fn watcher(self: &Arc<Turnstile>) -> Watcher {
        let turnstile = Arc::clone(self);
        Arc::new(move |passed| match passed.repeated {
            true => turnstile.note(passed.to_string()),
            false => turnstile.pass(&passed.to_string()),
        })
    }

    fn note(&self, what: String) {
        self.trace.lock().unwrap().push(what);
    }

    /// A message passes; it stands here if it is the one.
    pub(crate) fn pass(&self, message: &str) {
        self.note(message.to_owned());
        if self.passed.fetch_add(1, Ordering::SeqCst) + 1 != self.stands_at {
            return;
        }
        message.clone_into(&mut self.moment.lock().unwrap());
        self.note("== the fault ==".to_owned());
        let mut stand = self.stand.lock().unwrap();
        if *stand == Stand::Comes {
            *stand = Stand::Stands;
        }
        while *stand != Stand::GoesOn {
            stand = self.changed.wait(stand).unwrap();
        }
    }
}

/// A call on its way; `T` is what it comes to.
pub(crate) struct Running<T> {
    id: String,
    turnstile: Arc<Turnstile>,
    thread: JoinHandle<Result<T, String>>,
}

impl<T: Send + 'static> Running<T> {
    /// Begins a call on a thread of its own, to stand still at that message.
    pub(crate) fn begin(
        id: String,
        stands_at: usize,
        play: impl FnOnce(&Arc<Turnstile>) -> Result<T, String> + Send + 'static,
    ) -> Running<T> {
        let turnstile = Turnstile::new(stands_at);
        let thread = {
            let turnstile = Arc::clone(&turnstile);
            thread::spawn(move || play(&turnstile))
        };
        Running { id, turnstile, thread }
    }

    /// Begins one without any fault, to find out how many messages pass.
    pub(crate) fn rehearse(
        id: String,
        play: impl FnOnce(&Arc<Turnstile>) -> Result<T, String> + Send + 'static,
    ) -> Running<T> {
        Self::begin(id, usize::MAX, play)
    }

    /// Waits for the end of a rehearsal: how many messages passed.
    ///
    /// # Panics
    /// When something went wrong without any fault.
    pub(crate) fn count_messages(self) -> usize {
        let turnstile = Arc::clone(&self.turnstile);
        if let Some(complaint) = self.verdict().complaint() {
            panic!("without any fault: {complaint}");
        }
        turnstile.passed.load(Ordering::SeqCst)
    }

    /// Whether it stands at its message (or has ended before it, which its verdict tells).
    fn stands(&self) -> bool {
        *self.turnstile.stand.lock().unwrap() == Stand::Stands || self.thread.is_finished()
    }

    fn go_on(&self) {
        *self.turnstile.stand.lock().unwrap() = Stand::GoesOn;
        self.turnstile.changed.notify_all();
    }

    /// Waits for its end.
    fn verdict(self) -> Verdict<T> {
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

/// What a call came to.
struct Verdict<T> {
    id: String,
    /// The message it stood at; empty when the call was over before.
    moment: String,
    result: Result<T, String>,
    /// Every message, in order, for whoever looks for the reason.
    trace: Vec<String>,
}

impl<T> Verdict<T> {
    /// Whether its message came: two that cross (a 180 and the 100) may make one message less than in rehearsal.
    fn was_struck(&self) -> bool {
        !self.moment.is_empty()
    }

    /// What went wrong, if anything.
    fn complaint(&self) -> Option<String> {
        let error = self.result.as_ref().err()?;
        let Verdict { id, moment, trace, .. } = self;
        Some(format!("{id}, fault after \"{moment}\": {error}\n    {}", trace.join("\n    ")))
    }
}

/// Lets all calls come to their message, gives the victim its fault, once, and lets them go on to their end; gives what each
/// came to, and whether it stood.
///
/// # Panics
/// When one of them failed, or too few came to their message, or the victim does not come back.
pub(crate) fn strike<T: Send + 'static>(
    name: &str,
    node: &Node,
    fault: Fault,
    running: Vec<Running<T>>,
) -> Vec<T> {
    let count = running.len();
    let began = Instant::now();
    wait::until("all calls to stand at their message", STANDING_LIMIT, || {
        let late: Vec<_> =
            running.iter().filter(|call| !call.stands()).map(|call| call.id.clone()).collect();
        if late.is_empty() { Ok(()) } else { Err(late) }
    });
    let standing_after = began.elapsed();
    let restarts = node.process(VICTIM).restarts;
    let signal = match fault {
        Fault::Kill => Signal::KILL,
        Fault::Stop => Signal::STOP,
    };
    let pid = node.process(VICTIM).pid.expect("the victim runs");
    kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("the victim runs");
    let struck = Instant::now();
    running.iter().for_each(Running::go_on);
    let verdicts: Vec<Verdict<T>> = running.into_iter().map(Running::verdict).collect();
    let struck_calls = verdicts.iter().filter(|verdict| verdict.was_struck()).count();
    println!(
        "{name}: {struck_calls} of {count} calls struck, standing after {standing_after:?}, over {:?} after the fault",
        struck.elapsed()
    );
    wait::until("the victim to be back", Duration::from_secs(20), || {
        let process = node.process(VICTIM);
        if process.state == "ready" && process.restarts > restarts { Ok(()) } else { Err(process) }
    });
    let bad: Vec<String> = verdicts.iter().filter_map(Verdict::complaint).collect();
    assert!(bad.is_empty(), "{} of {count} calls failed:\n{}", bad.len(), bad.join("\n"));
    assert!(struck_calls * 20 >= count * 19, "only {struck_calls} of {count} calls were struck");
    verdicts.into_iter().filter_map(|verdict| verdict.result.ok()).collect()
}
