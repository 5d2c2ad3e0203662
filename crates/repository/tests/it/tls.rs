//! Members that speak TLS only, with the cluster's certificates: others are told nothing, and tell nothing.

use std::time::Duration;

use repository::client::messages::{Operation, Put, Range, Txn};
use repository::{Client, ClientError, ClientOptions, Endpoint};
use tempfile::TempDir;
use tokio::time::Instant;
use topology::credentials::{ALPN_PEER, Authority, ClusterDirectory, NodeCredentials, server_name};

use crate::etcd::{self, Pem};
use crate::records::{open, put, until_value};

/// A node of a cluster of its own.
pub(crate) fn node() -> (NodeCredentials, TempDir) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let cluster = ClusterDirectory::of_node(directory.path());
    std::fs::create_dir(cluster.path()).expect("a directory");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock behind 1970");
    let authority = Authority::make(now).expect("an authority");
    authority.write(&cluster).expect("it is written");
    let address = "127.0.0.1".parse().expect("an address");
    authority.issue(&cluster, "n1", address, now).expect("a certificate");
    (NodeCredentials::load(cluster.path()).expect("credentials"), directory)
}

fn client(address: &str, tls: Option<&NodeCredentials>, name: &str) -> Client {
    let server_name = Some(server_name(name).expect("a name"));
    Client::new(ClientOptions {
        endpoints: vec![Endpoint { address: address.to_owned(), server_name }],
        tls: tls.map(|credentials| credentials.client_config(ALPN_PEER).expect("TLS")),
        login: None,
        request_timeout: Duration::from_secs(2),
    })
}

/// What a stranger gets, both when he asks and when he tells.
async fn strange(client: &Client) -> ClientError {
    let put = Put { key: "stranger".into(), value: "was here".into(), lease: 0 };
    let txn = Txn { success: vec![Operation::Put(put)], ..Txn::default() };
    client.txn(&txn).await.expect_err("he changes nothing");
    let range = Range { key: "stranger".into(), ..Range::default() };
    client.range(&range, Instant::now()).await.expect_err("he learns nothing")
}

#[tokio::test]
async fn strangers_and_plaintext_are_refused() {
    let (credentials, _directory) = node();
    let files = credentials.directory();
    let pem = Pem {
        authority: files.authority(),
        certificate: files.certificate(),
        key: files.key(),
        looks_at_names: true,
    };
    let Some(etcd) = etcd::start(3, Some(&pem)) else { return };
    let address = &etcd.members[0].address;
    let ours = client(address, Some(&credentials), "n1");
    let range = Range { key: "stranger".into(), ..Range::default() };
    let deadline = Instant::now() + Duration::from_secs(60);
    ours.range(&range, deadline).await.expect("a member of the cluster is answered");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(ours.clone(), directory.path(), "outlast/");
    put(&store, "alice", "1").await;
    until_value(&store, "alice", Some("1")).await;

    strange(&client(address, None, "n1")).await;
    let (others, _others_directory) = node();
    let error = strange(&client(address, Some(&others), "n1")).await;
    assert!(error.to_string().contains("TLS"), "{error}");
    // We do not speak with whoever is not whom we asked for.
    let error = strange(&client(address, Some(&credentials), "n2")).await;
    assert!(error.to_string().contains("TLS"), "{error}");
    // A client that checks nobody and shows nothing.
    let curl = std::process::Command::new("curl")
        .args(["-sk", "-d", "{}", &format!("https://{address}/v3/kv/range")])
        .output();
    if let Ok(output) = curl {
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    }
    let found =
        ours.range(&range, Instant::now() + Duration::from_secs(20)).await.expect("it answers");
    assert!(found.kvs.is_empty(), "nobody was here");
}
