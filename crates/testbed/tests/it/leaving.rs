//! Members that leave their cluster, or are taken out of it: nothing that was acknowledged is lost, and calls go on with the others.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use phone::{Call, LineTransport, Phone, PhoneError, Ringing};
use testbed::lab::{self, Lab};
use testbed::members::Members;
use testbed::node::Node;
use testbed::wait;

use crate::applications::guests::{Handler, application};
use crate::lab::nodes::options;
use crate::world::{self, DOMAIN, has_etcd};

const HOSTS: [&str; 4] = ["node1", "node2", "node3", "phones"];
/// A cluster of three with all its processes comes up in this, and loses two of them, a few times over.
const TEST_LIMIT: Duration = Duration::from_secs(400);
/// Some of them lie in each part of the state, most likely.
const REGISTERED: usize = 20;
/// How long a debug build on a busy machine may take for what takes a second or two.
const LIMIT: Duration = Duration::from_secs(90);

/// Everybody whose registration was acknowledged.
#[derive(Default)]
struct Ledger {
    users: BTreeSet<String>,
}

impl Ledger {
    /// Registers further users with a node until `work` is done, which runs beside.
    fn grow_during<T: Send>(
        &mut self,
        lab: &Lab,
        node: &Node,
        work: impl FnOnce() -> T + Send,
    ) -> T {
        std::thread::scope(|scope| {
            let work = scope.spawn(work);
            lab.host("phones").block_on(async {
                while !work.is_finished() {
                    self.register(node).await;
                }
                // And one that finds it all done.
                self.register(node).await;
            });
            work.join().expect("it came to an end")
        })
    }

    /// One that is told to try again, as below the quota, or hears nothing, tries again.
    async fn register(&mut self, node: &Node) {
        let user = format!("user{}", self.users.len());
        let phone = world::phone(node, &user, LineTransport::Udp).await;
        let until = Instant::now() + LIMIT;
        while let Err(error) = phone.register(3_600).await {
            assert!(Instant::now() < until, "{user}: {error}");
        }
        self.users.insert(user);
    }

    /// All of them are found by a node.
    fn must_be_known_to(&self, node: &Node) {
        let listed: String = node.registrations().iter().map(ToString::to_string).collect();
        let is_known = |user: &&String| listed.contains(&format!("{user}@{DOMAIN}"));
        let lost: Vec<&String> = self.users.iter().filter(|user| !is_known(user)).collect();
        assert!(lost.is_empty(), "{lost:?} of {} were acknowledged", self.users.len());
    }
}

/// Calls that ring, which their containers hold; of six some are of each container, most likely.
async fn ringing_calls(node: &Node) -> Vec<(Phone, Phone, phone::Invitation, Ringing)> {
    let mut calls = Vec::new();
    let until = Instant::now() + LIMIT;
    for number in 0_u32.. {
        let [caller, callee] = ["caller", "callee"].map(|role| format!("{role}{number}"));
        match rings(node, &caller, &callee).await {
            Ok(call) => calls.push(call),
            // On a machine so busy that a store is taken for dead a call is told to try again.
            Err(error) => assert!(Instant::now() < until, "{caller}: {error}"),
        }
        if calls.len() == 6 {
            break;
        }
    }
    calls
}

async fn rings(
    node: &Node,
    caller: &str,
    callee: &str,
) -> Result<(Phone, Phone, phone::Invitation, Ringing), PhoneError> {
    let caller = world::phone(node, caller, LineTransport::Udp).await;
    let callee = world::phone(node, callee, LineTransport::Udp).await;
    caller.register(3_600).await?;
    callee.register(3_600).await?;
    let mut invitation = caller.call(0, &callee.uri()).await?;
    let ring = async {
        let ringing = callee.incoming().await?;
        ringing.ring().await?;
        Ok(ringing)
    };
    let (_, ringing) = tokio::try_join!(invitation.ringing(), ring)?;
    Ok((caller, callee, invitation, ringing))
}

/// All of them are taken and end.
async fn answer_and_end(calls: Vec<(Phone, Phone, phone::Invitation, Ringing)>) {
    let mut failed = Vec::new();
    for (caller, callee, invitation, ringing) in calls {
        match tokio::join!(invitation.answered(), ringing.answer()) {
            (Ok(calling), Ok(answering)) => hang_up(calling, answering).await,
            (calling, answering) => {
                let (calling, answering) = (calling.map(drop), answering.map(drop));
                failed.push((caller.user().to_owned(), calling, answering));
            }
        }
        assert_eq!(callee.invites(), 1, "it rings once");
    }
    assert!(failed.is_empty(), "{failed:?}");
}

async fn hang_up(calling: Call, answering: Call) {
    let (ended, noticed) = tokio::join!(calling.hang_up(), answering.hung_up());
    ended.expect("a 200 to the BYE");
    noticed.expect("a BYE");
}

/// What a command says on a member's host, and whether it did what it was told.
fn said(members: &Members<'_>, number: usize, arguments: &[&str]) -> (bool, String) {
    let output = members.host(number).enter(|| members.node(number).outlast(arguments));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Has it done, again and again where nodes are taken for lost for a moment: what was refused has changed nothing.
fn must(members: &Members<'_>, number: usize, arguments: &[&str]) -> String {
    wait::until(&format!("{arguments:?} to be done"), LIMIT, || {
        let (is_done, told) = said(members, number, arguments);
        if is_done { Ok(told) } else { Err(told) }
    })
}

fn must_be_refused(members: &Members<'_>, number: usize, arguments: &[&str], why: &str) {
    wait::until(&format!("{arguments:?} to be refused: {why}"), LIMIT, || {
        let (is_done, told) = said(members, number, arguments);
        assert!(!is_done, "{arguments:?}: {told}");
        if told.contains(why) { Ok(()) } else { Err(told) }
    });
}

/// Waits until every shard has all its copies.
fn until_copied(members: &Members<'_>, number: usize) {
    wait::until("every shard to have its copies", LIMIT, || {
        let (is_well, told) = said(members, number, &["state", "status"]);
        if is_well { Ok(()) } else { Err(told) }
    });
}

#[test]
fn members_leave_until_one_is_left_and_nothing_acknowledged_is_lost() {
    if !has_etcd() {
        return;
    }
    lab::run_within(TEST_LIMIT, &HOSTS, |lab| {
        let members = Members::cluster(lab, &HOSTS[..3], options);
        until_copied(&members, 1);
        let phones = lab.host("phones");
        let stays = members.node(1);
        let mut ledger = Ledger::default();
        // What all nodes have keeps none of them.
        let sources = tempfile::tempdir().unwrap();
        let gate = application(sources.path(), "1.0.0", &Handler::Answers(486));
        must(&members, 0, &["app", "deploy", gate.to_str().unwrap()]);
        let mut calls = phones.block_on(ringing_calls(stays));
        // The one that joined last, and the one that made the cluster and decides for it.
        for leaver in [2, 0] {
            let told =
                ledger.grow_during(lab, stays, || must(&members, leaver, &["cluster", "leave"]));
            assert!(told.contains("has left the cluster"), "{told}");
            members.host(1).enter(|| ledger.must_be_known_to(stays));
            // Half of the calls are answered by each containers that have them now.
            let answered = calls.split_off(calls.len() - 3);
            phones.block_on(answer_and_end(answered));
        }
        let view = members.view_of(1);
        assert_eq!(view.nodes.len(), 1, "{view:?}");
        until_copied(&members, 1);

        // Who has left serves what a single node has: nothing of the others', and its own is not theirs.
        for leaver in [0, 2] {
            let node = members.node(leaver);
            assert_eq!(node.registrations(), Vec::<serde_json::Value>::new());
            let user = format!("alone{leaver}");
            phones.block_on(world::registered_openly(node, &user, LineTransport::Udp));
            assert_eq!(node.registrations().len(), 1);
            assert!(!node.directory().join("cluster").exists());
        }
        let listed = members.host(1).enter(|| {
            ledger.must_be_known_to(stays);
            stays.registrations()
        });
        let listed: String = listed.iter().map(ToString::to_string).collect();
        assert!(!listed.contains("alone"), "{listed}");
        must_be_refused(&members, 1, &["cluster", "leave"], "is the last member");
    });
}

#[test]
fn the_second_of_two_goes_on_alone_by_hand_when_the_first_is_gone_for_good() {
    if !has_etcd() {
        return;
    }
    lab::run_within(TEST_LIMIT, &HOSTS, |lab| {
        let mut members = Members::cluster(lab, &HOSTS[..2], options);
        members.until_copied();
        let phones = lab.host("phones");
        let mut ledger = Ledger::default();
        phones.block_on(async {
            for number in 0..REGISTERED {
                ledger.register(members.node(number % 2)).await;
            }
        });
        members.power_off(0);
        let stays = members.node(1);
        // Refused until the first one is lost to it.
        let told = must(&members, 1, &["state", "recover"]);
        assert!(told.contains(" serves what "), "{told}");
        must_be_refused(&members, 1, &["state", "recover"], "every part of the state is served");
        members.host(1).enter(|| ledger.must_be_known_to(stays));
        must(&members, 1, &["cluster", "remove", "node1"]);
        until_copied(&members, 1);
        assert_eq!(members.view_of(1).nodes.len(), 1);
        phones.block_on(async {
            for _ in 0..REGISTERED {
                ledger.register(stays).await;
            }
            answer_and_end(vec![rings(stays, "caller", "callee").await.expect("it rings")]).await;
        });
        members.host(1).enter(|| ledger.must_be_known_to(stays));
    });
}
