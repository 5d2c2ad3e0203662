//! The faults, and what is promised for each (DESIGN: what survives what).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use phone::LineTransport;
use rustix::process::{Pid, Signal, kill_process};
use testbed::node::{Node, NodeOptions};
use testbed::pace::{Pace, Slowness};
use testbed::wait;

use super::log::logged_after;
use super::workload::{GUESTS_CALLS, Guests, Survivors, Workload};
use crate::deployable::{assert_has_worked, back_to_back};
use crate::world;

/// interval × (allowed_miss_count + 1), the default.
const SILENCE: Duration = Duration::from_millis(1_500);
/// The probes' limits: that much silence, and the probe that finds it out comes once an interval.
const PROBED: Duration = Duration::from_millis(2_000);
/// What a machine that does other things as well may add to a promise; stretched by as much as it was seen to be slower
/// than an idle one. The table tells what was measured.
const GRACE: Duration = Duration::from_millis(500);
/// What is promised to come back, comes back within this, or the test fails.
const BACK_LIMIT: Duration = Duration::from_secs(30);

/// One fault, done once for all its tests.
pub(super) struct Row {
    /// As the table names it.
    pub(super) fault: &'static str,
    /// Within which the fault shall be noticed.
    pub(super) promise: Duration,
    transports: &'static [LineTransport],
    strike: fn(&mut Stage) -> Times,
    /// Or what went wrong before everything was counted.
    told: OnceLock<Result<Told, String>>,
}

/// What a row came to.
pub(super) struct Told {
    pub(super) survivors: Survivors,
    pub(super) times: Times,
    promise: Duration,
    slowness: Slowness,
}

/// How long after the fault.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// Whoever depends on it acted on it.
    pub(super) noticed: Duration,
    /// Every process of the node serves again.
    pub(super) back: Duration,
}

impl Told {
    pub(super) fn assert_in_time(&self) {
        let (noticed, promise) = (self.times.noticed, self.promise);
        let bound = promise + self.slowness.allows(GRACE);
        assert!(
            noticed <= bound,
            "noticed after {noticed:?}, promised {promise:?}, bound {bound:?}"
        );
    }
}

/// The node that a fault is done to.
struct Stage {
    node: Option<Node>,
    runtime: tokio::runtime::Runtime,
}

impl Row {
    const fn new(
        fault: &'static str,
        promise: Duration,
        transports: &'static [LineTransport],
        strike: fn(&mut Stage) -> Times,
    ) -> Row {
        Row { fault, promise, transports, strike, told: OnceLock::new() }
    }

    /// Does the fault when nobody has yet, else tells what came of it.
    ///
    /// # Panics
    /// When something went wrong before everything was counted, then or now.
    pub(super) fn get(&self) -> &Told {
        // The first who asks has its output; the others need not do it all again.
        let told = self.told.get_or_init(|| {
            catch_unwind(AssertUnwindSafe(|| self.tell())).map_err(|panic| what(&*panic))
        });
        told.as_ref().unwrap_or_else(|what| panic!("{} could not be told: {what}", self.fault))
    }

    fn tell(&self) -> Told {
        let mut stage = Stage {
            node: Some(world::node_of(&world::open_config(
                1,
                "[container]\napplications = [\"back-to-back\", \"registrar\"]\n",
            ))),
            runtime: tokio::runtime::Runtime::new().expect("a runtime"),
        };
        let guests = match back_to_back(GUESTS_CALLS) {
            Some(application) => {
                application.deploy(stage.node());
                Guests::AreThere
            }
            None => Guests::AreNotBuilt,
        };
        let begun = Workload::begin(stage.node(), self.transports, guests);
        let workload = stage.runtime.block_on(begun);
        let pace = Pace::watch();
        let times = (self.strike)(&mut stage);
        let slowness = pace.end();
        let survivors = stage.runtime.block_on(workload.finish(stage.node()));
        if guests == Guests::AreThere {
            assert_has_worked(stage.node(), "b2bua");
        }
        println!("{}: {times:?}, {slowness:?}, {survivors:?}", self.fault);
        Told { survivors, times, promise: self.promise, slowness }
    }
}

/// What a panic said.
fn what(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

impl Stage {
    fn node(&self) -> &Node {
        self.node.as_ref().expect("it is away only while it restarts")
    }

    /// Sends the signal to a process; then waits until the edge has noticed, and until it is back.
    fn strike(&self, victim: &str, signal: Signal, noticed_by: &str, words: &[&str]) -> Times {
        let node = self.node();
        let before = node.process(victim);
        let moment = SystemTime::now();
        signal_to(before.pid.expect("it runs"), signal);
        let noticed = wait::until("the fault to be noticed", BACK_LIMIT, || {
            logged_after(node, noticed_by, words, moment).ok_or("nothing is logged")
        });
        Times { noticed, back: self.ready_again(victim, before.restarts, moment) }
    }

    /// Nothing but the manager starts anew, and all the rest is the same.
    fn strike_manager(&self, signal: Signal) -> Times {
        let node = self.node();
        let (pid, others) = (node.manager_pid(), node.pids());
        let moment = SystemTime::now();
        signal_to(pid, signal);
        node.wait_for_manager_after(pid);
        let noticed = moment.elapsed().expect("time goes on");
        let is_all_ready =
            || node.status().processes.iter().all(|process| process.state == "ready");
        wait::until("everything to be adopted", BACK_LIMIT, || {
            if is_all_ready() { Ok(()) } else { Err(node.status()) }
        });
        assert_eq!(node.pids(), others, "a process was restarted");
        Times { noticed, back: moment.elapsed().expect("time goes on") }
    }

    /// Ends the node so, and starts it again; the stores that have its state, if it has any, live on.
    fn end_and_start_again(&mut self, end: fn(Node) -> tempfile::TempDir) -> Times {
        let mut node = self.node.take().expect("it runs");
        let (config, stores) = (node.config_with_its_ports(), node.take_stores());
        let moment = SystemTime::now();
        let directory = end(node);
        let options = NodeOptions { config: Some(config), arguments: Vec::new() };
        self.node = Some(Node::start_in(directory, &options).with_stores(stores));
        let back = moment.elapsed().expect("time goes on");
        Times { noticed: back, back }
    }

    fn ready_again(&self, name: &str, restarts: u64, moment: SystemTime) -> Duration {
        wait::until("the process to serve again", BACK_LIMIT, || {
            let process = self.node().process(name);
            if process.restarts > restarts && process.state == "ready" {
                Ok(())
            } else {
                Err(process)
            }
        });
        moment.elapsed().expect("time goes on")
    }
}

fn signal_to(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("it runs");
}

/// Phones of every transport.
const ANY: &[LineTransport] = &[LineTransport::Udp, LineTransport::Tcp];
/// Phones that keep no connection, which would end with its edge.
const OVER_UDP: &[LineTransport] = &[LineTransport::Udp];

const NO_MORE: &[&str] = &["container serves no more", "container1"];

pub(super) static CONTAINER_KILLED: Row =
    Row::new("container killed (SIGKILL)", Duration::from_millis(10), ANY, |stage| {
        stage.strike("container1", Signal::KILL, "edge1", NO_MORE)
    });

pub(super) static CONTAINER_HANGS: Row =
    Row::new("container hangs (SIGSTOP)", SILENCE, ANY, |stage| {
        stage.strike("container1", Signal::STOP, "edge1", NO_MORE)
    });

pub(super) static SIP_DEAD: Row =
    Row::new("SIP dead, heartbeats alive (wedged)", PROBED, ANY, |stage| {
        let node = stage.node();
        let before = node.process("container1");
        let moment = SystemTime::now();
        node.wedge_sip("container1");
        let noticed = wait::until("the probes to find it", BACK_LIMIT, || {
            logged_after(node, "edge1", NO_MORE, moment).ok_or("nothing is logged")
        });
        Times { noticed, back: stage.ready_again("container1", before.restarts, moment) }
    });

pub(super) static EDGE_KILLED: Row =
    Row::new("edge killed (SIGKILL), phones over UDP", Duration::from_secs(1), OVER_UDP, |stage| {
        let before = stage.node().process("edge1");
        let moment = SystemTime::now();
        signal_to(before.pid.expect("it runs"), Signal::KILL);
        let back = stage.ready_again("edge1", before.restarts, moment);
        Times { noticed: back, back }
    });

pub(super) static MANAGER_KILLED: Row =
    Row::new("manager killed (SIGKILL)", Duration::from_secs(1), ANY, |stage| {
        stage.strike_manager(Signal::KILL)
    });

pub(super) static MANAGER_HANGS: Row =
    Row::new("manager hangs (SIGSTOP)", Duration::from_secs(1), ANY, |stage| {
        stage.strike_manager(Signal::STOP)
    });

pub(super) static DRAIN: Row =
    Row::new("container drained", Duration::from_secs(1), ANY, |stage| {
        let moment = SystemTime::now();
        let drained = stage.node().outlast(&["drain", "container1", "--deadline", "1s"]);
        assert!(drained.status.success(), "{drained:?}");
        let noticed = wait::until("the edge to send nothing new there", BACK_LIMIT, || {
            let words = &["container1", "Draining"];
            logged_after(stage.node(), "edge1", words, moment).ok_or("nothing is logged")
        });
        Times { noticed, back: moment.elapsed().expect("time goes on") }
    });

pub(super) static RESTARTED: Row =
    Row::new("node stopped in order, started again", BACK_LIMIT, OVER_UDP, |stage| {
        stage.end_and_start_again(Node::stop)
    });

pub(super) static EVERYTHING_KILLED: Row =
    Row::new("every process killed (SIGKILL), node started again", BACK_LIMIT, OVER_UDP, |stage| {
        stage.end_and_start_again(Node::kill_everything)
    });

/// In the order of the table.
pub(super) static ALL: [&Row; 9] = [
    &CONTAINER_KILLED,
    &CONTAINER_HANGS,
    &SIP_DEAD,
    &EDGE_KILLED,
    &MANAGER_KILLED,
    &MANAGER_HANGS,
    &DRAIN,
    &RESTARTED,
    &EVERYTHING_KILLED,
];
