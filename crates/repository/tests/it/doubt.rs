//! Changes whose answers are lost: each is done once, and its writer learns that it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use state::{Batch, Expect, Store};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::etcd::{self, client_of};
use crate::records::{key, open, put};

/// Stands before a member: passes all questions on, and loses so many answers to transactions.
struct Lossy {
    address: String,
    to_lose: Arc<AtomicUsize>,
}

impl Lossy {
    async fn before(member: &str) -> Lossy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let to_lose = Arc::new(AtomicUsize::new(0));
        let (member, left) = (member.to_owned(), Arc::clone(&to_lose));
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let server = TcpStream::connect(&member).await.expect("the member");
                tokio::spawn(pass(client, server, Arc::clone(&left)));
            }
        });
        Lossy { address, to_lose }
    }
}

async fn pass(mut client: TcpStream, mut server: TcpStream, to_lose: Arc<AtomicUsize>) {
    let (mut asked, mut answered) = ([0; 1 << 16], [0; 1 << 16]);
    let mut loses = false;
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(count @ 1..) = read else { return };
                let is_change = asked[..count].windows(10).any(|part| part == b"/v3/kv/txn");
                let take = |left: usize| left.checked_sub(1);
                loses |= is_change
                    && to_lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
                if server.write_all(&asked[..count]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(count @ 1..) = read else { return };
                if loses || client.write_all(&answered[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_change_whose_answer_is_lost_is_done_once() {
    let Some(etcd) = etcd::start(1, None) else { return };
    etcd.leader().await;
    let lossy = Lossy::before(&etcd.members[0].address).await;
    let directory = tempfile::tempdir().unwrap();
    let store = open(client_of([lossy.address.clone()]), directory.path(), "outlast/");
    let first = put(&store, "alice", "1").await;

    lossy.to_lose.store(1, Ordering::SeqCst);
    let create = Batch::new().put(key("bob"), Expect::Absent, "1", None);
    let bob = store.commit(create).await.expect("it is there because of this change")[0];
    assert_eq!(lossy.to_lose.load(Ordering::SeqCst), 0, "an answer was lost");
    let found = store.read(&key("bob")).await.unwrap().expect("it is there");
    assert_eq!(found.version, bob);

    // Twice in a row, and on a record of a known version.
    lossy.to_lose.store(2, Ordering::SeqCst);
    let replace = Batch::new().put(key("alice"), Expect::Version(first), "2", None);
    let second = store.commit(replace).await.expect("it is as it was expected")[0];
    let found = store.read(&key("alice")).await.unwrap().expect("it is there");
    assert_eq!((found.version, found.value.as_ref()), (second, b"2".as_slice()));

    // A refusal whose answer is lost stays one.
    lossy.to_lose.store(1, Ordering::SeqCst);
    let stale = Batch::new().put(key("alice"), Expect::Version(first), "3", None);
    let outcome = store.commit(stale).await;
    assert!(
        matches!(outcome, Err(state::CommitError::Conflict { found: Some(version), .. }) if version == second),
        "{outcome:?}"
    );
}
