//! The deployed applications of a container: what the manager wants loaded is loaded, hosted, and reported.
//!
//! Loading happens on a thread of its own and never holds calls up. A version stays as it was loaded; one that could not be is
//! tried again with the next table. What takes the files of a version to something that runs is a [`Load`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use container::http_port::{HttpHandle, HttpRoute};
use container::server::ServerHandle;
use container::session::SessionApplication;
use container::shard::SessionApplications;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use topology::protocol::{
    ApplicationEntry, ApplicationReport, ApplicationTable, ApplicationsReport, REASON_BYTES_MAX,
    ToManager,
};
use topology::server::Reporter;
use tracing::{info, warn};

use super::usage::Usage;

/// How often it is looked which versions have sessions, while there are versions that may have none.
const USAGE_EVERY: Duration = Duration::from_secs(10);

/// How long a table may wait for sessions that begin; that some still do is told then.
const BEGUN_WITHIN: Duration = Duration::from_secs(1);

/// How often it is looked whether they have.
const BEGUN_EVERY: Duration = Duration::from_millis(10);

/// How often the counts are looked at.
const COUNTS_EVERY: Duration = Duration::from_millis(250);

/// Reasons that a report tells at length; who has more reads the log. A report must fit into a socket's buffer.
const REASONS_MAX: usize = 16;

/// Makes a version ready to run.
pub(super) trait Load: Send + Sync {
    /// Takes its time.
    fn load(&self, name: &str, version: &str) -> Result<Loaded, String>;
}

/// A version that is ready to run.
pub(super) struct Loaded {
    pub(super) application: Arc<dyn SessionApplication>,
    /// Where it serves HTTP.
    pub(super) http: Option<HttpRoute>,
    /// Applications of one region are asked in rising order, then by name.
    pub(super) order: i32,
    /// Events that it handled, and those of them whose handler failed.
    pub(super) counts: Box<dyn Fn() -> (u64, u64) + Send + Sync>,
}

/// What is loaded and what is wanted.
pub(super) struct Applications {
    loader: Arc<dyn Load>,
    /// Built in; asked before all others.
    native: Vec<Arc<dyn SessionApplication>>,
    loaded: BTreeMap<(String, String), Result<Arc<Loaded>, String>>,
    table: ApplicationTable,
    handle: ServerHandle,
    http: HttpHandle,
    reporter: Reporter,
    reported: ApplicationsReport,
    usage: Usage,
    /// Of the table as it is.
    looking: Option<JoinHandle<Option<BTreeSet<String>>>>,
    /// No session begins with them, and none lives of them, as was found since this table is there.
    unused: BTreeSet<String>,
    /// No session begins with them any more, but some that did are not stored yet.
    beginning: BTreeSet<String>,
    /// The first table is hosted. Before, the container's loop does not run: nothing begins, and nobody would answer.
    is_serving: bool,
}

impl Applications {
    pub(super) fn new(
        loader: Arc<dyn Load>,
        native: Vec<Arc<dyn SessionApplication>>,
        usage: Usage,
        http: HttpHandle,
        reporter: Reporter,
    ) -> Applications {
        Applications {
            loader,
            native,
            loaded: BTreeMap::new(),
            table: ApplicationTable::default(),
            handle: usage.handle.clone(),
            http,
            reporter,
            reported: ApplicationsReport::default(),
            usage,
            looking: None,
            unused: BTreeSet::new(),
            beginning: BTreeSet::new(),
            is_serving: false,
        }
    }

    /// Takes over one table after the other; says when the first one is hosted.
    pub(super) async fn follow(
        mut self,
        mut tables: watch::Receiver<ApplicationTable>,
        first: oneshot::Sender<()>,
    ) {
        let mut first = Some(first);
        let mut looks = tokio::time::interval(COUNTS_EVERY);
        let mut usage_looks = tokio::time::interval(USAGE_EVERY);
        loop {
            let table = tables.borrow_and_update().clone();
            self.take_over(table).await;
            // Whoever waited may have given up.
            first.take().map(|first| first.send(()));
            self.is_serving = true;
            loop {
                tokio::select! {
                    changed = tables.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    _ = looks.tick() => {
                        self.take_in_usage().await;
                        if !self.beginning.is_empty() {
                            self.look_for_beginning().await;
                        }
                        self.report_news();
                    }
                    _ = usage_looks.tick() => self.look_for_usage(),
                }
            }
        }
    }

    /// Loads what is missing, hosts it all, and lets go of what is not wanted any more.
    async fn take_over(&mut self, table: ApplicationTable) {
        let key = |entry: &ApplicationEntry| (entry.name.clone(), entry.version.clone());
        for entry in &table.applications {
            if !matches!(self.loaded.get(&key(entry)), Some(Ok(_))) {
                let loaded = self.load(entry).await;
                self.loaded.insert(key(entry), loaded);
            }
        }
        self.loaded
            .retain(|loaded, _| table.applications.iter().any(|entry| key(entry) == *loaded));
        self.table = table;
        // Sessions can begin before requests come in that begin them.
        self.handle.applications(self.hosted()).await;
        self.http.routes(self.current().iter().filter_map(|loaded| loaded.http.clone()).collect());
        // Sessions may have begun meanwhile, here or elsewhere, with what was unused before.
        self.looking.take().inspect(JoinHandle::abort);
        self.unused.clear();
        if self.is_serving {
            self.await_beginning().await;
        }
        self.look_for_usage();
        self.reported = self.report();
        self.reporter.report(&ToManager::Applications(self.reported.clone()));
    }

    /// Waits until the table is in use, and what began by the one before is stored.
    async fn await_beginning(&mut self) {
        let due = Instant::now() + BEGUN_WITHIN;
        self.look_for_beginning().await;
        while !self.beginning.is_empty() && Instant::now() < due {
            tokio::time::sleep(BEGUN_EVERY).await;
            self.look_for_beginning().await;
        }
    }

    async fn look_for_beginning(&mut self) {
        let found = self.handle.applications_beginning().await.unwrap_or_default();
        self.beginning = self.former().filter(|application| found.contains(application)).collect();
    }

    /// Begins to look, if it is not looked already and there is something to be found out.
    fn look_for_usage(&mut self) {
        let is_open = |application: &String| !self.unused.contains(application);
        let sought: BTreeSet<String> = self.former().filter(is_open).collect();
        if self.looking.is_none() && !sought.is_empty() {
            self.looking = Some(tokio::spawn(self.usage.clone().unused(sought)));
        }
    }

    async fn take_in_usage(&mut self) {
        let Some(looked) = self.looking.take_if(|looking| looking.is_finished()) else { return };
        if let Ok(Some(unused)) = looked.await {
            self.unused.extend(unused);
        }
    }

    /// The versions that no session begins with.
    fn former(&self) -> impl Iterator<Item = String> {
        self.table.applications.iter().filter(|entry| !entry.is_current).map(id)
    }

    async fn load(&self, entry: &ApplicationEntry) -> Result<Arc<Loaded>, String> {
        let ApplicationEntry { name, version, .. } = entry.clone();
        let loader = Arc::clone(&self.loader);
        let loading = tokio::task::spawn_blocking(move || loader.load(&name, &version));
        let loaded = loading.await.unwrap_or_else(|_| Err("loading it panicked".to_owned()));
        match &loaded {
            Ok(_) => info!(name = entry.name, version = entry.version, "loaded an application"),
            Err(reason) => {
                warn!(
                    name = entry.name,
                    version = entry.version,
                    reason,
                    "an application cannot be loaded: its requests go on to the next one, its sessions wait"
                );
            }
        }
        loaded.map(Arc::new)
    }

    /// Those that new sessions go to, in the order in which they are asked.
    fn current(&self) -> Vec<Arc<Loaded>> {
        let mut current: Vec<_> = self.loaded_ones(|entry| entry.is_current).collect();
        // Of one order by name: the table is.
        current.sort_by_key(|loaded| (loaded.application.region(), loaded.order));
        current
    }

    fn loaded_ones(
        &self,
        are_wanted: impl Fn(&ApplicationEntry) -> bool,
    ) -> impl Iterator<Item = Arc<Loaded>> {
        let wanted = self.table.applications.iter().filter(move |entry| are_wanted(entry));
        wanted.filter_map(|entry| {
            let found = self.loaded.get(&(entry.name.clone(), entry.version.clone()))?;
            found.as_ref().ok().map(Arc::clone)
        })
    }

    fn hosted(&self) -> SessionApplications {
        let application = |loaded: Arc<Loaded>| Arc::clone(&loaded.application);
        let current = self.current().into_iter().map(application);
        SessionApplications {
            current: self.native.iter().cloned().chain(current).collect(),
            former: self.loaded_ones(|entry| !entry.is_current).map(application).collect(),
        }
    }

    fn report(&self) -> ApplicationsReport {
        let mut reasons_left = REASONS_MAX;
        let report = |entry: &ApplicationEntry| {
            let ApplicationEntry { name, version, .. } = entry.clone();
            let (refused, (events, failures)) = match self
                .loaded
                .get(&(name.clone(), version.clone()))
            {
                Some(Ok(loaded)) => (None, (loaded.counts)()),
                Some(Err(_)) if reasons_left == 0 => (Some("its log says why".to_owned()), (0, 0)),
                Some(Err(reason)) => {
                    reasons_left -= 1;
                    (Some(cut(reason)), (0, 0))
                }
                None => (Some("it is not loaded yet".to_owned()), (0, 0)),
            };
            let id = id(entry);
            let is_unused = self.unused.contains(&id);
            let is_beginning = self.beginning.contains(&id);
            ApplicationReport { name, version, refused, events, failures, is_unused, is_beginning }
        };
        let applications = self.table.applications.iter().map(report).collect();
        ApplicationsReport { generation: self.table.generation, applications }
    }

    fn report_news(&mut self) {
        let report = self.report();
        if report != self.reported {
            self.reporter.report(&ToManager::Applications(report.clone()));
            self.reported = report;
        }
    }
}

/// As records of sessions name it.
fn id(entry: &ApplicationEntry) -> String {
    format!("{}@{}", entry.name, entry.version)
}

/// As much of a reason as a report may tell.
fn cut(reason: &str) -> String {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_cut_between_characters() {
        let reason = "ä".repeat(REASON_BYTES_MAX);
        let told = cut(&format!("x{reason}"));
        assert!(told.len() <= REASON_BYTES_MAX && told.ends_with('ä'));
        assert_eq!(cut("short"), "short");
    }
}
