//! Whole calls through the agents, each message handled by another container.

use sip::HeaderName;

use crate::bench::{AGENTS, ANSWER, Bench, OFFER, native, webassembly};

#[test]
fn a_call_comes_up_and_each_container_knows_how_to_go_on() {
    for agent in AGENTS {
        let mut bench = Bench::new(agent());
        assert_eq!(bench.words(), ["INVITE"]);
        let invite = bench.last("INVITE");
        assert_eq!(invite.request_uri(), Some(&b"sip:bob@example.com"[..]));
        assert_eq!(invite.to().unwrap().uri(), b"sip:bob@example.com");
        assert_eq!(invite.body(), OFFER);
        bench.responds("INVITE", 180, b"");
        assert_eq!(bench.words(), ["180"]);
        bench.responds("INVITE", 200, ANSWER);
        assert_eq!(bench.words(), ["200"], "no ACK to the callee before the caller's");
        assert_eq!(bench.last("200").body(), ANSWER);
        bench.acknowledges("caller", 7);
        assert_eq!(bench.words(), ["ACK"]);
    }
}

#[test]
fn either_side_invites_anew_and_hangs_up() {
    for agent in AGENTS {
        for (from, to, cseq) in [("caller", "callee", 8), ("callee", "caller", 1)] {
            let mut bench = Bench::talking(agent());
            bench.requests(from, "INVITE", cseq, OFFER);
            assert_eq!(bench.words(), ["INVITE"], "from {from} to {to}");
            assert_eq!(bench.last("INVITE").body(), OFFER);
            bench.responds("INVITE", 200, ANSWER);
            assert_eq!(bench.words(), ["200"]);
            bench.acknowledges(from, cseq);
            assert_eq!(bench.words(), ["ACK"]);
            bench.requests(from, "INFO", cseq + 1, OFFER);
            assert_eq!(bench.words(), ["INFO"]);
            bench.responds("INFO", 200, b"");
            assert_eq!(bench.words(), ["200"]);
            bench.requests(from, "BYE", cseq + 2, b"");
            let mut words = bench.words();
            words.sort();
            assert_eq!(words, ["200", "BYE"]);
            bench.responds("BYE", 200, b"");
            assert_eq!(bench.words(), [""; 0]);
        }
    }
}

#[test]
fn a_request_that_cannot_go_on_yet_is_refused() {
    for agent in AGENTS {
        let mut bench = Bench::talking(agent());
        bench.requests("caller", "INFO", 8, OFFER);
        bench.requests("caller", "INFO", 9, OFFER);
        assert_eq!(bench.words(), ["INFO", "500"], "one after the other");
        bench.responds("INFO", 200, b"");
        assert_eq!(bench.words(), ["200"]);
    }
}

#[test]
fn the_agent_in_webassembly_says_which_version_has_the_call() {
    for from in ["caller", "callee"] {
        let mut bench = Bench::talking(webassembly());
        bench.requests(from, "OPTIONS", 8, b"");
        assert_eq!(bench.words(), ["200"], "by itself");
        let server = bench.last("200").field(HeaderName::Server).map(<[u8]>::to_vec);
        assert_eq!(server.as_deref(), Some(&b"demo-agent/1.0.0"[..]));
    }
}

#[test]
fn a_call_given_up_or_refused_ends_on_both_sides() {
    for agent in AGENTS {
        let mut bench = Bench::new(agent());
        bench.responds("INVITE", 180, b"");
        bench.words();
        bench.cancels();
        assert_eq!(bench.words(), ["487"]);
        callee_is_cancelled(&mut bench);
        for (status, told) in [(486, "486"), (503, "500"), (302, "480")] {
            let mut bench = Bench::new(agent());
            bench.words();
            bench.responds("INVITE", status, b"");
            assert_eq!(bench.words(), [told]);
        }
    }
}

#[test]
fn a_callee_that_rings_for_ever_is_given_up() {
    let mut bench = Bench::new(native());
    bench.responds("INVITE", 180, b"");
    bench.words();
    bench.waits();
    assert_eq!(bench.words(), ["480"]);
    assert_eq!(bench.last("480").reason(), b"No Answer");
    callee_is_cancelled(&mut bench);
}

/// The container that goes on does not know whether the callee has rung: it sends the INVITE again, and CANCEL as
/// soon as the callee says so again (RFC 3261 §9.1).
fn callee_is_cancelled(bench: &mut Bench) {
    bench.responds("INVITE", 180, b"");
    assert_eq!(bench.words(), ["CANCEL"]);
    bench.responds("INVITE", 487, b"");
    assert_eq!(bench.words(), [""; 0]);
}

#[test]
fn a_call_counts_its_minutes() {
    let mut bench = Bench::talking(native());
    // Deadlines of transactions lie between: the answer is kept for its repetitions.
    for _ in 0..20 {
        bench.waits();
    }
    let minutes: u32 = bench.attribute("minutes").unwrap().parse().unwrap();
    assert!(minutes >= 10, "{minutes}");
    assert_eq!(bench.words(), [""; 0], "and nobody notices");
    assert!(bench.last("200").field(HeaderName::Contact).is_some());
}
