//! Looks at etcd's list of members again and again, and carries out what this node is to do about it, one step at a time.
//!
//! Who is about to leave the cluster says so in etcd (`outlast/l/NUMBER`, for as long as it asks), so that another node takes
//! its seat first. What is decided on is read behind a majority; a step that fails is decided on anew.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use repository::client::messages::{Member, Operation, Put, Range, Txn};
use repository::member::{MemberNote, address_in};
use repository::{Client, ClientError};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use topology::protocol::Answer;
use topology::{NodeNumber, RepositoryMember};
use tracing::{info, warn};

use super::super::Input;
use super::sharing::{self, ToShare};
use super::{Identity, REQUEST_TIMEOUT, RepositoryInput, Told, endpoints};
use crate::repository::{Act, Situation, decide, described};

/// How often it looks, and how often at the most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// How long it asks for the list before it looks again.
const ASK_MAX: Duration = Duration::from_secs(3);

/// A member that was added is started by then, or its node never does.
const UNSTARTED_MAX: Duration = Duration::from_secs(60);

/// How long a node that leaves waits for another one to take its seat.
const LEAVE_MAX: Duration = Duration::from_secs(60);

/// How long others know that a node leaves, once it says so no more.
const LEAVING_SECONDS: u64 = 20;

/// Who is about to leave stands below this.
const LEAVING: &[u8] = b"outlast/l/";
const LEAVING_END: &[u8] = b"outlast/l0";

/// One that waits until this node has no member.
struct Leaving {
    reply: mpsc::Sender<Answer>,
    until: Instant,
}

pub(super) struct Keeper {
    identity: Identity,
    note: Option<MemberNote>,
    /// Where members are, by their own word or as the view shows.
    known: Vec<RepositoryMember>,
    client: Client,
    inputs: mpsc::Sender<Input>,
    /// A member that was added and not started, since when.
    unstarted: Option<(u64, Instant)>,
    leaving: Option<Leaving>,
    /// For files.
    files_client: Option<Client>,
    /// What could not be done last, said once.
    said: String,
}

impl Keeper {
    pub(super) fn new(
        identity: Identity,
        note: Option<MemberNote>,
        known: Vec<RepositoryMember>,
        inputs: mpsc::Sender<Input>,
    ) -> Keeper {
        let client = identity.client_of(&known, REQUEST_TIMEOUT);
        Keeper {
            identity,
            note,
            known,
            client,
            inputs,
            unstarted: None,
            leaving: None,
            files_client: None,
            said: String::new(),
        }
    }

    /// For ever.
    pub(super) async fn keep(
        mut self,
        mut told: watch::Receiver<Told>,
        mut leave: mpsc::Receiver<mpsc::Sender<Answer>>,
        to_share: ToShare,
    ) {
        self.files_client = Some(to_share.0.client.clone());
        let mut to_share = Some(to_share);
        loop {
            let situation = told.borrow_and_update().clone();
            if situation.has_accounts
                && let Err(error) = self.share(&mut to_share)
            {
                self.say(&format!("this node's copy: {error}"));
            }
            // Before it has seen any node it knows nothing.
            if !situation.nodes.is_empty()
                && let Err(error) = self.look(&situation).await
            {
                self.say(&error);
            }
            sleep(LOOK_AGAIN_AFTER).await;
            tokio::select! {
                _ = timeout(LOOK_EVERY, told.changed()) => {}
                Some(reply) = leave.recv() => {
                    self.leaving = Some(Leaving { reply, until: Instant::now() + LEAVE_MAX });
                }
            }
        }
    }

    fn say(&mut self, error: &str) {
        if self.said != error {
            warn!(error, "about the cluster's repository");
            error.clone_into(&mut self.said);
        }
    }

    async fn look(&mut self, told: &Told) -> Result<(), String> {
        self.meet(told);
        let members = self.members().await;
        let leaving = match &members {
            Some(_) => self.who_leaves().await.unwrap_or_default(),
            None => BTreeSet::new(),
        };
        if let Some(members) = &members {
            self.see(told, members).await;
            self.watch_unstarted(members);
        }
        self.answer_who_leaves(members.as_deref());
        let decided = decide(&Situation {
            own: self.identity.number,
            nodes: &told.nodes,
            leaving: &leaving,
            leads: told.leads,
            note: self.note.as_ref(),
            peer: self.identity.peer,
            members: members.as_deref(),
            is_first: self.identity.number == NodeNumber::FIRST && told.is_new,
            is_unstarted_for_long: self
                .unstarted
                .is_some_and(|(_, since)| since.elapsed() > UNSTARTED_MAX),
        });
        match decided {
            Some(act) => self.carry_out(act, told).await,
            None => Ok(()),
        }
    }

    /// From the moment that there is something to be shared.
    fn share(&self, to_share: &mut Option<ToShare>) -> Result<(), String> {
        if to_share.is_some() {
            self.identity.directory.make().map_err(text)?;
        }
        let Some((parts, asked)) = to_share.take() else { return Ok(()) };
        sharing::start(parts, asked).map_err(text)
    }

    /// Whom to ask: who was a member, who runs one by the view, and its own.
    fn meet(&mut self, told: &Told) {
        let own = self.note.as_ref().map(|note| self.identity.own(note.client));
        let all: Vec<RepositoryMember> =
            self.known.iter().chain(&told.members).cloned().chain(own).collect();
        for client in [Some(&self.client), self.files_client.as_ref()].into_iter().flatten() {
            client.set_endpoints(endpoints(&all));
        }
    }

    async fn members(&self) -> Option<Vec<Member>> {
        if self.client.endpoints().is_empty() {
            return None;
        }
        let deadline = tokio::time::Instant::now() + ASK_MAX;
        self.client.members(deadline).await.ok()
    }

    /// Notes where those are that count.
    async fn see(&mut self, told: &Told, members: &[Member]) {
        let seen = members.iter().filter(|member| !member.is_learner).filter_map(|member| {
            let number = member.name.strip_prefix('n')?.parse().ok().and_then(NodeNumber::new)?;
            let node = told.nodes.iter().find(|node| node.number == number)?;
            let address = member.client_urls.iter().find_map(|url| address_in(url))?;
            Some(RepositoryMember { node: node.name.clone(), address })
        });
        let mut seen: Vec<RepositoryMember> = seen.collect();
        seen.sort();
        if !seen.is_empty() && seen != self.known {
            self.known = seen.clone();
            self.tell(RepositoryInput::Seen(seen)).await;
        }
    }

    fn watch_unstarted(&mut self, members: &[Member]) {
        let unstarted = members.iter().find(|member| member.name.is_empty());
        self.unstarted = unstarted.map(|member| match self.unstarted {
            Some((id, since)) if id == member.id => (id, since),
            _ => (member.id, Instant::now()),
        });
    }

    async fn who_leaves(&mut self) -> Result<BTreeSet<NodeNumber>, ClientError> {
        let deadline = tokio::time::Instant::now() + ASK_MAX;
        if self.leaving.is_some() {
            let lease = self.client.lease_grant(LEAVING_SECONDS, deadline).await?.lease;
            let key = [LEAVING, self.identity.number.to_string().as_bytes()].concat();
            let put = Put { key: key.into(), value: Bytes::new(), lease };
            let txn = Txn { success: vec![Operation::Put(put)], ..Txn::default() };
            self.client.txn(&txn).await?;
        }
        let range = Range {
            key: Bytes::from_static(LEAVING),
            range_end: Bytes::from_static(LEAVING_END),
            ..Range::default()
        };
        let found = self.client.range(&range, deadline).await?;
        let number = |key: &[u8]| {
            let number = std::str::from_utf8(key.strip_prefix(LEAVING)?).ok()?;
            NodeNumber::new(number.parse().ok()?)
        };
        Ok(found.kvs.iter().filter_map(|kv| number(&kv.key)).collect())
    }

    fn answer_who_leaves(&mut self, members: Option<&[Member]>) {
        let Some(Leaving { reply, until }) = &self.leaving else { return };
        let own = crate::repository::member_name(self.identity.number);
        let is_member =
            members.is_none_or(|members| members.iter().any(|member| member.name == own));
        let answer = if !is_member {
            Answer::Done
        } else if Instant::now() < *until {
            return;
        } else {
            let reason = match members {
                None => {
                    "most members of the cluster's repository are away, so nobody can take this node's place in it"
                }
                Some(_) => {
                    "no other node could take this node's place in the cluster's repository; see its log"
                }
            };
            Answer::Refused { reason: reason.to_owned() }
        };
        // Whoever asked may have gone.
        let _ = reply.try_send(answer);
        self.leaving = None;
    }

    async fn carry_out(&mut self, act: Act, told: &Told) -> Result<(), String> {
        match act {
            Act::Found => {
                info!("this node begins the cluster's repository");
                let own = super::MemberSettings::described(
                    &crate::repository::member_name(self.identity.number),
                    self.identity.peer,
                );
                self.begin(None, vec![own]).await
            }
            Act::Add => {
                let url = format!("https://{}", self.identity.peer);
                let added = self.client.member_add(vec![url]).await.map_err(text)?;
                let member = added.member.ok_or("etcd names nobody that it has added")?;
                info!(id = member.id, "this node takes a seat in the cluster's repository");
                self.begin(Some(member.id), described(&added.members, self.identity.number)).await
            }
            Act::Start { id, members } => self.begin(Some(id), members).await,
            Act::Learned { id } => {
                let note = self.note.clone().ok_or("there is no note")?;
                let note = MemberNote { id: Some(id), ..note };
                self.identity.directory.write_note(&note).map_err(text)?;
                self.note = Some(note);
                Ok(())
            }
            Act::Promote { id } => {
                self.client.member_promote(id).await.map_err(text)?;
                info!(id, "this node's member of the cluster's repository counts");
                Ok(())
            }
            Act::Remove { id } => {
                info!(id, "taking a member of the cluster's repository away");
                self.client.member_remove(id).await.map_err(text)
            }
            Act::Forget => {
                if told.has_process {
                    self.tell(RepositoryInput::Runs(None)).await;
                    return Ok(());
                }
                info!("this node has no member of the cluster's repository any more");
                self.identity.directory.forget_member().map_err(text)?;
                self.note = None;
                Ok(())
            }
        }
    }

    /// Its member is noted, and started.
    async fn begin(&mut self, id: Option<u64>, members: Vec<String>) -> Result<(), String> {
        let (peer, client) = (self.identity.peer, self.identity.client);
        let note = MemberNote { id, peer, client, members };
        let directory = &self.identity.directory;
        directory.clear_data().and_then(|()| directory.write_note(&note)).map_err(text)?;
        self.note = Some(note.clone());
        self.tell(RepositoryInput::Runs(Some(note))).await;
        Ok(())
    }

    async fn tell(&self, input: RepositoryInput) {
        // A manager that has ended needs to hear nothing.
        let _ = self.inputs.send(Input::Repository(input)).await;
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
