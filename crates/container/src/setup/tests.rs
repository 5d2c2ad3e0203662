//! Records read back as they were written, and nothing else is taken for one.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use state::Change;
use transport::Transport;

use super::*;
use crate::application::{QValue, RecordRoute, Target};

fn octets() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..60).prop_map(Bytes::from)
}

fn event() -> impl Strategy<Value = Event> {
    let branch = 0..64_usize;
    prop_oneof![
        (branch.clone(), any::<bool>(), octets()).prop_map(|(branch, progressed, response)| {
            Event::Ended { branch, progressed, response }
        }),
        (branch.clone(), any::<bool>(), 300..700_u16)
            .prop_map(|(branch, progressed, status)| Event::Failed { branch, progressed, status }),
        branch.clone().prop_map(|branch| Event::TimerC { branch }),
        Just(Event::Cancelled),
        branch.prop_map(|branch| Event::Answered { branch }),
    ]
}

fn target() -> impl Strategy<Value = Target> {
    let routes = prop::collection::vec(octets(), 0..3);
    (octets(), routes, 0..=1_000_u16, prop::option::of(octets())).prop_map(
        |(uri, route, q, instance)| Target { uri, route, q: QValue::from_thousandths(q), instance },
    )
}

fn set_up() -> impl Strategy<Value = SetUp> {
    let plan = (prop::collection::vec(target(), 0..4), any::<bool>(), 0..10_000_000_u64).prop_map(
        |(targets, record_route, timer_c)| ProxyPlan {
            targets,
            record_route: if record_route { RecordRoute::Yes } else { RecordRoute::No },
            timer_c: Duration::from_millis(timer_c),
        },
    );
    let flow = (any::<bool>(), any::<std::net::SocketAddrV4>(), any::<std::net::SocketAddrV4>())
        .prop_map(|(is_stream, local, remote)| {
            let transport = if is_stream { Transport::Tcp } else { Transport::Udp };
            Flow::new(transport, local.into(), remote.into())
        });
    let events = prop::collection::vec(event(), 0..6);
    (any::<(u64, u64)>(), octets(), flow, octets(), plan, events).prop_map(
        |((owner, choice), sent_by, flow, request, plan, events)| SetUp {
            owner: Incarnation(owner),
            token: [b't'; OWNER_TOKEN_CHARS],
            sent_by,
            flow,
            choice: ChoiceHash(choice),
            request,
            plan,
            events,
        },
    )
}

proptest! {
    #[test]
    fn a_record_reads_back(set_up in set_up()) {
        prop_assert_eq!(SetUp::decode(&set_up.encode()), Ok(set_up));
    }

    #[test]
    fn a_claim_changes_nothing_but_the_owner(set_up in set_up(), heir: u64) {
        let (id, heir) = (SetUpId([7; 16]), Incarnation(heir));
        let record = Record { version: Version(3), value: set_up.encode(), expires_at: None };
        let (claimed, batch) = set_up.clone().claim(id, heir, &record, UnixMillis(0));
        prop_assert_eq!(&claimed, &SetUp { owner: heir, ..set_up.clone() });
        let written = &batch.writes[0];
        prop_assert_eq!((&written.key, written.expect), (&SetUp::key(id), Expect::Version(record.version)));
        let Change::Put { value, .. } = &written.change else { panic!("{written:?}") };
        prop_assert_eq!(SetUp::decode(value), Ok(claimed.clone()));
        let keys: Vec<&Key> = batch.writes[1..].iter().map(|write| &write.key).collect();
        prop_assert_eq!(keys, [&set_up.entry(id).key(), &claimed.entry(id).key()]);
    }

    #[test]
    fn every_truncation_and_every_addition_is_refused(set_up in set_up()) {
        let whole = set_up.encode();
        for length in 0..whole.len() {
            prop_assert_eq!(SetUp::decode(&whole.slice(..length)), Err(RecordError::Malformed));
        }
        let longer = Bytes::from([&whole[..], b"x"].concat());
        prop_assert_eq!(SetUp::decode(&longer), Err(RecordError::Malformed));
    }

    #[test]
    fn any_octets_are_read_without_panic(octets in prop::collection::vec(any::<u8>(), 0..200)) {
        let with_level = [&[FORMAT_LEVEL], &octets[..]].concat();
        let _ = SetUp::decode(&Bytes::from(octets));
        let _ = SetUp::decode(&Bytes::from(with_level));
    }

    #[test]
    fn other_format_levels_are_named(set_up in set_up(), level in 2..=u8::MAX) {
        let mut octets = set_up.encode().to_vec();
        octets[0] = level;
        prop_assert_eq!(SetUp::decode(&octets.into()), Err(RecordError::FormatLevel(level)));
    }
}

fn plain() -> SetUp {
    let address = "192.0.2.1:5060".parse().unwrap();
    SetUp {
        owner: Incarnation(7),
        token: [b't'; OWNER_TOKEN_CHARS],
        sent_by: Bytes::from_static(b"c1.n1.outlast.invalid"),
        flow: Flow::new(Transport::Udp, address, address),
        choice: ChoiceHash(9),
        request: Bytes::from_static(b"INVITE"),
        plan: ProxyPlan::to_targets(Vec::new()),
        events: Vec::new(),
    }
}

#[test]
fn a_response_too_long_to_be_kept_counts_by_its_status() {
    let mut set_up = plain();
    let long = Bytes::from(vec![b'x'; 60_000]);
    let mut kept = 0;
    for branch in 0..64 {
        let event = set_up.ended(branch, false, 486, &long);
        match &event {
            Event::Ended { .. } => kept += 1,
            other => assert_eq!(*other, Event::Failed { branch, progressed: false, status: 486 }),
        }
        set_up.events.push(event);
    }
    assert_eq!(kept, 8);
    set_up.begin(SetUpId([0; 16]), UnixMillis(0)).check().unwrap();
}

#[test]
fn an_answered_call_is_remembered_as_long_as_its_2xx_may_be_repeated() {
    let mut set_up = plain();
    set_up.plan.timer_c = Duration::from_secs(20 * 3_600);
    assert_eq!(set_up.lifetime(), Duration::from_secs(40 * 3_600));
    set_up.events = vec![Event::Cancelled, Event::Answered { branch: 0 }];
    assert_eq!(set_up.lifetime(), Duration::from_secs(42));
}

#[test]
fn a_settled_record_ends_by_itself_and_no_heir_looks_for_it() {
    let (id, now) = (SetUpId([0; 16]), UnixMillis(7));
    let mut set_up = plain();
    let ends = |batch: &Batch| -> Vec<Option<Option<UnixMillis>>> {
        let change = |write: &state::Write| match &write.change {
            state::Change::Put { expires_at, .. } => Some(*expires_at),
            state::Change::Delete => None,
        };
        batch.writes.iter().map(change).collect()
    };
    let in_a_day = Some(Some(now.saturating_add(LIFETIME_MIN)));
    assert_eq!(ends(&set_up.begin(id, now)), [in_a_day, Some(None)]);
    assert_eq!(ends(&set_up.update(id, set_up.encode(), Version(1), now)), [in_a_day]);
    set_up.events = vec![Event::Answered { branch: 0 }];
    let settled = set_up.settle(id, set_up.encode(), Version(1), now);
    assert_eq!(ends(&settled), [Some(Some(now.saturating_add(Duration::from_secs(42)))), None]);
    assert_eq!(settled.writes[1].key, set_up.entry(id).key());
}
