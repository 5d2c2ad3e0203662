//! The node's key ring: rotates it when it is time, writes it, and tells every process.
//!
//! A rotation has two steps. First the new secret is announced: every process accepts it, none signs with it. A
//! moment later, when all have heard, the new ring is written, and then told: a ring that some process signs with is
//! never lost, and nobody meets a tag that it does not know. A rotation that cannot be written is tried again, and
//! the old keys go on until it can. A disk may take seconds to write, so somebody else does than the manager's loop:
//! [`Write`] goes out, [`Keys::written`] comes back.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use topology::keys::file::{self, KeyFileError};
use topology::keys::{KeyRing, SECRET_BYTES, rotation};
use topology::protocol::{Answer, FromManager, KeysStatus, encode_line};
use tracing::{error, info, warn};

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
    rotation: Rotation,
    leads: bool,
    adopted: Arc<Mutex<Option<KeyRing>>>,
    /// Who waits for the rotation under way: as many as there are connections at most.
    replies: Vec<mpsc::Sender<Answer>>,
    /// The ring as the line that every process is sent when it changes.
    lines: watch::Sender<Arc<Vec<u8>>>,
}

/// How far a rotation is.
enum Rotation {
    /// None is under way.
    None,
    /// Every process was told to accept the secret; it is to sign at that moment.
    Announced { secret: [u8; SECRET_BYTES], sign_at: Instant },
    /// Of a member that another one leads: that one has announced a secret, and this ring accepts it.
    Heard(KeyRing),
    /// The ring that signs with the secret is being written.
    Writing { secret: [u8; SECRET_BYTES], ring: KeyRing },
}

/// A ring to be written, whatever time that takes.
pub(super) struct Write {
    path: PathBuf,
    ring: KeyRing,
}

impl Write {
    /// Writes it.
    pub(super) fn run(&self) -> Result<(), KeyFileError> {
        file::write(&self.path, &self.ring)
    }
}

/// The latest keys that others had, to be written.
pub(super) struct Adopted {
    path: PathBuf,
    latest: Arc<Mutex<Option<KeyRing>>>,
}

impl Adopted {
    /// Writes the latest, whichever they are by now: two that write leave no older ones.
    pub(super) fn run(&self) -> Result<(), KeyFileError> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.as_ref().map_or(Ok(()), |ring| file::write(&self.path, ring))
    }
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
            rotation: Rotation::None,
            leads: true,
            adopted: Arc::default(),
            replies: Vec::new(),
            lines,
        })
    }

    /// As the processes have it.
    pub(super) fn ring(&self) -> KeyRing {
        match &self.rotation {
            Rotation::Announced { secret, .. } | Rotation::Writing { secret, .. } => {
                self.ring.announcing(*secret)
            }
            Rotation::Heard(ring) => ring.clone(),
            Rotation::None => self.ring.clone(),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Vec<u8>>> {
        self.lines.subscribe()
    }

    /// When [`tick`](Self::tick) wants to be called.
    pub(super) fn next_deadline(&self) -> Instant {
        match &self.rotation {
            Rotation::Announced { sign_at, .. } => *sign_at,
            Rotation::None | Rotation::Heard(_) | Rotation::Writing { .. } => self.look_at,
        }
    }

    /// Goes on with a rotation, or begins one when it is time. What is to be written then is written outside, and its
    /// outcome told to [`written`](Self::written).
    pub(super) fn tick(&mut self, now: Instant) -> Option<Write> {
        match self.rotation {
            Rotation::Announced { secret, sign_at } if now >= sign_at => {
                let ring = self.ring.rotated(secret, unix_millis());
                self.rotation = Rotation::Writing { secret, ring: ring.clone() };
                return Some(Write { path: self.path.clone(), ring });
            }
            Rotation::Announced { .. } => {}
            Rotation::Writing { .. } => self.look_at = self.look_at.max(now + LOOK_EVERY),
            Rotation::Heard(_) => self.look_at = now + LOOK_EVERY,
            Rotation::None if now >= self.look_at => self.look(now),
            Rotation::None => {}
        }
        None
    }

    fn look(&mut self, now: Instant) {
        let due_in = rotation::due_in(&self.ring, self.rotate_every, unix_millis());
        self.look_at = now + if due_in.is_zero() { LOOK_EVERY } else { due_in.min(LOOK_EVERY) };
        if due_in.is_zero() && self.leads {
            self.rotate(now, None);
        }
    }

    /// Whether this node rotates the keys when it is time. In a cluster one does; the others [`adopt`](Self::adopt).
    pub(super) fn lead(&mut self, leads: bool) {
        if leads && matches!(self.rotation, Rotation::Heard(_)) {
            // Who announced it is gone; what it may have signed meanwhile is known by the ring that it wrote.
            self.rotation = Rotation::None;
        }
        self.leads = leads;
    }

    /// Another member has these keys. Those that began to sign later are the cluster's; of those that began at the same
    /// time, what the one that leads accepts. What is to be written comes back.
    pub(super) fn adopt(&mut self, heard: KeyRing, leads: bool) -> Option<Adopted> {
        if !heard.is_akin(&self.ring) {
            error!(
                "another member has keys of another cluster; ignored. Was keys.json copied or restored?"
            );
            return None;
        }
        if matches!(self.rotation, Rotation::Writing { .. }) {
            return None;
        }
        if heard.current_since() > self.ring.current_since() {
            self.ring = heard;
            self.rotation = Rotation::None;
            self.lines.send_replace(line(&self.ring));
            info!("took over the keys of the cluster");
            self.answer(&Ok(()));
            *self.adopted.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.ring.clone());
            return Some(Adopted { path: self.path.clone(), latest: Arc::clone(&self.adopted) });
        }
        let is_as_old = heard.current_since() == self.ring.current_since();
        if leads && !self.leads && is_as_old && heard != self.ring() {
            self.rotation =
                if heard == self.ring { Rotation::None } else { Rotation::Heard(heard) };
            self.lines.send_replace(line(&self.ring()));
        }
        None
    }

    /// Begins to replace the keys that sign, unless that is under way; `reply` is answered when it is done.
    pub(super) fn rotate(&mut self, now: Instant, reply: Option<mpsc::Sender<Answer>>) {
        self.replies.extend(reply);
        if !matches!(self.rotation, Rotation::None) {
            return;
        }
        match file::random_secret() {
            Ok(secret) => {
                self.rotation = Rotation::Announced { secret, sign_at: now + ANNOUNCED_FOR };
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

    /// The ring of the last [`Write`] stands in its file, or could not be brought there.
    pub(super) fn written(&mut self, written: &Result<(), KeyFileError>) {
        let Rotation::Writing { ring, .. } = std::mem::replace(&mut self.rotation, Rotation::None)
        else {
            unreachable!("nothing else is written, and one at a time");
        };
        if written.is_ok() {
            self.ring = ring;
            info!("rotated the keys; those before are accepted until the next rotation");
        }
        // Takes the announcement back otherwise.
        self.lines.send_replace(line(&self.ring));
        self.answer(written);
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

    impl Keys {
        fn is_rotating(&self) -> bool {
            !matches!(self.rotation, Rotation::None)
        }
    }

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
        assert!(keys.tick(began).is_none());
        let announced = said();
        assert!(keys.is_rotating() && announced == keys.ring());
        assert!(file::load_or_create(&path, 0).unwrap() == old, "nothing signs with it yet");
        assert_eq!(announced.derive("flow").tag::<16>(b"data"), tag);
        let write = keys.tick(keys.next_deadline()).unwrap();
        // However long that takes, and whatever time it is meanwhile.
        keys.look_at = began;
        assert!(keys.tick(began).is_none() && keys.next_deadline() > began);
        assert!(keys.ring() == announced);
        keys.written(&write.run());
        let rotated = said();
        assert!(!keys.is_rotating() && rotated == keys.ring() && keys.status().has_previous);
        assert!(file::load_or_create(&path, 0).unwrap() == rotated);
        let new_tag = rotated.derive("flow").tag::<16>(b"data");
        assert!(new_tag != tag && rotated.derive("flow").verify(b"data", &tag));
        assert!(announced.derive("flow").verify(b"data", &new_tag), "known before it was used");
        // Not again before its time.
        assert!(keys.tick(keys.next_deadline()).is_none());
        assert!(!keys.is_rotating() && said() == rotated && keys.next_deadline() > began);
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
        let write = keys.tick(keys.next_deadline()).unwrap();
        keys.written(&write.run());
        assert!(matches!(answer.try_recv(), Ok(Answer::Refused { .. })));
        let said: FromManager = serde_json::from_slice(&told.borrow_and_update()).unwrap();
        assert!(matches!(said, FromManager::Keys(ring) if ring == before));
        assert!(keys.ring() == before && !keys.is_rotating());
    }
}
