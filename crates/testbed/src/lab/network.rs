//! The network of a lab, made by `ip` and `nft`: a bridge, and for each host a namespace with a card on it.
//!
//! Hosts have the addresses 192.0.2.11 and 2001:db8::11, then ….12 and so on: networks that no machine has for real
//! (RFC 5737, RFC 3849). They send multicast, and the bridge floods it to all. They know each other's cards from the start:
//! else the first packet of a cut would wait for its address to be resolved, and leave when the cut is healed.

use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::faults::{Rules, port};
use crate::wait;

/// Hosts of a lab: so many numbers are there behind [`FIRST`].
const HOSTS_MAX: u8 = 100;
/// The last octet of the first host's address, less one.
const FIRST: u8 = 10;

/// How long the kernel may take to bring a card up.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// The bridge.
const BRIDGE: &str = "bridge";
/// The card of a host, in its namespace.
const CARD: &str = "eth0";

/// The bridge of a lab; it ends with the namespace that it is in.
#[derive(Debug)]
pub(super) struct Network {
    /// The namespace of the bridge: whoever asks for a change may be a thread on a host.
    namespace: File,
    /// Numbered from 1.
    hosts: u8,
}

impl Network {
    /// Makes the bridge for so many hosts, in the network namespace of the calling thread.
    ///
    /// # Panics
    /// When they are too many.
    pub(super) fn new(hosts: usize) -> Network {
        let hosts = u8::try_from(hosts).ok().filter(|hosts| *hosts <= HOSTS_MAX);
        let hosts = hosts.unwrap_or_else(|| panic!("a lab has room for {HOSTS_MAX} hosts"));
        let namespace = File::open("/proc/thread-self/ns/net").expect("a thread has a network");
        let network = Network { namespace, hosts };
        // The bridge and its ports are cables: without addresses of their own they say nothing by themselves.
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
            .expect("a network namespace of one's own can be set up");
        network.ip(
            &[],
            &format!(
                "link set lo up\n\
                 link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
                 link set {BRIDGE} up\n"
            ),
        );
        network
    }

    /// Makes a host with its card on the bridge.
    pub(super) fn add(&self, number: u8) {
        let (namespace, port) = (namespace(number), port(number));
        let card = card_address(number);
        self.ip(
            &[],
            &format!(
                "netns add {namespace}\n\
                 link add {port} type veth peer name {CARD} address {card} netns {namespace}\n"
            ),
        );
        let others = (1..=self.hosts).filter(|other| *other != number);
        let known: String = others.map(neighbour).collect();
        let (ipv4, ipv6) = (ipv4(number), ipv6(number));
        self.ip(
            &["-n", &namespace],
            &format!(
                "link set lo up\n\
                 link set {CARD} up\n\
                 address add {ipv4}/24 dev {CARD}\n\
                 address add {ipv6}/64 dev {CARD} nodad\n\
                 route add 224.0.0.0/4 dev {CARD}\n\
                 {known}"
            ),
        );
        self.plug(&port);
        let shown = ["-n", &namespace, "-j", "link", "show", "dev", CARD];
        self.until(&shown, |card| card["operstate"] == "UP");
    }

    /// Pulls the card out and throws it away: whatever it was about to send is gone.
    pub(super) fn remove_card(&self, number: u8) {
        self.ip(&[], &format!("link delete {}\n", port(number)));
    }

    /// Removes a host that has no card any more. Sockets and threads that are still in it stay there, alone.
    pub(super) fn remove(&self, number: u8) {
        self.ip(&[], &format!("netns delete {}\n", namespace(number)));
    }

    /// Puts a card into the bridge, and waits until that forwards its packets: the kernel sees to it in its own time.
    pub(super) fn plug(&self, port: &str) {
        self.ip(&[], &format!("link set {port} master {BRIDGE} up\n"));
        let shown = ["-j", "-d", "link", "show", "dev", port];
        self.until(&shown, |card| {
            let state = &card["linkinfo"]["info_slave_data"]["state"];
            card["operstate"] == "UP" && state == "forwarding"
        });
    }

    /// Waits until a card is as it should be.
    fn until(&self, shown: &[&str], is_ready: impl Fn(&serde_json::Value) -> bool + Sync) {
        self.enter(|| {
            wait::until("a card to carry packets", READY_LIMIT, || {
                let output = Command::new("ip").args(shown).output().expect("ip starts");
                let cards: serde_json::Value =
                    serde_json::from_slice(&output.stdout).expect("ip -json says JSON");
                if is_ready(&cards[0]) { Ok(()) } else { Err(cards) }
            });
        });
    }

    /// Takes a card out of the bridge and leaves it up.
    pub(super) fn unplug(&self, port: &str) {
        self.ip(&[], &format!("link set {port} nomaster\n"));
    }

    /// Another cable beside the bridge, both ends up.
    pub(super) fn add_cable(&self, one: &str, other: &str) {
        self.ip(
            &[],
            &format!(
                "link add {one} type veth peer name {other}\n\
                 link set {one} up\n\
                 link set {other} up\n"
            ),
        );
    }

    /// Removes a cable, by either end.
    pub(super) fn remove_cable(&self, end: &str) {
        self.ip(&[], &format!("link delete {end}\n"));
    }

    /// From now on packets pass the bridge by these rules only.
    pub(super) fn filter(&self, rules: &Rules) {
        self.enter(|| feed(Command::new("nft").args(["-f", "-"]), &rules.script()));
    }

    /// Lets a host's card, and one of the bridge's, finish checksums and segments themselves, for somebody who reads the
    /// packets.
    pub(super) fn complete_packets(&self, number: u8, card: &str) {
        let namespace = namespace(number);
        let on_host = ["netns", "exec", &namespace, "ethtool", "-K", CARD, "tx", "off"];
        self.enter(|| {
            feed(Command::new("ip").args(on_host).stdout(Stdio::null()), "");
            let here = ["-K", card, "tx", "off"];
            feed(Command::new("ethtool").args(here).stdout(Stdio::null()), "");
        });
    }

    fn ip(&self, arguments: &[&str], lines: &str) {
        self.enter(|| feed(Command::new("ip").args(arguments).args(["-batch", "-"]), lines));
    }

    /// Calls `work` by a thread that is where the bridge is.
    pub(super) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        enter(&self.namespace, work)
    }
}

/// Calls `work` by a thread in this network namespace.
pub(super) fn enter<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> T {
    let called = thread::scope(|scope| {
        let inside = scope.spawn(move || {
            move_into(namespace);
            work()
        });
        inside.join()
    });
    called.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Moves the calling thread.
pub(super) fn move_into(namespace: &File) {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("a thread may enter a namespace that its process made");
}

/// Name of a host's network namespace, as `ip netns` has it.
pub(super) fn namespace(number: u8) -> String {
    format!("host{number}")
}

/// Of the addresses that nobody sells (locally administered).
fn card_address(number: u8) -> String {
    format!("02:00:00:00:00:{number:02x}")
}

/// What makes another host known.
fn neighbour(number: u8) -> String {
    let (ipv4, ipv6, card) = (ipv4(number), ipv6(number), card_address(number));
    format!(
        "neighbour add {ipv4} lladdr {card} dev {CARD} nud permanent\n\
         neighbour add {ipv6} lladdr {card} dev {CARD} nud permanent\n"
    )
}

pub(super) fn ipv4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, FIRST + number)
}

/// The octet is written in decimal, so that it looks as in the IPv4 address.
pub(super) fn ipv6(number: u8) -> Ipv6Addr {
    let last = FIRST + number;
    format!("2001:db8::{last}").parse().expect("digits of an address")
}

/// Runs a command to its end.
fn feed(command: &mut Command, input: &str) {
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // Who reads nothing may be gone already.
    let _ = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("our child can be waited for");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} of\n{input}: {}\n{said}", output.status);
}
