//! A container dies, or stands still, while it sets up a call: another one goes on with it, and the callee rings once.

use std::process::Command;
use std::time::Duration;

use phone::{Call, LineTransport, Phone};
use rustix::process::Signal;
use sip::{HeaderName, Message};
use testbed::node::Node;
use testbed::{binary, wait};
use tokio::time::Instant;

use crate::world;

const LIMIT: Duration = Duration::from_secs(20);
const BOTH: [LineTransport; 2] = [LineTransport::Udp, LineTransport::Tcp];

/// What becomes of the container that owns the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Killed,
    Stopped,
}

impl Fault {
    fn strike(self, node: &Node, owner: &str) {
        node.signal(
            owner,
            match self {
                Fault::Killed => Signal::KILL,
                Fault::Stopped => Signal::STOP,
            },
        );
    }
}

/// The container that a call came through: its Via is under the edge's.
fn owner_of(invite: &Message) -> String {
    let via = invite.values(HeaderName::Via).nth(1).expect("the container's Via");
    let via = String::from_utf8_lossy(via).into_owned();
    let sent_by = via.split_whitespace().nth(1).expect("a sent-by");
    sent_by.split('.').next().expect("a container's name").to_owned()
}

/// A call that rings, and the two phones.
struct Scene {
    node: Node,
    caller: Phone,
    callee: Phone,
}

impl Scene {
    async fn new(transport: LineTransport) -> Scene {
        Scene::with(transport, "").await
    }

    async fn with(transport: LineTransport, more: &str) -> Scene {
        let node = world::node_of(&world::open_config(1, more));
        let caller = world::registered_openly(&node, "alice", transport).await;
        let callee = world::registered_openly(&node, "bob", transport).await;
        Scene { node, caller, callee }
    }

    async fn rings(&self) -> (phone::Invitation, phone::Ringing) {
        let uri = self.callee.uri();
        let calling = async {
            let mut invitation = self.caller.call(0, &uri).await?;
            invitation.ringing().await?;
            Ok::<_, phone::PhoneError>(invitation)
        };
        let answering = async {
            let ringing = self.callee.incoming().await?;
            ringing.ring().await?;
            Ok::<_, phone::PhoneError>(ringing)
        };
        let (calling, answering) = tokio::join!(calling, answering);
        (calling.expect("it rings"), answering.expect("it rings"))
    }

    fn check_phones(&self) {
        for phone in [&self.caller, &self.callee] {
            assert_eq!(phone.violations(), Vec::<String>::new(), "{}", phone.user());
            assert_eq!(phone.rang_again(), Vec::<String>::new(), "{}", phone.user());
        }
        assert_eq!(self.callee.invites(), 1, "the callee rings once");
    }

    /// No record is left of calls that are over.
    async fn hang_up(&self, calling: Call, answering: Call) {
        let (ended, noticed) = tokio::join!(calling.hang_up(), answering.hung_up());
        ended.expect("the call is hung up");
        noticed.expect("the callee hears of it");
    }
}

async fn answer_after(fault: Fault, transport: LineTransport) {
    let scene = Scene::new(transport).await;
    let (calling, ringing) = scene.rings().await;
    let owner = owner_of(ringing.invite());
    fault.strike(&scene.node, &owner);
    let began = Instant::now();
    let (calling, answering) = tokio::join!(calling.answered(), ringing.answer());
    let calling = calling.unwrap_or_else(|error| panic!("{fault:?} {transport:?}: {error}"));
    let answering = answering.unwrap_or_else(|error| panic!("{fault:?} {transport:?}: {error}"));
    println!("{fault:?} {transport:?}: answered after {:?}", began.elapsed());
    scene.check_phones();
    scene.hang_up(calling, answering).await;
}

async fn cancel_after(fault: Fault, transport: LineTransport) {
    let scene = Scene::new(transport).await;
    let (calling, ringing) = scene.rings().await;
    let owner = owner_of(ringing.invite());
    fault.strike(&scene.node, &owner);
    let began = Instant::now();
    let (cancelled, stopped) = tokio::join!(calling.cancel(), ringing.canceled());
    let cancelled = cancelled.unwrap_or_else(|error| panic!("{fault:?} {transport:?}: {error}"));
    assert_eq!(cancelled.status(), Some(487), "{fault:?} {transport:?}");
    stopped.unwrap_or_else(|error| panic!("{fault:?} {transport:?}: {error}"));
    println!("{fault:?} {transport:?}: cancelled after {:?}", began.elapsed());
    scene.check_phones();
}

#[tokio::test(flavor = "multi_thread")]
async fn call_is_answered_after_its_container_was_killed_while_it_rang() {
    for transport in BOTH {
        answer_after(Fault::Killed, transport).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn call_is_answered_after_its_container_stood_still_while_it_rang() {
    for transport in BOTH {
        answer_after(Fault::Stopped, transport).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn call_is_cancelled_after_its_container_was_killed_while_it_rang() {
    for transport in BOTH {
        cancel_after(Fault::Killed, transport).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn call_is_cancelled_after_its_container_stood_still_while_it_rang() {
    for transport in BOTH {
        cancel_after(Fault::Stopped, transport).await;
    }
}

/// The only container dies while the only edge is restarted by hand, at once or after it did not end in time: the next
/// life of the container has no link, and must wait for the next life of the edge.
#[tokio::test(flavor = "multi_thread")]
async fn call_that_rings_outlasts_its_container_and_the_restart_of_its_edge() {
    for edge_hangs in [false, true] {
        let more = "[container]\ncount = 1\ndrain_timeout = \"300ms\"\n";
        let scene = Scene::with(LineTransport::Udp, more).await;
        let (mut calling, ringing) = scene.rings().await;
        if edge_hangs {
            scene.node.signal("edge1", Signal::STOP);
        }
        let mut restart = Command::new(binary::outlast());
        restart.args(["restart", "edge1", "--dir"]).arg(scene.node.directory());
        let mut restart = restart.spawn().expect("the outlast binary starts");
        if edge_hangs {
            wait::until("the edge to be told to stop", LIMIT, || {
                let state = scene.node.process("edge1").state;
                if state == "stopping" { Ok(()) } else { Err(state) }
            });
        }
        scene.node.kill_and_wait_ready("container1");
        // The next life has sent the INVITE again; it may not have given it up before the edge was back.
        let rings_on = calling.ringing().await;
        rings_on.unwrap_or_else(|error| panic!("edge hangs {edge_hangs}: {error}"));
        let (calling, answering) = tokio::join!(calling.answered(), ringing.answer());
        let calling = calling.unwrap_or_else(|error| panic!("edge hangs {edge_hangs}: {error}"));
        let answering =
            answering.unwrap_or_else(|error| panic!("edge hangs {edge_hangs}: {error}"));
        let restarted = wait::until("the edge's restart", LIMIT, || {
            restart.try_wait().expect("our child").ok_or("it goes on")
        });
        assert!(restarted.success(), "{restarted}");
        scene.check_phones();
        scene.hang_up(calling, answering).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn call_that_rings_outlasts_one_container_after_the_other() {
    let scene = Scene::new(LineTransport::Udp).await;
    let (calling, ringing) = scene.rings().await;
    let containers = ["container1", "container2"];
    for round in 0..4 {
        let victim = containers[round % 2];
        scene.node.kill_and_wait_ready(victim);
    }
    // The last one to die may have owned it: somebody has taken it over.
    wait::until("the call to be taken over", Duration::from_secs(10), || {
        let taken = |name: &&str| scene.node.process_log(name).matches("took calls over").count();
        match containers.iter().map(taken).sum::<usize>() {
            0 => Err(0),
            _ => Ok(()),
        }
    });
    let (calling, answering) = tokio::join!(calling.answered(), ringing.answer());
    let (calling, answering) = (calling.expect("answered"), answering.expect("acknowledged"));
    scene.check_phones();
    scene.hang_up(calling, answering).await;
}
