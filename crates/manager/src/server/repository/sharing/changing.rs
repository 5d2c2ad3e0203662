//! An operator's change, from node to node: this one first, then the others one after the other; what fails on one is undone on
//! all. It is done when the record says so.
//!
//! One node changes applications at a time (a lock). Who dies meanwhile leaves a version noted that does not count: whoever sees
//! that nobody holds the lock takes the note away, and every node goes back to what the record says. A node that is lost is not
//! waited for; it follows when it is back.

use std::collections::BTreeMap;
use std::time::Duration;

use repository::FileNote;
use state::Expect;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use topology::protocol::{Answer, Request, RolloutPace, RolloutProgress};
use topology::{NodeEntry, NodeState};
use tracing::{info, warn};

use super::{Sharing, outcome, told};
use crate::repository::applications::{
    Came, Coming, Shared, came, changed, given_up, has_place, has_room, unneeded,
};

/// A node that was asked and does not answer is found to be lost by then, if it is.
const LOST_WITHIN: Duration = Duration::from_secs(5);

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(100);

type Reply = mpsc::Sender<Answer>;

/// A version that is noted to come in.
struct Begun {
    name: String,
    version: String,
    /// What the record said before; `None`: there was none.
    before: Option<Shared>,
    /// What it says now.
    noted: Shared,
    /// As what it is expected.
    expect: Expect,
}

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
        self.collect().await;
        lock.release().await;
        answer
    }

    async fn bring_in(&mut self, request: Request, pace: RolloutPace, reply: &Reply) -> Answer {
        let begun = match self.begin(&request).await {
            Ok(begun) => begun,
            Err(reason) => return Answer::Refused { reason },
        };
        match self.bring_in_here(request, &begun, reply).await {
            Err(answer) => {
                self.take_back(&begun).await;
                answer
            }
            Ok(()) => match self.bring_in_there(begun, pace, reply).await {
                Ok(()) => Answer::Done,
                Err(answer) => answer,
            },
        }
    }

    /// Which application, which version of it, and of what files, is asked for.
    async fn asked_for(
        &mut self,
        request: &Request,
    ) -> Result<(String, String, BTreeMap<String, FileNote>), String> {
        match request {
            Request::AppDeploy { staged, .. } => self.staged(staged).await,
            Request::AppSwitch { name, version, .. } => {
                let is_here =
                    self.here()?.get(name).is_some_and(|here| here.versions.contains(version));
                if !is_here {
                    return Err(format!(
                        "{name} {version} is not on this node; see outlast app list, or deploy it again"
                    ));
                }
                let files = self.notes(name, version).await?;
                Ok((name.clone(), version.clone(), files))
            }
            other => Err(format!("{other:?} brings nothing in")),
        }
    }

    /// Notes that a version comes in, before any node has it: whoever finds the note of somebody who has died knows what was there
    /// before.
    async fn begin(&mut self, request: &Request) -> Result<Begun, String> {
        self.store.catch_up(super::REACHED_WITHIN).await.map_err(super::text)?;
        let (name, version, files) = self.asked_for(request).await?;
        let all = self.shared().await?.all;
        has_room(&all, &files)?;
        has_place(&all, &name)?;
        let (before, expect) = match self.record(&name).await? {
            Some((shared, version)) => (Some(shared), Expect::Version(version)),
            None => (None, Expect::Absent),
        };
        let coming = Some(Coming { version: version.clone(), files });
        // Removed or retired: whichever it was, it is retired if this does not come in.
        let noted = Shared { coming, is_removed: false, ..before.clone().unwrap_or_default() };
        let written = self.commit(&name, &noted, expect).await?;
        Ok(Begun { name, version, before, noted, expect: Expect::Version(written) })
    }

    /// What did not come in on this node: no other one has heard of it.
    async fn take_back(&mut self, begun: &Begun) {
        let Begun { name, before, expect, .. } = begun;
        let taken_back = match before {
            Some(before) => self.commit(name, before, *expect).await.map(drop),
            None => self.uncommit(name, *expect).await,
        };
        if let Err(reason) = taken_back {
            // Whoever sees that nobody holds the lock does so.
            warn!(application = name, reason, "is noted to come in still");
        }
    }

    /// On this node, as on a single one.
    async fn bring_in_here(
        &mut self,
        request: Request,
        begun: &Begun,
        reply: &Reply,
    ) -> Result<(), Answer> {
        let refused = |reason| Answer::Refused { reason };
        let before = self.here().map_err(refused)?;
        match self.carry_out(request, Some(reply)).await {
            Answer::Done => {}
            answer => return Err(answer),
        }
        let after = self.here().map_err(refused)?;
        if changed(&before, &after).contains(&begun.name) {
            return Ok(());
        }
        Err(refused("nothing has changed on this node".to_owned()))
    }

    /// On the others.
    async fn bring_in_there(
        &mut self,
        begun: Begun,
        pace: RolloutPace,
        reply: &Reply,
    ) -> Result<(), Answer> {
        let Begun { name, version, noted, expect, .. } = &begun;
        let mut asked = Vec::new();
        let rolled = match self.put_coming(name, noted).await {
            Ok(()) => self.roll(name, version, pace, reply, &mut asked).await,
            Err(reason) => Err(reason),
        };
        let files = noted.coming.as_ref().map(|it| it.files.clone()).unwrap_or_default();
        let now = Shared { current: Some(version.clone()), files, ..Shared::default() };
        let reason = match rolled {
            Ok(()) => match self.commit(name, &now, *expect).await {
                Ok(_) => {
                    self.drop_files(name, &unneeded(noted, &now)).await;
                    return Ok(());
                }
                Err(reason) => reason,
            },
            Err(reason) => reason,
        };
        let before = given_up(noted);
        if let Err(error) = self.commit(name, &before, *expect).await {
            // What was to be written before may have been written all the same.
            return match self.came(name, Some(noted), &now).await {
                Ok(Came::Made) => {
                    self.drop_files(name, &unneeded(noted, &now)).await;
                    Ok(())
                }
                Ok(Came::Not | Came::NotYet) => Err(Answer::RolledBack {
                    reason: format!(
                        "{reason}; the nodes that have it go back as soon as the repository can be changed: {error}"
                    ),
                }),
                Err(unread) => Err(Answer::Refused {
                    reason: format!(
                        "{reason}; nobody knows whether {name} {version} has come in, for the repository does not answer \
                         ({unread}); see outlast app list when it does"
                    ),
                }),
            };
        }
        info!(application = name, version, reason, "does not come in: as it was before");
        self.undo(name, &asked).await;
        self.drop_files(name, &unneeded(noted, &before)).await;
        Err(Answer::RolledBack { reason })
    }

    /// What came of a change whose outcome is unknown.
    async fn came(
        &self,
        name: &str,
        before: Option<&Shared>,
        wanted: &Shared,
    ) -> Result<Came, String> {
        self.store.catch_up(super::REACHED_WITHIN).await.map_err(super::text)?;
        let found = self.record(name).await?.map(|(found, _)| found);
        Ok(came(before, wanted, found.as_ref()))
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
                Err(reason) => return Err(said_by(&node, reason)),
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
            if let Err(error) = self.commit(&name, &now, expect).await {
                let before = matches!(expect, Expect::Version(_)).then_some(&was);
                match self.came(&name, before, &now).await {
                    Ok(Came::Made) => {}
                    Ok(Came::Not | Came::NotYet) => {
                        return Err(format!(
                            "{error}; this node goes back to what the others have"
                        ));
                    }
                    Err(unread) => {
                        return Err(format!(
                            "{error}; nobody knows whether {name} has gone, for the repository does not answer ({unread}); see \
                             outlast app list when it does"
                        ));
                    }
                }
            }
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

/// What a node has said, with its name before it: whoever passed the request on may have put it there.
fn said_by(node: &str, reason: String) -> String {
    match reason.strip_prefix(node) {
        Some(rest) if rest.starts_with(": ") => reason,
        Some(_) | None => format!("{node}: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_the_name_of_its_node_once() {
        let of = |node, reason: &str| said_by(node, reason.to_owned());
        assert_eq!(of("node1", "no room"), "node1: no room");
        assert_eq!(of("node1", "node1: no room"), "node1: no room");
        // A name within another one, or in what is said.
        assert_eq!(of("node1", "node12: no room"), "node1: node12: no room");
        assert_eq!(of("a", "a container did not load it"), "a: a container did not load it");
    }
}
