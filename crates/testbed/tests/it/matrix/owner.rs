//! Which container a call belongs to, computed as the edges compute it (DESIGN: choosing a container, rule 2).

use testbed::node::Node;
use topology::choice::{BucketTable, Candidate, ChoiceKey};
use topology::view::WEIGHT_DEFAULT;
use topology::{Incarnation, ProcessName};

/// Knows the Call-IDs of one container.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    table: BucketTable,
    victim: ProcessName,
}

impl Owner {
    /// The calls of `victim` among the containers of a node that are all ready.
    pub(crate) fn of(node: &Node, victim: &str) -> Owner {
        let containers = node.status().processes.into_iter();
        let candidates: Vec<Candidate> = containers
            .filter(|process| process.process_type == "container")
            .map(|process| Candidate {
                name: ProcessName::new(process.name),
                // Names and weights decide; the life does not.
                incarnation: Incarnation::NONE,
                weight: WEIGHT_DEFAULT,
            })
            .collect();
        assert!(candidates.len() >= 2, "nobody could take over");
        Owner { table: BucketTable::build(&candidates), victim: ProcessName::new(victim) }
    }

    /// A Call-ID that begins like this and belongs to the victim.
    pub(crate) fn call_id(&self, start: &str) -> String {
        (0..)
            .map(|number| format!("{start}-{number}"))
            .find(|call_id| {
                let first = self.table.choose(ChoiceKey::CallId(call_id.as_bytes())).first;
                first.is_some_and(|first| self.table.candidates()[first].name == self.victim)
            })
            .expect("every second Call-ID belongs to it")
    }
}
