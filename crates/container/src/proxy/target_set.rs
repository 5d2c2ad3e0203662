//! Orders the targets of a request: who is tried together, who only after others failed
//! (RFC 3261 §16.5-16.6).
//!
//! Targets become callees: one callee is one phone, reached by one or more flows. Callees of equal q form a
//! group that is tried in parallel; groups follow each other by falling q. Of one phone (one
//! `+sip.instance`) never two flows are tried at a time; the next one follows only when a flow has failed
//! (RFC 5626 §5.3, §7), which the proxy context decides.
//!
//! Deliberately absent: contacts of 3xx responses (Outlast passes redirections on), URI equivalence (the
//! registrar keeps one binding per contact; here only exact repetitions are dropped).

use std::collections::VecDeque;

use crate::application::{QValue, TARGETS_MAX, Target};

/// The callees that were not tried yet, in groups of falling q.
#[derive(Debug)]
pub(super) struct TargetSet {
    groups: VecDeque<Vec<Callee>>,
}

/// One phone: its flows, best first. Never empty inside a [`TargetSet`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Callee {
    flows: VecDeque<Target>,
}

impl Callee {
    /// The best flow that was not tried yet.
    pub(super) fn next_flow(&mut self) -> Option<Target> {
        self.flows.pop_front()
    }

    /// Whether there is a flow that was not tried yet.
    pub(super) fn has_further_flow(&self) -> bool {
        !self.flows.is_empty()
    }

    fn instance(&self) -> Option<&[u8]> {
        self.flows.front()?.instance.as_deref()
    }

    /// The q of a phone is that of its best flow: a phone that failed is not tried again later only because
    /// another of its flows has a lower q (RFC 5626 §7).
    fn q(&self) -> QValue {
        self.flows.front().map_or(QValue::ONE, |best| best.q)
    }
}

impl TargetSet {
    /// Sorts by falling q, keeping the given order among equals; exact repetitions are dropped, and of more
    /// than [`TARGETS_MAX`] the lowest.
    pub(super) fn new(mut targets: Vec<Target>) -> TargetSet {
        targets.sort_by_key(|target| std::cmp::Reverse(target.q));
        targets.truncate(TARGETS_MAX);
        let mut callees: Vec<Callee> = Vec::with_capacity(targets.len());
        for target in targets {
            // RFC 3261 §16.5: a URI is in the target set only once. (Quadratic in at most TARGETS_MAX.)
            let same_place =
                |known: &Target| known.uri == target.uri && known.route == target.route;
            if callees.iter().any(|callee| callee.flows.iter().any(same_place)) {
                continue;
            }
            let same_phone = callees.iter_mut().find(|callee| {
                target.instance.is_some() && callee.instance() == target.instance.as_deref()
            });
            match same_phone {
                Some(callee) => callee.flows.push_back(target),
                None => callees.push(Callee { flows: VecDeque::from([target]) }),
            }
        }
        let mut groups: VecDeque<Vec<Callee>> = VecDeque::new();
        for callee in callees {
            match groups.back_mut() {
                Some(group) if group[0].q() == callee.q() => group.push(callee),
                _ => groups.push_back(vec![callee]),
            }
        }
        TargetSet { groups }
    }

    /// The callees to try next, together; None when all have been.
    pub(super) fn next_group(&mut self) -> Option<Vec<Callee>> {
        self.groups.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(uri: &str, q: u16, instance: &str) -> Target {
        Target {
            q: QValue::from_thousandths(q),
            instance: (!instance.is_empty()).then(|| instance.to_owned().into()),
            ..Target::new(uri.to_owned())
        }
    }

    /// Uri, q in thousandths, instance or nothing.
    type Given = (&'static str, u16, &'static str);

    /// Groups separated by `|`, callees by a blank, flows of a callee by `>`.
    fn order(targets: Vec<Target>) -> String {
        let mut set = TargetSet::new(targets);
        let mut groups = Vec::new();
        while let Some(group) = set.next_group() {
            let callees: Vec<String> = group
                .into_iter()
                .map(|mut callee| {
                    std::iter::from_fn(|| callee.next_flow())
                        .map(|flow| String::from_utf8_lossy(&flow.uri).into_owned())
                        .collect::<Vec<_>>()
                        .join(">")
                })
                .collect();
            groups.push(callees.join(" "));
        }
        groups.join(" | ")
    }

    #[test]
    fn groups_follow_falling_q_and_equals_keep_their_order() {
        let cases: [(&[Given], &str); 7] = [
            (&[], ""),
            (&[("a", 1000, "")], "a"),
            (&[("a", 1000, ""), ("b", 1000, "")], "a b"),
            (&[("a", 500, ""), ("b", 1000, ""), ("c", 500, "")], "b | a c"),
            (&[("a", 0, ""), ("b", 1, ""), ("c", 2, "")], "c | b | a"),
            // One instance is one callee, at the q of its best flow.
            (&[("a", 1000, "x"), ("b", 1000, "y"), ("c", 1000, "x")], "a>c b"),
            (&[("a", 300, "x"), ("b", 700, "y"), ("c", 900, "x")], "c>a | b"),
        ];
        for (targets, expected) in cases {
            let targets =
                targets.iter().map(|(uri, q, instance)| target(uri, *q, instance)).collect();
            assert_eq!(order(targets), expected);
        }
    }

    #[test]
    fn target_named_twice_is_tried_once() {
        let through_another_edge =
            Target { route: vec!["<sip:f2@edge2;lr>".into()], ..target("a", 1000, "") };
        let targets = vec![
            target("a", 1000, ""),
            target("a", 1000, ""),
            target("a", 500, ""),
            through_another_edge,
        ];
        assert_eq!(order(targets), "a a");
    }

    #[test]
    fn more_targets_than_allowed_lose_the_lowest_q() {
        let targets = (0..=TARGETS_MAX)
            .map(|index| target(&format!("t{index}"), if index == 3 { 1 } else { 1000 }, ""))
            .collect();
        let order = order(targets);
        assert_eq!(order.split(' ').count(), TARGETS_MAX);
        assert!(!order.contains('|') && !order.contains("t3 "), "{order}");
    }
}
