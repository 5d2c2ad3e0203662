//! The node's member of the repository as a process: started, asked whether it serves, ended.
//!
//! etcd answers its clients only when it has told the others who it is, which takes a majority; before, it answers other
//! members. One that waits for the others does all that it can, and counts as ready: nobody else's start waits for a
//! majority. Questions may take long on a busy machine; they are asked by a task of their own, and what that heard last
//! holds for a while.

use std::io;
use std::process::Command as Program;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use repository::member::MemberSettings;
use repository::{Client, Endpoint};
use state::engine::cluster::servers::Pulse;
use tokio::task::JoinHandle;
use topology::view::{ProcessName, ProcessType, WEIGHT_DEFAULT};

use super::super::servers::{Doing, Server};
use super::{Identity, MemberNote, endpoints, etcd};
use crate::process_table::ProcessSpec;

/// How often a member is asked: while it begins, and when it serves.
const ASK_BEGINNING_EVERY: Duration = Duration::from_millis(100);
const ASK_EVERY: Duration = Duration::from_millis(500);

/// How long what it said last holds. A member that hangs costs nobody more than a second try, so there is no haste.
const SAID_HOLDS: Duration = Duration::from_secs(5);

/// The name of the process.
pub(super) const NAME: &str = "repository";

/// The member that this node runs.
pub(crate) struct RepositoryServer {
    settings: MemberSettings,
    directory: repository::member::RepositoryDirectory,
    heard: Arc<Mutex<Heard>>,
    asking: JoinHandle<()>,
}

/// What it said last.
#[derive(Debug, Clone, Copy)]
struct Heard {
    pulse: Pulse,
    at: Instant,
}

impl Heard {
    /// A life has begun, or is known from now on.
    fn nothing_yet() -> Heard {
        Heard { pulse: Pulse::Begins, at: Instant::now() }
    }
}

impl RepositoryServer {
    pub(super) fn new(identity: &Identity, note: &MemberNote) -> RepositoryServer {
        let heard = Arc::new(Mutex::new(Heard::nothing_yet()));
        let serving = identity.client_of(&[identity.own(note.client)], super::REQUEST_TIMEOUT);
        let at_all = endpoints(&[identity.own(note.peer)]);
        RepositoryServer {
            settings: identity.settings(note),
            directory: identity.directory.clone(),
            asking: tokio::spawn(ask_on(serving, at_all, Arc::clone(&heard))),
            heard,
        }
    }
}

impl Drop for RepositoryServer {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

impl Server for RepositoryServer {
    fn spec(&self) -> ProcessSpec {
        ProcessSpec {
            name: ProcessName::new(NAME),
            process_type: ProcessType::Repository,
            link: None,
            link_address: Some(self.settings.note.client),
            weight: WEIGHT_DEFAULT,
            addresses: Vec::new(),
        }
    }

    fn prepare(&self) -> Doing<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn program(&self) -> io::Result<Program> {
        let etcd = etcd()?;
        self.directory.make()?;
        *lock(&self.heard) = Heard::nothing_yet();
        Ok(self.settings.program(&etcd))
    }

    fn ask(&self) -> Doing<'_, Pulse> {
        let Heard { pulse, at } = *lock(&self.heard);
        let pulse = if at.elapsed() < SAID_HOLDS { pulse } else { Pulse::Silent };
        Box::pin(std::future::ready(pulse))
    }

    fn retire(&self) -> Doing<'_, ()> {
        // A leader that ends in order hands over by itself.
        Box::pin(async {})
    }
}

/// For ever.
async fn ask_on(client: Client, peer: Vec<Endpoint>, heard: Arc<Mutex<Heard>>) {
    let own = client.endpoints();
    loop {
        let asked = Instant::now();
        let pulse = match (own.first(), peer.first()) {
            (Some(own), _) if client.status(own).await.is_ok() => Some(Pulse::Serves),
            (_, Some(peer)) if client.is_there(peer).await => Some(Pulse::Serves),
            _ => None,
        };
        if let Some(pulse) = pulse {
            let mut heard = lock(&heard);
            // Of a life that began meanwhile nothing was heard.
            if heard.at <= asked {
                *heard = Heard { pulse, at: Instant::now() };
            }
        }
        let serves = pulse == Some(Pulse::Serves);
        let pause = if serves { ASK_EVERY } else { ASK_BEGINNING_EVERY };
        tokio::time::sleep(pause).await;
    }
}

fn lock(heard: &Mutex<Heard>) -> std::sync::MutexGuard<'_, Heard> {
    // A plain value: a panic elsewhere leaves none half-changed.
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}
