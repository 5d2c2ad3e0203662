//! What edges see of containers of other nodes: told to the managers of those, who judge it.

use topology::{NodeNumber, ProcessName};
use tracing::warn;

use super::ClusterNode;
use crate::process_table::Event;
use crate::server::peers::protocol::{ToPeer, Witness};

impl ClusterNode {
    /// What an edge of this node has seen of a container of another one is for that node to hear.
    pub(in crate::server) fn pass_on_witness(&self, event: &Event) {
        let (Event::Unresponsive { reporter, name, incarnation }
        | Event::Responsive { reporter, name, incarnation }) = event
        else {
            return;
        };
        let Some(Ok((number, container))) = self.addressed(name) else { return };
        let seen = Witness { edge: reporter.clone(), container, incarnation: *incarnation };
        let said = match event {
            Event::Unresponsive { .. } => ToPeer::Unresponsive(seen),
            _ => ToPeer::Responsive(seen),
        };
        if let Some((_, outbound)) = self.sessions.get(&number)
            && outbound.try_send(said).is_err()
        {
            warn!(%name, "its node does not read what is seen of it");
        }
    }

    /// What another node's edge has seen, as if one of this node had said so.
    pub(super) fn witnessed(
        &self,
        number: NodeNumber,
        said: &Witness,
        is_responsive: bool,
    ) -> Event {
        let reporter = ProcessName::of_node(&said.edge, &self.name_of(number));
        let (name, incarnation) = (said.container.clone(), said.incarnation);
        match is_responsive {
            true => Event::Responsive { reporter, name, incarnation },
            false => Event::Unresponsive { reporter, name, incarnation },
        }
    }
}
