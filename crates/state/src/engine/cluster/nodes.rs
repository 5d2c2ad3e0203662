//! `CLUSTER NODES` → who owns which slot, as the answers of several nodes together say. Pure.
//!
//! A node that was cut off or stopped tells of the past. Each claim of a slot comes with the owner's configuration epoch,
//! which grows with every failover and every move: the highest one holds.
//! Source: Redis cluster specification, "Hash slots configuration propagation".

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::layout::SLOTS;

/// A node's own name, 40 hexadecimal digits.
pub(super) type NodeId = Arc<str>;

/// One line: what one node says of another one, or of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeLine {
    pub(super) id: NodeId,
    /// `None`: not known, or not told to us.
    pub(super) address: Option<SocketAddr>,
    /// The one that answered.
    pub(super) is_myself: bool,
    /// The majority holds it failed.
    pub(super) is_failed: bool,
    /// `None`: a primary.
    pub(super) replica_of: Option<NodeId>,
    pub(super) epoch: u64,
    pub(super) slots: Vec<RangeInclusive<u16>>,
}

/// What one node says.
pub(super) type View = Vec<NodeLine>;

/// Takes an answer apart; lines that cannot be understood are left out. `asked` is the address of the node that answered:
/// a node that has met nobody yet does not know its own.
pub(super) fn parse(text: &str, asked: SocketAddr) -> View {
    text.lines().filter_map(|line| parse_line(line, asked)).collect()
}

fn parse_line(line: &str, asked: SocketAddr) -> Option<NodeLine> {
    let mut fields = line.split(' ');
    let (id, address, flags) = (fields.next()?, fields.next()?, fields.next()?);
    let primary = fields.next()?;
    let epoch = fields.nth(2)?.parse().ok()?;
    fields.next()?; // the state of the link
    let flag = |name| flags.split(',').any(|flag| flag == name);
    if flag("handshake") {
        return None; // its name is not its own yet
    }
    let is_myself = flag("myself");
    let address = if flag("noaddr") { None } else { parse_address(address) };
    Some(NodeLine {
        id: id.into(),
        address: if is_myself { address.or(Some(asked)) } else { address },
        is_myself,
        is_failed: flag("fail"),
        replica_of: (primary != "-").then(|| primary.into()),
        epoch,
        slots: fields.filter_map(parse_slots).collect(),
    })
}

/// `192.0.2.1:6379@16379`, with or without names behind a comma.
fn parse_address(field: &str) -> Option<SocketAddr> {
    let client = field.split(['@', ',']).next()?;
    let (ip, port) = client.rsplit_once(':')?;
    let (ip, port) = (ip.trim_matches(['[', ']']).parse::<IpAddr>().ok()?, port.parse().ok()?);
    (port != 0).then(|| SocketAddr::new(ip, port))
}

/// `0-5460` or `7`; slots that are on their way (`[93-<-…]`) are told by their owner as well.
fn parse_slots(field: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = field.split_once('-').unwrap_or((field, field));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < SLOTS).then_some(first..=last)
}

/// What all views together say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Picture {
    /// Every node with a known address.
    pub(super) nodes: BTreeMap<NodeId, Known>,
    owners: HashMap<u16, NodeId>,
}

/// A node of a [`Picture`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) address: SocketAddr,
    pub(super) is_failed: bool,
    pub(super) replica_of: Option<NodeId>,
    pub(super) slots: usize,
}

impl Picture {
    /// Puts views together, those of `slots` that matter; the views are from the oldest to the newest.
    pub(super) fn of<'a>(
        views: impl IntoIterator<Item = &'a View> + Clone,
        slots: impl Iterator<Item = u16> + Clone,
    ) -> Self {
        let mut picture = Self::default();
        let mut claims: HashMap<u16, (u64, NodeId)> = HashMap::new();
        for line in views.clone().into_iter().flatten() {
            for slot in
                slots.clone().filter(|slot| line.slots.iter().any(|range| range.contains(slot)))
            {
                let claim = claims.entry(slot).or_insert_with(|| (line.epoch, line.id.clone()));
                if line.epoch >= claim.0 {
                    *claim = (line.epoch, line.id.clone());
                }
            }
            if let Some(address) = line.address {
                let slots = line.slots.iter().map(ExactSizeIterator::len).sum();
                let known = Known {
                    address,
                    is_failed: line.is_failed,
                    replica_of: line.replica_of.clone(),
                    slots,
                };
                // Who answers has not failed, and knows best what it is.
                let is_own_word =
                    |view: &&View| view.iter().any(|it| it.is_myself && it.id == line.id);
                if line.is_myself || !views.clone().into_iter().any(|view| is_own_word(&view)) {
                    picture.nodes.insert(line.id.clone(), known);
                }
            }
        }
        picture.owners = claims.into_iter().map(|(slot, (_, owner))| (slot, owner)).collect();
        picture
    }

    /// Who serves a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&NodeId> {
        self.owners.get(&slot)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const ASKED: &str = "127.0.0.1:7000";

    fn view(text: &str) -> View {
        parse(text, ASKED.parse().unwrap())
    }

    #[test]
    fn lines_are_taken_apart() {
        let text = "aa :7000@17000 myself,master - 0 0 3 connected 0-5460 7000 [93-<-bb]\n\
            bb 10.0.0.2:7001@17001,host.example master,fail - 1 2 4 disconnected 5461-6999\n\
            cc [2001:db8::1]:7002@17002 slave aa 1 2 3 connected\n\
            dd 10.0.0.4:7003@17003 master,fail? - 1 2 5 connected\n\
            ee :0@0 slave,noaddr bb 1 2 5 connected\n\
            ff 10.0.0.6:7005@17005 handshake - 1 2 0 connected\n\
            nonsense\n\
            gg 10.0.0.7:7006@17006 master - 1 2 6 connected 16383-16384 9-3";
        let view = view(text);
        let ids: Vec<&str> = view.iter().map(|line| &*line.id).collect();
        assert_eq!(ids, ["aa", "bb", "cc", "dd", "ee", "gg"]);
        assert_eq!(view[0].address, Some(ASKED.parse().unwrap()));
        assert_eq!(view[0].slots, [0..=5460, 7000..=7000]);
        assert!(view[0].is_myself && !view[0].is_failed && view[1].is_failed);
        assert_eq!(view[1].address, Some("10.0.0.2:7001".parse().unwrap()));
        assert_eq!(view[2].replica_of.as_deref(), Some("aa"));
        assert_eq!(view[2].address, Some("[2001:db8::1]:7002".parse().unwrap()));
        assert!(!view[3].is_failed, "one node's doubt is not the majority's word");
        assert_eq!(view[4].address, None);
        assert!(view[5].slots.is_empty());
    }

    #[test]
    fn the_highest_epoch_owns_a_slot_in_whatever_order_views_come() {
        let before = view(
            "aa 10.0.0.1:1@2 myself,master - 0 0 1 connected 0-9\nbb 10.0.0.2:1@2 slave aa 0 0 1 connected",
        );
        let after = view(
            "aa 10.0.0.1:1@2 master,fail - 0 0 1 connected\nbb 10.0.0.2:1@2 myself,master - 0 0 2 connected 0-9",
        );
        for views in [[&before, &after], [&after, &before]] {
            let picture = Picture::of(views, 0..10);
            assert_eq!(picture.owner(3).map(|id| &**id), Some("bb"));
            assert_eq!(picture.owner(10), None);
            assert_eq!(picture.nodes["bb"].replica_of, None);
            assert_eq!(picture.nodes["bb"].slots, 10);
        }
    }

    #[test]
    fn a_node_that_answers_has_not_failed() {
        let others = view("aa 10.0.0.1:1@2 master,fail - 0 0 1 connected 0-9");
        let own = view("aa 10.0.0.1:1@2 myself,master - 0 0 1 connected 0-9");
        assert!(Picture::of([&others], 0..1).nodes["aa"].is_failed);
        for views in [[&others, &own], [&own, &others]] {
            assert!(!Picture::of(views, 0..1).nodes["aa"].is_failed);
        }
    }
}
