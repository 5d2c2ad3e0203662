//! Where the records of a cluster's store lie, and who can have them: primaries, copies, failovers, and the quota.
//!
//! As the engine for several hosts does it (its module says why no acknowledged write is lost so): each shard has a primary
//! and a copy on another host. Whoever does not reach the primary waits, as long as his patience lasts. A primary that
//! does not hear most of the hosts answers nobody, and its copy takes over after a while. A write that the copy did not
//! acknowledge is in doubt; when the copy is known to be missing it is refused, until there is another copy. Which of
//! the writes in doubt stand is chance: the records themselves are kept once, so that they cannot fork.
//!
//! Two nodes have a third host that votes and holds nothing.

use std::time::Duration;

use crate::cables::{Cables, Net};
use crate::random::Random;
use crate::schedule::Moment;

/// How long the client of the engine goes on trying.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How soon it tries again.
pub const TRIES_EVERY: Duration = Duration::from_millis(50);
/// How long a failover takes.
const FAILOVER: (Duration, Duration) = (Duration::from_millis(150), Duration::from_millis(2_500));
/// How long it takes until a copy is known to be missing.
const FLAGGING: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(1_500));
/// How long it takes until another host has a copy instead.
const COPYING: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(6));

/// What whoever asks now gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// What he asked for.
    Granted,
    /// A refusal: there are too few copies. Only writes.
    BelowQuota,
    /// It may be done or not, and nobody will tell him. Only writes.
    InDoubt,
    /// Nothing yet.
    Later,
}

#[derive(Debug)]
struct Shard {
    primary: usize,
    copy: usize,
    /// The primary has no majority; when the copy takes over.
    takes_over_at: Option<Moment>,
    /// The copy does not hear the primary; when that is known, and when another host has one.
    missing: Option<(Moment, Moment)>,
    /// The process is down, while its host is well; until when it is not missed by the hosts.
    is_primary_down: bool,
}

/// The shards of a cluster's store.
#[derive(Debug)]
pub struct Shards {
    nodes: usize,
    shards: Vec<Shard>,
    random: Random,
}

impl Shards {
    /// One for each node, each with its copy on the next.
    pub fn new(nodes: usize, random: Random) -> Shards {
        let shard = |primary| Shard {
            primary,
            copy: (primary + 1) % nodes,
            takes_over_at: None,
            missing: None,
            is_primary_down: false,
        };
        Shards { nodes, shards: (0..nodes).map(shard).collect(), random }
    }

    /// How many hosts there are: nodes, and who votes only.
    pub fn hosts(&self) -> usize {
        self.nodes.max(3)
    }

    /// A primary's process dies; its host is well.
    pub fn kill_primary(&mut self, shard: usize) {
        self.shards[shard].is_primary_down = true;
    }

    /// Time passes, and cables are as they are.
    pub fn look(&mut self, now: Moment, cables: &Cables) {
        let hosts = self.hosts();
        for shard in &mut self.shards {
            let serves = !shard.is_primary_down && has_majority(shard.primary, hosts, cables);
            if serves {
                shard.takes_over_at = None;
            } else {
                let random = &mut self.random;
                let due = || now + random.between(FAILOVER.0, FAILOVER.1);
                let at = *shard.takes_over_at.get_or_insert_with(due);
                // A copy that lacks what was acknowledged is none.
                if at <= now && shard.missing.is_none() && has_majority(shard.copy, hosts, cables) {
                    std::mem::swap(&mut shard.primary, &mut shard.copy);
                    (shard.takes_over_at, shard.is_primary_down) = (None, false);
                }
            }
            // A copy falls behind only while there is a primary that serves.
            let serves = !shard.is_primary_down && has_majority(shard.primary, hosts, cables);
            if cables.join(Net::Store, shard.primary, shard.copy) {
                shard.missing = None;
            } else if serves {
                let random = &mut self.random;
                let (_, copied_at) = *shard.missing.get_or_insert_with(|| {
                    let flagged_at = now + random.between(FLAGGING.0, FLAGGING.1);
                    (flagged_at, flagged_at + random.between(COPYING.0, COPYING.1))
                });
                let joins = |host: &usize| {
                    *host != shard.primary && cables.join(Net::Store, shard.primary, *host)
                };
                if copied_at <= now
                    && let Some(host) = (0..self.nodes).find(joins)
                {
                    (shard.copy, shard.missing) = (host, None);
                }
            }
        }
    }

    /// What a process on that host gets of the shard with that hash; None: of all of them.
    pub fn access(
        &mut self,
        from: usize,
        hash: Option<u64>,
        is_commit: bool,
        now: Moment,
        cables: &Cables,
    ) -> Access {
        self.look(now, cables);
        let hosts = self.hosts();
        let of_one = |shard: &Shard| {
            let serves = !shard.is_primary_down && has_majority(shard.primary, hosts, cables);
            let reaches = !shard.is_primary_down && cables.join(Net::Store, from, shard.primary);
            let is_flagged = shard.missing.is_some_and(|(flagged_at, _)| flagged_at <= now);
            match (reaches, serves, shard.missing.is_some()) {
                (true, true, false) => Access::Granted,
                (true, true, true) if is_flagged && is_commit => Access::BelowQuota,
                (true, true, true) if is_flagged => Access::Granted,
                (true, _, _) if is_commit => Access::InDoubt,
                (true, _, _) | (false, _, _) => Access::Later,
            }
        };
        match hash {
            Some(hash) => of_one(&self.shards[(hash % self.nodes as u64) as usize]),
            None => self.shards.iter().map(of_one).max().unwrap_or(Access::Granted),
        }
    }
}

fn has_majority(host: usize, hosts: usize, cables: &Cables) -> bool {
    let heard = (0..hosts).filter(|other| cables.join(Net::Store, host, *other)).count();
    2 * heard > hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Moment = Moment::from_secs(20);

    fn shards(nodes: usize) -> Shards {
        Shards::new(nodes, Random::new(1))
    }

    #[test]
    fn a_primary_without_a_majority_grants_nobody_anything_and_its_copy_takes_over() {
        let (mut shards, mut cables) = (shards(3), Cables::default());
        let ways = [(0, 1), (0, 2), (1, 0), (2, 0)].map(|(from, to)| (Net::Store, from, to));
        let cut = cables.cut(ways.to_vec());
        let get = |shards: &mut Shards, cables: &Cables, from, now, is_commit| {
            shards.access(from, Some(0), is_commit, now, cables)
        };
        for (from, is_commit, access) in [
            (0, true, Access::InDoubt),
            (0, false, Access::Later),
            (1, true, Access::Later),
            (1, false, Access::Later),
        ] {
            assert_eq!(get(&mut shards, &cables, from, Moment::ZERO, is_commit), access);
        }
        shards.look(FAILOVER.1, &cables);
        shards.look(FAILOVER.1 + FLAGGING.0 + FLAGGING.1, &cables);
        let now = FAILOVER.1 + FLAGGING.0 + FLAGGING.1;
        assert_eq!(get(&mut shards, &cables, 1, now, false), Access::Granted);
        assert_eq!(get(&mut shards, &cables, 1, now, true), Access::BelowQuota);
        assert_eq!(
            get(&mut shards, &cables, 1, LATER, true),
            Access::Granted,
            "copied to the third"
        );
        assert_eq!(get(&mut shards, &cables, 0, LATER, false), Access::Later);
        cables.mend(cut);
        assert_eq!(get(&mut shards, &cables, 0, LATER, true), Access::Granted);
    }

    #[test]
    fn of_two_nodes_one_goes_on_with_the_vote_of_the_third_and_writes_nothing_alone() {
        let (mut shards, mut cables) = (shards(2), Cables::default());
        cables.set_dark(0, true);
        let mut now = Moment::ZERO;
        while now < LATER {
            shards.look(now, &cables);
            now += TRIES_EVERY;
        }
        assert_eq!(shards.access(1, None, false, now, &cables), Access::Granted);
        assert_eq!(shards.access(1, None, true, now, &cables), Access::BelowQuota);
        cables.set_dark(0, false);
        assert_eq!(shards.access(1, None, true, now, &cables), Access::Granted);
    }

    #[test]
    fn a_killed_primary_is_followed_by_its_copy() {
        let (mut shards, cables) = (shards(3), Cables::default());
        shards.kill_primary(1);
        assert_eq!(shards.access(0, Some(1), true, Moment::ZERO, &cables), Access::Later);
        assert_eq!(shards.access(0, Some(0), true, Moment::ZERO, &cables), Access::Granted);
        assert_eq!(shards.access(0, Some(1), true, LATER, &cables), Access::Granted);
    }
}
