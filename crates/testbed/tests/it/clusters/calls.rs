//! What phones notice of a cluster on three hosts: that it is one, and nothing when a part of it is gone.

use std::time::{Duration, Instant};

use phone::{Call, LineTransport, Phone, PhoneError};
use testbed::crowd;
use testbed::lab::{self, Host, Lab};
use testbed::members::Members;
use testbed::node::{Node, NodeOptions};
use testbed::pace::Pace;
use tokio::time::sleep;

use super::{LIMIT, NODES, is_whole};
use crate::faults::lost_bindings;
use crate::lab::nodes;
use crate::world::{DOMAIN, has_etcd, registered_openly};

const HOSTS: [&str; 4] = ["node1", "node2", "node3", "phones"];

/// New calls go on within this after a node was lost. Three seconds are promised; a debug build that shares two processors with
/// other tests takes two to five (measured).
const CALLS_WITHIN: Duration = Duration::from_secs(8);
/// A caller who was told to try again does so.
const CALL_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Long enough for the others to take over what a node had that is cut off, and shorter than a phone waits.
const CUT: Duration = Duration::from_secs(5);

/// Registrations that lie in the store while something happens.
const CROWD: usize = 60;

/// With the agent, whose calls are sessions: they need a container to be hung up.
fn options(host: &Host) -> NodeOptions {
    let mut options = nodes::options(host);
    let agent = "[container]\napplications = [\"registrar\", \"back-to-back\"]\n\n";
    options.config = options.config.map(|config| format!("{agent}{config}"));
    options
}

/// A cluster all of whose records have a copy on another host.
fn cluster(lab: &Lab) -> Members<'_> {
    let members = Members::cluster(lab, &NODES, options);
    members.until_copied();
    members
}

async fn registered(node: &Node, user: &str) -> Phone {
    registered_openly(node, user, LineTransport::Udp).await
}

async fn call(caller: &Phone, callee: &Phone, uri: &str) -> Result<(Call, Call), PhoneError> {
    let invitation = caller.call(0, uri).await?;
    tokio::try_join!(invitation.answered(), async { callee.incoming().await?.answer().await })
}

/// A call through the agent that stands.
async fn agents_call(caller: &Phone, callee: &Phone) -> (Call, Call) {
    let uri = format!("sip:{}@b2b.{DOMAIN}", callee.user());
    call(caller, callee, &uri).await.expect("it is answered")
}

async fn hang_up((calling, answering): (Call, Call)) {
    let (ended, noticed) = tokio::join!(calling.hang_up(), answering.hung_up());
    ended.expect("a 200 to the BYE");
    noticed.expect("a BYE");
}

/// One more call, direct, from when it is wished for until it is up, however often the caller is told to try again; it is
/// ended again.
async fn time_to_call(caller: &Phone, callee: &Phone) -> Duration {
    let (began, uri) = (Instant::now(), callee.uri());
    let (both, took) = loop {
        match call(caller, callee, &uri).await {
            Ok(both) => break (both, began.elapsed()),
            Err(PhoneError::Refused { status: 503, .. }) => sleep(CALL_AGAIN_AFTER).await,
            Err(error) => panic!("neither answered nor told to try again: {error:?}"),
        }
    };
    hang_up(both).await;
    took
}

/// Users of the crowd whom a member does not know.
fn lost(members: &Members<'_>, number: usize) -> Vec<usize> {
    let node = members.node(number);
    members.host(number).enter(|| lost_bindings(node, 0..CROWD))
}

#[test]
fn what_is_registered_at_one_node_is_called_by_all() {
    if !has_etcd() {
        return;
    }
    lab::run_within(LIMIT, &HOSTS, |lab| {
        let members = cluster(lab);
        lab.host("phones").block_on(async {
            let mut phones = Vec::new();
            for (number, user) in ["anna", "ben", "carla"].into_iter().enumerate() {
                phones.push(registered(members.node(number), user).await);
            }
            for (caller, callee) in [(0, 2), (2, 0), (1, 2), (2, 1), (1, 0)] {
                time_to_call(&phones[caller], &phones[callee]).await;
                hang_up(agents_call(&phones[caller], &phones[callee]).await).await;
            }
            for phone in &phones {
                assert_eq!(phone.violations(), [""; 0]);
            }
        });
    });
}

#[test]
fn calls_outlast_the_containers_of_every_node_in_turn() {
    if !has_etcd() {
        return;
    }
    lab::run_within(LIMIT, &HOSTS, |lab| {
        let members = cluster(lab);
        lab.host("phones").block_on(async {
            let anna = registered(members.node(0), "anna").await;
            let ben = registered(members.node(2), "ben").await;
            let mut calls = Vec::new();
            for _ in 0..6 {
                calls.push(agents_call(&anna, &ben).await);
            }
            for killed in 0..members.count() {
                for container in ["container1", "container2"] {
                    members.node(killed).signal(container, rustix::process::Signal::KILL);
                }
                for _ in 0..2 {
                    hang_up(calls.pop().expect("two for each node")).await;
                }
                members.until_whole();
            }
            assert_eq!(ben.rang_again(), [""; 0]);
        });
    });
}

/// What phones have begun before the first node is gone: it holds a part of all of it.
struct Begun {
    ben: Phone,
    carla: Phone,
    calls: Vec<(Call, Call)>,
}

impl Begun {
    async fn at(members: &Members<'_>) -> Begun {
        let crowd = crowd::register(members.node(0).sip("udp"), DOMAIN, 0..CROWD, 1, 36_000).await;
        assert_eq!(crowd.registered, CROWD, "{crowd:?}");
        let ben = registered(members.node(1), "ben").await;
        let carla = registered(members.node(2), "carla").await;
        let mut calls = Vec::new();
        for _ in 0..6 {
            calls.push(agents_call(&ben, &carla).await);
        }
        Begun { ben, carla, calls }
    }

    /// New calls come up in time since `pace` watches, which is since the node has gone, and half of the calls are hung up.
    async fn goes_on(&mut self, pace: Pace) {
        let took = time_to_call(&self.ben, &self.carla).await;
        let bound = pace.end().allows(CALLS_WITHIN);
        eprintln!("a new call took {took:?}");
        assert!(took < bound, "a new call took {took:?}, not within {bound:?}");
        for _ in 0..3 {
            hang_up(self.calls.pop().expect("six")).await;
        }
    }

    /// The node is back.
    async fn ends(self) {
        for both in self.calls {
            hang_up(both).await;
        }
        time_to_call(&self.carla, &self.ben).await;
        assert_eq!(self.carla.rang_again(), [""; 0]);
    }
}

fn nobody_is_lost(members: &Members<'_>, numbers: impl IntoIterator<Item = usize>) {
    for number in numbers {
        assert_eq!(lost(members, number), [0; 0], "of member {number}");
    }
}

#[test]
fn a_node_without_power_takes_nothing_along() {
    if !has_etcd() {
        return;
    }
    lab::run_within(LIMIT, &HOSTS, |lab| {
        let mut members = cluster(lab);
        let phones = lab.host("phones");
        let mut begun = phones.block_on(Begun::at(&members));
        let pace = Pace::watch();
        members.power_off(0);
        phones.block_on(begun.goes_on(pace));
        nobody_is_lost(&members, [1, 2]);
        members.power_on(0);
        members.until_all_see("the whole cluster", is_whole);
        phones.block_on(begun.ends());
        nobody_is_lost(&members, [0, 1, 2]);
    });
}

#[test]
fn calls_of_all_nodes_outlast_that_one_is_cut_off_for_a_while() {
    if !has_etcd() {
        return;
    }
    lab::run_within(LIMIT, &HOSTS, |lab| {
        let members = cluster(lab);
        let phones = lab.host("phones");
        let (phones_of_all, calls) = phones.block_on(async {
            let crowd = crowd::register(members.node(0).sip("udp"), DOMAIN, 0..CROWD, 1, 36_000);
            let crowd = crowd.await;
            assert_eq!(crowd.registered, CROWD, "{crowd:?}");
            let mut phones = Vec::new();
            for (number, user) in ["anna", "ben", "carla"].into_iter().enumerate() {
                phones.push(registered(members.node(number), user).await);
            }
            let mut calls = Vec::new();
            for (caller, callee) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
                let (caller, callee) = (&phones[caller], &phones[callee]);
                for _ in 0..2 {
                    calls.push(agents_call(caller, callee).await);
                    let direct = call(caller, callee, &callee.uri()).await;
                    calls.push(direct.expect("it is answered"));
                }
            }
            (phones, calls)
        });

        let (cut, began) = (lab.cut("node1"), Instant::now());
        for other in [1, 2] {
            members.until_sees(other, "node1 lost", |view| view.state("node1") == Some("lost"));
        }
        phones.block_on(async {
            time_to_call(&phones_of_all[1], &phones_of_all[2]).await;
            sleep(CUT.saturating_sub(began.elapsed())).await;
        });
        cut.heal();

        members.until_all_see("the whole cluster", is_whole);
        phones.block_on(async {
            for (number, (calling, answering)) in calls.into_iter().enumerate() {
                // In turn by who called and by who was called.
                match number % 4 < 2 {
                    true => hang_up((calling, answering)).await,
                    false => hang_up((answering, calling)).await,
                }
            }
            for phone in &phones_of_all {
                assert_eq!(phone.rang_again(), [""; 0]);
            }
        });
        nobody_is_lost(&members, [0, 1, 2]);
    });
}
