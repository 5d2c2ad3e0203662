//! Which processes hang: by their silence, by the lock that they hold, by the probes that they do not answer.
//!
//! Every process says [`Event::Alive`](super::Event::Alive) at least once an interval, and only when each of its
//! loops went round. After [`HeartbeatSettings::silence_max`] without it counts as hung: shown as such, killed,
//! started again. What a process is told of late proves nothing: when the manager itself was kept from looking
//! (stopped, starved, the machine asleep), all clocks start anew.
//!
//! What a process waited for a processor is no silence of its own, either, up to [`STARVATION_MAX`]: on an overloaded host a
//! restart would only add to the load. The kernel, which keeps the account, is asked only about those who have missed a sign of
//! life or are accused ([`ProcessTable::suspects`]), so what they waited before that counts as silence. A stopped process waits for
//! no processor, and one that sleeps for ever does not, either.
//!
//! Sooner, after [`HeartbeatSettings::quiet_max`], a container is shown as silent: whatever is due by the clock in its
//! sessions is done by others from then on. Never so that more than half of the containers are: then the machine is busy, and
//! whoever helps is late as well.
//!
//! A holder of the store's write lock is killed much sooner, since all others wait for it. A container whose heart
//! beats but whose SIP does not is reported by the edges that probe it; it is killed when that lasts, but never so
//! that more than half of the containers are not ready: then the fault is most likely elsewhere.

use std::time::{Duration, Instant};

use topology::HeartbeatSettings;
use topology::view::{Incarnation, ProcessName, ProcessState, TopologyView};

use super::event::{Effect, KillReason};
use super::process::{Accusation, LockReport, Process};
use super::{ProcessTable, START_LIMIT};

/// Who waits for the store's write lock reports its holder every 100 ms for which that one did not let go. At so many
/// reports in a row the holder is killed. How long the wait has been proves less: the holder may be another one by
/// now, or all of us may have been asleep.
const LOCK_REPORTS_MAX: u32 = 3;

/// Reports of one wait in a row come closer than this; what comes later has had another holder in between.
const LOCK_REPORT_GAP: Duration = Duration::from_millis(300);

/// So much longer a process may be silent if it waited for a processor all the while.
pub(super) const STARVATION_MAX: Duration = Duration::from_secs(5);

/// What a process has waited for a processor since it is suspected.
#[derive(Debug, Default)]
pub(super) struct Starvation {
    /// What its threads had waited when the kernel was asked last, and when that was.
    account: Option<(Duration, Instant)>,
    /// Since it is late; at most [`STARVATION_MAX`].
    silence: Duration,
}

/// When the table looks at the clock, and whether it does so in time.
#[derive(Debug)]
pub(super) struct Rounds {
    interval: Duration,
    next: Option<Instant>,
}

impl Rounds {
    pub(super) fn new(heartbeat: &HeartbeatSettings) -> Rounds {
        Rounds { interval: heartbeat.interval, next: None }
    }

    /// The next look at the latest.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Nobody is watched, so nobody asks for a look: the next one is not late, whenever it comes.
    pub(super) fn rest(&mut self) {
        self.next = None;
    }

    /// Whether there was a look at that time or later.
    fn has_looked_at(&self, at: Instant) -> bool {
        self.next.is_some_and(|next| next >= at + self.interval)
    }

    /// The table looks; how late it is, if that is more than an interval.
    fn look(&mut self, now: Instant) -> Option<Duration> {
        let expected = self.next.replace(now + self.interval);
        let late = now.saturating_duration_since(expected?);
        (late > self.interval).then_some(late)
    }
}

impl ProcessTable {
    /// A process said that it lives.
    pub(super) fn alive(
        &mut self,
        name: &ProcessName,
        incarnation: Incarnation,
        left: u64,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(at) = self.living(name, incarnation) else { return };
        let process = &mut self.processes[at];
        process.left = left;
        process.was_heard(now);
        if process.state == ProcessState::Draining {
            process.tell_progress(now, effects);
        }
        // A server that reads its files has much to read, perhaps, and says that it does.
        if process.state == ProcessState::Starting && process.is_server() {
            process.due = Some(now + START_LIMIT);
        }
    }

    /// Looks at the clock: who is silent or accused for too long hangs.
    pub(super) fn look_round(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if let Some(late) = self.rounds.look(now) {
            tracing::warn!(
                late_ms = late.as_millis(),
                "was kept from looking; all clocks start anew"
            );
            let silence_max = self.limits.heartbeat.silence_max();
            for process in &mut self.processes {
                process.clocks_start_anew(late, silence_max, now);
            }
        }
        let silence_max = self.limits.heartbeat.silence_max();
        for process in &mut self.processes {
            let silence = process.heard.map(|heard| now.saturating_duration_since(heard));
            let starved = process.starvation.silence;
            if let Some(silence) = silence.filter(|silence| *silence >= silence_max + starved) {
                process.hangs(KillReason::Silent { silence, starved }, effects);
            }
        }
        self.mark_silent(now);
        for at in 0..self.processes.len() {
            self.judge_accusations(at, now, effects);
        }
    }

    /// Who may be taken for hung soon: whose processor the kernel is to be asked about, before each [`tick`](Self::tick).
    pub fn suspects(&self, now: Instant) -> Vec<u32> {
        let late = late_after(&self.limits.heartbeat);
        let is_suspect = |process: &&Process| {
            let is_late =
                process.heard.is_some_and(|heard| now.saturating_duration_since(heard) >= late);
            is_late || !process.accusations.is_empty()
        };
        self.processes.iter().filter(is_suspect).filter_map(|process| process.pid).collect()
    }

    /// The threads of a suspect have waited so long for a processor since they began, all together.
    pub fn has_waited_for_processor(&mut self, pid: u32, waited: Duration, now: Instant) {
        let late = late_after(&self.limits.heartbeat);
        let suspects = self.processes.iter_mut().filter(|process| process.pid == Some(pid));
        suspects.for_each(|process| process.has_waited(waited, late, now));
    }

    /// Shows which containers are late with their signs of life.
    fn mark_silent(&mut self, now: Instant) {
        let quiet_max = self.limits.heartbeat.quiet_max();
        let is_silent = |process: &Process| {
            let heard = process.heard.filter(|_| process.is_container());
            heard.is_some_and(|heard| now.saturating_duration_since(heard) >= quiet_max)
        };
        let containers = self.processes.iter().filter(|process| process.is_container()).count();
        let silent = self.processes.iter().filter(|process| is_silent(process)).count();
        for process in &mut self.processes {
            process.is_silent = silent * 2 <= containers && is_silent(process);
        }
    }

    /// When [`look_round`](Self::look_round) has something to find.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.first_watched().map(|at| self.rounds.next().map_or(at, |next| next.min(at)))
    }

    /// Something happened: perhaps nobody is watched any more, or for the first time again.
    pub(super) fn rest_if_nobody_is_watched(&mut self) {
        if self.first_watched().is_none() {
            self.rounds.rest();
        }
    }

    /// When the patience with the first of those who are watched ends.
    fn first_watched(&self) -> Option<Instant> {
        let silence_max = self.limits.heartbeat.silence_max();
        let quiet_max = self.limits.heartbeat.quiet_max();
        let late = late_after(&self.limits.heartbeat);
        let watched = self.processes.iter().filter_map(|process| {
            let accused = process.accusations.iter().map(|accusation| accusation.due);
            let starved = process.starvation.silence;
            let hangs = process.heard.map(|heard| heard + silence_max + starved);
            let quiet = process.heard.filter(|_| process.is_container());
            let late = process.heard.map(|heard| heard + late);
            let quiet = quiet.map(|heard| heard + quiet_max);
            // That it is late was found at the last look, or was not worth showing.
            let early = late.into_iter().chain(quiet);
            let early = early.filter(|at| !self.rounds.has_looked_at(*at));
            accused.chain(hangs).chain(early).min()
        });
        watched.min()
    }

    /// Somebody waits for the lock that a process of this number holds.
    pub(super) fn lock_held(
        &mut self,
        reporter: ProcessName,
        holder: u32,
        waited: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let held_by =
            |process: &&mut Process| process.pid == Some(holder) && process.spec.name != reporter;
        // A stranger (a backup, say) is not ours to kill: the log of who waits names it.
        let Some(process) = self.processes.iter_mut().find(held_by) else { return };
        match process.state {
            ProcessState::Starting
            | ProcessState::Ready
            | ProcessState::Draining
            | ProcessState::Stopping => {}
            ProcessState::Hung | ProcessState::Backoff | ProcessState::Down => return,
        }
        let reports = &mut process.lock_reports;
        let report = match reports.iter_mut().find(|known| known.reporter == reporter) {
            Some(report) => report,
            None => reports.push_mut(LockReport { reporter, waited: Duration::ZERO, count: 0 }),
        };
        // A shorter wait than the one before is another one: the lock was free in between.
        let follows = report.waited < waited && waited - report.waited < LOCK_REPORT_GAP;
        report.count = if follows { report.count + 1 } else { 1 };
        report.waited = waited;
        if report.count >= LOCK_REPORTS_MAX {
            process.hangs(KillReason::HoldsLock { waited }, effects);
        }
    }

    /// An edge gets no answers to its probes from a container.
    pub(super) fn accused(
        &mut self,
        reporter: ProcessName,
        name: &ProcessName,
        incarnation: Incarnation,
        now: Instant,
    ) {
        let due = now + self.limits.heartbeat.silence_max();
        let Some(at) = self.living(name, incarnation) else { return };
        let process = &mut self.processes[at];
        // One that is not expected to serve cannot fail to.
        let is_known = process.accusations.iter().any(|known| known.reporter == reporter);
        if process.is_container() && process.heard.is_some() && !is_known {
            process.accusations.push(Accusation { reporter, due, starved: Duration::ZERO });
        }
    }

    /// That edge takes it back.
    pub(super) fn acquitted(
        &mut self,
        reporter: &ProcessName,
        name: &ProcessName,
        incarnation: Incarnation,
    ) {
        if let Some(at) = self.living(name, incarnation) {
            self.processes[at].accusations.retain(|known| &known.reporter != reporter);
        }
    }

    /// An edge has died: what it said is nobody's word any more.
    pub(super) fn forget_witness(&mut self, reporter: &ProcessName) {
        for process in &mut self.processes {
            process.accusations.retain(|known| &known.reporter != reporter);
            process.lock_reports.retain(|known| &known.reporter != reporter);
        }
    }

    /// Of the edges of other nodes those keep their word that serve in this view.
    pub fn keep_witnesses(&mut self, view: &TopologyView) {
        let serves = |edge: &ProcessName| {
            edge.parts().1.is_none()
                || view.process(edge).is_some_and(|edge| edge.state.may_serve())
        };
        for process in &mut self.processes {
            process.accusations.retain(|known| serves(&known.reporter));
        }
    }

    /// An edge of the node itself that serves knows better than those of other nodes, whose network may be at fault.
    fn has_own_witness(&self) -> bool {
        let is_witness =
            |process: &Process| process.is_edge() && process.state == ProcessState::Ready;
        self.processes.iter().any(is_witness)
    }

    fn judge_accusations(&mut self, at: usize, now: Instant, effects: &mut Vec<Effect>) {
        let is_due = |accusation: &&Accusation| now >= accusation.due;
        let mut due = self.processes[at].accusations.iter().filter(is_due).peekable();
        if due.peek().is_none() {
            return;
        }
        let own_only = self.has_own_witness();
        let counts = due.any(|accusation| !own_only || accusation.reporter.parts().1.is_none());
        let is_lost = |(other, process): (usize, &Process)| {
            process.is_container() && (other == at || process.state != ProcessState::Ready)
        };
        let containers = self.processes.iter().filter(|process| process.is_container()).count();
        let lost = self.processes.iter().enumerate().filter(|seen| is_lost(*seen)).count();
        if counts && lost * 2 <= containers {
            return self.processes[at].hangs(KillReason::Unresponsive, effects);
        }
        let later = now + self.limits.heartbeat.interval;
        for accusation in &mut self.processes[at].accusations {
            if now >= accusation.due {
                // Others may be ready by then, or there may be no edge here.
                accusation.due = later;
            }
        }
    }
}

/// After this silence a process missed a sign of life, and the kernel is asked about it.
fn late_after(heartbeat: &HeartbeatSettings) -> Duration {
    heartbeat.interval * 3 / 4
}

impl Process {
    /// It lives, if that was in question at all.
    pub(super) fn was_heard(&mut self, now: Instant) {
        if self.heard.is_some() {
            self.heard = Some(now);
            self.is_silent = false;
        }
        self.starvation.silence = Duration::ZERO;
        if self.accusations.is_empty() {
            self.starvation.account = None;
        }
    }

    /// Its threads have waited so long for a processor since they began.
    fn has_waited(&mut self, waited: Duration, late: Duration, now: Instant) {
        let Some((before, asked)) = self.starvation.account.replace((waited, now)) else { return };
        // Several threads wait at the same time.
        let more = waited.saturating_sub(before).min(now.saturating_duration_since(asked));
        if self.heard.is_some_and(|heard| now.saturating_duration_since(heard) >= late) {
            let silence = &mut self.starvation.silence;
            *silence = (*silence + more).min(STARVATION_MAX);
        }
        for accusation in &mut self.accusations {
            let more = more.min(STARVATION_MAX.saturating_sub(accusation.starved));
            accusation.starved += more;
            accusation.due += more;
        }
    }

    /// The manager did not look for a while, so nobody else is late.
    fn clocks_start_anew(&mut self, late: Duration, silence_max: Duration, now: Instant) {
        self.was_heard(now);
        for accusation in &mut self.accusations {
            accusation.due = now + silence_max;
        }
        match self.state {
            ProcessState::Starting | ProcessState::Draining | ProcessState::Stopping => {
                self.due = self.due.map(|due| due + late);
            }
            ProcessState::Ready
            | ProcessState::Hung
            | ProcessState::Backoff
            | ProcessState::Down => {}
        }
    }
}
