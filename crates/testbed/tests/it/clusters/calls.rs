//! What phones notice of a cluster on three hosts: that it is one, and nothing when a part of it is gone.

use std::collections::BTreeSet;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use phone::{Call, LineTransport, Phone, PhoneError};
use sip::Method;
use testbed::crowd;
use testbed::lab::{self, Host, Lab, Traffic};
use testbed::members::Members;
use testbed::node::{Node, NodeOptions};
use testbed::pace::Pace;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{LIMIT, NODES, is_whole};
use crate::faults::lost_bindings;
use crate::lab::nodes;
use crate::world::{self, DOMAIN, has_etcd};

const HOSTS: [&str; 4] = ["node1", "node2", "node3", "phones"];

/// New calls go on within this after a node was lost. Three seconds are promised; a debug build that shares two processors with
/// other tests takes two to five (measured).
const CALLS_WITHIN: Duration = Duration::from_secs(8);
/// Who was told to try again does so.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Registrations that a machine is too busy for are made again for so long.
const REGISTERED_WITHIN: Duration = Duration::from_secs(90);

/// Of a phone with more than one flow; its number is behind it.
const INSTANCE: &str = "urn:uuid:00000000-0000-4000-8000-";

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
    until_registered(world::phone(node, user, LineTransport::Udp).await).await
}

async fn until_registered(phone: Phone) -> Phone {
    loop {
        match phone.register(600).await {
            Ok(_) => return phone,
            Err(PhoneError::Refused { status: 503, .. }) => sleep(AGAIN_AFTER).await,
            Err(error) => panic!("neither registered nor told to try again: {error:?}"),
        }
    }
}

async fn call(caller: &Phone, callee: &Phone, uri: &str) -> Result<(Call, Call), PhoneError> {
    let invitation = caller.call(0, uri).await?;
    tokio::try_join!(invitation.answered(), async { callee.incoming().await?.answer().await })
}

/// A call that stands, however often the caller is told by one of these to try again.
async fn call_by(caller: &Phone, callee: &Phone, uri: &str, again: &[u16]) -> (Call, Call) {
    loop {
        match call(caller, callee, uri).await {
            Ok(both) => return both,
            Err(PhoneError::Refused { status, .. }) if again.contains(&status) => {
                sleep(AGAIN_AFTER).await;
            }
            Err(error) => panic!("neither answered nor told to try again: {error:?}"),
        }
    }
}

async fn direct_call(caller: &Phone, callee: &Phone) -> (Call, Call) {
    call_by(caller, callee, &callee.uri(), &[503]).await
}

/// The agent that hears 503 on its other leg gives it on as 500 (RFC 3261 §16.7).
async fn agents_call(caller: &Phone, callee: &Phone) -> (Call, Call) {
    let uri = format!("sip:{}@b2b.{DOMAIN}", callee.user());
    call_by(caller, callee, &uri, &[500, 503]).await
}

/// The crowd, by a node; whoever is told to try again does so.
async fn register_crowd(node: &Node) {
    let until = Instant::now() + REGISTERED_WITHIN;
    loop {
        let crowd = crowd::register(node.sip("udp"), DOMAIN, 0..CROWD, 1, 36_000).await;
        if crowd.registered == CROWD {
            return;
        }
        assert!(Instant::now() < until, "{crowd:?}");
    }
}

async fn hang_up((calling, answering): (Call, Call)) {
    let (ended, noticed) = tokio::join!(calling.hang_up(), answering.hung_up());
    ended.expect("a 200 to the BYE");
    noticed.expect("a BYE");
}

/// One more call, direct, from when it is wished for until it is up, however often the caller is told to try again; it is
/// ended again.
async fn time_to_call(caller: &Phone, callee: &Phone) -> Duration {
    let began = Instant::now();
    let both = direct_call(caller, callee).await;
    let took = began.elapsed();
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
        register_crowd(members.node(0)).await;
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
            register_crowd(members.node(0)).await;
            let mut phones = Vec::new();
            for (number, user) in ["anna", "ben", "carla"].into_iter().enumerate() {
                phones.push(registered(members.node(number), user).await);
            }
            let mut calls = Vec::new();
            for (caller, callee) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
                let (caller, callee) = (&phones[caller], &phones[callee]);
                for _ in 0..2 {
                    calls.push(agents_call(caller, callee).await);
                    calls.push(direct_call(caller, callee).await);
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

/// A phone with flows by the edges of these nodes, registered.
async fn registered_by(nodes: &[&Node], number: usize) -> Phone {
    let flows: Vec<_> = nodes.iter().map(|node| (LineTransport::Udp, node.sip("udp"))).collect();
    let (user, instance) = (format!("callee{number}"), format!("{INSTANCE}{number:012x}"));
    let phone = Phone::with_flows(&user, DOMAIN, world::PASSWORD, &instance, &flows).await;
    until_registered(phone.expect("a socket")).await
}

/// A request in a call of the agent, by its caller, until somebody does not tell him to try again.
async fn ask(calling: &mut Call, method: Method<'_>) -> Result<(), PhoneError> {
    loop {
        let response = calling.request_by(0, method).await?;
        match response.status() {
            Some(200) => return Ok(()),
            // What he was told to try again had come about.
            Some(481) if method == Method::Bye => return Ok(()),
            // A callee that had answered it is sent it by another edge, and wants every CSeq once.
            Some(500 | 503) => sleep(AGAIN_AFTER).await,
            status => panic!("{method} was answered {status:?}"),
        }
    }
}

/// What a callee was sent and answered just before a node was lost, whose edges the request came by, comes to its end: the answer
/// finds its way past edges that have gone, and who is asked again by another edge answers.
#[test]
fn requests_in_calls_whose_answers_were_lost_with_an_edge_are_answered_all_the_same() {
    if !has_etcd() {
        return;
    }
    lab::run_within(LIMIT, &HOSTS, |lab| {
        let mut members = cluster(lab);
        let phones = lab.host("phones");
        // Enough that some go by each edge, and that agents are on each node.
        let calls = phones.block_on(async {
            let mut calls = Vec::new();
            for number in 0..12 {
                let caller = registered(members.node(0), &format!("caller{number}")).await;
                let callee = registered_by(&[members.node(1), members.node(2)], number).await;
                let both = agents_call(&caller, &callee).await;
                calls.push((callee, both));
            }
            calls
        });
        let (hears, heard) = mpsc::channel();
        for (number, (callee, _)) in calls.iter().enumerate() {
            let hears = hears.clone();
            callee.watch(Arc::new(move |_| {
                // Nobody listens any more when all have heard it.
                let _ = hears.send(number);
            }));
        }
        let lose = |node| lab.lose(Traffic::from("phones").and_to(node));
        let answers = [lose(NODES[1]), lose(NODES[2])];
        thread::scope(|scope| {
            let asking = scope.spawn(|| {
                phones.block_on(async {
                    let mut all = JoinSet::new();
                    for (callee, (mut calling, answering)) in calls {
                        all.spawn(async move {
                            let asking = async {
                                ask(&mut calling, Method::Info).await?;
                                calling.hang_up().await
                            };
                            tokio::try_join!(asking, answering.hung_up())?;
                            assert_eq!(callee.violations(), [""; 0]);
                            Ok::<_, PhoneError>(())
                        });
                    }
                    all.join_all().await
                })
            });
            let mut have_heard = BTreeSet::new();
            while have_heard.len() < 12 {
                have_heard.insert(heard.recv_timeout(LIMIT).expect("every callee is asked"));
            }
            members.power_off(1);
            drop(answers);
            let ended = asking.join().expect("no panic");
            assert!(ended.iter().all(Result::is_ok), "{ended:?}");
        });
    });
}

/// Callees hear of the end of calls that are hung up just when their edge is lost, and with it the store that knows where else
/// they are: what the agent's BYE is answered meanwhile is not the end of it.
#[test]
fn callees_whose_edge_and_record_are_lost_hear_that_a_call_is_hung_up() {
    if !has_etcd() {
        return;
    }
    lab::run_within(LIMIT, &HOSTS, |lab| {
        let mut members = cluster(lab);
        let phones = lab.host("phones");
        // Enough that the lost node has the records of some.
        let calls = phones.block_on(async {
            let mut calls = Vec::new();
            for number in 0..24 {
                let caller = registered(members.node(0), &format!("caller{number}")).await;
                let callee = registered_by(&[members.node(1), members.node(2)], number).await;
                let both = agents_call(&caller, &callee).await;
                calls.push((caller, callee, both));
            }
            calls
        });
        members.power_off(1);
        let ended = phones.block_on(async {
            let mut all = JoinSet::new();
            for (caller, callee, (mut calling, answering)) in calls {
                all.spawn(async move {
                    let began = Instant::now();
                    let ended =
                        tokio::try_join!(ask(&mut calling, Method::Bye), answering.hung_up());
                    let user = callee.user().to_owned();
                    drop((caller, callee));
                    ended.map(|_| began.elapsed()).map_err(|error| format!("{user}: {error:?}"))
                });
            }
            all.join_all().await
        });
        println!("{ended:?}");
        assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    });
}
