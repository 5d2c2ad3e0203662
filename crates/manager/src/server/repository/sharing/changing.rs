//! An operator's change, from node to node: this one first, then the others one after the other; what fails on one is undone on
//! all. It is done when the record says so.
//!
//! One node changes applications at a time (a lock). Who dies meanwhile leaves a version noted that does not count: whoever sees
//! that nobody holds the lock takes the note away, and every node goes back to what the record says. A node that is lost is not
//! waited for; it follows when it is back.

use std::time::Duration;

use state::Expect;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use topology::protocol::{Answer, Request, RolloutPace, RolloutProgress};
use topology::{NodeEntry, NodeState};
use tracing::{info, warn};

use super::{Sharing, outcome, told};
use crate::repository::applications::{Coming, Shared, changed, given_up, unneeded};

/// A node that was asked and does not answer is found to be lost by then, if it is.
const LOST_WITHIN: Duration = Duration::from_secs(5);

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(100);

type Reply = mpsc::Sender<Answer>;

impl Sharing {
    /// Carries out what an operator asks for, on all nodes.
    pub(super) async fn change(&mut self, request: Request, reply: &Reply) -> Answer {
        if let Request::AppHold { .. } | Request::AppRelease { .. } = request {
            return self.hold_or_release(request).await;
        }
        let lock = match self.lock().await {
            Ok(lock) => lock,
            Err(reason) => return Answer::Refused { reason },
        };
        let answer = match request {
            Request::AppDeploy { pace, .. } | Request::AppSwitch { pace, .. } => {
                self.bring_in(request, pace, reply).await
            }
            request => told(self.take_away(request).await),
        };
        lock.release().await;
        answer
    }

    async fn bring_in(&mut self, request: Request, pace: RolloutPace, reply: &Reply) -> Answer {
        match self.bring_in_here(request, reply).await {
            Err(answer) => answer,
            Ok((name, version)) => match self.bring_in_there(&name, &version, pace, reply).await {
                Ok(()) => Answer::Done,
                Err(reason) => Answer::RolledBack { reason },
            },
        }
    }

    /// On this node, as on a single one; the application, and its version.
    async fn bring_in_here(
        &mut self,
        request: Request,
        reply: &Reply,
    ) -> Result<(String, String), Answer> {
        let refused = |reason| Answer::Refused { reason };
        self.store.catch_up(super::REACHED_WITHIN).await.map_err(|it| refused(it.to_string()))?;
        let before = self.here().map_err(refused)?;
        if let Request::AppDeploy { staged, .. } = &request {
            let all = self.shared().await.map_err(refused)?;
            self.has_room_for(staged, &all).await.map_err(refused)?;
        }
        match self.carry_out(request, Some(reply)).await {
            Answer::Done => {}
            answer => return Err(answer),
        }
        let after = self.here().map_err(refused)?;
        let name = changed(&before, &after).pop();
        let found = name.and_then(|name| {
            let version = after.get(&name)?.current.clone()?;
            Some((name, version))
        });
        found.ok_or_else(|| refused("nothing has changed on this node".to_owned()))
    }

    /// On the others.
    async fn bring_in_there(
        &mut self,
        name: &str,
        version: &str,
        pace: RolloutPace,
        reply: &Reply,
    ) -> Result<(), String> {
        let begun = self.begin(name, version).await;
        let (noted, expect) = match begun {
            Ok(begun) => begun,
            Err(reason) => {
                self.undo(name, &[]).await;
                return Err(reason);
            }
        };
        let mut asked = Vec::new();
        let rolled = match self.put_coming(name, &noted).await {
            Ok(()) => self.roll(name, version, pace, reply, &mut asked).await,
            Err(reason) => Err(reason),
        };
        let reason = match rolled {
            Ok(()) => {
                let files = noted.coming.as_ref().map(|it| it.files.clone()).unwrap_or_default();
                let current = Some(version.to_owned());
                let now = Shared { current, files, ..Shared::default() };
                match self.commit(name, &now, expect).await {
                    Ok(_) => {
                        self.drop_files(name, &unneeded(&noted, &now)).await;
                        return Ok(());
                    }
                    Err(reason) => reason,
                }
            }
            Err(reason) => reason,
        };
        info!(application = name, version, reason, "does not come in: as it was before");
        let before = given_up(&noted);
        if let Err(error) = self.commit(name, &before, expect).await {
            return Err(format!(
                "{reason}; the nodes that have it go back as soon as the repository can be changed: {error}"
            ));
        }
        self.undo(name, &asked).await;
        self.drop_files(name, &unneeded(&noted, &before)).await;
        Err(reason)
    }

    /// Notes that a version comes in; what the record says then, and what it is expected as.
    async fn begin(&mut self, name: &str, version: &str) -> Result<(Shared, Expect), String> {
        let files = self.notes(name, version).await?;
        let (before, expect) = match self.record(name).await? {
            Some((shared, version)) => (shared, Expect::Version(version)),
            None => (Shared::default(), Expect::Absent),
        };
        let coming = Some(Coming { version: version.to_owned(), files });
        // Removed or retired: whichever it was, it is retired if this does not come in.
        let noted = Shared { coming, is_removed: false, ..before };
        let written = self.commit(name, &noted, expect).await?;
        Ok((noted, Expect::Version(written)))
    }

    async fn put_coming(&self, name: &str, noted: &Shared) -> Result<(), String> {
        match &noted.coming {
            Some(coming) => self.put(name, &coming.version, &coming.files).await,
            None => Ok(()),
        }
    }

    /// Every other node takes it, one after the other; who was asked is noted.
    async fn roll(
        &mut self,
        name: &str,
        version: &str,
        pace: RolloutPace,
        reply: &Reply,
        asked: &mut Vec<NodeEntry>,
    ) -> Result<(), String> {
        let say = |step| {
            // Progress that is not read in time is of no use, and leaves room for the outcome.
            if reply.capacity() > 1 {
                let _ = reply.try_send(Answer::Rollout(step));
            }
        };
        let others = self.others();
        let of = others.len() + 1;
        for (number, other) in (2..).zip(&others) {
            let node = other.name.clone();
            if other.state == NodeState::Lost {
                say(RolloutProgress::NodeAway { node });
                continue;
            }
            say(RolloutProgress::Node { node: node.clone(), number, of });
            asked.push(other.clone());
            let (name, version) = (name.to_owned(), version.to_owned());
            let request = Request::AppTake { name, version, pace };
            let answer = self.ask(Some(other.number), request, |answer| {
                if let Answer::Rollout(step) = answer {
                    say(step.of_node(&node));
                }
            });
            match outcome(answer.await) {
                Ok(()) => {}
                Err(_) if self.is_lost_soon(other).await => say(RolloutProgress::NodeAway { node }),
                // Whoever passed the request on has put the node's name before what it said.
                Err(reason) if reason.contains(&node) => return Err(reason),
                Err(reason) => return Err(format!("{node}: {reason}")),
            }
        }
        Ok(())
    }

    /// Whether a node that failed to answer has only gone.
    async fn is_lost_soon(&self, node: &NodeEntry) -> bool {
        let until = Instant::now() + LOST_WITHIN;
        loop {
            let others = self.others();
            let state = others.iter().find(|it| it.number == node.number).map(|it| it.state);
            if state != Some(NodeState::Up) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// As the record says, here and where it was asked for something else.
    async fn undo(&mut self, name: &str, asked: &[NodeEntry]) {
        // What is in no record was not there before.
        let here = match self.record(name).await {
            Ok(None) => {
                outcome(self.carry_out(Request::AppRetire { name: name.to_owned() }, None).await)
            }
            Ok(Some(_)) => self.follow(name).await,
            Err(reason) => Err(reason),
        };
        if let Err(reason) = here {
            warn!(application = name, reason, "is not as before on this node yet");
        }
        self.have_follow(name, asked).await;
    }

    async fn have_follow(&self, name: &str, nodes: &[NodeEntry]) {
        for node in nodes {
            let request = Request::AppFollow { name: name.to_owned() };
            if let Err(reason) = outcome(self.ask(Some(node.number), request, |_| {}).await) {
                // It will, when it can.
                warn!(application = name, node = node.name, reason, "does not follow yet");
            }
        }
    }

    /// An application is retired, or it goes, or one of its versions.
    async fn take_away(&mut self, request: Request) -> Result<(), String> {
        self.store.catch_up(super::REACHED_WITHIN).await.map_err(super::text)?;
        let before = self.here()?;
        outcome(self.carry_out(request.clone(), None).await)?;
        let after = self.here()?;
        let up = self.up();
        for name in changed(&before, &after) {
            let (was, expect) = match self.record(&name).await? {
                Some((shared, version)) => (shared, Expect::Version(version)),
                None => (Shared::default(), Expect::Absent),
            };
            let is_removed = !after.contains_key(&name);
            let now = Shared { is_removed, ..Shared::default() };
            self.commit(&name, &now, expect)
                .await
                .map_err(|error| format!("{error}; this node goes back to what the others have"))?;
            self.have_follow(&name, &up).await;
            self.drop_files(&name, &unneeded(&was, &now)).await;
        }
        if let Request::AppRemove { version: Some(_), .. } = request {
            // Old versions are each node's own; who has none of that name has nothing to remove.
            for node in &up {
                let removed = outcome(self.ask(Some(node.number), request.clone(), |_| {}).await);
                if let Err(reason) = removed {
                    info!(node = node.name, reason, "has nothing removed");
                }
            }
        }
        Ok(())
    }

    /// No session of an application begins on any node, or they do again.
    async fn hold_or_release(&mut self, request: Request) -> Answer {
        let mut nodes = vec![None];
        for node in self.up() {
            if self.has(&node, &request).await {
                nodes.push(Some(node.number));
            }
        }
        for node in &nodes {
            let done = outcome(self.ask(*node, request.clone(), |_| {}).await);
            if let (Err(reason), Request::AppHold { name }) = (done, &request) {
                for node in &nodes {
                    let release = Request::AppRelease { name: name.clone() };
                    // Else they do so by themselves.
                    let _ = self.ask(*node, release, |_| {}).await;
                }
                return Answer::Refused { reason };
            }
        }
        Answer::Done
    }

    /// Whether a node has the application, so that sessions of it may begin there.
    async fn has(&self, node: &NodeEntry, request: &Request) -> bool {
        let (Request::AppHold { name } | Request::AppRelease { name }) = request else {
            return true;
        };
        match self.ask(Some(node.number), Request::NodeApplications, |_| {}).await {
            Answer::NodeApplications(all) => all.applications.iter().any(|it| it.name == *name),
            // Who does not answer this will not answer more either, and says why.
            _ => true,
        }
    }

    /// The other members, in the order of their numbers.
    fn others(&self) -> Vec<NodeEntry> {
        let told = self.parts.told.borrow();
        let others = told.nodes.iter().filter(|node| node.number != self.parts.number);
        let mut others: Vec<NodeEntry> = others.cloned().collect();
        others.sort_by_key(|node| node.number);
        others
    }

    /// Those of them that are there.
    fn up(&self) -> Vec<NodeEntry> {
        let others = self.others().into_iter();
        others.filter(|node| node.state == NodeState::Up).collect()
    }
}
