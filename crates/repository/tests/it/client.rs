//! The client alone: leases, members, bounds, refusals that say what to do.

use std::time::Duration;

use repository::ClientError;
use repository::client::messages::{CODE_NOT_FOUND, Compare, Operation, Put, Range, Txn};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::etcd;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[tokio::test]
async fn leases_members_and_transactions() {
    let Some(etcd) = etcd::start(1, None) else { return };
    etcd.leader().await;
    let client = etcd.client();

    let lease = client.lease_grant(600, soon()).await.expect("a lease");
    assert_eq!(lease.seconds, 600);
    let put = Put { key: "a".into(), value: "1".into(), lease: lease.lease };
    let create = Txn {
        compare: vec![Compare::unchanged_since("a".into(), 0)],
        success: vec![Operation::Put(put)],
        failure: vec![Operation::Range(Range { key: "a".into(), ..Range::default() })],
    };
    assert!(client.txn(&create).await.expect("it answers").succeeded);
    let again = client.txn(&create).await.expect("it answers");
    assert!(!again.succeeded);
    let found = again.responses[0].response_range.as_ref().expect("a look");
    assert_eq!(found.kvs[0].value, "1");
    assert_eq!(client.lease_keep_alive(lease.lease, soon()).await.expect("it answers"), Some(600));
    client.lease_revoke(lease.lease).await.expect("it ends");
    assert_eq!(client.lease_keep_alive(lease.lease, soon()).await.expect("it answers"), None);
    let error = client.lease_revoke(lease.lease).await.expect_err("there is none");
    assert!(matches!(error, ClientError::Refused { code: CODE_NOT_FOUND, .. }), "{error}");
    let range = Range { key: "a".into(), ..Range::default() };
    assert!(client.range(&range, soon()).await.expect("it answers").kvs.is_empty());

    let status = client.status(&client.endpoints()[0]).await.expect("it answers");
    assert!(status.version.starts_with("3.") && status.file_bytes > 0, "{status:?}");

    let members = client.members(soon()).await.expect("it answers");
    assert_eq!((members.len(), members[0].name.as_str()), (1, "m0"));

    // A transaction with more operations than a member takes.
    let many = Txn {
        success: (0..1_200)
            .map(|n| Operation::Put(Put { key: format!("{n}").into(), value: "".into(), lease: 0 }))
            .collect(),
        ..Txn::default()
    };
    let error = client.txn(&many).await.expect_err("too many");
    assert!(!error.is_in_doubt() && !error.is_transient(), "{error}");
    assert!(error.to_string().contains("start it with --max-txn-ops 1100"), "{error}");
}

#[tokio::test]
async fn members_come_and_go() {
    let Some(etcd) = etcd::start(3, None) else { return };
    etcd.leader().await;
    let client = etcd.client();
    let url = "http://127.0.0.1:9".to_owned();
    // Right after its start etcd wants to see its members for five seconds before it takes another one.
    let deadline = soon();
    let added = loop {
        match client.member_add(vec![url.clone()]).await {
            Ok(added) => break added,
            Err(error) if Instant::now() < deadline => drop(error),
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let member = added.member.expect("it is named");
    assert_eq!((added.members.len(), &member.peer_urls), (4, &vec![url]));
    assert!(member.is_learner, "it counts for no majority yet: {member:?}");
    let error = client.member_promote(member.id).await.expect_err("it has learned nothing yet");
    assert!(error.to_string().contains("in sync"), "{error}");
    client.member_remove(member.id).await.expect("it goes");
    assert_eq!(client.members(soon()).await.expect("it answers").len(), 3);
}

/// Whoever speaks with etcd for long outlives its members.
#[tokio::test]
async fn members_may_be_others_from_one_request_to_the_next() {
    let Some(mut etcd) = etcd::start(3, None) else { return };
    etcd.leader().await;
    let all = etcd.client().endpoints();
    let client = etcd::client_of([]);
    let range = Range { key: "a".into(), ..Range::default() };
    let error = client.range(&range, Instant::now()).await.expect_err("nobody is known");
    assert!(error.is_transient() && !error.is_in_doubt(), "{error}");
    client.set_endpoints(all[..1].to_vec());
    client.range(&range, soon()).await.expect("the first answers");
    etcd.members[0].kill();
    client.set_endpoints(all[1..].to_vec());
    client.range(&range, soon()).await.expect("the others answer");
    assert_eq!(client.endpoints().len(), 2);
}

/// A stranger in the member's place cannot make us take more than is bounded, nor wait longer.
#[tokio::test]
async fn answers_are_bounded_in_size_and_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    tokio::spawn(async move {
        for round in 0.. {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                if round > 0 {
                    // Says nothing.
                    return std::future::pending().await;
                }
                let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                let _ = stream.write_all(head).await;
                let chunk = [b"100000\r\n".as_slice(), &[b' '; 1 << 20], b"\r\n"].concat();
                while stream.write_all(&chunk).await.is_ok() {}
            });
        }
    });
    let client = etcd::client_of([address]);
    let error = client.txn(&Txn::default()).await.expect_err("too long");
    assert!(error.is_in_doubt(), "{error}");
    let began = Instant::now();
    let error = client.txn(&Txn::default()).await.expect_err("nothing comes");
    assert!(error.is_in_doubt() && error.to_string().contains("no answer in time"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(client.away().is_some());
}
