//! Several members on loopback, strangers among them, in real time.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddrV4;

use tokio::time::{sleep, timeout};

use super::*;
use crate::view::{
    Incarnation, ProcessEntry, ProcessName, ProcessState, ProcessType, WEIGHT_DEFAULT,
};

const SETTINGS: HeartbeatSettings =
    HeartbeatSettings { interval: Duration::from_millis(500), allowed_miss_count: 2 };
/// For what has to happen at all.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long what must not happen is waited for.
const WHILE: Duration = Duration::from_secs(2);

fn number(number: u16) -> NodeNumber {
    NodeNumber::new(number).unwrap()
}

/// Of a node with two containers.
pub(super) fn snapshot(of: u16, port: u16) -> NodeSnapshot {
    let life = |container| Incarnation::of_node(number(of), 1_000 + container);
    let process = |container: u64| ProcessEntry {
        name: ProcessName::new(format!("container{container}")),
        process_type: ProcessType::Container,
        incarnation: life(container),
        pid: Some(41),
        state: ProcessState::Ready,
        restarts: 0,
        link: None,
        link_address: Some(([127, 0, 0, 1], 7_000 + of).into()),
        addresses: Vec::new(),
        http: None,
        weight: WEIGHT_DEFAULT,
        is_silent: false,
    };
    NodeSnapshot {
        node: format!("node{of}"),
        number: number(of),
        version: 1,
        address: ([127, 0, 0, 1], port).into(),
        last_life: life(2),
        runs_with: crate::RunsWith { configuration: 3, ..crate::RunsWith::default() },
        processes: vec![process(1), process(2)],
    }
}

fn free_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn settings(discovery: Discovery) -> GossipSettings {
    GossipSettings {
        cluster: "the-cluster-of-these-tests".to_owned(),
        secret: ClusterSecret::from_hex(&"5a".repeat(32)).unwrap(),
        heartbeat: SETTINGS,
        discovery,
        known: BTreeSet::new(),
    }
}

fn asking(ports: &[u16]) -> Discovery {
    Discovery::Addresses(ports.iter().map(|port| format!("127.0.0.1:{port}")).collect())
}

async fn begin(settings: GossipSettings, snapshot: NodeSnapshot) -> Gossip {
    // The socket of one that was dropped a moment ago is closed by its task.
    let begun = Instant::now();
    loop {
        match Gossip::begin(settings.clone(), snapshot.clone()).await {
            Err(GossipError::Bind { .. }) if begun.elapsed() < PATIENCE => {
                sleep(Duration::from_millis(10)).await;
            }
            other => return other.unwrap(),
        }
    }
}

async fn member(of: u16, port: u16, discovery: Discovery) -> Gossip {
    begin(settings(discovery), snapshot(of, port)).await
}

/// Waits until the picture is as wanted.
async fn sees(member: &Gossip, what: &str, is_so: impl Fn(&Picture) -> bool) {
    let mut picture = member.picture();
    let waited = timeout(PATIENCE, picture.wait_for(|picture| is_so(picture))).await;
    let failed = waited.is_err();
    drop(waited);
    assert!(!failed, "{what}; instead {:?} {:?}", picture.borrow(), member.counters());
}

fn up(picture: &Picture) -> Vec<u16> {
    let is_up = |of: &&NodeNumber| !picture.lost.contains(of);
    picture.snapshots.keys().filter(is_up).map(|of| of.get()).collect()
}

async fn sees_up(member: &Gossip, nodes: &[u16]) {
    sees(member, &format!("{nodes:?} are up"), |picture| up(picture) == nodes).await;
}

/// Waits until something was counted.
async fn counts(member: &Gossip, what: &str, is_so: impl Fn(GossipCounters) -> bool) {
    let begun = Instant::now();
    while !is_so(member.counters()) {
        assert!(begun.elapsed() < PATIENCE, "{what}; instead {:?}", member.counters());
        sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_member_that_begins_anew_is_known_by_its_life_before_until_the_new_one_has_come_whole() {
    let [before, after] = [1, 2].map(|version| NodeSnapshot { version, ..snapshot(3, 6_200) });
    let first = Read::with(None, 7, 1, None);
    assert_eq!(first.snapshot, None, "nothing of it has come whole yet");
    let whole = Read::with(Some(&first), 7, 2, Some(before.clone()));
    let half = Read::with(Some(&whole), 7, 3, None);
    assert_eq!(half.snapshot, Some((7, before.clone())));
    let anew = Read::with(Some(&half), 8, 1, None);
    assert_eq!(anew, Read { life: 8, version: 1, snapshot: Some((7, before)) });
    let whole = Read::with(Some(&anew), 8, 2, Some(after.clone()));
    assert_eq!(whole.snapshot, Some((8, after)));
}

#[tokio::test]
async fn eight_members_see_each_other_what_changes_and_who_is_lost_and_comes_back() {
    let ports: Vec<u16> = (0..8).map(|_| free_port()).collect();
    let mut members = Vec::new();
    for (of, port) in ports.iter().enumerate() {
        members.push(member(of as u16, *port, asking(&ports[..1])).await);
    }
    let all_but = |of: u16| (0..8).filter(|other| *other != of).collect::<Vec<u16>>();
    for (of, member) in members.iter().enumerate() {
        sees_up(member, &all_but(of as u16)).await;
        for (other, seen) in &member.picture().borrow().snapshots {
            assert_eq!(*seen, snapshot(other.get(), ports[usize::from(other.get())]));
        }
    }
    // A change reaches everybody.
    let mut changed = snapshot(3, ports[3]);
    changed.version = 2;
    changed.processes[1].state = ProcessState::Draining;
    changed.processes.remove(0);
    members[3].publish(changed.clone());
    for (of, member) in members.iter().enumerate().filter(|(of, _)| *of != 3) {
        let what = format!("{of} sees the change");
        sees(member, &what, |picture| picture.snapshots[&number(3)] == changed).await;
    }
    // All clocks are one clock here.
    for member in &members {
        let begun = Instant::now();
        while member.clock_offsets().len() < 7 {
            assert!(begun.elapsed() < PATIENCE, "only {:?}", member.clock_offsets());
            sleep(Duration::from_millis(10)).await;
        }
        for offset in member.clock_offsets().values() {
            assert!(offset.ahead_us.unsigned_abs() <= offset.error_us + 1, "{offset:?}");
            assert!(!offset.is_off_by(500_000));
        }
    }
    // The first one, whom all were told to ask, is lost.
    let begun = Instant::now();
    drop(members.remove(0));
    for (at, member) in members.iter().enumerate() {
        let what = format!("node{} notices", at + 1);
        sees(member, &what, |picture| picture.lost.contains(&number(0))).await;
    }
    let noticed = begun.elapsed();
    assert!(noticed > Duration::from_millis(1_000), "a moment is no loss: {noticed:?}");
    assert!(noticed < Duration::from_millis(2_500), "{noticed:?}");
    for (at, member) in members.iter().enumerate() {
        let others: Vec<u16> = all_but(at as u16 + 1).into_iter().filter(|of| *of != 0).collect();
        assert_eq!(up(&member.picture().borrow()), others, "nobody else is lost");
    }
    let mut back = snapshot(0, ports[0]);
    back.version = 9;
    // It knows nobody: it is asked.
    let returned = begin(settings(Discovery::KnownMembers), back.clone()).await;
    sees_up(&returned, &all_but(0)).await;
    for member in &members {
        // Known all the time: of whom half is heard, the other half is what he was.
        let is_back = |picture: &Picture| {
            !picture.lost.contains(&number(0)) && picture.snapshots[&number(0)] == back
        };
        sees(member, "it is back", is_back).await;
    }
}

#[tokio::test]
async fn a_stranger_learns_nothing_and_changes_nothing() {
    let (own, other) = (free_port(), free_port());
    let first = member(0, own, Discovery::KnownMembers).await;
    let second = member(1, other, asking(&[own])).await;
    sees_up(&first, &[1]).await;
    let mut strangers = Vec::new();
    for (of, change) in [(2, "another secret"), (3, "another cluster")] {
        let mut settings = settings(asking(&[own, other]));
        match change {
            "another secret" => {
                settings.secret = ClusterSecret::from_hex(&"5b".repeat(32)).unwrap();
            }
            _ => settings.cluster = "another-cluster".to_owned(),
        }
        strangers.push(begin(settings, snapshot(of, free_port())).await);
    }
    let raw = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for datagram in [&b""[..], b"outlast", &[1; 100], &[1; 1_400]] {
        raw.send_to(datagram, ("127.0.0.1", own)).await.unwrap();
    }
    counts(&first, "strangers are counted", |counters| counters.strangers > 10).await;
    let mut buffer = [0; 2_048];
    let answer = timeout(WHILE, raw.recv_from(&mut buffer)).await;
    assert!(answer.is_err(), "nobody answers a stranger");
    assert_eq!(up(&first.picture().borrow()), [1]);
    assert_eq!(up(&second.picture().borrow()), [0]);
    for stranger in &strangers {
        assert_eq!(**stranger.picture().borrow(), Picture::default());
        assert_eq!(stranger.counters().heard, 0);
    }
}

/// Catches what is sent to that port.
async fn catch(socket: &UdpSocket, datagrams: usize) -> Vec<Vec<u8>> {
    let mut caught = Vec::new();
    let mut buffer = [0; 65_536];
    while caught.len() < datagrams {
        let received = timeout(PATIENCE, socket.recv_from(&mut buffer)).await;
        let (length, _) = received.expect("datagrams to a member that is gone").unwrap();
        caught.push(buffer[..length].to_vec());
    }
    caught
}

#[tokio::test]
async fn who_listens_reads_nothing_and_what_is_sent_again_changes_nothing() {
    let (own, other) = (free_port(), free_port());
    let first = member(0, own, asking(&[other])).await;
    let second = member(1, other, asking(&[own])).await;
    sees_up(&first, &[1]).await;
    drop(second);
    let tap = loop {
        match UdpSocket::bind(("127.0.0.1", other)).await {
            Ok(tap) => break tap,
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    };
    let caught = catch(&tap, 8).await;
    for datagram in &caught {
        for word in ["node0", "container", "127.0.0.1", "the-cluster", "ready", "Ready"] {
            let found = datagram.windows(word.len()).any(|octets| octets == word.as_bytes());
            assert!(!found, "{word} can be read in a datagram of {} octets", datagram.len());
        }
        assert!(datagram.len() <= 1_280, "it may not pass whole: {} octets", datagram.len());
    }
    drop((tap, first));
    // Its life after that hears them again, from whoever kept them.
    let second = member(1, other, Discovery::KnownMembers).await;
    let raw = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for datagram in &caught {
        raw.send_to(datagram, ("127.0.0.1", other)).await.unwrap();
    }
    counts(&second, "repetitions are counted", |counters| counters.repeated >= 8).await;
    let third = member(2, free_port(), Discovery::KnownMembers).await;
    let elsewhere = third.shared.address();
    for datagram in &caught {
        raw.send_to(datagram, elsewhere).await.unwrap();
    }
    counts(&third, "others' datagrams are counted", |counters| counters.strangers >= 8).await;
    for member in [&second, &third] {
        assert_eq!(**member.picture().borrow(), Picture::default());
        assert_eq!(member.counters().heard, 0);
    }
}

#[tokio::test]
async fn members_find_each_other_by_multicast_and_what_is_repeated_there_is_dropped() {
    let group = SocketAddrV4::new([225, 0, 0, 20].into(), free_port());
    let discovery = || Discovery::Multicast(group);
    let listener = seeking::join(([127, 0, 0, 1], 0).into(), group).unwrap();
    let first = member(0, free_port(), discovery()).await;
    let second = member(1, free_port(), discovery()).await;
    sees_up(&first, &[1]).await;
    sees_up(&second, &[0]).await;
    let caught = catch(&listener, 4).await;
    let repeated = first.counters().repeated;
    for datagram in &caught {
        listener.send_to(datagram, group).await.unwrap();
    }
    counts(&first, "a repetition is counted", |counters| counters.repeated > repeated).await;
}

#[tokio::test]
async fn one_address_that_answers_is_enough_and_the_list_can_be_changed() {
    let (own, other, nobodys) = (free_port(), free_port(), free_port());
    let first = member(0, own, Discovery::KnownMembers).await;
    let second = member(1, other, Discovery::KnownMembers).await;
    assert!(
        timeout(WHILE, second.picture().wait_for(|picture| !picture.snapshots.is_empty()))
            .await
            .is_err(),
        "nobody told it of anybody"
    );
    second.discover(Discovery::Addresses(vec![
        "no-such-host.invalid:6200".to_owned(),
        format!("127.0.0.1:{nobodys}"),
        "192.0.2.1:9".to_owned(),
        format!("localhost:{own}"),
    ]));
    sees_up(&first, &[1]).await;
    sees_up(&second, &[0]).await;
    // Nobody is asked any more, and they go on without.
    second.discover(Discovery::KnownMembers);
    sleep(WHILE).await;
    assert_eq!(up(&second.picture().borrow()), [0]);
    // One who knows where the members were last.
    let mut known = settings(Discovery::KnownMembers);
    known.known = [([127, 0, 0, 1], other).into(), ([127, 0, 0, 1], nobodys).into()].into();
    let third = begin(known, snapshot(2, free_port())).await;
    sees_up(&third, &[0, 1]).await;
    sees_up(&first, &[1, 2]).await;
}

#[tokio::test]
async fn many_processes_of_many_nodes_arrive_whole() {
    let crowd = |of: u16, port| {
        let mut snapshot = snapshot(of, port);
        let process = snapshot.processes[0].clone();
        snapshot.processes = (0..300)
            .map(|place| ProcessEntry {
                name: ProcessName::new(format!("container{place}")),
                // What does not compress away.
                incarnation: Incarnation::of_node(
                    number(of),
                    u64::from_le_bytes(
                        blake3::hash(format!("{of} {place}").as_bytes()).as_bytes()[..8]
                            .try_into()
                            .unwrap(),
                    ),
                ),
                ..process.clone()
            })
            .collect();
        snapshot
    };
    let ports = [free_port(), free_port(), free_port()];
    let first = begin(settings(asking(&ports[1..])), crowd(0, ports[0])).await;
    let second = begin(settings(asking(&ports[..1])), crowd(1, ports[1])).await;
    let third = begin(settings(asking(&ports[..1])), crowd(2, ports[2])).await;
    sees(&third, "all of both", |picture| {
        [0, 1].iter().all(|of| {
            picture.snapshots.get(&number(*of)) == Some(&crowd(*of, ports[usize::from(*of)]))
        })
    })
    .await;
    sees_up(&first, &[1, 2]).await;
    assert_eq!(second.counters().unsent, 0);
}

#[tokio::test]
async fn a_node_with_this_nodes_number_is_not_heard() {
    let own = free_port();
    let first = member(0, own, Discovery::KnownMembers).await;
    let mut double = snapshot(0, free_port());
    double.node = "copy".to_owned();
    let _double = begin(settings(asking(&[own])), double).await;
    counts(&first, "the double is counted", |counters| counters.doubles > 3).await;
    assert_eq!(**first.picture().borrow(), Picture::default());
}
