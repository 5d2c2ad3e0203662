//! Sockets of the standard library that the runtime tells of, where its own types cannot do what is needed.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A socket that the runtime tells of.
#[allow(
    deprecated,
    reason = "its successor is unsafe, for the sake of types whose descriptor may change; those of std keep theirs"
)]
pub(crate) fn polled<S: AsRawFd>(socket: S, interest: Interest) -> io::Result<AsyncFd<S>> {
    AsyncFd::with_interest(socket, interest)
}
