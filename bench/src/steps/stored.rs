//! What a REGISTER does to its record, and the commit of it.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use registrar::bindings::{self, Bindings, Policy, Updated, update};
use registrar::register::Register;
use state::engine::embedded::{EmbeddedStore, Options};
use state::{Batch, Expect, Store as _, UnixMillis};

use super::Work;
use crate::messages;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
/// Batches that are under way at one time, as at saturation.
const TOGETHER: u32 = 64;

fn policy() -> Policy {
    Policy {
        expires_min: Duration::from_secs(60),
        expires_default: Duration::from_secs(3600),
        expires_max: Duration::from_secs(86_400),
        contacts_max: 10,
    }
}

fn registered(record: &Bindings, cseq: u32) -> Bindings {
    let message = messages::parsed(messages::register_behind_edge(1, cseq));
    let register = Register::read(&message, &messages::phone_flow()).expect("it is one");
    match update(record, &register, &policy(), NOW).expect("it is taken") {
        Updated::Changed(bindings) => bindings,
        Updated::Unchanged => panic!("it is newer than what is there"),
    }
}

pub(super) fn binding_update() -> Work {
    let record = registered(&Bindings::default(), 1).encode();
    let message = messages::parsed(messages::register_behind_edge(1, 2));
    let (flow, policy) = (messages::phone_flow(), policy());
    Box::new(move || {
        let held = Bindings::decode(black_box(&record)).expect("it was encoded here");
        let register = Register::read(&message, &flow).expect("it is one");
        if let Ok(Updated::Changed(bindings)) = update(&held, &register, &policy, NOW) {
            black_box(bindings.encode());
        }
    })
}

/// 64 commits of a binding each, made together, by the store's writer thread; in a directory that is the caller's.
///
/// # Panics
/// When the store fails.
pub fn commit(directory: &Path) -> Work {
    let store = EmbeddedStore::open(directory, Options::default()).expect("the store opens");
    let value = registered(&Bindings::default(), 1).encode();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut number = 0;
    Box::new(move || {
        let expires_at = Some(
            UnixMillis::from(std::time::SystemTime::now())
                .saturating_add(Duration::from_secs(3600)),
        );
        let commits: Vec<_> = (0..TOGETHER)
            .map(|_| {
                number = (number + 7919) % 100_000;
                let key = bindings::key(&format!("sip:user{number}@example.org"));
                store.commit(Batch::new().put(key, Expect::Any, value.clone(), expires_at))
            })
            .collect();
        runtime.block_on(async {
            for commit in commits {
                commit.await.expect("the store takes it");
            }
        });
    })
}
