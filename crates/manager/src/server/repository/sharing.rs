//! The applications of the cluster: what an operator brings in on one node comes to all.
//!
//! A record per application says which version is current and by which hashes its files are known; the files lie beside the
//! records ([`repository::files`]), so that the copy of each node has the records only. What a node is to do towards what the
//! record says is decided in [`crate::repository::applications`] and carried out by its own deployment; an operator's change is
//! taken from node to node in [`changing`]; what becomes of files is in [`files`].
//!
//! All of it, the node's copy of the repository included, is on a thread of its own: files are read and hashed, pieces are
//! written as text, and compilers are waited for, and the manager's loop beats meanwhile.
//!
//! A node that cannot bring in what the others have says so, in its log and to whoever asks, and tries again.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::Command as Program;
use std::sync::Arc;
use std::time::{Duration, Instant};

use repository::{
    Client, FileNote, Files, Lock, Namespace, Piece, RepositoryOptions, RepositoryStore, Taken,
    lock,
};
use state::clock::SystemClock;
use state::{Batch, Expect, Key, Prefix, Space, Store as _, StoreError, Version};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant as Deadline, sleep, timeout};
use topology::protocol::{Answer, Request, RolloutPace};
use topology::{FormatLevel, NodeNumber};
use tracing::{error, info, warn};

use super::super::Input;
use super::super::applications_directory::ApplicationsDirectory;
use super::Told;
use crate::repository::applications::{
    APPLICATIONS_MAX, Coming, Local, Shared, Step, given_up, read, step, take, unneeded,
};

mod changing;
mod configuration_version;
mod files;
mod formats;

use configuration_version::ConfigurationVersion;
use formats::Formats;

/// The command line of a process that makes the compiled code of a version beside its component, in that directory.
pub type Prepare = Arc<dyn Fn(&Path) -> Program + Send + Sync>;

/// How often a node compares what it has.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long after a step that failed it is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Whoever was asked for something says how it goes on, or has done it. Longer than the longest step takes: to watch a container (ten
/// minutes at most), or to fetch a version and compile it.
const SILENCE_MAX: Duration = Duration::from_secs(900);

/// How long the repository may take to be heard of before an operator is told that it is away.
const REACHED_WITHIN: Duration = Duration::from_secs(5);

/// A node has one version after the other to get rid of at the most, before it takes another one.
const STEPS_MAX: usize = 4;

/// Who changes applications holds this lock.
const LOCK: &str = "applications";

/// For so long beyond the end of whoever changes them nobody else does.
const LOCK_SECONDS: u64 = 15;

const SPACE: Space = Space::named("applications");
const TAG: &str = "applications";

/// What is asked of the cluster's applications.
pub(crate) struct Asked {
    pub(crate) request: Request,
    pub(crate) reply: mpsc::Sender<Answer>,
}

/// What the thread is made of.
pub(super) struct Parts {
    pub(super) client: Client,
    /// Where the cluster's keys are.
    pub(super) namespace: Namespace,
    /// The node's copy of the repository.
    pub(super) copy: std::path::PathBuf,
    /// Its name.
    pub(super) node: String,
    pub(super) number: NodeNumber,
    pub(super) applications: ApplicationsDirectory,
    pub(super) prepare: Prepare,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) told: watch::Receiver<Told>,
    /// What this node cannot have of what the cluster has, and why.
    pub(super) behind: watch::Sender<Vec<(String, String)>>,
    /// The version of the cluster's configuration that holds.
    pub(super) configuration: watch::Sender<Option<u64>>,
    /// What the cluster writes.
    pub(super) format_level: watch::Sender<FormatLevel>,
}

/// What the thread is started with.
pub(super) type ToShare = (Parts, mpsc::Receiver<Asked>);

struct Sharing {
    parts: Parts,
    store: RepositoryStore,
    /// The same, for changes: they are made under the lock that was taken last ([`Sharing::lock`]).
    changes: Option<RepositoryStore>,
    files: Files,
    failed: BTreeMap<String, Failed>,
    /// The files of versions that are here.
    known: HashMap<(String, String), BTreeMap<String, FileNote>>,
    version: ConfigurationVersion,
    /// What could not be done last, said once.
    said: Option<String>,
    formats: Formats,
    /// The piece in the repository up to which all are known to be needed.
    looked_at: Option<Piece>,
}

/// What this node cannot do: a step, or what comes before any.
struct Failed {
    step: Option<Step>,
    reason: String,
    at: Instant,
}

/// The records of all applications, by name.
struct Records {
    all: BTreeMap<String, Shared>,
    /// Those that cannot be read, and why.
    unreadable: BTreeMap<String, String>,
}

type Locals = BTreeMap<String, Local>;

/// On a thread of its own, until nobody can ask any more.
pub(super) fn start(parts: Parts, asked: mpsc::Receiver<Asked>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("applications".to_owned());
    thread.spawn(move || runtime.block_on(keep(parts, asked))).map(drop)
}

async fn keep(parts: Parts, mut asked: mpsc::Receiver<Asked>) {
    let mut said = None;
    let store = loop {
        let opened = RepositoryStore::open(RepositoryOptions {
            client: parts.client.clone(),
            directory: parts.copy.clone(),
            prefix: parts.namespace.records(),
            clock: Arc::new(SystemClock::default()),
        });
        let reason = match opened {
            Ok(store) => break store,
            Err(error) => format!("this node's copy of the repository cannot be opened: {error}"),
        };
        if said.as_ref() != Some(&reason) {
            error!(reason, "no applications of the cluster; it is tried again");
        }
        // Nobody waits for this node meanwhile.
        tokio::select! {
            asked = asked.recv() => match asked {
                Some(Asked { reply, .. }) => drop(reply.try_send(Answer::Refused { reason: reason.clone() })),
                None => return,
            },
            () = sleep(LOOK_EVERY) => {}
        }
        said = Some(reason);
    };
    // The copy that all processes of the node read follows from the moment that they may read it.
    let _follower = store.follow();
    let files = Files::new(parts.client.clone(), &parts.namespace);
    let (failed, known) = (BTreeMap::new(), HashMap::new());
    let mut sharing = Sharing {
        parts,
        store,
        changes: None,
        files,
        failed,
        known,
        version: ConfigurationVersion::default(),
        said: None,
        formats: Formats::default(),
        looked_at: None,
    };
    loop {
        // One thing at a time: what an operator asks for does not meet what the node does by itself.
        tokio::select! {
            asked = asked.recv() => match asked {
                Some(asked) => sharing.answer(asked).await,
                None => return,
            },
            () = sleep(LOOK_EVERY) => sharing.look_and_say().await,
        }
    }
}

impl Sharing {
    async fn answer(&mut self, Asked { request, reply }: Asked) {
        let answer = match self.store.catch_up(REACHED_WITHIN).await {
            Ok(()) => match request {
                Request::AppTake { name, version, pace } => {
                    told(self.take(&name, &version, pace, &reply).await)
                }
                Request::AppFollow { name } => told(self.follow(&name).await),
                request => self.change(request, &reply).await,
            },
            Err(error) => Answer::Refused { reason: error.to_string() },
        };
        // Whoever asked may have gone.
        let _ = reply.send(answer).await;
    }

    /// The copy has the cluster's configuration, too.
    async fn look_at_configuration(&mut self) {
        // Before there is a copy nothing is known, which is not to have none.
        if matches!(self.store.revision().await, Ok(None)) {
            return;
        }
        if let Some(amiss) = self.version.look(&self.store, &self.parts.configuration).await {
            warn!(amiss, "about the cluster's configuration");
        }
    }

    async fn look_and_say(&mut self) {
        self.look_at_configuration().await;
        self.formats.look(&self.parts, &self.store).await;
        let error = self.look().await.err();
        if let Some(error) = error.as_ref().filter(|_| error != self.said) {
            warn!(error, "about the cluster's applications");
        }
        self.said = error;
        let behind: Vec<(String, String)> = self
            .failed
            .iter()
            .map(|(name, failed)| (name.clone(), failed.reason.clone()))
            .collect();
        self.parts.behind.send_if_modified(|told| {
            let is_other = *told != behind;
            *told = behind;
            is_other
        });
    }

    /// Comes closer to what the cluster has.
    async fn look(&mut self) -> Result<(), String> {
        let here = self.here()?;
        let Records { all, unreadable } = self.shared().await?;
        for (name, reason) in &unreadable {
            if !self.has_just_failed(name, None) {
                self.fails(name, None, format!("its record cannot be read: {reason}"));
            }
        }
        for (name, local) in &here {
            // Of before there was a cluster.
            if !all.contains_key(name)
                && !unreadable.contains_key(name)
                && !local.is_coming_in
                && let Some(version) = &local.current
            {
                if self.has_just_failed(name, None) {
                    continue;
                }
                match self.contribute(name, version, &all).await {
                    Ok(()) => {
                        info!(application = name, "the cluster has it from now on");
                        self.failed.remove(name);
                    }
                    Err(reason) => self.fails(name, None, reason),
                }
            }
        }
        self.failed.retain(|name, _| {
            all.contains_key(name) || unreadable.contains_key(name) || here.contains_key(name)
        });
        for (name, shared) in &all {
            if shared.coming.is_some() {
                self.give_up_what_nobody_brings_in(name).await?;
                continue;
            }
            if self.has_just_failed(name, None) {
                continue;
            }
            let kept = self.kept(name, shared.current.as_ref(), &shared.files, here.get(name));
            let kept = match kept.await {
                Ok(kept) => kept,
                // What cannot be read now is no reason to remove it.
                Err(reason) => {
                    self.fails(name, None, reason);
                    continue;
                }
            };
            let Some(step) = step(shared, here.get(name), kept) else {
                self.failed.remove(name);
                continue;
            };
            if !self.has_just_failed(name, Some(&step)) {
                self.try_step(name, &shared.files, step, RolloutPace::AtOnce, None).await.ok();
            }
        }
        Ok(())
    }

    /// Does a step, and remembers if it failed.
    async fn try_step(
        &mut self,
        name: &str,
        files: &BTreeMap<String, FileNote>,
        step: Step,
        pace: RolloutPace,
        to: Option<&mpsc::Sender<Answer>>,
    ) -> Result<(), String> {
        let done = self.do_step(name, files, &step, pace, to).await;
        match &done {
            Ok(()) => {
                info!(application = name, ?step, "as the cluster has it");
                self.failed.remove(name);
            }
            Err(reason) => self.fails(name, Some(step), reason.clone()),
        }
        done
    }

    fn fails(&mut self, name: &str, step: Option<Step>, reason: String) {
        warn!(application = name, ?step, reason, "this node cannot follow the cluster");
        self.failed.insert(name.to_owned(), Failed { step, reason, at: Instant::now() });
    }

    fn has_just_failed(&self, name: &str, step: Option<&Step>) -> bool {
        let failed = self.failed.get(name);
        failed.is_some_and(|it| it.step.as_ref() == step && it.at.elapsed() < AGAIN_AFTER)
    }

    async fn do_step(
        &mut self,
        name: &str,
        files: &BTreeMap<String, FileNote>,
        step: &Step,
        pace: RolloutPace,
        to: Option<&mpsc::Sender<Answer>>,
    ) -> Result<(), String> {
        let name = name.to_owned();
        let request = match step {
            Step::Fetch { version } => {
                let staged = self.fetch(&name, version, files).await?;
                Request::AppDeploy { staged, pace }
            }
            Step::Switch { version } => Request::AppSwitch { name, version: version.clone(), pace },
            Step::Drop { version } => Request::AppRemove { name, version: version.clone() },
            Step::Retire => Request::AppRetire { name },
            Step::Remove => Request::AppRemove { name, version: None },
        };
        outcome(self.carry_out(request, to).await)
    }

    /// Has of one application what the cluster has, now.
    async fn follow(&mut self, name: &str) -> Result<(), String> {
        for _ in 0..=STEPS_MAX {
            let Some((shared, _)) = self.record(name).await? else { return Ok(()) };
            let here = self.here()?;
            if shared.coming.is_some() {
                return Ok(());
            }
            let kept =
                self.kept(name, shared.current.as_ref(), &shared.files, here.get(name)).await?;
            let Some(step) = step(&shared, here.get(name), kept) else { return Ok(()) };
            self.try_step(name, &shared.files, step, RolloutPace::AtOnce, None).await?;
        }
        Err(format!("{name} is not as the cluster has it after {STEPS_MAX} steps"))
    }

    /// Takes a version that comes in.
    async fn take(
        &mut self,
        name: &str,
        version: &str,
        pace: RolloutPace,
        to: &mpsc::Sender<Answer>,
    ) -> Result<(), String> {
        for _ in 0..=STEPS_MAX {
            let shared = self.record(name).await?.map(|(shared, _)| shared).unwrap_or_default();
            let Some(coming) = shared.coming.filter(|coming| coming.version == version) else {
                return Err(format!("{name} {version} does not come in any more"));
            };
            let Coming { version, files } = &coming;
            let here = self.here()?;
            let kept = self.kept(name, Some(version), files, here.get(name)).await?;
            let Some(step) = take(&coming, here.get(name), kept) else { return Ok(()) };
            self.try_step(name, files, step, pace, Some(to)).await?;
        }
        Err(format!("{name} {version} is not here after {STEPS_MAX} steps"))
    }

    /// What was brought in by a node that has died: as before.
    async fn give_up_what_nobody_brings_in(&mut self, name: &str) -> Result<(), String> {
        let deadline = Deadline::now() + REACHED_WITHIN;
        if lock::holder(&self.parts.client, &self.lock_key(), deadline)
            .await
            .map_err(text)?
            .is_some()
        {
            return Ok(());
        }
        let Ok(lock) = self.lock().await else { return Ok(()) };
        let given_up = self.give_up_coming(name).await;
        self.collect().await;
        lock.release().await;
        given_up
    }

    /// Whoever holds the lock knows whether somebody brings it in.
    async fn give_up_coming(&mut self, name: &str) -> Result<(), String> {
        self.store.catch_up(REACHED_WITHIN).await.map_err(text)?;
        let Some((shared, version)) = self.record(name).await? else { return Ok(()) };
        if let Some(coming) = &shared.coming {
            info!(
                application = name,
                version = coming.version,
                "does not come in: as it was before"
            );
            let before = given_up(&shared);
            self.commit(name, &before, Expect::Version(version)).await?;
            self.drop_files(name, &unneeded(&shared, &before)).await;
        }
        Ok(())
    }

    fn lock_key(&self) -> bytes::Bytes {
        self.parts.namespace.lock(LOCK)
    }

    /// What is changed from now on is changed as long as this lock is held.
    ///
    /// # Errors
    /// Who has it, or that the repository is away.
    async fn lock(&mut self) -> Result<Lock, String> {
        let deadline = Deadline::now() + REACHED_WITHIN;
        let Parts { client, node, .. } = &self.parts;
        match Lock::take(client, &self.lock_key(), node, LOCK_SECONDS, deadline)
            .await
            .map_err(text)?
        {
            Taken::Held(lock) => {
                self.changes = Some(self.store.fenced(lock.fence()));
                self.files = self.files.fenced(lock.fence());
                Ok(lock)
            }
            Taken::By(node) => Err(format!(
                "applications are being changed on {node}; try again when that is done"
            )),
        }
    }

    /// What the cluster has.
    async fn shared(&self) -> Result<Records, String> {
        let found = self.store.scan(&SPACE, &Prefix::All, None, APPLICATIONS_MAX + 1).await;
        let found = found.map_err(text)?;
        if found.len() > APPLICATIONS_MAX {
            // Nobody adds one more; to go on without some would be to take them for new ones here.
            return Err(format!("the cluster has more than {APPLICATIONS_MAX} applications"));
        }
        let records =
            found.into_iter().map(|(key, record)| (key.id.to_vec(), record.value.to_vec()));
        let (all, unreadable) = read(records);
        Ok(Records { all, unreadable })
    }

    async fn record(&self, name: &str) -> Result<Option<(Shared, Version)>, String> {
        let found = self.store.read(&key(name)).await.map_err(text)?;
        let read = |record: state::Record| {
            let shared = serde_json::from_slice(&record.value).map_err(text)?;
            Ok((shared, record.version))
        };
        found.map(read).transpose()
    }

    async fn commit(&self, name: &str, shared: &Shared, expect: Expect) -> Result<Version, String> {
        let value = serde_json::to_vec(shared).map_err(text)?;
        let batch = Batch::new().put(key(name), expect, value, None);
        let versions = self.changes()?.commit(batch).await.map_err(text)?;
        versions.first().copied().ok_or_else(|| "nothing was written".to_owned())
    }

    async fn uncommit(&self, name: &str, expect: Expect) -> Result<(), String> {
        let batch = Batch::new().delete(key(name), expect);
        self.changes()?.commit(batch).await.map(drop).map_err(text)
    }

    fn changes(&self) -> Result<&RepositoryStore, String> {
        self.changes.as_ref().ok_or_else(|| StoreError::LockLost.to_string())
    }

    /// What this node has.
    fn here(&self) -> Result<Locals, String> {
        self.parts.applications.overview().map_err(text)
    }

    /// Has this node's own deployment do it; its last answer. What it says in between is passed on.
    async fn carry_out(&mut self, request: Request, to: Option<&mpsc::Sender<Answer>>) -> Answer {
        // Its files are others from now on, perhaps.
        self.known.clear();
        let pass_on = |answer| {
            // Progress that is not read in time is of no use, and leaves room for the outcome.
            if let Some(to) = to.filter(|to| to.capacity() > 1) {
                let _ = to.try_send(answer);
            }
        };
        self.ask(None, request, pass_on).await
    }

    /// Asks a node, or this one's own deployment.
    async fn ask(
        &self,
        node: Option<NodeNumber>,
        request: Request,
        mut on_progress: impl FnMut(Answer),
    ) -> Answer {
        let (reply, mut answers) = mpsc::channel(16);
        if self.parts.inputs.send(Input::Shared { node, request, reply }).await.is_err() {
            return Answer::Refused { reason: "the manager ends".to_owned() };
        }
        loop {
            match timeout(SILENCE_MAX, answers.recv()).await {
                Ok(Some(answer)) if answer.is_progress() => on_progress(answer),
                Ok(Some(answer)) => return answer,
                Ok(None) => {
                    return Answer::Refused { reason: "the manager gave no answer".to_owned() };
                }
                Err(_) => {
                    let limit = SILENCE_MAX.as_secs();
                    let reason = format!(
                        "nothing was heard of it for {limit} s; see outlast app list, and the log of that node"
                    );
                    return Answer::Refused { reason };
                }
            }
        }
    }
}

/// What came of a request.
fn outcome(answer: Answer) -> Result<(), String> {
    match answer {
        Answer::Done => Ok(()),
        Answer::Refused { reason } | Answer::RolledBack { reason } => Err(reason),
        other => Err(format!("{other:?}")),
    }
}

fn told(done: Result<(), String>) -> Answer {
    match done {
        Ok(()) => Answer::Done,
        Err(reason) => Answer::Refused { reason },
    }
}

fn key(name: &str) -> Key {
    Key::new(SPACE, TAG, name.to_owned())
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
