//! The node's key ring: rotates it when it is time, writes it, and tells every process.
//!
//! A rotation has two steps. First the new secret is announced: every process accepts it, none signs with it. A
//! moment later, when all have heard, the new ring is written, and then told: a ring that some process signs with is
//! never lost, and nobody meets a tag that it does not know. A rotation that cannot be written is tried again, and
//! the old keys go on until it can.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use topology::keys::file::{self, KeyFileError};
use topology::keys::{KeyRing, SECRET_BYTES, rotation};
use topology::protocol::{Answer, FromManager, KeysStatus, encode_line};
use tracing::{info, warn};

/// How often the machine's clock is looked at: it may be stepped, or stand still while the machine sleeps.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// From the announcement of a secret until it signs: a process hears within milliseconds.
const ANNOUNCED_FOR: Duration = Duration::from_millis(500);

/// The ring and where it goes.
pub(super) struct Keys {
    path: PathBuf,
    ring: KeyRing,
    rotate_every: Duration,
    look_at: Instant,
    /// The secret that every process was told to accept, and when it is to sign.
    announced: Option<([u8; SECRET_BYTES], Instant)>,
    /// Who waits for the rotation under way: as many as there are connections at most.
    replies: Vec<mpsc::Sender<Answer>>,
    /// The ring as the line that every process is sent when it changes.
    lines: watch::Sender<Arc<Vec<u8>>>,
}

impl Keys {
    /// Reads the ring, or makes one.
    pub(super) fn open(path: PathBuf, rotate_every: Duration) -> Result<Keys, KeyFileError> {
        let ring = file::load_or_create(&path, unix_millis())?;
        let lines = watch::Sender::new(line(&ring));
        Ok(Keys {
            path,
            ring,
            rotate_every,
            look_at: Instant::now(),
            announced: None,
            replies: Vec::new(),
            lines,
        })
    }

    /// As the processes have it.
    pub(super) fn ring(&self) -> KeyRing {
        match self.announced {
            Some((secret, _)) => self.ring.announcing(secret),
            None => self.ring.clone(),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Vec<u8>>> {
        self.lines.subscribe()
    }

    /// When [`tick`](Self::tick) wants to be called.
    pub(super) fn next_deadline(&self) -> Instant {
        self.announced.map_or(self.look_at, |(_, sign_at)| sign_at)
    }

    /// Goes on with a rotation, or begins one when it is time.
    pub(super) fn tick(&mut self, now: Instant) {
        if let Some((secret, sign_at)) = self.announced {
            if now >= sign_at {
                let signs = self.sign_with(secret);
                self.answer(&signs);
            }
            return;
        }
        if now < self.look_at {
            return;
        }
        let due_in = rotation::due_in(&self.ring, self.rotate_every, unix_millis());
        self.look_at = now + if due_in.is_zero() { LOOK_EVERY } else { due_in.min(LOOK_EVERY) };
        if due_in.is_zero() {
            self.rotate(now, None);
        }
    }

    /// Begins to replace the keys that sign, unless that is under way; `reply` is answered when it is done.
    pub(super) fn rotate(&mut self, now: Instant, reply: Option<mpsc::Sender<Answer>>) {
        self.replies.extend(reply);
        if self.announced.is_some() {
            return;
        }
        match file::random_secret() {
            Ok(secret) => {
                self.announced = Some((secret, now + ANNOUNCED_FOR));
                self.lines.send_replace(line(&self.ring()));
            }
            Err(error) => self.answer(&Err(error)),
        }
    }

    fn answer(&mut self, done: &Result<(), KeyFileError>) {
        let answer = match done {
            Ok(()) => Answer::Keys(self.status()),
            Err(error) => {
                warn!(%error, "the keys could not be rotated; the present ones go on");
                Answer::Refused { reason: error.to_string() }
            }
        };
        for reply in self.replies.drain(..) {
            // Whoever asked may have gone.
            let _ = reply.try_send(answer.clone());
        }
    }

    fn sign_with(&mut self, secret: [u8; SECRET_BYTES]) -> Result<(), KeyFileError> {
        self.announced = None;
        let ring = self.ring.rotated(secret, unix_millis());
        let written = file::write(&self.path, &ring);
        if written.is_ok() {
            self.ring = ring;
            info!("rotated the keys; those before are accepted until the next rotation");
        }
        // Takes the announcement back otherwise.
        self.lines.send_replace(line(&self.ring));
        written
    }

    pub(super) fn status(&self) -> KeysStatus {
        let now = unix_millis();
        let rotation_in = rotation::due_in(&self.ring, self.rotate_every, now);
        KeysStatus {
            since_ms: self.ring.current_since().unwrap_or(now),
            rotation_in_ms: u64::try_from(rotation_in.as_millis()).unwrap_or(u64::MAX),
            has_previous: self.ring.has_previous(),
        }
    }
}

fn line(ring: &KeyRing) -> Arc<Vec<u8>> {
    Arc::new(encode_line(&FromManager::Keys(ring.clone())))
}

/// The machine's clock, as key rings are dated.
fn unix_millis() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_ring_that_was_due_while_the_node_was_down_is_rotated_written_and_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        let day_before = unix_millis() - 86_400_000;
        let old = file::load_or_create(&path, day_before).unwrap();
        let mut keys = Keys::open(path.clone(), DAY).unwrap();
        let mut told = keys.subscribe();
        let mut said = || match serde_json::from_slice(&told.borrow_and_update()).unwrap() {
            FromManager::Keys(ring) => ring,
            other => panic!("{other:?}"),
        };
        let tag = old.derive("flow").tag::<16>(b"data");
        let began = keys.next_deadline();
        keys.tick(began);
        let announced = said();
        assert!(keys.announced.is_some() && announced == keys.ring());
        assert!(file::load_or_create(&path, 0).unwrap() == old, "nothing signs with it yet");
        assert_eq!(announced.derive("flow").tag::<16>(b"data"), tag);
        keys.tick(keys.next_deadline());
        let rotated = said();
        assert!(keys.announced.is_none() && rotated == keys.ring() && keys.status().has_previous);
        assert!(file::load_or_create(&path, 0).unwrap() == rotated);
        let new_tag = rotated.derive("flow").tag::<16>(b"data");
        assert!(new_tag != tag && rotated.derive("flow").verify(b"data", &tag));
        assert!(announced.derive("flow").verify(b"data", &new_tag), "known before it was used");
        // Not again before its time.
        keys.tick(keys.next_deadline());
        assert!(keys.announced.is_none() && said() == rotated && keys.next_deadline() > began);
    }

    #[test]
    fn keys_that_cannot_be_written_do_not_sign() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub").join("keys.json");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let mut keys = Keys::open(path.clone(), DAY).unwrap();
        let mut told = keys.subscribe();
        let before = keys.ring();
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        let (reply, mut answer) = mpsc::channel(1);
        keys.rotate(Instant::now(), Some(reply));
        assert!(keys.ring() != before && answer.try_recv().is_err());
        keys.tick(keys.next_deadline());
        assert!(matches!(answer.try_recv(), Ok(Answer::Refused { .. })));
        let said: FromManager = serde_json::from_slice(&told.borrow_and_update()).unwrap();
        assert!(matches!(said, FromManager::Keys(ring) if ring == before));
        assert!(keys.ring() == before && keys.announced.is_none());
    }
}
