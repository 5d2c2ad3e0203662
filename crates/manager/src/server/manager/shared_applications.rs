//! Requests about applications in a cluster: which of them every node carries out, and what all nodes have.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use topology::protocol::{Answer, NodeApplications, Request};
use topology::{NodeNumber, NodeState};

use super::cluster::Asker;
use super::{Manager, Step};

/// How long another node may take to say what it has.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

/// Whether it is carried out for the cluster, beside the manager's loop. What another node asks for is for this one alone.
pub(super) fn is_for_sharing(request: &Request, asker: Asker) -> bool {
    match asker {
        Asker::Command => matches!(
            request,
            Request::AppDeploy { .. }
                | Request::AppSwitch { .. }
                | Request::AppRemove { .. }
                | Request::AppRetire { .. }
                | Request::AppHold { .. }
                | Request::AppRelease { .. }
        ),
        Asker::Node => {
            matches!(request, Request::AppTake { .. } | Request::AppFollow { .. })
        }
    }
}

/// What one node asks of another about applications.
pub(super) fn may_be_asked(request: &Request) -> bool {
    matches!(
        request,
        Request::AppTake { .. }
            | Request::AppFollow { .. }
            | Request::AppRemove { version: Some(_), .. }
            | Request::AppHold { .. }
            | Request::AppRelease { .. }
            | Request::NodeApplications
    )
}

impl Manager {
    /// What follows from what the cluster has: for another node, or for this one's own deployment.
    pub(super) fn share(
        &mut self,
        node: Option<NodeNumber>,
        request: Request,
        reply: mpsc::Sender<Answer>,
    ) -> Step {
        match (node, &mut self.cluster) {
            (None, _) => self.carry_out_request(request, reply),
            (Some(number), Some(cluster)) => {
                cluster.pass_on(number, request, reply);
                Step::Going
            }
            (Some(_), None) => {
                let reason = "this node is in no cluster any more".to_owned();
                // Whoever asked may have gone.
                let _ = reply.try_send(Answer::Refused { reason });
                Step::Going
            }
        }
    }

    /// What this node has.
    pub(super) fn node_applications(&self) -> NodeApplications {
        let repository = self.repository.as_ref();
        NodeApplications {
            node: self.table.view().node.clone(),
            away: None,
            applications: self.applications.status(),
            behind: repository.map(|repository| repository.behind()).unwrap_or_default(),
        }
    }

    /// What each node has: asked at once, and not waited for for long.
    pub(super) fn ask_all_of_applications(&mut self, reply: mpsc::Sender<Answer>) {
        let own = self.node_applications();
        let nodes = self.whole_view().nodes;
        let mut asked = Vec::new();
        if let Some(cluster) = &mut self.cluster {
            let own = cluster.number();
            for node in nodes.into_iter().filter(|node| node.number != own) {
                let (sender, answers) = mpsc::channel(1);
                if node.state == NodeState::Up {
                    cluster.pass_on(node.number, Request::NodeApplications, sender);
                }
                asked.push((node, answers));
            }
        }
        tokio::spawn(async move {
            let mut all = vec![own];
            for (node, mut answers) in asked {
                let away = match timeout(ANSWERED_WITHIN, answers.recv()).await {
                    Ok(Some(Answer::NodeApplications(one))) => {
                        all.push(one);
                        continue;
                    }
                    Ok(Some(Answer::Refused { reason })) => reason,
                    Ok(Some(other)) => format!("{other:?}"),
                    Ok(None) => "it is lost".to_owned(),
                    Err(_) => "it does not answer".to_owned(),
                };
                let away = Some(away);
                all.push(NodeApplications { node: node.name, away, ..NodeApplications::default() });
            }
            // Whoever asked may have gone.
            let _ = reply.send(Answer::ClusterApplications(all)).await;
        });
    }
}
