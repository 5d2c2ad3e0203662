//! Prints how long a container takes to take over the calls that a dead one was setting up, and its longest silence
//! meanwhile.
//!
//! `cargo run --release -p container --example takeover_cost [CALLS]`; 100,000 calls by default. The store is the
//! embedded one; every call has one target behind an edge, to which its INVITE is sent again.
#![allow(clippy::print_stdout, clippy::expect_used, reason = "its output is what it is for")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
        addresses: Vec::new(),
        weight: 100,
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

/// An edge that takes everything, and notes the longest time between two heartbeats in milliseconds.
async fn edge(mut stream: UnixStream, silence: Arc<AtomicU64>) {
    let mut sender = LinkSender::new();
    let own = EDGE.parse().expect("an address");
    let address = EdgeAddress { transport: Transport::Udp, own, public: EDGE.to_owned() };
    let (peer_name, addresses) = ("edge1".to_owned(), vec![address]);
    sender
        .try_send(&LinkFrame::Hello { peer_name, incarnation: 3, worker: 0, addresses })
        .expect("the first frame fits");
    stream.write_all(sender.unwritten()).await.expect("the container reads");
    let mut receiver = LinkReceiver::new();
    let mut beat = Instant::now();
    loop {
        let read = stream.read_buf(receiver.read_buffer()).await.expect("the container lives");
        assert_ne!(read, 0, "the container lives");
        while let Some(frame) = receiver.next_frame().expect("frames") {
            if let LinkFrame::Heartbeat { .. } = frame {
                let milliseconds = u64::try_from(beat.elapsed().as_millis()).unwrap_or(u64::MAX);
                silence.fetch_max(milliseconds, Ordering::Relaxed);
                beat = Instant::now();
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

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let calls = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let directory = tempfile::tempdir().expect("a directory");
    let store = EmbeddedStore::open(directory.path(), Options::default()).expect("a store");
    let now = SystemTime::now().into();
    for start in (0..calls).step_by(64) {
        let commits = (start..calls.min(start + 64)).map(|number| {
            let (id, record) = call(number);
            store.commit(record.begin(id, now))
        });
        for outcome in join_all(commits).await {
            outcome.expect("the commit succeeds");
        }
    }
    let link = directory.path().join("c2.link");
    let hosted = Arc::new(store.clone());
    let (server, handle) =
        Server::bind(settings(link.clone()), hosted, Arc::new(Nothing)).expect("a server");
    tokio::spawn(server.run());
    let stream = UnixStream::connect(link).await.expect("the container listens");
    let silence = Arc::new(AtomicU64::default());
    tokio::spawn(edge(stream, Arc::clone(&silence)));
    tokio::time::sleep(HEARTBEAT * 5).await;
    silence.store(0, Ordering::Relaxed);
    let began = Instant::now();
    handle.view(view()).await;
    all_claimed(&store).await;
    let (took, silence) = (began.elapsed(), silence.load(Ordering::Relaxed));
    println!(
        "{calls} calls taken over in {took:?}; heartbeats of {HEARTBEAT:?} at most {silence} ms apart"
    );
    std::process::exit(0);
}
