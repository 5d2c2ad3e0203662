//! Prints how long a container takes to claim the calls that a dead one was setting up, and to go on with them; its
//! longest turn and its longest silence meanwhile, and how long a caller who repeats its INVITE waits for an answer.
//!
//! `cargo run --release -p container --example takeover_cost [CALLS]`; 100,000 calls by default. The store is the
//! embedded one; every call has one target behind an edge, to which its INVITE is sent again. The container has a
//! thread of its own, whose processor time is told beside the time by the clock: that of a busy machine says little.
#![allow(clippy::print_stdout, clippy::expect_used, reason = "its output is what it is for")]

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use container::application::{
    Application, Duty, Effects, IncomingRequest, ProxyPlan, Response, Target, Tick,
};
use container::ownership::identity::SetUpId;
use container::ownership::index::{OWNED, estate};
use container::server::{Server, ServerSettings};
use container::setup::SetUp;
use container::shard::ShardSettings;
use container::transactions::TransactionSettings;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use rustix::time::{ClockId, clock_gettime};
use sip::transaction::Timers;
use state::Store;
use state::clock::SystemClock;
use state::engine::embedded::{EmbeddedStore, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use topology::{
    ChoiceKey, HeartbeatSettings, Incarnation, KeyRing, ProcessEntry, ProcessName, ProcessState,
    ProcessType, TopologyView,
};
use transport::link::{EdgeAddress, LinkFrame, LinkReceiver, LinkSender};
use transport::{Flow, Transport};

const EDGE: &str = "127.0.0.1:5060";
const DEAD: Incarnation = Incarnation(1);
const HEIR: Incarnation = Incarnation(2);
const HEARTBEAT: Duration = Duration::from_millis(20);
/// How often the caller of another call repeats its INVITE.
const REPETITION: Duration = Duration::from_millis(5);
/// The thread of the store that writes.
const WRITER: &str = "state-writer";

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Nothing;

impl Application for Nothing {
    fn name(&self) -> &str {
        "nothing"
    }

    fn handle<'a>(&'a self, _request: &'a IncomingRequest) -> BoxFuture<'a, Effects> {
        async { Effects::respond(Response::new(404)) }.boxed()
    }

    fn tick<'a>(&'a self, _tick: &'a Tick) -> BoxFuture<'a, Vec<Duty>> {
        async { Vec::new() }.boxed()
    }
}

/// The record of the call of this number.
fn call(number: usize) -> (SetUpId, SetUp) {
    let session = "v=0\r\n".repeat(60);
    let request = format!(
        "INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP {EDGE};branch=z9hG4bK{number}\r\n\
         Via: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bKphone{number};rport=5060\r\nMax-Forwards: 69\r\n\
         From: <sip:alice@example.com>;tag=f{number}\r\nTo: <sip:bob@example.com>\r\nCall-ID: {number}\r\n\
         CSeq: 1 INVITE\r\nContact: <sip:alice@192.0.2.7>\r\nContent-Type: application/sdp\r\n\
         Content-Length: {}\r\n\r\n{session}",
        session.len()
    );
    let mut target = Target::new(format!("sip:bob{number}@192.0.2.8"));
    target.route = vec![format!("<sip:token{number}@{EDGE};lr>").into()];
    let address = EDGE.parse().expect("an address");
    let record = SetUp {
        owner: DEAD,
        token: [b't'; 28],
        sent_by: "c1.n1.outlast.invalid".into(),
        flow: Flow::new(Transport::Udp, address, "192.0.2.7:5060".parse().expect("an address")),
        choice: ChoiceKey::CallId(number.to_string().as_bytes()).hash(),
        request: request.into(),
        plan: ProxyPlan::to_targets(vec![target]),
        events: Vec::new(),
    };
    let mut id = [0; 16];
    id[0] = number as u8;
    id[8..].copy_from_slice(&(number as u64).to_be_bytes());
    (SetUpId(id), record)
}

fn view() -> TopologyView {
    let entry = |name: &str, incarnation, state| ProcessEntry {
        name: ProcessName::new(name),
        process_type: ProcessType::Container,
        incarnation,
        pid: None,
        state,
        restarts: 0,
        link: None,
        link_address: None,
        addresses: Vec::new(),
        weight: 100,
        is_silent: false,
        http: None,
    };
    let dead = entry("c1", DEAD, ProcessState::Backoff);
    let heir = entry("c2", HEIR, ProcessState::Ready);
    TopologyView { processes: vec![dead, heir], ..TopologyView::default() }
}

fn settings(link_path: std::path::PathBuf) -> ServerSettings {
    ServerSettings {
        shard: ShardSettings {
            name: ProcessName::new("c2"),
            incarnation: HEIR,
            node: "n1".to_owned(),
            keys: KeyRing::new([1; 32]),
            transactions: TransactionSettings {
                timers: Timers::default(),
                transactions_max: 200_000,
            },
            commit_conflicts_max: 8,
        },
        link_path,
        heartbeat: HeartbeatSettings { interval: HEARTBEAT, allowed_miss_count: 2 },
        clock: Arc::new(SystemClock::default()),
        tick_interval: Duration::from_secs(5),
        handler_time_max: Duration::from_secs(2),
    }
}

/// What is seen of the container while it takes over.
#[derive(Debug, Default)]
struct Seen {
    /// The longest time between two heartbeats, in microseconds.
    silence: AtomicU64,
    /// INVITEs that left for their phones.
    invites: AtomicU64,
    /// The longest turn, in microseconds of its thread.
    turn: AtomicU64,
    /// All turns.
    turns: AtomicU64,
    /// The container that had the calls is dead.
    is_dead: AtomicBool,
    /// From a caller's repetition to the first answer, in microseconds: the longest, all, and how many.
    wait_max: AtomicU64,
    waits: AtomicU64,
    answered: AtomicU64,
}

fn count(counter: &AtomicU64, number: u128) {
    counter.fetch_add(u64::try_from(number).unwrap_or(u64::MAX), Ordering::Relaxed);
}

fn longest(counter: &AtomicU64, number: u128) {
    counter.fetch_max(u64::try_from(number).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// An edge that takes everything; now and then the caller of some call repeats its INVITE.
async fn edge(mut stream: UnixStream, calls: usize, seen: Arc<Seen>) {
    let mut sender = LinkSender::new();
    let own = EDGE.parse().expect("an address");
    let address = EdgeAddress { transport: Transport::Udp, own, public: EDGE.to_owned() };
    let (peer_name, addresses) = ("edge1".to_owned(), vec![address]);
    sender
        .try_send(&LinkFrame::Hello { peer_name, incarnation: 3, worker: 0, addresses })
        .expect("the first frame fits");
    let mut receiver = LinkReceiver::new();
    let mut beat = Instant::now();
    let mut asked = HashMap::new();
    let mut repetition = tokio::time::interval(REPETITION);
    repetition.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut spread = (1..).map(|number: usize| number * 7_919 % calls);
    loop {
        let unwritten = sender.unwritten().len();
        stream.write_all(sender.unwritten()).await.expect("the container reads");
        sender.written(unwritten);
        tokio::select! {
            read = stream.read_buf(receiver.read_buffer()) => {
                assert_ne!(read.expect("the container lives"), 0, "the container lives");
            }
            _ = repetition.tick(), if seen.is_dead.load(Ordering::Relaxed) => {
                let number = spread.next().expect("endless");
                let (_, record) = call(number);
                sender.try_send_incoming(record.flow, 0, record.request).expect("room");
                asked.insert(number.to_string(), Instant::now());
            }
        }
        while let Some(frame) = receiver.next_frame().expect("frames") {
            match frame {
                LinkFrame::Heartbeat { .. } => {
                    longest(&seen.silence, beat.elapsed().as_micros());
                    beat = Instant::now();
                }
                LinkFrame::Taken { up_to } => sender.taken(up_to),
                LinkFrame::Outgoing { bytes, .. } if bytes.starts_with(b"INVITE") => {
                    count(&seen.invites, 1);
                }
                LinkFrame::Outgoing { bytes, .. } => {
                    let response = sip::Message::parse(bytes).expect("a response");
                    let call_id = response.call_id().expect("a Call-ID");
                    if let Some(since) = asked.remove(&*String::from_utf8_lossy(call_id)) {
                        let waited = since.elapsed().as_micros();
                        longest(&seen.wait_max, waited);
                        count(&seen.waits, waited);
                        count(&seen.answered, 1);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Waits until the dead container has left nothing.
async fn all_claimed(store: &EmbeddedStore) {
    let space = OWNED;
    for bucket in 0..=u8::MAX {
        let left = estate(bucket, DEAD);
        while !store.scan(&space, &left, None, 1).await.expect("scans succeed").is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Runs the container on this thread, and measures its turns.
async fn serve(server: Server, seen: Arc<Seen>) {
    let mut run = pin!(server.run());
    poll_fn(|cx| {
        let began = thread_time();
        let end = run.as_mut().poll(cx);
        let turn = (thread_time() - began).as_micros();
        longest(&seen.turn, turn);
        count(&seen.turns, turn);
        end
    })
    .await;
}

/// The processor time of this thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let nanoseconds = u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec);
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}

/// The processor time of the thread of this name, in seconds, as the system last noted it.
fn time_of(name: &str) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("the system tells").flatten();
    let read = |task: &std::fs::DirEntry, file| {
        std::fs::read_to_string(task.path().join(file)).unwrap_or_default()
    };
    let of_name = tasks.filter(|task| read(task, "comm").trim() == name);
    let times = of_name.map(|task| read(&task, "schedstat"));
    times.filter_map(|time| time.split(' ').next()?.parse::<f64>().ok()).sum::<f64>() / 1e9
}

fn fill(store: &EmbeddedStore, calls: usize) -> impl Future<Output = ()> + '_ {
    let now = SystemTime::now().into();
    async move {
        for start in (0..calls).step_by(64) {
            let commits = (start..calls.min(start + 64)).map(|number| {
                let (id, record) = call(number);
                store.commit(record.begin(id, now))
            });
            for outcome in join_all(commits).await {
                outcome.expect("the commit succeeds");
            }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let calls = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let directory = tempfile::tempdir().expect("a directory");
    let store = EmbeddedStore::open(directory.path(), Options::default()).expect("a store");
    fill(&store, calls).await;
    let link = directory.path().join("c2.link");
    let hosted = Arc::new(store.clone());
    let seen = Arc::new(Seen::default());
    let (bound, handle) = tokio::sync::oneshot::channel();
    let (settings, watched) = (settings(link.clone()), Arc::clone(&seen));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let (server, handle) =
                Server::bind(settings, hosted, Arc::new(Nothing)).expect("a server");
            assert!(bound.send(handle).is_ok(), "the example waits");
            serve(server, watched).await;
        });
    });
    let handle = handle.await.expect("a handle");
    let stream = UnixStream::connect(link).await.expect("the container listens");
    tokio::spawn(edge(stream, calls, Arc::clone(&seen)));
    tokio::time::sleep(HEARTBEAT * 5).await;
    for counter in [&seen.silence, &seen.turn, &seen.turns] {
        counter.store(0, Ordering::Relaxed);
    }
    let (began, writer) = (Instant::now(), time_of(WRITER));
    handle.view(view()).await;
    seen.is_dead.store(true, Ordering::Relaxed);
    all_claimed(&store).await;
    let told = |what, writer: f64| {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64 / 1e3;
        let mean = read(&seen.waits) / read(&seen.answered) / 1e3;
        println!(
            "{calls} calls {what} in {:?}: loop {:.0} ms, writer {:.0} ms of processor time; longest turn {:.1} ms, \
             heartbeats of {HEARTBEAT:?} at most {:.1} ms apart; {} repetitions answered after {mean:.2} ms, at most {:.1} ms",
            began.elapsed(),
            read(&seen.turns),
            (time_of(WRITER) - writer) * 1e3,
            read(&seen.turn),
            read(&seen.silence),
            seen.answered.load(Ordering::Relaxed),
            read(&seen.wait_max),
        );
    };
    told("claimed", writer);
    while seen.invites.load(Ordering::Relaxed) < calls as u64 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    told("gone on with", writer);
    std::process::exit(0);
}
