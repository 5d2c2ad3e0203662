//! Does as much harm as it can. See README.md.

use std::hint::black_box;

use outlast_app::{Application, Error, Incoming, Outcome, session, sessions, sip};

struct Hostile;

impl Application for Hostile {
    fn on_request(request: Incoming) -> Outcome {
        let user = request.message.request_uri().map(|uri| uri.user).unwrap_or_default();
        match user.strip_prefix("hostile-").unwrap_or_default() {
            "loop" => loop_for_ever(),
            "memory" => take_all_memory(),
            "recursion" => recurse(1).map(drop),
            "effects" => flood_with_effects(),
            "attribute" => remember_too_much(),
            "forged" => use_what_is_not_its_own(request.request),
            "panic" => panic!("as it was asked to"),
            _ => request.respond(486),
        }
    }
}

outlast_app::export!(Hostile);

#[inline(never)]
fn loop_for_ever() -> Outcome {
    let mut turns: u64 = 0;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

#[inline(never)]
fn take_all_memory() -> Outcome {
    let mut taken: Vec<Vec<u8>> = Vec::new();
    loop {
        taken.push(black_box(vec![1; 1 << 20]));
    }
}

#[inline(never)]
fn recurse(depth: u64) -> Result<u64, Error> {
    if black_box(depth) == u64::MAX {
        return Ok(depth);
    }
    let below = recurse(black_box(depth + 1))?;
    Ok(black_box(below) + depth)
}

/// Everything that it wanted before it was refused must not happen either.
#[inline(never)]
fn flood_with_effects() -> Outcome {
    for number in 0.. {
        session::set("number", format!("{number}").as_bytes())?;
    }
    Ok(())
}

#[inline(never)]
fn remember_too_much() -> Outcome {
    for number in 0.. {
        session::set(&format!("part {number}"), &[0; 8192])?;
    }
    Ok(())
}

/// Answers requests that it was never given, and meddles with sessions that it knows nothing of.
#[inline(never)]
fn use_what_is_not_its_own(request: u64) -> Outcome {
    let own = session::id();
    for number in 0..16 {
        let other = format!("{number:032x}");
        assert_ne!(other, own);
        assert!(sip::respond(request + 1 + number, 200, "", &[], None).is_err());
        assert!(sip::send(&format!("leg-{number}"), "BYE", &[], None).is_err());
        // Whoever it names hears nothing, and it learns nothing.
        let _ = sessions::signal(&other, "forged", b"");
        assert!(!matches!(sessions::attribute(&other, "call"), Ok(Some(_))));
    }
    sip::respond(request + 7, 200, "", &[], None)
}
