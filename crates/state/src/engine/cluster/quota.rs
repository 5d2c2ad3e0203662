//! Whether a write has reached the copies that it must reach, as a primary's own words say. Pure.
//!
//! `WAIT` counts replicas that have received everything up to a write. When it counts too few, the missing replica is
//! either late (then one waits on: it may be the primary that is cut off, and its replica that serves by now) or given up:
//! the majority of the primaries has flagged it as failed, or the primary itself is sending it everything anew (it has no
//! copy yet, and it is with this primary that it talks). Only below that many does [`BelowQuota`] decide. A replica that
//! was given up counts again when it has caught up.

use std::net::SocketAddr;

use super::nodes::View;
use super::options::WriteQuota;

/// How far behind, in octets of the stream, a replica may be to count again.
const CAUGHT_UP_BYTES: u64 = 1 << 20;

/// What a primary says of its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Copies {
    /// Octets of its stream so far.
    pub(super) offset: u64,
    pub(super) replicas: Vec<Replica>,
}

/// One replica, as its primary sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replica {
    pub(super) address: Option<SocketAddr>,
    pub(super) is_failed: bool,
    pub(super) on_own_host: bool,
    pub(super) stream: Stream,
}

/// The stream from a primary to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// It has received so many octets.
    Online { offset: u64 },
    /// It is being sent everything.
    Syncing,
    /// There is none.
    Away,
}

impl Copies {
    /// Puts together what a primary answers to `CLUSTER NODES` and `INFO replication`.
    pub(super) fn of(view: &View, info: &str) -> Self {
        let Some(own) = view.iter().find(|line| line.is_myself) else { return Self::default() };
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
        let offset = field("master_repl_offset:").and_then(|it| it.trim().parse().ok());
        let streams: Vec<_> = info.lines().filter_map(parse_stream).collect();
        let replicas = view.iter().filter(|line| line.replica_of.as_ref() == Some(&own.id));
        let replicas = replicas.map(|line| Replica {
            address: line.address,
            is_failed: line.is_failed || line.address.is_none(),
            on_own_host: line.address.map(|at| at.ip()) == own.address.map(|at| at.ip()),
            stream: line
                .address
                .and_then(|address| streams.iter().find(|(at, _)| *at == address))
                .map_or(Stream::Away, |(_, stream)| *stream),
        });
        Self { offset: offset.unwrap_or(0), replicas: replicas.collect() }
    }

    fn counted(&self, quota: &WriteQuota) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(|replica| quota.own_host_counts || !replica.on_own_host)
    }

    /// How many copies can still be waited for.
    pub(super) fn awaited(&self, quota: &WriteQuota) -> usize {
        let given_up = |replica: &Replica| replica.is_failed || replica.stream == Stream::Syncing;
        self.counted(quota).filter(|replica| !given_up(replica)).count()
    }

    /// How many have all but the last moments.
    pub(super) fn caught_up(&self, quota: &WriteQuota) -> usize {
        let is_near = |replica: &&Replica| {
            let Stream::Online { offset } = replica.stream else { return false };
            !replica.is_failed && offset + CAUGHT_UP_BYTES >= self.offset
        };
        self.counted(quota).filter(is_near).count()
    }

    /// Acknowledgements that `WAIT` may count and that say nothing: it does not tell whose they are.
    pub(super) fn uncounted(&self, quota: &WriteQuota) -> usize {
        self.replicas.len() - self.counted(quota).count()
    }
}

/// `slave0:ip=192.0.2.2,port=6379,state=online,offset=42,lag=0`.
pub(super) fn parse_stream(line: &str) -> Option<(SocketAddr, Stream)> {
    let (name, fields) = line.trim().split_once(':')?;
    name.strip_prefix("slave")?.parse::<u32>().ok()?;
    let field = |name: &str| {
        fields.split(',').filter_map(|field| field.split_once('=')).find(|(key, _)| *key == name)
    };
    let value = |name| field(name).map(|(_, value)| value);
    let address = SocketAddr::new(value("ip")?.parse().ok()?, value("port")?.parse().ok()?);
    let stream = match value("state")? {
        "online" => Stream::Online { offset: value("offset")?.parse().ok()? },
        _ => Stream::Syncing,
    };
    Some((address, stream))
}

/// How a primary stands by its quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its replicas are awaited; `uncounted` acknowledgements do not count.
    Kept { uncounted: usize },
    /// Replicas are given up: so many are left to wait for.
    Below { awaited: usize, uncounted: usize },
}

impl Standing {
    /// When nothing is known yet, or when somebody was given up: a replica counts again only when it has caught up.
    pub(super) fn of(copies: &Copies, quota: &WriteQuota, before: Option<Self>) -> Self {
        let uncounted = copies.uncounted(quota);
        let (awaited, caught_up) = (copies.awaited(quota), copies.caught_up(quota));
        let is_kept = match before {
            Some(Self::Below { .. }) => caught_up >= quota.copies,
            Some(Self::Kept { .. }) | None => awaited >= quota.copies,
        };
        if is_kept {
            return Self::Kept { uncounted };
        }
        // Whoever is back but not yet near is not waited for.
        let was_below = matches!(before, Some(Self::Below { .. }));
        let awaited = if was_below { awaited.min(caught_up) } else { awaited };
        Self::Below { awaited, uncounted }
    }

    /// What `WAIT` must count.
    pub(super) fn needed(self, quota: &WriteQuota) -> usize {
        match self {
            _ if quota.copies == 0 => 0,
            Self::Kept { uncounted } => quota.copies + uncounted,
            Self::Below { awaited: 0, .. } => 0,
            Self::Below { awaited, uncounted } => awaited + uncounted,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::engine::cluster::nodes::parse;
    use crate::engine::cluster::options::BelowQuota;

    fn quota(copies: usize, own_host_counts: bool) -> WriteQuota {
        WriteQuota { copies, below: BelowQuota::Refuse, own_host_counts }
    }

    /// A primary with replicas on other hosts: flags, and what its `INFO` says of each.
    fn copies(replicas: &[(&str, &str)]) -> Copies {
        let mut nodes = "aa 10.0.0.1:1@2 myself,master - 0 0 1 connected 0-16383\n".to_owned();
        let mut info = "role:master\r\nmaster_repl_offset:5000000\r\n".to_owned();
        for (n, (flags, stream)) in replicas.iter().enumerate() {
            nodes += &format!("b{n} 10.0.0.{}:1@2 slave{flags} aa 0 0 1 connected\n", n + 2);
            if !stream.is_empty() {
                info += &format!("slave{n}:ip=10.0.0.{},port=1,{stream},lag=0\r\n", n + 2);
            }
        }
        nodes += "cc 10.0.0.9:1@2 master - 0 0 1 connected\n";
        Copies::of(&parse(&nodes, "10.0.0.1:1".parse().unwrap()), &info)
    }

    const NEAR: &str = "state=online,offset=4999000";
    const FAR: &str = "state=online,offset=1000";

    #[test]
    fn a_late_replica_is_waited_for_and_a_failed_one_is_not() {
        let quota = quota(1, false);
        let standing = |replicas: &[_]| Standing::of(&copies(replicas), &quota, None);
        let kept = Standing::Kept { uncounted: 0 };
        let below = Standing::Below { awaited: 0, uncounted: 0 };
        assert_eq!(standing(&[("", NEAR)]), kept);
        assert_eq!(standing(&[("", FAR)]), kept, "it may be the primary that is slow");
        assert_eq!(standing(&[("", "")]), kept, "it may be the primary that is cut off");
        assert_eq!(
            standing(&[(",fail?", "")]),
            kept,
            "one node's doubt is not the majority's word"
        );
        assert_eq!(standing(&[(",fail", "")]), below);
        assert_eq!(standing(&[("", "state=send_bulk,offset=0")]), below);
        assert_eq!(standing(&[]), below);
        assert_eq!(standing(&[(",fail", ""), ("", NEAR)]), kept);
    }

    #[test]
    fn who_was_given_up_counts_again_when_it_has_caught_up() {
        let quota = quota(1, false);
        let below = Standing::Below { awaited: 0, uncounted: 0 };
        let next = |replicas: &[_]| Standing::of(&copies(replicas), &quota, Some(below));
        assert_eq!(next(&[("", "")]), below);
        assert_eq!(next(&[("", "state=wait_bgsave,offset=0")]), below);
        assert_eq!(next(&[("", FAR)]), below);
        assert_eq!(next(&[("", NEAR)]), Standing::Kept { uncounted: 0 });
    }

    #[test]
    fn below_quota_the_others_are_still_waited_for() {
        let quota = quota(2, false);
        let standing = Standing::of(&copies(&[(",fail", ""), ("", NEAR)]), &quota, None);
        assert_eq!(standing, Standing::Below { awaited: 1, uncounted: 0 });
        assert_eq!(standing.needed(&quota), 1);
    }

    #[test]
    fn copies_on_the_primarys_host_do_not_count_unless_told() {
        let nodes = "aa 10.0.0.1:1@2 myself,master - 0 0 1 connected 0-16383\n\
            bb 10.0.0.1:2@3 slave aa 0 0 1 connected\n\
            cc 10.0.0.2:2@3 slave aa 0 0 1 connected";
        let copies = Copies::of(&parse(nodes, "10.0.0.1:1".parse().unwrap()), "");
        let elsewhere = Standing::of(&copies, &quota(1, false), None);
        assert_eq!(
            elsewhere.needed(&quota(1, false)),
            2,
            "one acknowledgement may be the wrong one"
        );
        let anywhere = Standing::of(&copies, &quota(1, true), None);
        assert_eq!(anywhere.needed(&quota(1, true)), 1);
        assert_eq!(Standing::of(&copies, &quota(0, false), None).needed(&quota(0, false)), 0);
    }
}
