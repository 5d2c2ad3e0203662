//! Drives a [`Shard`]: the links of the edges, handlers, commits, look-ups, heartbeats, the clock.
//!
//! One task does all of it, in turns: whatever is ready goes into the shard, the effects that come out are
//! begun, and all links are written once. Handlers and commits are futures of this task, so none of them needs
//! a lock; heartbeats come from the same loop, so a container that cannot serve falls silent.
//!
//! Deliberately absent: decisions (the shard's), retries of commits (the shard's), group commit (the store's).

mod asks;
mod handle;
mod link;
mod resolver;
mod usage;
mod wedge;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use sip::Message;
use state::clock::Clock;
use state::{Store, UnixMillis};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::Sleep;
use topology::HeartbeatSettings;
use tracing::{debug, info, warn};
use transport::Flow;
use transport::link::{LinkFrame, Refused, SendError};
use transport::tls::TlsStream;

use crate::application::{Application, Duty, IncomingRequest, Tick};
use crate::edges::LinkId;
use crate::shard::{LookupId, SessionApplications, Shard, ShardEffect, ShardSettings};
use asks::Asks;
pub use handle::ServerHandle;
use handle::{Command, Vitals};
use link::{Link, LinkEnd};
use resolver::Resolver;
use wedge::Wedge;
use work::{Finished, Work};

/// More links are refused: an edge has one for each of its cores.
const LINKS_MAX: usize = 1_024;
/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;
/// Reads of one link in one turn: more than a socket holds, so that the end of a closed link is
/// seen at once, and a link that never ends leaves the others their turn.
const READS_PER_TURN_MAX: usize = 8;
/// Finished handlers and commits that one turn looks at, so that links are read in between.
const FINISHED_PER_TURN_MAX: usize = 256;
/// No more of them are looked at after this time.
const FINISHED_TIME_MAX: Duration = Duration::from_millis(5);
/// No more deadlines are met in one turn after this time.
const DEADLINES_TIME_MAX: Duration = Duration::from_millis(5);
/// Duties carried out in one turn: a round of them is written to the links in portions that these can hold.
const DUTIES_PER_TURN_MAX: usize = 1_000;
/// Commands that wait; whoever sends more waits.
const COMMANDS_MAX: usize = 64;
/// After a failed accept (no descriptors left) the listener rests.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a container is told at its start.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Who it is, and its bounds.
    pub shard: ShardSettings,
    /// The Unix socket that edges connect to; a stale one is replaced.
    pub link_path: PathBuf,
    /// How often each edge hears that we serve, and the manager that we live.
    pub heartbeat: HeartbeatSettings,
    /// The process's clock: the stores' too.
    pub clock: Arc<dyn Clock>,
    /// How often [`Application::tick`] is asked for duties.
    pub tick_interval: Duration,
    /// A handler, or a commit, that takes longer is given up with 503.
    pub handler_time_max: Duration,
}

/// Why a container could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another process answers on the socket.
    #[error("{} is in use: another container of that name runs; stop it first", .0.display())]
    InUse(PathBuf),
    /// The path is taken by something else.
    #[error("{} exists and is no socket; move it away", .0.display())]
    NotASocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen on {}: {source}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A container process's one shard with everything around it.
pub struct Server {
    settings: ServerSettings,
    application: Arc<dyn Application>,
    shard: Shard,
    listener: UnixListener,
    accepts_from: Instant,
    links: BTreeMap<LinkId, Link>,
    next_link: u64,
    /// Where links are read into.
    scratch: Box<[u8]>,
    work: Work,
    resolver: Resolver,
    commands: mpsc::Receiver<Command>,
    has_commander: bool,
    effects: Vec<ShardEffect>,
    spare_effects: Vec<ShardEffect>,
    /// The wall clock and its guarded reading, as of this turn.
    clocks: (UnixMillis, UnixMillis),
    alarm: Pin<Box<Sleep>>,
    next_heartbeat: Instant,
    next_tick: Instant,
    is_ticking: bool,
    /// What is left of the duties of the last round.
    duties: VecDeque<Duty>,
    vitals: Vitals,
    wedge: Wedge,
    asks: Asks,
    /// Set once the container was told to drain or to stop.
    ends_at: Option<Instant>,
}

impl Server {
    /// Listens for edges; [`run`](Self::run) serves them. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`ServerError`] when the link socket cannot be had.
    pub fn bind(
        settings: ServerSettings,
        store: Arc<dyn Store>,
        application: Arc<dyn Application>,
    ) -> Result<(Server, ServerHandle), ServerError> {
        let listener = listen(&settings.link_path)?;
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let now = Instant::now();
        let vitals = Vitals::default();
        let work = Work::new(Arc::clone(&application), store, settings.handler_time_max);
        let mut shard = Shard::new(settings.shard.clone(), now, settings.clock.wall());
        if application.is_gatekeeper() {
            shard.guard();
        }
        let server = Server {
            shard,
            application,
            listener,
            accepts_from: now,
            links: BTreeMap::new(),
            next_link: 0,
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            work,
            resolver: Resolver::new(),
            commands,
            has_commander: true,
            effects: Vec::new(),
            spare_effects: Vec::new(),
            clocks: (settings.clock.wall(), settings.clock.now()),
            alarm: Box::pin(tokio::time::sleep(Duration::ZERO)),
            next_heartbeat: now + settings.heartbeat.interval,
            next_tick: now + settings.tick_interval,
            is_ticking: false,
            duties: VecDeque::new(),
            vitals: vitals.clone(),
            wedge: Wedge::default(),
            asks: Asks::default(),
            ends_at: None,
            settings,
        };
        Ok((server, ServerHandle { commands: sender, vitals }))
    }

    /// The server with these applications as well: they are offered an initial request before the one that it was
    /// bound with. Requests of their sessions for `own_domains` go through the node's own front door.
    #[must_use]
    pub fn hosting(
        mut self,
        applications: SessionApplications,
        own_domains: Vec<String>,
    ) -> Server {
        self.shard.host(applications, own_domains);
        self
    }

    /// Serves until told to stop; told to drain, until nobody waits for an answer, or the deadline has come.
    pub async fn run(mut self) {
        info!(container = %self.settings.shard.name, application = self.application.name(), "serving");
        // A turn has bounds of its own. The runtime's would let each of some hundred commits that have ended in one turn
        // say that it has not, and be asked again.
        tokio::task::unconstrained(poll_fn(|cx| self.turn(cx))).await;
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Http(call) = command {
                call.refuse(); // nothing was done with it
            }
        }
        if let Err(error) = std::fs::remove_file(&self.settings.link_path) {
            debug!(%error, "the link socket was gone already");
        }
        info!(container = %self.settings.shard.name, "stopped");
    }

    /// Does everything that is ready; ready itself when the container has ended.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        self.vitals.pulse.count();
        let (wall, guarded) = (self.settings.clock.wall(), self.settings.clock.now());
        self.clocks = (wall, guarded);
        self.shard.tell_time(now, wall, guarded);
        self.poll_commands(cx, now);
        self.poll_accept(cx, now);
        let has_unread = self.poll_links(cx, now);
        self.run_timers(now);
        self.do_duties();
        self.carry_out(now);
        // Behind everything that begins work: what is not polled once wakes nobody.
        let has_unfinished = self.poll_work(cx, now);
        self.flush(cx, now);
        // Before the next alarm is set: that the links have taken everything wakes nobody else.
        self.shard.hold_back(!self.links.values().all(Link::is_flushed), now);
        if self.ends_at.is_some_and(|at| at <= now || self.is_over()) {
            return Poll::Ready(());
        }
        // All else was polled until it had nothing more, and wakes us. A turn for nothing would cost as much as the wait.
        let has_more = !self.effects.is_empty() || !self.duties.is_empty();
        if has_unread || has_unfinished || has_more || self.is_alarm_due(cx) {
            // Another turn, after the runtime has looked at sockets and other tasks.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn poll_commands(&mut self, cx: &mut Context<'_>, now: Instant) {
        while self.has_commander
            && let Poll::Ready(command) = self.commands.poll_recv(cx)
        {
            match command {
                Some(Command::View(view)) => {
                    self.shard.topology(&view, now, &mut self.effects);
                }
                Some(Command::Applications(applications)) => {
                    self.shard.use_applications(applications, now, &mut self.effects);
                }
                Some(Command::Http(call)) => {
                    if let Some(ask) = self.asks.begin(call) {
                        self.shard.http(ask, now, &mut self.effects);
                    }
                }
                Some(Command::Usage(look, reply)) => {
                    let _nobody_waits = reply.send(look.at(&self.shard));
                }
                Some(Command::Link(stream)) => self.adopt(*stream, now),
                Some(Command::Drain(deadline_in)) => {
                    info!(?deadline_in, "draining");
                    self.drain(now);
                    self.ends_at = Some(now + deadline_in);
                }
                Some(Command::Stop) => self.ends_at = Some(now),
                #[cfg(feature = "faults")]
                Some(Command::Wedge) => {
                    warn!("wedged: what comes by links is not worked off any more");
                    self.wedge.set();
                }
                None => self.has_commander = false,
            }
        }
    }

    fn drain(&mut self, now: Instant) {
        self.shard.drain();
        // The edges shall know at once, not at the next interval.
        self.next_heartbeat = now;
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>, now: Instant) {
        if self.accepts_from > now {
            return;
        }
        while let Poll::Ready(accepted) = self.listener.poll_accept(cx) {
            match accepted {
                Ok(_) if self.links.len() >= LINKS_MAX => {
                    warn!(links = self.links.len(), "refused a link: too many");
                }
                Ok((stream, _)) => drop(self.take_in(Link::new(stream))),
                Err(error) => {
                    warn!(%error, "cannot accept a link");
                    self.accepts_from = now + ACCEPT_PAUSE;
                    break;
                }
            }
        }
    }

    /// A link of an edge of another node.
    fn adopt(&mut self, stream: TlsStream<TcpStream>, now: Instant) {
        if self.links.len() >= LINKS_MAX {
            return warn!(links = self.links.len(), "refused a link of another node: too many");
        }
        let link = Link::secured(stream, &mut self.scratch);
        let Some(id) = self.take_in(link) else { return };
        let Some(link) = self.links.get_mut(&id) else { return };
        // Nothing else would look at what came together with the end of the handshake.
        if let Err(end) = feed(&mut self.shard, &self.wedge, id, link, now, &mut self.effects) {
            self.end_links(vec![(id, end)], now);
        }
    }

    fn take_in(&mut self, link: io::Result<Link>) -> Option<LinkId> {
        match link {
            Ok(link) => {
                self.next_link += 1;
                self.links.insert(LinkId(self.next_link), link);
                Some(LinkId(self.next_link))
            }
            Err(error) => {
                warn!(%error, "refused a link: it cannot be polled");
                None
            }
        }
    }

    /// Reads each link to its end, so that what is left of a link that is closed already (the container was stopped
    /// for a while) is known to be offered elsewhere before anything comes of it. True when one has more than a turn's
    /// share.
    fn poll_links(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut has_unread = false;
        let mut ended = Vec::new();
        for (id, link) in &mut self.links {
            for reads in 1..=READS_PER_TURN_MAX {
                if is_held(&self.wedge, &self.shard, *id) {
                    break;
                }
                let end = match link.poll_read(&mut self.scratch, cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(())) => {
                        feed(&mut self.shard, &self.wedge, *id, link, now, &mut self.effects).err()
                    }
                    Poll::Ready(Err(end)) => Some(end),
                };
                if let Some(end) = end {
                    ended.push((*id, end));
                    break;
                }
                has_unread |= reads == READS_PER_TURN_MAX;
            }
        }
        self.end_links(ended, now);
        has_unread
    }

    /// Takes in what has ended; true when more may have than one turn looks at.
    fn poll_work(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if self.wedge.is_set() {
            return false;
        }
        let began = Instant::now();
        for count in 0..FINISHED_PER_TURN_MAX {
            if count > 0 && began.elapsed() > FINISHED_TIME_MAX {
                break;
            }
            let Some(finished) = self.work.poll(cx) else { return false };
            self.finish(finished, now);
            // A commit follows at once, so that its batch joins those of this turn.
            self.carry_out(now);
        }
        self.work.begin_commits(); // they do not wait for all the rest
        true
    }

    /// Tells the shard of the end of something.
    fn finish(&mut self, finished: Finished, now: Instant) {
        let effects = &mut self.effects;
        match finished {
            Finished::Handled(job, end) => self.shard.handled(job, end, now, effects),
            Finished::EventHandled(job, end) => self.shard.event_handled(job, end, now, effects),
            Finished::KeyFound(job, end) => self.shard.key_found(job, end, now, effects),
            Finished::Committed(commits) => {
                for (commit, outcome) in commits {
                    self.shard.committed(commit, outcome, now, effects);
                }
            }
            Finished::Read(read, result) => self.shard.read(read, result, now, effects),
            Finished::Scanned(scan, result) => self.shard.scanned(scan, result, now, effects),
            Finished::Resolved { lookup, host, port, addresses } => {
                self.resolver.remember(host, &addresses, now);
                let addresses: Vec<_> =
                    addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
                self.shard.resolved(lookup, &addresses, now, effects);
            }
            Finished::Ticked(duties) => {
                self.is_ticking = false;
                self.duties.extend(duties);
            }
        }
    }

    /// Meets the shard's deadlines. Of very many the rest waits for the next turn.
    fn run_deadlines(&mut self, now: Instant) {
        let began = Instant::now();
        while self.shard.next_timeout().is_some_and(|at| at <= now) {
            self.shard.timeout(now, &mut self.effects);
            self.carry_out(now);
            if began.elapsed() > DEADLINES_TIME_MAX {
                break;
            }
        }
    }

    fn run_timers(&mut self, now: Instant) {
        self.run_deadlines(now);
        if self.next_heartbeat <= now {
            self.next_heartbeat = now + self.settings.heartbeat.interval;
            self.vitals.left.store(self.shard.left(), Ordering::Relaxed);
            let frame = self.shard.heartbeat();
            let links = self.shard.links();
            let heartbeats = links.map(|link| ShardEffect::Send { link, frame: frame.clone() });
            self.effects.extend(heartbeats);
        }
        if self.next_tick <= now {
            self.next_tick = now + self.settings.tick_interval;
            self.shard.look_for_estates(now, &mut self.effects);
            // A round that takes longer than its interval is not joined by a second one.
            if !self.is_ticking && self.duties.is_empty() {
                self.is_ticking = true;
                let application = Arc::clone(&self.application);
                let tick = Tick::new(self.settings.clock.now(), self.shard.share().clone());
                self.work.push(Box::pin(async move {
                    let round = AssertUnwindSafe(application.tick(&tick)).catch_unwind().await;
                    Finished::Ticked(round.unwrap_or_default())
                }));
            }
        }
    }

    /// Carries out some of the duties.
    fn do_duties(&mut self) {
        let count = self.duties.len().min(DUTIES_PER_TURN_MAX);
        for duty in self.duties.drain(..count) {
            self.shard.duty(&duty, &mut self.effects);
        }
    }

    /// Begins what the shard asks for, until it asks for nothing more.
    fn carry_out(&mut self, now: Instant) {
        while !self.effects.is_empty() {
            let asked = std::mem::take(&mut self.spare_effects);
            let mut asked = std::mem::replace(&mut self.effects, asked);
            for effect in asked.drain(..) {
                self.begin(effect, now);
            }
            self.spare_effects = asked; // keeps its memory
        }
    }

    fn begin(&mut self, effect: ShardEffect, now: Instant) {
        match effect {
            ShardEffect::Send { link, frame } => self.send(link, &frame, now),
            ShardEffect::Taken { link, sequence } => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.taken(sequence);
                }
            }
            ShardEffect::Handle { job, request, flow, caller, attempt } => {
                let request =
                    IncomingRequest { caller, ..self.incoming_request(*request, flow, attempt) };
                if let Some(handled) = self.work.handle(job, request) {
                    self.finish(handled, now);
                }
            }
            ShardEffect::Admit { job, request, flow, attempt } => {
                let request = self.incoming_request(*request, flow, attempt);
                if let Some(handled) = self.work.admit(job, request) {
                    self.finish(handled, now);
                }
            }
            ShardEffect::HandleEvent { job, application, session, event } => {
                self.work.handle_event(job, application, session, event);
            }
            ShardEffect::FindKey { job, application, request } => {
                self.work.find_key(job, application, request);
            }
            ShardEffect::HttpAnswered { ask, outcome } => self.asks.end(ask, outcome),
            ShardEffect::Commit { commit, batch } => self.work.commit(commit, batch),
            ShardEffect::Read { read, key } => self.work.read(read, key),
            ShardEffect::Scan { scan, space, prefix, after, limit } => {
                self.work.scan(scan, space, prefix, after, limit);
            }
            ShardEffect::Resolve { lookup, host, port } => self.resolve(lookup, host, port, now),
        }
    }

    fn incoming_request(&self, message: Message, flow: Flow, attempt: u32) -> IncomingRequest {
        let (now, expiry_now) = self.clocks;
        IncomingRequest { expiry_now, attempt, ..IncomingRequest::new(message, flow, now) }
    }

    fn send(&mut self, link: LinkId, frame: &LinkFrame, now: Instant) {
        let error = match self.links.get_mut(&link).map(|link| link.try_send(frame)) {
            Some(Ok(())) => return,
            Some(Err(Refused::Full)) | None => SendError::Full,
            Some(Err(Refused::Frame(_))) => SendError::Refused,
        };
        if let LinkFrame::Outgoing { id, .. } = frame {
            self.shard.send_failed(*id, error, now, &mut self.effects);
        }
    }

    fn resolve(&mut self, lookup: LookupId, host: String, port: u16, now: Instant) {
        if let Some(addresses) = self.resolver.cached(&host, port, now) {
            return self.shard.resolved(lookup, &addresses, now, &mut self.effects);
        }
        let asking = self.resolver.look_up(host.clone());
        self.work.push(Box::pin(async move {
            let addresses = asking.await;
            Finished::Resolved { lookup, host, port, addresses }
        }));
    }

    /// Writes every link.
    fn flush(&mut self, cx: &mut Context<'_>, now: Instant) {
        let mut ended = Vec::new();
        for (id, link) in &mut self.links {
            if let Poll::Ready(Err(end)) = link.poll_flush(cx) {
                ended.push((*id, end));
            }
        }
        self.end_links(ended, now);
    }

    fn end_links(&mut self, ended: Vec<(LinkId, LinkEnd)>, now: Instant) {
        for (id, end) in ended {
            match &end {
                LinkEnd::Closed | LinkEnd::Io(_) => info!(link = id.0, %end, "a link has ended"),
                LinkEnd::Frames(_) | LinkEnd::Fault(_) => {
                    warn!(link = id.0, %end, "closed a link that broke the protocol");
                }
            }
            self.links.remove(&id);
            self.shard.link_down(id, now, &mut self.effects);
        }
    }

    fn is_over(&self) -> bool {
        self.shard.is_quiet() && self.asks.is_empty() && self.links.values().all(Link::is_flushed)
    }

    /// Sets the alarm to the next deadline of anybody; true when that has come already.
    fn is_alarm_due(&mut self, cx: &mut Context<'_>) -> bool {
        let now = Instant::now();
        let rests = self.accepts_from > now;
        let deadlines = [
            Some(self.next_heartbeat),
            Some(now + self.settings.heartbeat.round_max()),
            Some(self.next_tick),
            self.shard.next_timeout(),
            self.ends_at,
            rests.then_some(self.accepts_from),
        ];
        let next = deadlines.into_iter().flatten().min().expect("heartbeats never end");
        self.alarm.as_mut().reset(next.into());
        self.alarm.as_mut().poll(cx).is_ready()
    }
}

/// Whether what comes by this link stands still; a hello is answered even so.
fn is_held(wedge: &Wedge, shard: &Shard, id: LinkId) -> bool {
    wedge.is_set() && shard.links().any(|up| up == id)
}

/// Gives the shard every frame that a read has completed.
fn feed(
    shard: &mut Shard,
    wedge: &Wedge,
    id: LinkId,
    link: &mut Link,
    now: Instant,
    effects: &mut Vec<ShardEffect>,
) -> Result<(), LinkEnd> {
    while !is_held(wedge, shard, id)
        && let Some(frame) = link.next_frame()?
    {
        shard.frame(id, frame, now, effects)?;
    }
    Ok(())
}

/// The link socket, readable by the node's owner only.
fn listen(path: &Path) -> Result<UnixListener, ServerError> {
    let failed = |source| ServerError::Listen { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ServerError::NotASocket(path.to_owned()));
        }
        // A killed container leaves its socket behind; only a living one answers.
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(ServerError::InUse(path.to_owned()));
        }
        Ok(_) => std::fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}
