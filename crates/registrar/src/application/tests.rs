//! The registrar between two stores, as a container would run it: handle, commit, and again when the commit met
//! another one or its outcome is unknown.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use container::application::{Action, FieldName, Ownership, ProxyPlan, RecordRoute, Response};
use sip::digest::{Algorithm, Login, ReceivedChallenge};
use sip::{HeaderName, Message};
use state::clock::Clock;
use state::engine::fake::{CommitFault, FakeStore};
use state::{CommitError, StoreError};
use transport::Transport;

use super::*;
use crate::registrations::registrations;
use crate::test_requests::{NOW, flow, register, request, with_addresses};

mod calls;
mod registering;
mod torture;

/// A clock that the test sets.
#[derive(Debug)]
struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(self.0.load(Ordering::Relaxed))
    }
}

/// Two stores, and containers that share them.
struct Node {
    clock: Arc<TestClock>,
    bindings: FakeStore,
    accounts: FakeStore,
    settings: Settings,
}

const PASSWORD: &[u8] = b"secret";

impl Node {
    fn new(authenticate: bool) -> Node {
        let clock = Arc::new(TestClock(AtomicU64::new(NOW.0)));
        let node = Node {
            bindings: FakeStore::new(clock.clone()),
            accounts: FakeStore::new(clock.clone()),
            clock,
            settings: Settings {
                authenticate,
                ..Settings::for_domains(["example.com", "registrar.example.com"])
            },
        };
        for name in ["bob@example.com", "alice@example.com"] {
            block_on(node.account_store().add(name, PASSWORD, &[])).unwrap();
        }
        node
    }

    fn account_store(&self) -> AccountStore {
        AccountStore::new(Arc::new(self.accounts.clone()))
    }

    /// A container of this node.
    fn container(&self) -> Registrar {
        let bindings = Arc::new(self.bindings.clone());
        let accounts = Arc::new(self.accounts.clone());
        Registrar::new(self.settings.clone(), bindings, accounts, &KeyRing::new([7; 32])).unwrap()
    }

    fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    fn pass(&self, duration: Duration) {
        self.clock.0.store(self.now().saturating_add(duration).0, Ordering::Relaxed);
    }

    fn incoming(&self, message: &Message) -> IncomingRequest {
        IncomingRequest::new(message.clone(), flow(Transport::Udp), self.now())
    }

    /// What a container does with a request; panics when it would give up.
    fn run(&self, container: &Registrar, message: &Message) -> Action {
        block_on(async {
            for _ in 0..5 {
                let effects = container.handle(&self.incoming(message)).await;
                match self.bindings.commit(effects.batch).await {
                    Ok(_) => return effects.action,
                    Err(CommitError::Conflict { .. } | CommitError::Unknown { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            panic!("five commits in vain")
        })
    }

    fn answer(&self, message: &Message) -> Response {
        match self.run(&self.container(), message) {
            Action::Respond(response) => response,
            other => panic!("not answered: {other:?}"),
        }
    }

    fn status(&self, message: &Message) -> u16 {
        self.answer(message).status
    }

    fn plan(&self, message: &Message) -> ProxyPlan {
        match self.run(&self.container(), message) {
            Action::Proxy(plan) => plan,
            other => panic!("not proxied: {other:?}"),
        }
    }

    /// The contacts of all bindings there are.
    fn contacts(&self) -> Vec<String> {
        let list = block_on(registrations(&self.bindings, self.now())).unwrap();
        list.into_iter().map(|registration| registration.contact).collect()
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// The values of one header of a response, as text.
fn values(response: &Response, name: HeaderName) -> Vec<String> {
    response
        .headers
        .iter()
        .filter(|header| header.name == FieldName::Known(name))
        .map(|header| String::from_utf8(header.value.to_vec()).unwrap())
        .collect()
}

/// The first challenge of a 401 or 407.
fn challenge(response: &Response) -> ReceivedChallenge {
    let name = match response.status {
        401 => HeaderName::WwwAuthenticate,
        407 => HeaderName::ProxyAuthenticate,
        other => panic!("{other} is no challenge: {response:?}"),
    };
    ReceivedChallenge::parse(values(response, name)[0].as_bytes()).unwrap()
}

/// The header line that answers a challenge for Bob.
fn answered(challenge: &ReceivedChallenge, method: &str, nonce_count: u32) -> String {
    answered_as(challenge, method, nonce_count, b"bob", PASSWORD)
}

fn answered_as(
    challenge: &ReceivedChallenge,
    method: &str,
    nonce_count: u32,
    username: &[u8],
    password: &[u8],
) -> String {
    let login = Login { username, password };
    let value =
        challenge.answer(login, method.as_bytes(), b"sip:example.com", b"cnonce", nonce_count);
    let name = if method == "REGISTER" { "Authorization" } else { "Proxy-Authorization" };
    format!("{name}: {}\n", String::from_utf8(value).unwrap())
}
