//! The steps of a message's way, each alone: what `cargo bench -p bench` times and `bench/instructions` counts.
//!
//! A step does the same each time, on the same input, so that its instructions can be compared between commits to a few
//! in a thousand. Input is made of messages and of what the code itself answers to them, not of its inner types, so that
//! a change inside does not ask for a change here. Deliberately absent: sockets, which `bench/run` measures, and, but for [`timing`], time.

mod forwarding;
mod stored;
pub mod timing;

use std::hint::black_box;
use std::time::Instant;

use bytes::BytesMut;
use sip::transaction::{
    ClientInviteTransaction, Reliability, ResponseClass, ServerNonInviteTransaction, Timers,
};
use sip::{Edits, HeaderName, Message};
use topology::choice::{BucketTable, Candidate, ChoiceKey};
use topology::{Incarnation, ProcessName};

use crate::messages;

pub use stored::commit;

/// A step, ready to be done any number of times.
pub type Work = Box<dyn FnMut()>;

/// One step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it does.
    pub title: &'static str,
    /// Makes its input.
    pub prepare: fn() -> Work,
}

/// The steps whose instructions are counted: no thread, no file, no clock in them.
pub const STEPS: &[Step] = &[
    Step { name: "parse-register", title: "parse a REGISTER", prepare: parse_register },
    Step {
        name: "parse-invite",
        title: "parse an INVITE with a description",
        prepare: parse_invite,
    },
    Step {
        name: "edit",
        title: "edit and render: two headers on top, one replaced",
        prepare: edit,
    },
    Step {
        name: "forward-register",
        title: "forward decision: REGISTER to a container",
        prepare: forwarding::register,
    },
    Step {
        name: "forward-invite",
        title: "forward decision: INVITE to a container",
        prepare: forwarding::invite,
    },
    Step {
        name: "forward-dialog",
        title: "forward decision: request in a dialog to a phone",
        prepare: forwarding::in_dialog,
    },
    Step {
        name: "forward-response",
        title: "forward decision: response to a phone",
        prepare: forwarding::response,
    },
    Step {
        name: "path-dialog",
        title: "parse and forward a request in a dialog",
        prepare: forwarding::path,
    },
    Step { name: "choice", title: "choose a container by address-of-record", prepare: choice },
    Step {
        name: "transaction-server",
        title: "server transaction of a REGISTER, begin to answer",
        prepare: server_transaction,
    },
    Step {
        name: "transaction-client",
        title: "client transaction of an INVITE, begin to 200",
        prepare: client_transaction,
    },
    Step {
        name: "binding-update",
        title: "refresh of a binding: read, decide, write the record",
        prepare: stored::binding_update,
    },
];

fn parse_register() -> Work {
    let bytes = messages::register(1, 1);
    Box::new(move || {
        black_box(Message::parse(black_box(bytes.clone())).is_ok());
    })
}

fn parse_invite() -> Work {
    let bytes = messages::invite();
    Box::new(move || {
        black_box(Message::parse(black_box(bytes.clone())).is_ok());
    })
}

fn edit() -> Work {
    let message = messages::parsed(messages::register(1, 1));
    let mut out = BytesMut::new();
    Box::new(move || {
        let mut edits = Edits::new();
        edits.push_front(
            HeaderName::Via,
            b"SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKbbbbbbbbbbbbbbbb",
        );
        edits.push_front(
            HeaderName::Path,
            b"<sip:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA@192.0.2.1:5060;lr>",
        );
        edits.set(HeaderName::MaxForwards, b"69");
        edits.render(black_box(&message), &mut out);
        black_box(out.split().freeze());
    })
}

fn choice() -> Work {
    let candidates: Vec<Candidate> = (1..=4)
        .map(|number| Candidate {
            name: ProcessName::new(format!("container{number}")),
            incarnation: Incarnation(number),
            weight: 100,
        })
        .collect();
    let table = BucketTable::build(&candidates);
    Box::new(move || {
        let key = ChoiceKey::AddressOfRecord(black_box(b"sip:user1@example.org"));
        black_box(table.choose(key));
    })
}

fn server_transaction() -> Work {
    let mut now = Instant::now();
    let mut actions = Vec::with_capacity(8);
    Box::new(move || {
        let mut machine =
            ServerNonInviteTransaction::start(Timers::default(), Reliability::Unreliable, now);
        machine.respond(ResponseClass::Success, now, &mut actions);
        now = black_box(machine.next_timeout()).unwrap_or(now);
        black_box(&mut machine);
        black_box(&actions);
        actions.clear();
    })
}

fn client_transaction() -> Work {
    let now = Instant::now();
    let mut actions = Vec::with_capacity(8);
    Box::new(move || {
        let mut machine = ClientInviteTransaction::start(
            Timers::default(),
            Reliability::Unreliable,
            now,
            &mut actions,
        );
        machine.response(ResponseClass::Provisional, now, &mut actions);
        machine.response(ResponseClass::Success, now, &mut actions);
        black_box(machine.next_timeout());
        black_box(&mut machine);
        black_box(&actions);
        actions.clear();
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_can_be_done_again_and_again() {
        for step in STEPS {
            let mut work = (step.prepare)();
            for _ in 0..3 {
                work();
            }
        }
    }

    #[test]
    fn names_are_told_apart() {
        let mut names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STEPS.len());
    }
}
