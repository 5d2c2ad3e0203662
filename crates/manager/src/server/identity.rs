//! Which process a process id means: ids are used again, so a process is known by its id *and* its start time.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal,
    waitid,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process of this boot of the machine, and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    /// Clock ticks since boot (`/proc/PID/stat`, field 22).
    pub(crate) start_time: u64,
}

impl Identity {
    /// Of this process.
    pub(crate) fn own() -> io::Result<Identity> {
        Identity::of(std::process::id())
    }

    /// Of the process that has that id now.
    pub(crate) fn of(pid: u32) -> io::Result<Identity> {
        read(pid).map(|(identity, _)| identity)
    }

    /// Whether it lives at this moment; a zombie does not.
    pub(crate) fn lives(self) -> bool {
        matches!(read(self.pid), Ok((now, Presence::Lives)) if now == self)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Lives,
    /// Has ended, and its parent has not asked how.
    Zombie,
}

fn read(pid: u32) -> io::Result<(Identity, Presence)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (start_time, presence) = parse(&stat)
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not understood")))?;
    Ok((Identity { pid, start_time }, presence))
}

/// The second field, the name, may hold anything: what follows its last bracket is counted.
fn parse(stat: &str) -> Option<(u64, Presence)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    let presence = match fields.next()? {
        "Z" | "X" => Presence::Zombie,
        _ => Presence::Lives,
    };
    Some((fields.nth(18)?.parse().ok()?, presence))
}

/// Names this boot of the machine.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// A process that can be waited for and killed whether it is our child or not; never mistaken for another.
#[derive(Debug)]
pub(crate) struct LivingProcess {
    identity: Identity,
    pidfd: AsyncFd<OwnedFd>,
}

impl LivingProcess {
    /// A child that nobody has waited for yet.
    pub(crate) fn child(pid: u32) -> io::Result<LivingProcess> {
        let pidfd = open(pid)?;
        LivingProcess::new(Identity::of(pid)?, pidfd)
    }

    /// Somebody else's child; `None` when it is gone.
    pub(crate) fn found(identity: Identity) -> io::Result<Option<LivingProcess>> {
        // In this order: if the id still means the process, so does the descriptor.
        let pidfd = match open(identity.pid) {
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {
                return Ok(None);
            }
            pidfd => pidfd?,
        };
        match read(identity.pid) {
            Ok((now, Presence::Lives)) if now == identity => {
                LivingProcess::new(identity, pidfd).map(Some)
            }
            Ok(_) | Err(_) => Ok(None),
        }
    }

    fn new(identity: Identity, pidfd: OwnedFd) -> io::Result<LivingProcess> {
        #[allow(
            deprecated,
            reason = "sound here: an OwnedFd always names the same descriptor, and closes it last"
        )]
        let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
        Ok(LivingProcess { identity, pidfd })
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        self.pidfd.readable().await.map(drop)
    }

    /// Takes the exit status of a child that has ended; `None` for somebody else's.
    pub(crate) fn reap(&self) -> Option<WaitIdStatus> {
        use std::os::fd::AsFd as _;

        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), options).ok().flatten()
    }

    /// SIGKILL.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Signals it. A process that has gone has heard enough.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(Errno::SRCH))?;
    Ok(pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}

/// How a process ended, for a person.
pub(crate) fn describe(status: &WaitIdStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let fields = "1 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        assert_eq!(parse(&format!("7 (a) Z b) S {fields}")), Some((4711, Presence::Lives)));
        assert_eq!(parse(&format!("7 (a) Z {fields}")), Some((4711, Presence::Zombie)));
        assert_eq!(parse("7 (a"), None);
    }

    #[tokio::test]
    async fn a_process_with_another_start_time_is_another_process() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        let other = Identity { start_time: identity.start_time - 1, ..identity };
        assert!(LivingProcess::found(other).unwrap().is_none());
        assert!(identity.lives() && !other.lives());
        let found = LivingProcess::found(identity).unwrap().unwrap();
        found.kill().unwrap();
        found.ended().await.unwrap();
        assert!(LivingProcess::found(identity).unwrap().is_none(), "a zombie lives no more");
        assert!(!identity.lives());
        assert_eq!(describe(&found.reap().unwrap()), "was killed by signal 9");
        assert!(child.wait().is_err(), "reaped already");
        assert!(LivingProcess::found(identity).unwrap().is_none());
        found.kill().unwrap();
    }
}
