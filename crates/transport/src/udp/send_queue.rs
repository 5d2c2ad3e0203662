//! Batched sending: a bounded queue in front of `sendmmsg`.
//!
//! Datagrams leave in the order in which they were queued. What the kernel has no room for stays
//! queued; what it refuses is reported and skipped, so that one bad destination holds up nobody
//! else.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use nix::errno::Errno;

use super::UdpCounters;

/// Most datagrams that wait for the kernel; beyond, the oldest is dropped and counted.
pub const QUEUED_DATAGRAMS_MAX: usize = 8_192;

/// Most bytes that wait for the kernel; beyond, the oldest datagrams are dropped and counted.
pub const QUEUED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How a flush ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing is queued any more.
    Empty,
    /// The kernel's buffer is full: flush again on the next writable event.
    Blocked,
}

/// A datagram that the kernel refused to send.
#[derive(Debug)]
pub struct Undelivered {
    /// Where it should have gone.
    pub remote: SocketAddr,
    /// What the caller queued it with.
    pub tag: u64,
    /// Why: no route, too long for this path, not permitted.
    pub error: io::Error,
}

/// A datagram that waits.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) remote: SocketAddr,
    pub(super) bytes: Bytes,
    tag: u64,
}

/// What waits for the kernel, oldest first.
#[derive(Debug, Default)]
pub(super) struct SendQueue {
    queued: VecDeque<Queued>,
    queued_bytes: usize,
}

impl SendQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    /// Queues a datagram and says how many older ones had to go for it.
    pub(super) fn push(&mut self, remote: SocketAddr, bytes: Bytes, tag: u64) -> u64 {
        let mut dropped = 0;
        while self.queued.len() >= QUEUED_DATAGRAMS_MAX
            || self.queued_bytes + bytes.len() > QUEUED_BYTES_MAX
        {
            if self.pop().is_none() {
                break;
            }
            dropped += 1;
        }
        self.queued_bytes += bytes.len();
        self.queued.push_back(Queued { remote, bytes, tag });
        dropped
    }

    fn pop(&mut self) -> Option<Queued> {
        let oldest = self.queued.pop_front()?;
        self.queued_bytes -= oldest.bytes.len();
        Some(oldest)
    }

    /// Sends until nothing is left or the kernel has no room. `send` takes some from the front and
    /// says how many; its error is about the first.
    pub(super) fn flush(
        &mut self,
        mut send: impl FnMut(&VecDeque<Queued>) -> nix::Result<usize>,
        counters: &mut UdpCounters,
        mut on_undelivered: impl FnMut(Undelivered),
    ) -> io::Result<Flushed> {
        while !self.queued.is_empty() {
            match send(&self.queued) {
                Ok(sent) => {
                    counters.sent += sent as u64;
                    for _ in 0..sent {
                        self.pop();
                    }
                }
                Err(Errno::EAGAIN) => return Ok(Flushed::Blocked),
                Err(Errno::EINTR) => {}
                Err(errno @ (Errno::EBADF | Errno::ENOTSOCK)) => return Err(errno.into()),
                // sendmmsg fails only when its first datagram does; it is the one that this error
                // is about.
                Err(errno) => {
                    let refused = self.pop().expect("the loop runs while something is queued");
                    counters.undeliverable += 1;
                    on_undelivered(Undelivered {
                        remote: refused.remote,
                        tag: refused.tag,
                        error: errno.into(),
                    });
                }
            }
        }
        Ok(Flushed::Empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REMOTE: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5060);

    fn queue_of(tags: std::ops::Range<u64>) -> SendQueue {
        let mut queue = SendQueue::default();
        for tag in tags {
            assert_eq!(queue.push(REMOTE, Bytes::from_static(b"message"), tag), 0);
        }
        queue
    }

    fn tags(queue: &SendQueue) -> Vec<u64> {
        queue.queued.iter().map(|queued| queued.tag).collect()
    }

    #[test]
    fn what_the_kernel_has_no_room_for_stays_in_order() {
        let (mut queue, mut counters) = (queue_of(0..5), UdpCounters::default());
        let mut answers = [Ok(2), Err(Errno::EINTR), Err(Errno::EAGAIN)].into_iter();
        let flushed = queue.flush(
            |_| answers.next().expect("no call after EAGAIN"),
            &mut counters,
            |_| panic!(),
        );
        assert_eq!(flushed.expect("usable"), Flushed::Blocked);
        assert_eq!((tags(&queue), counters.sent), (vec![2, 3, 4], 2));
        let flushed = queue.flush(|queued| Ok(queued.len()), &mut counters, |_| panic!());
        assert_eq!(flushed.expect("usable"), Flushed::Empty);
        assert_eq!((queue.queued_bytes, counters.sent), (0, 5));
    }

    #[test]
    fn a_refused_datagram_is_reported_and_the_rest_goes_on() {
        let (mut queue, mut counters, mut undelivered) =
            (queue_of(0..3), UdpCounters::default(), Vec::new());
        let mut answers = [Ok(1), Err(Errno::EHOSTUNREACH), Ok(1)].into_iter();
        let flushed = queue.flush(
            |_| answers.next().expect("done"),
            &mut counters,
            |refused| undelivered.push(refused.tag),
        );
        assert_eq!(flushed.expect("usable"), Flushed::Empty);
        assert_eq!((undelivered, counters.sent, counters.undeliverable), (vec![1], 2, 1));
    }

    #[test]
    fn over_the_count_bound_the_oldest_goes() {
        let mut queue = queue_of(0..QUEUED_DATAGRAMS_MAX as u64);
        assert_eq!(queue.push(REMOTE, Bytes::new(), 9_999_999), 1);
        assert_eq!((queue.queued.len(), queue.queued[0].tag), (QUEUED_DATAGRAMS_MAX, 1));
    }

    #[test]
    fn over_the_byte_bound_as_many_go_as_needed() {
        let (mut queue, long) = (SendQueue::default(), Bytes::from(vec![0; 65_000]));
        let dropped: u64 = (0..1_000).map(|tag| queue.push(REMOTE, long.clone(), tag)).sum();
        assert!(queue.queued_bytes <= QUEUED_BYTES_MAX);
        assert_eq!(queue.queued.len() as u64 + dropped, 1_000);
        assert_eq!(queue.queued[0].tag, dropped);
    }
}
