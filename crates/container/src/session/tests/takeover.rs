//! Another container goes on where one has died.

use proptest::prelude::*;
use sip::transaction::Timers;
use state::UnixMillis;

use super::*;
use crate::application::Response;
use crate::session::receive::Input;
use crate::session::state::Session;
use crate::session::{LegName, SessionEffect, SessionId};

#[test]
fn open_requests_are_sent_again_under_the_same_names() {
    let mut bench = Bench::new();
    assert!(!bench.session.has_an_open_invite(), "the caller's is nobody's branch");
    bench.apply(vec![call()]).unwrap();
    bench.responds("INVITE", 180, "bob");
    assert!(bench.session.has_an_open_invite());
    bench.words();
    bench.moves_to(2);
    assert_eq!(bench.words(), ["INVITE 1"]);
    let [first, second] = &bench.started[..] else { panic!() };
    assert_eq!(first.buffer(), second.buffer(), "the callee rings once");
    assert_eq!(bench.session.server_transactions().count(), 1, "the caller's INVITE waits");
    assert_eq!(bench.responds("INVITE", 200, "bob"), "callee 200");
    assert!(!bench.session.has_an_open_invite());
    bench.respond(ok());
    assert_eq!(bench.session.unacknowledged().count(), 1);
    bench.moves_to(3);
    assert_eq!(bench.session.unacknowledged().count(), 1, "its successor repeats the 2xx");
    assert_eq!(bench.acknowledges("caller", 7), "caller ACK");
    assert_eq!(bench.session.unacknowledged().count(), 0);
    bench.moves_to(4);
    bench.words();
    bench.acknowledge("callee");
    bench.send("callee", "INFO").unwrap();
    bench.moves_to(5);
    assert_eq!(bench.words(), ["ACK 1", "INFO 2", "INFO 2"]);
    assert_eq!(bench.responds("INFO", 200, "bob"), "callee 200");
    bench.send("callee", "INFO").unwrap();
    bench.send("caller", "BYE").unwrap();
    assert_eq!(bench.words(), ["accept 200", "INFO 3", "BYE 1"], "numbers go on");
    let (info, bye) = (bench.last("INFO"), bench.last("BYE"));
    assert_eq!(info.to().unwrap().tag(), Some(&b"bob"[..]));
    assert_eq!(bye.to().unwrap().tag(), Some(&b"alice"[..]), "tags keep their direction");
}

#[test]
fn cancel_is_continued() {
    let mut bench = Bench::new();
    bench.apply(vec![call()]).unwrap();
    bench.responds("INVITE", 180, "bob");
    bench.apply(vec![SessionEffect::Cancel { leg: LegName::new("callee") }]).unwrap();
    bench.words();
    bench.moves_to(2);
    assert_eq!(bench.words(), ["INVITE 1"]);
    bench.responds("INVITE", 180, "bob");
    assert_eq!(bench.words(), ["CANCEL"]);
    assert_eq!(bench.responds("INVITE", 487, "bob"), "callee failed INVITE 487");
}

#[test]
fn answers_that_may_not_have_left_are_given_again() {
    let mut bench = Bench::talking();
    bench.requests("caller", "BYE", 8);
    bench.send("callee", "BYE").unwrap();
    bench.moves_to(2);
    let views: Vec<_> = bench.session.server_transactions().map(|view| view.answer).collect();
    let statuses: Vec<_> = views.iter().map(|answer| answer.map(|(status, _)| status)).collect();
    assert_eq!(statuses, [Some(200)], "the BYE's; the INVITE's was acknowledged");
    assert_eq!(bench.words().last().map(String::as_str), Some("BYE 2"));
}

/// What may happen to a session, chosen by numbers.
fn random_step(bench: &mut Bench, choice: (u8, u8, u8)) {
    let (kind, one, two) = choice;
    let leg = ["caller", "callee"][usize::from(one & 1)];
    let cseq = 5 + u32::from(two % 16);
    let methods = ["INVITE", "INFO", "BYE", "UPDATE"];
    let method = methods[usize::from(two % 4)];
    let status = [180, 200, 302, 486, 491, 481, 603][usize::from(one % 7)];
    let has_dialog = |bench: &Bench| {
        bench.session.legs.iter().any(|known| known.name.as_str() == leg && known.dialog.is_some())
    };
    match kind % 12 {
        0 | 1 if has_dialog(bench) => drop(bench.requests(leg, method, cseq)),
        2 if has_dialog(bench) => drop(bench.acknowledges(leg, cseq)),
        3 | 4 if !bench.started.is_empty() => {
            let request = bench.started[usize::from(two) % bench.started.len()].clone();
            let tag = ["bob", "fork", "alice"][usize::from(one % 3)];
            bench.comes(Input::Response { response: response_to(&request, status, tag) });
        }
        5 => drop(bench.send(leg, method)),
        6 => {
            if let Some(request) = bench.session.incoming.get(usize::from(two % 4)) {
                let (request, response) = (request.id, Response::new(status));
                drop(bench.apply(vec![SessionEffect::Respond { request, response }]));
            }
        }
        7 => drop(bench.cancels()),
        8 => {
            let leg = LegName::new(leg);
            let (headers, body) = (Vec::new(), None);
            let acknowledge = SessionEffect::Acknowledge { leg: leg.clone(), headers, body };
            let effect = if two & 1 == 0 { acknowledge } else { SessionEffect::Cancel { leg } };
            drop(bench.apply(vec![effect]));
        }
        9 => bench.moves_to(u64::from(two) + 1),
        10 => drop(bench.waits()),
        11 if one == 0 => drop(bench.apply(vec![SessionEffect::End])),
        _ => drop(bench.apply(vec![call()])),
    }
}

proptest! {
    /// Whatever happens, in whatever order: no number is used twice, every deadline that has come does
    /// something, and once nobody does anything more the session comes to its end.
    #[test]
    fn every_session_ends(choices in proptest::collection::vec(any::<(u8, u8, u8)>(), 0..80)) {
        let mut bench = Bench::new();
        for choice in choices {
            random_step(&mut bench, choice);
        }
        let mut seen = std::collections::BTreeMap::new();
        for request in &bench.started {
            let to_tag = request.to().unwrap().tag().map(<[u8]>::to_vec);
            let name = (request.call_id().unwrap().to_vec(), to_tag, request.cseq().unwrap().number);
            let branch = request.top_via().unwrap().branch().unwrap().to_vec();
            prop_assert_eq!(seen.entry(name).or_insert(branch.clone()), &branch, "a number used twice");
        }
        for _ in 0..400 {
            if bench.session.is_over() {
                break;
            }
            // Whatever we still wait for fails, as transactions do by themselves.
            let open = bench.session.outgoing.iter().find(|request| request.is_open());
            if let Some(branch) = open.map(|request| request.branch.clone()) {
                bench.comes(Input::Failed { branch, status: 408 });
            } else if !bench.session.failures.is_empty() {
                bench.comes(Input::Failure);
            } else {
                let before = bench.session.clone();
                let deadline = before.next_deadline(Timers::default());
                bench.now = bench.now.max(deadline);
                let event = bench.comes(Input::Deadline);
                prop_assert!(bench.session != before || event != "nothing", "a deadline in vain");
            }
        }
        prop_assert!(bench.session.is_over(), "{:?}", bench.session);
    }

    #[test]
    fn damaged_records_never_panic(octets: Vec<u8>, cut in 0_usize..4_000, at in 0_usize..4_000, to: u8) {
        let id = SessionId([9; 16]);
        let _ = Session::decode(id, &octets.into());
        let mut record = Bench::talking().session.encode().to_vec();
        let length = record.len();
        record[at % length] = to;
        let _ = Session::decode(id, &record.clone().into());
        record.truncate(cut % length);
        let _ = Session::decode(id, &record.into());
    }
}

#[test]
fn records_of_another_level_or_with_more_in_them_are_refused() {
    let bench = Bench::talking();
    let record = bench.session.encode();
    let id = bench.session.id;
    assert_eq!(crate::session::codec::owner(&record), Ok(bench.session.owner));
    let later = [&[3], &record[1..]].concat().into();
    assert_eq!(Session::decode(id, &later), Err(state::codec::RecordError::FormatLevel(3)));
    let longer = [&record[..], &[0]].concat().into();
    assert_eq!(Session::decode(id, &longer), Err(state::codec::RecordError::Malformed));
}

/// A call that stands, as a back-to-back agent holds it: budget 2 kB (DESIGN §10).
#[test]
fn idle_session_is_small() {
    let mut bench = Bench::talking();
    bench
        .apply(vec![SessionEffect::Set { name: "peer".to_owned(), value: "callee".into() }])
        .unwrap();
    let busy = bench.session.encode().len();
    bench.now = UnixMillis(bench.now.0 + 32_000);
    assert_eq!(bench.comes(Input::Deadline), "nothing");
    let idle = bench.session.encode().len();
    assert!(idle < 1_000, "{idle} octets idle, {busy} just after it was set up");
}

#[test]
fn answer_that_comes_again_when_the_call_is_over_takes_no_number_of_it() {
    // Found by the property above: 2xx, UPDATE, the callee's BYE, and the 2xx again.
    let mut bench = Bench::new();
    let choices =
        [(63, 0, 0), (159, 71, 0), (245, 83, 31), (123, 1, 43), (156, 161, 2), (159, 239, 32)];
    for choice in choices {
        random_step(&mut bench, choice);
    }
    let methods: Vec<_> = bench.started.iter().filter_map(|request| request.cseq().ok()).collect();
    let numbers: Vec<_> = methods.iter().map(|cseq| cseq.number).collect();
    assert_eq!(numbers, [1, 2], "INVITE and UPDATE; no BYE");
}
