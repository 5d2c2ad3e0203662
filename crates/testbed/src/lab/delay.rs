//! Holds the packets of a host back, both ways, by a relay of our own: the kernel's (netem) is missing on some machines.
//!
//! The host's port is taken out of the bridge, and a cable put in its place. A thread reads whole Ethernet frames
//! at both loose ends (`AF_PACKET`), keeps each for the time asked for and sends it on at the other. So every
//! protocol and address is delayed, and nobody notices anything else. A healed delay sends what it still holds.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Host;
use super::faults::{port, relayed};
use super::network::Network;

/// Frames held in one direction; one over it is lost, as in a router.
const HELD_MAX: usize = 16_384;
/// A frame of our cards: 1,500 octets and its head, with room.
const FRAME_BYTES_MAX: usize = 2_048;
/// How often the relay looks whether it is to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A host whose packets are held back, until this is healed or dropped.
#[derive(Debug)]
#[must_use = "a delay ends with its value"]
pub struct Delayed<'a> {
    network: &'a Network,
    number: u8,
    is_over: Arc<AtomicBool>,
    relay: Option<JoinHandle<()>>,
}

impl Delayed<'_> {
    pub(super) fn begin<'a>(network: &'a Network, host: &Host, by: Duration) -> Delayed<'a> {
        let number = host.number();
        let (outer, inner) = (relayed(number), relay_end(number));
        network.add_cable(&outer, &inner);
        network.complete_packets(number, &outer);
        // From here on nobody else carries frames of this host.
        network.unplug(&port(number));
        let ends = [port(number), inner];
        let ends = network.enter(|| ends.map(|end| FrameSocket::open(&end)));
        let is_over = Arc::new(AtomicBool::new(false));
        let ends_when = Arc::clone(&is_over);
        let relay = thread::spawn(move || relay(&ends, by, &ends_when));
        network.plug(&outer);
        Delayed { network, number, is_over, relay: Some(relay) }
    }

    /// Ends the delay.
    pub fn heal(self) {}
}

impl Drop for Delayed<'_> {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(relay) = self.relay.take() {
            // Its panic has told already what was wrong.
            let _ = relay.join();
        }
        self.network.remove_cable(&relayed(self.number));
        self.network.plug(&port(self.number));
    }
}

/// The end of the cable that the relay reads.
fn relay_end(number: u8) -> String {
    format!("r{number}")
}

/// Carries frames from each end to the other until it is over.
fn relay(ends: &[FrameSocket; 2], by: Duration, is_over: &AtomicBool) {
    // Those on their way to each end, in the order in which they are due.
    let mut held: [VecDeque<(Instant, Vec<u8>)>; 2] = Default::default();
    let mut frame = vec![0_u8; FRAME_BYTES_MAX];
    while !is_over.load(Ordering::Relaxed) {
        let due = held.iter().filter_map(|held| held.front()).map(|(due, _)| *due).min();
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        wait_for_frames(ends, left.unwrap_or(LOOK_INTERVAL).min(LOOK_INTERVAL));
        for (from, to) in [(0, 1), (1, 0)] {
            while let Some(length) = ends[from].receive(&mut frame) {
                if held[to].len() < HELD_MAX {
                    held[to].push_back((Instant::now() + by, frame[..length].to_vec()));
                }
            }
        }
        let now = Instant::now();
        for (end, held) in ends.iter().zip(&mut held) {
            while held.front().is_some_and(|(due, _)| *due <= now) {
                let (_, frame) = held.pop_front().expect("looked at");
                end.send(&frame);
            }
        }
    }
    for (end, held) in ends.iter().zip(held) {
        held.iter().for_each(|(_, frame)| end.send(frame));
    }
}

fn wait_for_frames(ends: &[FrameSocket; 2], at_most: Duration) {
    let mut watched = ends.each_ref().map(|end| PollFd::new(end, PollFlags::IN));
    let at_most = Timespec::try_from(at_most).expect("a short time");
    // Interrupted: looks again, and waits again.
    let _ = poll(&mut watched, Some(&at_most));
}

/// Frames as they pass one end of a cable.
struct FrameSocket(OwnedFd);

impl FrameSocket {
    fn open(card: &str) -> FrameSocket {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::EthAll;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, protocol)
            .expect("root of a network namespace may read its packets");
        bind(socket.as_raw_fd(), &link_address(card)).expect("the card is there");
        let opened = FrameSocket(socket);
        // Before it knew its card it heard all of them.
        while opened.receive(&mut [0; FRAME_BYTES_MAX]).is_some() {}
        opened
    }

    /// The next frame that is there.
    fn receive(&self, frame: &mut [u8]) -> Option<usize> {
        loop {
            match recv(self.0.as_raw_fd(), frame, MsgFlags::empty()) {
                Ok(length) => return Some(length),
                // A card that was down for a moment says so once.
                Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(_) => return None,
            }
        }
    }

    fn send(&self, frame: &[u8]) {
        // Full or down: the frame is lost, as on any network.
        let _ = send(self.0.as_raw_fd(), frame, MsgFlags::empty());
    }
}

impl AsFd for FrameSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The address by which packets of a card are asked for.
fn link_address(card: &str) -> LinkAddr {
    let mut cards = nix::ifaddrs::getifaddrs().expect("the system tells its cards");
    let found = cards.find_map(|found| {
        let address = found.address.filter(|_| found.interface_name == card)?;
        address.as_link_addr().copied()
    });
    found.unwrap_or_else(|| panic!("no card {card}"))
}
