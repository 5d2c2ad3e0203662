//! How requests and dialogs end that nobody answers in time, or too late.

use std::time::Duration;

use sip::{HeaderName, Message, ResponseBuilder};

use super::*;
use crate::application::Response;
use crate::session::receive::Input;
use crate::session::rules::BrokenRule;
use crate::session::{LegName, LegState, SessionEffect, limits};

const SECOND: Duration = Duration::from_secs(1);

fn cancel() -> Vec<SessionEffect> {
    vec![SessionEffect::Cancel { leg: LegName::new("callee") }]
}

fn state(bench: &Bench, leg: &str) -> Option<LegState> {
    bench.session.view(bench.now).leg(leg).map(|leg| leg.state)
}

/// A call that rings at the callee; nothing of it is waited for.
fn ringing() -> Bench {
    let mut bench = Bench::new();
    bench.apply(vec![call()]).unwrap();
    bench.responds("INVITE", 180, "bob");
    bench.words();
    bench
}

/// Its CANCEL has found no answer.
fn given_up() -> Bench {
    let mut bench = ringing();
    bench.apply(cancel()).unwrap();
    assert_eq!(bench.waits(), "callee failed INVITE 487");
    assert_eq!(bench.words(), ["CANCEL", "abandon"]);
    bench
}

fn fails(bench: &mut Bench, method: &str, status: u16) -> String {
    let branch = bench.last(method).top_via().unwrap().branch().unwrap().to_vec().into();
    bench.comes(Input::Failed { branch, status })
}

#[test]
fn invite_that_rings_for_ever_is_cancelled() {
    // RFC 3261 §16.6(11), §16.8, as a user agent may have it, too
    let mut bench = ringing();
    let start = bench.now;
    assert_eq!(bench.waits(), "nothing");
    assert_eq!(bench.now.saturating_since(start), limits::TIMER_C);
    assert_eq!(bench.words(), ["CANCEL"]);
    assert_eq!(bench.responds("INVITE", 487, "bob"), "callee failed INVITE 487");
}

#[test]
fn provisional_responses_renew_the_wait_but_not_without_end() {
    let mut bench = ringing();
    let start = bench.now;
    while bench.words().is_empty() {
        assert!(bench.now.saturating_since(start) < 2 * limits::INVITE_TIME_MAX);
        bench.passes(limits::TIMER_C - SECOND);
        bench.now = bench.now.min(bench.session.next_deadline(Default::default()));
        bench.comes(Input::Deadline);
        bench.responds("INVITE", 183, "bob");
    }
    assert_eq!(bench.now.saturating_since(start), limits::INVITE_TIME_MAX);
}

#[test]
fn successor_gives_a_ringing_phone_its_whole_time_again() {
    let mut bench = ringing();
    for owner in 2..4 {
        bench.passes(limits::TIMER_C - SECOND);
        bench.moves_to(owner);
        assert_eq!(bench.comes(Input::Deadline), "nothing");
        bench.responds("INVITE", 180, "bob");
    }
    assert_eq!(bench.words(), ["INVITE 1", "INVITE 1"]);
    bench.passes(limits::TIMER_C);
    bench.comes(Input::Deadline);
    assert_eq!(bench.words(), ["CANCEL"]);
}

#[test]
fn trying_lets_a_cancel_leave_and_says_nothing_else() {
    // RFC 3261 §9.1, §16.7(2)
    let mut bench = Bench::new();
    bench.apply(vec![call()]).unwrap();
    bench.words();
    let before = bench.session.next_deadline(Default::default());
    bench.passes(10 * SECOND);
    assert_eq!(bench.responds("INVITE", 100, ""), "nothing");
    assert_eq!(bench.session.next_deadline(Default::default()), before, "renews nothing");
    bench.apply(cancel()).unwrap();
    assert_eq!(bench.words(), ["CANCEL"]);
}

#[test]
fn callee_that_answers_long_after_its_cancel_gets_ack_and_bye() {
    // RFC 3261 §9.1, §15
    let mut bench = given_up();
    bench.passes(100 * SECOND);
    bench.comes(Input::Deadline);
    bench.moves_to(2);
    assert_eq!(bench.responds("INVITE", 200, "bob"), "nothing", "it has heard of the end");
    assert_eq!(bench.words(), ["ACK 1", "BYE 2"]);
    assert_eq!(bench.last("BYE").request_uri(), Some(&b"sip:bob@203.0.113.9;fork=bob"[..]));
    assert_eq!(bench.responds("INVITE", 200, "bob"), "nothing");
    assert_eq!(bench.words(), ["ACK 1"], "a repetition gets its ACK, and no other BYE");
    assert_eq!(bench.responds("BYE", 200, "bob"), "nothing");
    assert_eq!(bench.words(), ["accept 200"]);
}

#[test]
fn what_was_given_up_is_forgotten_when_no_phone_rings_so_long() {
    let mut bench = given_up();
    bench.respond(Response::new(480));
    assert!(bench.session.is_over());
    bench.passes(limits::LATE_ANSWER_KEPT - SECOND);
    bench.comes(Input::Deadline);
    assert!(bench.session.is_open(), "it is still known");
    bench.passes(SECOND);
    bench.comes(Input::Deadline);
    assert!(!bench.session.is_open());
}

#[test]
fn callee_that_answers_after_a_failure_gets_ack_and_bye() {
    // RFC 3261 §16.7(5): a proxy lets such an answer through
    let failures: [fn(&mut Bench); 3] = [
        |bench| assert_eq!(bench.responds("INVITE", 486, "fork"), "callee 486"),
        |bench| assert_eq!(fails(bench, "INVITE", 408), "callee failed INVITE 408"),
        |bench| assert_eq!(fails(bench, "INVITE", 503), "callee failed INVITE 503"),
    ];
    for failure in failures {
        let mut bench = ringing();
        failure(&mut bench);
        bench.words();
        assert_eq!(bench.responds("INVITE", 200, "bob"), "nothing");
        assert_eq!(bench.words(), ["ACK 1", "BYE 2"]);
    }
}

#[test]
fn re_invite_that_succeeds_after_its_end_ends_no_dialog() {
    // RFC 3261 §14.1
    let mut bench = Bench::talking();
    bench.send("callee", "INVITE").unwrap();
    bench.responds("INVITE", 180, "bob");
    bench.apply(cancel()).unwrap();
    assert_eq!(bench.waits(), "callee failed INVITE 487");
    bench.words();
    assert_eq!(bench.responds("INVITE", 200, "bob"), "nothing");
    assert_eq!(bench.words(), ["ACK 2"]);
    assert_eq!(state(&bench, "callee"), Some(LegState::Confirmed));
}

#[test]
fn answer_481_or_408_ends_the_dialog() {
    // RFC 3261 §12.2.1.2
    for status in [481, 408] {
        for method in ["INFO", "INVITE"] {
            let mut bench = Bench::talking();
            bench.send("callee", method).unwrap();
            bench.words();
            assert_eq!(bench.responds(method, status, "bob"), format!("callee {status}"));
            assert_eq!(bench.words(), [format!("accept {status}"), "BYE 3".to_owned()]);
            assert_eq!(state(&bench, "callee"), Some(LegState::Ended), "its handler sees it");
            assert_eq!(state(&bench, "caller"), Some(LegState::Confirmed));
            assert_eq!(bench.responds("BYE", 481, "bob"), "nothing", "nobody asked for that BYE");
            assert_eq!(state(&bench, "callee"), None);
        }
    }
}

#[test]
fn request_that_nobody_answers_ends_the_dialog_and_one_that_could_not_be_sent_does_not() {
    // RFC 3261 §12.2.1.2
    let mut bench = Bench::talking();
    bench.send("callee", "INFO").unwrap();
    assert_eq!(fails(&mut bench, "INFO", 408), "callee failed INFO 408");
    assert_eq!(bench.words(), ["INFO 2", "BYE 3"]);
    let mut bench = Bench::talking();
    bench.send("callee", "INFO").unwrap();
    assert_eq!(fails(&mut bench, "INFO", 503), "callee failed INFO 503");
    assert_eq!(bench.words(), ["INFO 2"]);
    for status in [486, 488, 491, 500, 503] {
        bench.send("callee", "INVITE").unwrap();
        assert_eq!(bench.responds("INVITE", status, "bob"), format!("callee {status}"));
        assert_eq!(state(&bench, "callee"), Some(LegState::Confirmed), "{status}");
    }
}

#[test]
fn what_the_other_side_asked_in_a_dialog_that_it_forgot_is_answered() {
    let mut bench = Bench::talking();
    bench.requests("callee", "INVITE", 1);
    bench.send("callee", "INFO").unwrap();
    bench.words();
    bench.responds("INFO", 481, "bob");
    assert_eq!(bench.words(), ["accept 481", "487", "BYE 3"]);
}

#[test]
fn bye_ends_whatever_was_asked_in_its_dialog() {
    // RFC 3261 §15.1.2
    let mut bench = Bench::talking();
    bench.requests("caller", "INFO", 8);
    bench.requests("caller", "INVITE", 9);
    assert_eq!(bench.requests("caller", "BYE", 10), "caller BYE");
    assert_eq!(bench.words(), ["487", "487", "200"]);
}

#[test]
fn re_invite_answered_after_the_bye_is_acknowledged_and_no_second_bye_follows() {
    let mut bench = Bench::talking();
    bench.send("callee", "INVITE").unwrap();
    bench.send("callee", "BYE").unwrap();
    assert_eq!(bench.words(), ["INVITE 2", "BYE 3"]);
    assert_eq!(bench.responds("INVITE", 200, "bob"), "nothing");
    assert_eq!(bench.words(), ["accept 200", "ACK 2"]);
    assert_eq!(bench.responds("BYE", 200, "bob"), "callee 200");
}

#[test]
fn leg_of_a_name_that_an_ended_one_had_has_answers_of_its_own() {
    let mut bench = Bench::talking();
    bench.requests("callee", "BYE", 1);
    bench.apply(vec![call()]).unwrap();
    let view = |bench: &Bench| bench.session.view(bench.now).leg("callee").unwrap().clone();
    assert!(!view(&bench).wants_ack, "{:?}", view(&bench));
    bench.responds("INVITE", 200, "carol");
    assert!(view(&bench).wants_ack);
    bench.words();
    bench.acknowledge("callee");
    assert_eq!(bench.words(), ["ACK 1"]);
    assert!(!view(&bench).wants_ack, "one ACK is enough");
}

#[test]
fn answered_invites_are_bounded() {
    let mut bench = Bench::talking();
    let max = u32::try_from(limits::INVITES_MAX).unwrap();
    for cseq in 8..8 + max - 1 {
        assert_eq!(bench.requests("caller", "INVITE", cseq), "caller INVITE");
        bench.respond(ok());
        bench.acknowledges("caller", cseq);
    }
    bench.words();
    let before = bench.session.clone();
    assert_eq!(bench.requests("caller", "INVITE", 100), "nothing");
    assert_eq!(bench.words(), ["503"]);
    assert!(bench.answers.last().unwrap().field(HeaderName::RetryAfter).is_some());
    assert_eq!(bench.session, before);
    assert_eq!(bench.requests("caller", "INFO", 101), "caller INFO", "other requests go on");
    bench.passes(32 * SECOND);
    bench.comes(Input::Deadline);
    assert_eq!(bench.requests("caller", "INVITE", 102), "caller INVITE");
}

#[test]
fn requests_of_ours_are_bounded_with_the_answers_that_may_come_again() {
    let mut bench = Bench::talking();
    for _ in 1..limits::OUTGOING_MAX {
        bench.send("callee", "INVITE").unwrap();
        bench.responds("INVITE", 488, "bob");
    }
    let refused = bench.send("callee", "INVITE");
    assert!(matches!(refused, Err(BrokenRule::TooManyRequests(_))), "{refused:?}");
    bench.passes(32 * SECOND);
    bench.comes(Input::Deadline);
    bench.send("callee", "INVITE").unwrap();
}

#[test]
fn second_invite_is_told_by_chance_when_to_come_again() {
    // RFC 3261 §14.2: randomly chosen, 0 to 10 s
    let mut bench = Bench::talking();
    bench.requests("caller", "INVITE", 8);
    let mut told = std::collections::BTreeSet::new();
    for cseq in 9..60 {
        bench.requests("caller", "INVITE", cseq);
        let refusal = bench.answers.last().unwrap();
        assert_eq!(refusal.status(), Some(500));
        let seconds = refusal.field(HeaderName::RetryAfter).unwrap().to_vec();
        told.insert(String::from_utf8(seconds).unwrap().parse::<u8>().unwrap());
    }
    assert!(told.len() > 5 && told.iter().all(|seconds| *seconds <= 10), "{told:?}");
}

/// The call is hung up by the application, and its BYE answered so.
fn hung_up(status: u16, retry_after: Option<&[u8]>) -> (Bench, String) {
    let mut bench = Bench::talking();
    bench.send("callee", "BYE").unwrap();
    let told = bye_answered(&mut bench, status, retry_after);
    (bench, told)
}

fn bye_answered(bench: &mut Bench, status: u16, retry_after: Option<&[u8]>) -> String {
    let bye = bench.last("BYE");
    let mut response = ResponseBuilder::new(&bye, status).to_tag(b"bob");
    if let Some(seconds) = retry_after {
        response = response.header(HeaderName::RetryAfter, seconds);
    }
    let response = Message::parse(response.build()).unwrap();
    let told = bench.comes(Input::Response { response });
    bench.words();
    told
}

#[test]
fn bye_that_found_no_way_leaves_again() {
    // RFC 3261 §21.5.4; §20.33 with a comment
    for (status, retry_after, pause) in [
        (503, Some(&b"3 (our edge)"[..]), 3 * SECOND),
        (503, None, limits::BYE_PUT_OFF),
        (480, None, limits::BYE_PUT_OFF),
    ] {
        let (mut bench, told) = hung_up(status, retry_after);
        let start = bench.now;
        assert_eq!(told, "nothing", "it has not ended yet");
        bench.passes(SECOND);
        bench.comes(Input::Deadline);
        assert_eq!(bench.words(), [""; 0]);
        assert_eq!(bench.waits(), "nothing");
        assert_eq!(bench.now.saturating_since(start), pause);
        assert_eq!(bench.words(), ["BYE 3"]);
        assert_eq!(bench.responds("BYE", 200, "bob"), "callee 200");
        assert_eq!(state(&bench, "callee"), None);
    }
}

#[test]
fn bye_that_could_not_be_sent_leaves_again_and_its_successor_does_not_wait() {
    let mut bench = Bench::talking();
    bench.send("callee", "BYE").unwrap();
    assert_eq!(fails(&mut bench, "BYE", 503), "nothing");
    bench.words();
    assert!(bench.session.is_open(), "a successor finds it");
    bench.moves_to(2);
    assert_eq!(bench.waits(), "nothing");
    assert_eq!(bench.words(), ["BYE 3"]);
    assert_eq!(fails(&mut bench, "BYE", 408), "callee failed BYE 408", "it had its 64·T1");
}

#[test]
fn bye_is_given_up_after_a_while_with_its_last_answer() {
    let (mut bench, mut told) = hung_up(503, None);
    let start = bench.now;
    let mut sent = 1;
    while told == "nothing" {
        bench.waits();
        assert_eq!(bench.words().len(), 1);
        sent += 1;
        told = bye_answered(&mut bench, 503, None);
    }
    assert_eq!((told.as_str(), sent), ("callee 503", 17), "each 2 s for 32 s");
    assert_eq!(bench.now.saturating_since(start), 32 * SECOND);
    assert_eq!(state(&bench, "callee"), None);
}

#[test]
fn bye_that_the_other_side_has_answered_is_the_last() {
    for (status, retry_after) in [(481, None), (403, None), (503, Some(&b"33"[..]))] {
        let (bench, told) = hung_up(status, retry_after);
        assert_eq!(told, format!("callee {status}"));
        assert_eq!(state(&bench, "callee"), None);
    }
    // The other side's own makes another one idle.
    let (mut bench, _) = hung_up(503, None);
    assert_eq!(bench.requests("callee", "BYE", 1), "callee BYE");
    bench.words();
    assert_eq!(state(&bench, "callee"), None);
}
