//! Who may have another connection: counts per remote network and in total. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use super::limits::TcpLimits;

/// Why a connection is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The worker has all the connections it may have.
    Total,
    /// That remote network has all the connections it may have.
    PerRemote,
}

/// Connections counted. Inbound ones count for their network and in total, outbound ones in total
/// only: we chose them.
#[derive(Debug, Default)]
pub(super) struct Admission {
    total: usize,
    inbound: HashMap<IpAddr, usize>,
}

impl Admission {
    /// Counts an inbound connection in, or says why not.
    pub(super) fn admit_inbound(
        &mut self,
        remote: IpAddr,
        limits: &TcpLimits,
    ) -> Result<(), Refusal> {
        let network = network(remote);
        let from_there = self.inbound.get(&network).copied().unwrap_or(0);
        if self.total >= limits.connections_max {
            return Err(Refusal::Total);
        }
        if from_there >= limits.connections_per_remote_max {
            return Err(Refusal::PerRemote);
        }
        self.total += 1;
        self.inbound.insert(network, from_there + 1);
        Ok(())
    }

    /// Counts an outbound connection in, or says why not.
    pub(super) fn admit_outbound(&mut self, limits: &TcpLimits) -> Result<(), Refusal> {
        if self.total >= limits.connections_max {
            return Err(Refusal::Total);
        }
        self.total += 1;
        Ok(())
    }

    /// Counts an inbound connection out.
    pub(super) fn release_inbound(&mut self, remote: IpAddr) {
        self.total -= 1;
        let network = network(remote);
        // The entry goes with its last connection, so the map is no longer than the slab.
        match self.inbound.get_mut(&network) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => {
                self.inbound.remove(&network);
            }
            None => unreachable!("released without having been admitted"),
        }
    }

    /// Counts an outbound connection out.
    pub(super) fn release_outbound(&mut self) {
        self.total -= 1;
    }

    /// Connections of both directions.
    pub(super) fn total(&self) -> usize {
        self.total
    }
}

/// Whoever has one IPv6 address usually has the 2^64 beside it, so they count together.
fn network(remote: IpAddr) -> IpAddr {
    match remote {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(total: usize, per_remote: usize) -> TcpLimits {
        TcpLimits {
            connections_max: total,
            connections_per_remote_max: per_remote,
            ..TcpLimits::default()
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn one_remote_is_refused_over_its_limit_and_others_are_not() {
        let (mut admission, limits) = (Admission::default(), limits(10, 2));
        assert_eq!(admission.admit_inbound(ip("192.0.2.1"), &limits), Ok(()));
        assert_eq!(admission.admit_inbound(ip("192.0.2.1"), &limits), Ok(()));
        assert_eq!(admission.admit_inbound(ip("192.0.2.1"), &limits), Err(Refusal::PerRemote));
        assert_eq!(admission.admit_inbound(ip("192.0.2.2"), &limits), Ok(()));
        admission.release_inbound(ip("192.0.2.1"));
        assert_eq!(admission.admit_inbound(ip("192.0.2.1"), &limits), Ok(()));
    }

    #[test]
    fn the_total_counts_both_directions() {
        let (mut admission, limits) = (Admission::default(), limits(2, 2));
        assert_eq!(admission.admit_outbound(&limits), Ok(()));
        assert_eq!(admission.admit_inbound(ip("192.0.2.1"), &limits), Ok(()));
        assert_eq!(admission.admit_inbound(ip("192.0.2.2"), &limits), Err(Refusal::Total));
        assert_eq!(admission.admit_outbound(&limits), Err(Refusal::Total));
        admission.release_outbound();
        assert_eq!(admission.admit_inbound(ip("192.0.2.2"), &limits), Ok(()));
    }

    #[test]
    fn ipv6_neighbours_of_one_64_count_together() {
        let (mut admission, limits) = (Admission::default(), limits(10, 1));
        assert_eq!(admission.admit_inbound(ip("2001:db8:0:1::1"), &limits), Ok(()));
        assert_eq!(
            admission.admit_inbound(ip("2001:db8:0:1:ffff::2"), &limits),
            Err(Refusal::PerRemote)
        );
        assert_eq!(admission.admit_inbound(ip("2001:db8:0:2::1"), &limits), Ok(()));
    }

    #[test]
    fn nothing_is_remembered_of_remotes_that_left() {
        let (mut admission, limits) = (Admission::default(), limits(10, 2));
        for last in 0..=255 {
            let remote = IpAddr::from([198, 51, 100, last]);
            assert_eq!(admission.admit_inbound(remote, &limits), Ok(()));
            admission.release_inbound(remote);
        }
        assert_eq!((admission.total(), admission.inbound.len()), (0, 0));
    }
}
