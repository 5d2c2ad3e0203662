//! What goes on while faults come, and what of it is lost, by its kind.

use std::fmt;
use std::net::SocketAddr;

use testbed::lab::Host;
use testbed::members::Members;
use testbed::wait;

use super::bindings::{Bindings, Refreshes};
use super::writes::{Doors, WriteTally, Writes};
use crate::faults::number;
use crate::http::guests::write_desk;
use crate::kills::calls::{Callers, Calls, Tally, Way};
use crate::world::{DOMAIN, LIMIT};

/// How much there is in all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) bindings: usize,
    pub(super) calls_per_second: usize,
    pub(super) sessions: usize,
}

impl Size {
    /// By the environment; else little.
    pub(super) fn asked_for() -> Size {
        let asked = |name, otherwise| number(name).map_or(otherwise, |number| number as usize);
        Size {
            bindings: asked("OUTLAST_TRIAL_BINDINGS", 400),
            calls_per_second: asked("OUTLAST_TRIAL_CALLS", 6),
            sessions: 20,
        }
    }
}

/// Nodes that know the same phones and sessions: the members of a cluster, or one node that is single.
pub(super) struct Group {
    members: Vec<usize>,
    edges: Vec<SocketAddr>,
    doors: Doors,
}

impl Group {
    /// The group of these members, with an application that counts.
    ///
    /// # Panics
    /// When that cannot be deployed.
    pub(super) fn new(members: &Members<'_>, of: &[usize]) -> Group {
        let sources = tempfile::tempdir().expect("a temporary directory");
        let desk = write_desk(sources.path(), DOMAIN);
        // One is enough: whoever belongs to the group hears of it.
        let said = members.node(of[0]).outlast(&["app", "deploy", desk.to_str().expect("text")]);
        assert!(said.status.success(), "{said:?}");
        for member in of {
            wait::until("the application to be there", LIMIT, || {
                let said = members.node(*member).outlast(&["app", "list", "--json"]);
                let listed = String::from_utf8_lossy(&said.stdout).contains("\"desk\"");
                if listed { Ok(()) } else { Err(said) }
            });
        }
        let edges = of.iter().map(|member| members.node(*member).sip("udp")).collect();
        let group = Group { members: of.to_vec(), edges, doors: Doors::default() };
        group.look_for_doors(members);
        group
    }

    /// From each edge to a phone that has flows by the next two, as far as there are others.
    fn ways(&self) -> Vec<Way> {
        let count = self.edges.len();
        let way = |number: usize| {
            let edge = |more| self.edges[(number + more) % count];
            let flows = (1..count.min(3)).map(edge);
            let callee: Vec<SocketAddr> = flows.collect();
            let caller = self.edges[number];
            Way { caller, callee: if callee.is_empty() { vec![caller] } else { callee } }
        };
        (0..count).map(way).collect()
    }

    fn look_for_doors(&self, members: &Members<'_>) {
        let containers = |member: &usize| {
            ["container1", "container2"].map(|name| {
                wait::until("where a container serves HTTP", LIMIT, || {
                    let process = members.node(*member).process(name);
                    process.http.ok_or(process)
                })
            })
        };
        self.doors.are(self.members.iter().flat_map(containers).collect());
    }
}

/// All that goes on.
pub(super) struct Load<'l> {
    host: &'l Host,
    groups: Vec<Running>,
}

struct Running {
    group: Group,
    bindings: Bindings,
    calls: Calls,
    writes: Writes,
}

impl<'l> Load<'l> {
    /// Begins all of it, from this host, each group with its share.
    ///
    /// # Panics
    /// When something cannot be begun while there is no fault yet.
    pub(super) fn begin(
        host: &'l Host,
        groups: Vec<Group>,
        size: Size,
        agent: &str,
        callers: Callers,
    ) -> Load<'l> {
        let share = |whole: usize| whole.div_ceil(groups.len());
        let (bindings, sessions) = (share(size.bindings), share(size.sessions));
        // A pair calls every two seconds.
        let pairs = share(size.calls_per_second * 2);
        let begin = |group: Group| {
            let (bindings, calls) = host.block_on(async {
                let bindings = Bindings::begin(&group.edges, bindings).await;
                (bindings, Calls::begin(&group.ways(), agent, pairs, callers).await)
            });
            let writes = host.enter(|| Writes::begin(group.doors.clone(), sessions));
            Running { group, bindings, calls, writes }
        };
        Load { host, groups: groups.into_iter().map(begin).collect() }
    }

    /// Containers may serve HTTP elsewhere since the last fault.
    pub(super) fn look_for_doors(&self, members: &Members<'_>) {
        self.groups.iter().for_each(|running| running.group.look_for_doors(members));
    }

    /// The bindings that one member of each group does not know now, another one each `turn`.
    pub(super) fn lost_bindings(&self, members: &Members<'_>, turn: usize) -> usize {
        let lost = |running: &Running| {
            let all = &running.group.members;
            running.bindings.lost(members, all[turn % all.len()]).len()
        };
        self.groups.iter().map(lost).sum()
    }

    /// Begins nothing more, waits for what is under way, and counts what is lost.
    pub(super) fn end(self, members: &Members<'_>) -> Losses {
        let mut losses = Losses::default();
        for Running { group, mut bindings, calls, writes } in self.groups {
            let (tally, refreshes) =
                self.host.block_on(async { (calls.end().await, bindings.end().await) });
            losses.calls.add(tally);
            losses.refreshes.push(refreshes);
            losses.writes.add(writes.end());
            losses.bindings_of += bindings.count();
            // Each of them must know all that the group knows.
            for member in &group.members {
                losses.bindings.extend(bindings.lost(members, *member));
            }
        }
        losses
    }
}

/// What was lost.
#[derive(Debug, Default)]
pub(super) struct Losses {
    pub(super) calls: Tally,
    pub(super) writes: WriteTally,
    pub(super) bindings: Vec<String>,
    pub(super) bindings_of: usize,
    /// Of each group.
    pub(super) refreshes: Vec<Refreshes>,
}

impl Losses {
    /// # Panics
    /// When there are any, with what happened.
    pub(super) fn assert_none(&self) {
        assert!(self.calls.whole > 0, "no call came up at all");
        assert!(self.writes.acknowledged > 0, "nothing was written at all");
        let lost = [&self.calls.losses, &self.writes.lost, &self.bindings];
        let lost: Vec<&String> = lost.into_iter().flatten().collect();
        assert!(lost.is_empty(), "lost:\n{lost:#?}");
    }
}

impl fmt::Display for Losses {
    /// As rows of a table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = self.calls.whole + self.calls.losses.len();
        let established = self.calls.established_lost;
        writeln!(f, "| of | | lost |\n|---|---|---|")?;
        writeln!(f, "| established calls | {calls} | {established} |")?;
        let others = self.calls.losses.len() - established;
        writeln!(f, "| calls being set up, or out of order | {calls} | {others} |")?;
        writeln!(f, "| bindings | {} | {} |", self.bindings_of, self.bindings.len())?;
        let written = self.writes.acknowledged;
        writeln!(f, "| session writes, acknowledged | {written} | {} |", self.writes.lost.len())
    }
}
