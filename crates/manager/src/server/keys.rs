//! The node's key ring: rotates it when it is time, writes it, and tells every process.
//!
//! Written first, told then: a ring that some process signs with is never lost. A rotation that cannot be written
//! is tried again, and the old keys go on until it can.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use topology::keys::file::{self, KeyFileError};
use topology::keys::{KeyRing, rotation};
use topology::protocol::{FromManager, KeysStatus, encode_line};
use tracing::{info, warn};

/// How often the machine's clock is looked at: it may be stepped, or stand still while the machine sleeps.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The ring and where it goes.
pub(super) struct Keys {
    path: PathBuf,
    ring: KeyRing,
    rotate_every: Duration,
    look_at: Instant,
    /// The ring as the line that every process is sent when it changes.
    lines: watch::Sender<Arc<Vec<u8>>>,
}

impl Keys {
    /// Reads the ring, or makes one.
    pub(super) fn open(path: PathBuf, rotate_every: Duration) -> Result<Keys, KeyFileError> {
        let ring = file::load_or_create(&path, unix_millis())?;
        let lines = watch::Sender::new(line(&ring));
        Ok(Keys { path, ring, rotate_every, look_at: Instant::now(), lines })
    }

    pub(super) fn ring(&self) -> &KeyRing {
        &self.ring
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Vec<u8>>> {
        self.lines.subscribe()
    }

    /// When [`tick`](Self::tick) wants to be called.
    pub(super) fn next_deadline(&self) -> Instant {
        self.look_at
    }

    /// Rotates when it is time.
    pub(super) fn tick(&mut self, now: Instant) {
        if now < self.look_at {
            return;
        }
        let mut due_in = rotation::due_in(&self.ring, self.rotate_every, unix_millis());
        if due_in.is_zero() {
            due_in = LOOK_EVERY;
            if let Err(error) = self.rotate() {
                warn!(%error, "the keys could not be rotated; the present ones go on");
            }
        }
        self.look_at = now + due_in.min(LOOK_EVERY);
    }

    /// Replaces the keys that sign.
    pub(super) fn rotate(&mut self) -> Result<(), KeyFileError> {
        let ring = self.ring.rotated(file::random_secret()?, unix_millis());
        file::write(&self.path, &ring)?;
        self.lines.send_replace(line(&ring));
        self.ring = ring;
        info!("rotated the keys; those before are accepted until the next rotation");
        Ok(())
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
        assert!(keys.ring() == &old);
        let now = keys.next_deadline();
        keys.tick(now);
        assert!(keys.ring() != &old && keys.status().has_previous);
        assert!(&file::load_or_create(&path, 0).unwrap() == keys.ring());
        assert!(told.has_changed().unwrap());
        let said: FromManager = serde_json::from_slice(&told.borrow_and_update()).unwrap();
        assert!(matches!(said, FromManager::Keys(ring) if &ring == keys.ring()));
        // Not again before its time.
        keys.tick(keys.next_deadline());
        assert!(!told.has_changed().unwrap());
        assert!(keys.next_deadline() > now);
    }

    #[test]
    fn keys_that_cannot_be_written_are_not_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub").join("keys.json");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let mut keys = Keys::open(path.clone(), DAY).unwrap();
        let told = keys.subscribe();
        let before = keys.ring().clone();
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        keys.rotate().unwrap_err();
        assert!(keys.ring() == &before && !told.has_changed().unwrap());
    }
}
