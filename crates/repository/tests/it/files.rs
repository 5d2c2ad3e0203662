//! Files in pieces and locks, on a real etcd.

use std::time::Duration;

use repository::client::messages::{Operation, Put, Range, Txn};
use repository::files::FILE_BYTES_MAX;
use repository::{Client, FileError, FileNote, Files, Lock, Namespace, Taken, lock};
use tokio::time::Instant;

use crate::etcd;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// How many pieces there are, of whatever.
async fn pieces(client: &Client) -> usize {
    let key = "outlast-files/".into();
    let range = Range { key, range_end: "outlast-files0".into(), ..Range::default() };
    client.range(&range, soon()).await.expect("it answers").kvs.len()
}

#[tokio::test]
async fn a_file_comes_back_as_it_was_put_or_not_at_all() {
    let Some(etcd) = etcd::start(1, None) else { return };
    etcd.leader().await;
    let client = etcd.client();
    let files = Files::new(client.clone(), &Namespace::alone());
    let content: Vec<u8> = (0..(2 << 20) + 7_u32).map(|n| (n % 251) as u8).collect();
    let note = files.put("echo", &content).await.expect("it is put");
    assert_eq!(note, FileNote::of(&content).expect("not too long"));
    assert_eq!(pieces(&client).await, 3);
    assert_eq!(files.put("echo", &content).await.expect("put again"), note);
    assert_eq!(pieces(&client).await, 3);
    assert_eq!(files.get("echo", &note).await.expect("it is there"), content);
    assert!(files.get("other", &note).await.is_err(), "it is another group's");
    let empty = files.put("echo", b"").await.expect("it is put");
    assert_eq!(files.get("echo", &empty).await.expect("nothing to be had"), b"");

    // A piece of the same length that is another one; one too many octets; none.
    let piece = format!("outlast-files/echo/{}/00000001", note.hash);
    for damaged in [vec![0; 1 << 20], vec![0; (1 << 20) + 8]] {
        let put = Put { key: piece.clone().into(), value: damaged.into(), lease: 0 };
        let txn = Txn { success: vec![Operation::Put(put)], ..Txn::default() };
        client.txn(&txn).await.expect("it answers");
        let error = files.get("echo", &note).await.expect_err("another one");
        assert!(matches!(error, FileError::Damaged { .. }), "{error}");
    }
    files.remove("echo", &note).await.expect("it goes");
    assert_eq!(pieces(&client).await, 0);
    let error = files.get("echo", &note).await.expect_err("it is gone");
    assert!(matches!(error, FileError::Missing { number: 0, .. }), "{error}");

    let long = FileNote { bytes: FILE_BYTES_MAX as u64 + 1, ..note };
    for error in [
        files.get("echo", &long).await.expect_err("too long"),
        FileNote::of(&vec![0; FILE_BYTES_MAX + 1]).expect_err("too long"),
    ] {
        assert!(matches!(error, FileError::TooLong { .. }), "{error}");
    }
}

fn chore() -> bytes::Bytes {
    Namespace::alone().lock("chore")
}

#[tokio::test]
async fn pieces_are_found_and_removed_without_knowing_their_file() {
    let Some(etcd) = etcd::start(1, None) else { return };
    etcd.leader().await;
    let client = etcd.client();
    // Of another cluster, in the same etcd.
    let other = Files::new(client.clone(), &Namespace::of_cluster("other"));
    let others = other.put("menu", b"other's").await.expect("it is put");
    let files = Files::new(client.clone(), &Namespace::of_cluster("one"));
    assert_eq!(files.pieces(None, 9).await.expect("it answers"), (vec![], false));
    let kept = files.put("echo", b"kept").await.expect("it is put");
    let left = files.put("menu", &vec![7; (1 << 20) + 7]).await.expect("it is put");
    let (first, more) = files.pieces(None, 2).await.expect("it answers");
    assert!(first.len() == 2 && more, "{first:?}");
    let (rest, more) = files.pieces(first.last(), 2).await.expect("it answers");
    assert!(!more);
    let mut all = first;
    all.extend(rest);
    let found: Vec<_> = all.iter().map(|it| (it.group.as_str(), &it.hash)).collect();
    assert_eq!(found, [("echo", &kept.hash), ("menu", &left.hash), ("menu", &left.hash)]);
    all.retain(|piece| piece.group == "menu");
    files.remove_pieces(&all).await.expect("they go");
    assert_eq!(pieces(&client).await, 2);
    assert_eq!(other.get("menu", &others).await.expect("it is there"), b"other's");
    // Nor does one that has the etcd for itself take them for its own.
    let alone = Files::new(client.clone(), &Namespace::alone());
    assert_eq!(alone.pieces(None, 9).await.expect("it answers"), (vec![], false));
    assert_eq!(files.get("echo", &kept).await.expect("it is there"), b"kept");
}

async fn take(client: &Client, holder: &str) -> Result<Lock, String> {
    match Lock::take(client, &chore(), holder, 4, soon()).await.expect("it answers") {
        Taken::Held(lock) => Ok(lock),
        Taken::By(holder) => Err(holder),
    }
}

#[tokio::test]
async fn a_lock_is_one_holder_s_until_it_lets_go_or_is_gone() {
    let Some(etcd) = etcd::start(1, None) else { return };
    etcd.leader().await;
    let client = etcd.client();
    assert_eq!(lock::holder(&client, &chore(), soon()).await.expect("it answers"), None);
    let held = take(&client, "node one").await.expect("nobody has it");
    assert_eq!(take(&client, "node2").await.expect_err("it is held"), "node one");
    // Longer than its lease: it is kept.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let holder = lock::holder(&client, &chore(), soon()).await.expect("it answers");
    assert_eq!(holder.as_deref(), Some("node one"));
    held.release().await;
    let held = take(&client, "node2").await.expect("it was let go of");
    // As when its process ends.
    drop(held);
    let deadline = soon();
    while let Err(holder) = take(&client, "node3").await {
        assert!(Instant::now() < deadline, "{holder} has it still");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
