//! An etcd of an operator's own: with users and passwords, by TLS, and with others beside us.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use repository::client::messages::{Operation, Put, Range, Txn};
use repository::{
    Client, ClientError, ClientOptions, Endpoint, Files, Lock, Login, Namespace, Taken,
};
use rustls::pki_types::ServerName;
use state::{Batch, CommitError, Expect, Prefix, Store, StoreError};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use topology::credentials::NodeCredentials;

use crate::etcd::{self, Etcd, Pem};
use crate::records::{SPACE, key, open, put, until_value, value};
use crate::tls::node;

const ROOT: Option<&str> = Some("root:secret");

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// One that lets users in only.
struct Guarded {
    etcd: Etcd,
    credentials: NodeCredentials,
    _directory: TempDir,
}

impl Guarded {
    /// With a user `platform`, whose password is `first` and who may do everything below `outlast`. `None`: there is no etcd here.
    async fn start(members: usize, looks_at_names: bool) -> Option<Guarded> {
        let (credentials, directory) = node();
        let files = credentials.directory();
        let pem = Pem {
            authority: files.authority(),
            certificate: files.certificate(),
            key: files.key(),
            looks_at_names,
        };
        let etcd = etcd::start(members, Some(&pem))?;
        let guarded = Guarded { etcd, credentials, _directory: directory };
        guarded.until_it_serves().await;
        for arguments in [
            &["user", "add", "root:secret"][..],
            &["user", "grant-role", "root", "root"],
            &["role", "add", "platform"],
            &["role", "grant-permission", "platform", "--prefix=true", "readwrite", "outlast"],
            &["user", "add", "platform:first"],
            &["user", "grant-role", "platform", "platform"],
            &["auth", "enable"],
        ] {
            guarded.etcd.operator(None, arguments);
        }
        Some(guarded)
    }

    /// As that user, or as nobody.
    fn client(&self, login: Option<Login>) -> Client {
        let server_name = ServerName::try_from("127.0.0.1").unwrap();
        let endpoint = |member: &etcd::Member| Endpoint {
            address: member.address.clone(),
            server_name: Some(server_name.clone()),
        };
        Client::new(ClientOptions {
            endpoints: self.etcd.members.iter().map(endpoint).collect(),
            tls: Some(self.credentials.store_client_config().unwrap()),
            login,
            request_timeout: Duration::from_secs(2),
        })
    }

    async fn until_it_serves(&self) {
        let client = self.client(None);
        let deadline = Instant::now() + Duration::from_secs(60);
        let range = Range { key: "outlast".into(), ..Range::default() };
        while let Err(error) = client.range(&range, soon()).await {
            if matches!(error, ClientError::NotAdmitted { .. }) {
                return;
            }
            assert!(Instant::now() < deadline, "{error}");
        }
    }
}

/// A password that may change.
fn login(password: &Arc<Mutex<String>>) -> Login {
    let password = Arc::clone(password);
    Login {
        user: "platform".to_owned(),
        password: Arc::new(move || Ok(password.lock().unwrap().clone())),
    }
}

fn password(text: &str) -> Arc<Mutex<String>> {
    Arc::new(Mutex::new(text.to_owned()))
}

fn prefix() -> String {
    Namespace::of_cluster("c1").records()
}

/// What a change is refused with.
async fn refusal(store: &repository::RepositoryStore) -> String {
    let change = Batch::new().put(key("alice"), Expect::Any, "never", None);
    match store.commit(change).await {
        Err(CommitError::Store(error @ StoreError::ChangesRefused { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nobody_is_let_in_without_a_name_or_with_another_password_and_is_told_why() {
    let Some(guarded) = Guarded::start(1, false).await else { return };
    let directory = tempfile::tempdir().unwrap();
    let wrong = password("wrong");
    let store = open(guarded.client(Some(login(&wrong))), directory.path(), &prefix());
    let told = refusal(&store).await;
    assert!(told.contains("authentication failed"), "{told}");
    assert!(told.contains("repository_password_file"), "what to do: {told}");
    let caught_up = store.catch_up(Duration::from_secs(5)).await.unwrap_err().to_string();
    assert!(caught_up.contains("authentication failed"), "{caught_up}");
    // The operator corrects it; no process need be started anew.
    "first".clone_into(&mut wrong.lock().unwrap());
    let deadline = soon();
    while let Err(error) = store.catch_up(Duration::from_secs(5)).await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(50)).await;
    }
    put(&store, "alice", "1").await;

    let nobody = tempfile::tempdir().unwrap();
    let told = refusal(&open(guarded.client(None), nobody.path(), &prefix())).await;
    assert!(told.contains("user name is empty") && told.contains("repository_user"), "{told}");
    // What is not for us is not ours to write.
    let elsewhere = tempfile::tempdir().unwrap();
    let client = guarded.client(Some(login(&password("first"))));
    let told = refusal(&open(client, elsewhere.path(), "another/")).await;
    assert!(told.contains("permission denied") && told.contains("grant-permission"), "{told}");
    let unknown = Login {
        user: "platform".to_owned(),
        password: Arc::new(|| Err("/etc/password: mode 644".to_owned())),
    };
    let none = tempfile::tempdir().unwrap();
    let told = refusal(&open(guarded.client(Some(unknown)), none.path(), &prefix())).await;
    assert!(told.contains("/etc/password: mode 644"), "{told}");
}

/// Names in certificates and users do not go together on etcd's gateway.
#[tokio::test]
async fn a_certificate_with_a_name_is_refused_where_names_are_looked_at_and_it_is_told_why() {
    let Some(guarded) = Guarded::start(1, true).await else { return };
    let directory = tempfile::tempdir().unwrap();
    let client = guarded.client(Some(login(&password("first"))));
    let told = refusal(&open(client, directory.path(), &prefix())).await;
    assert!(told.contains("CommonName") && told.contains("without --client-cert-auth"), "{told}");
}

/// Tokens are in a member's memory, and end with the user's password.
#[tokio::test]
async fn a_token_that_is_forgotten_is_had_anew_and_nobody_notices() {
    let Some(mut guarded) = Guarded::start(1, false).await else { return };
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let present = password("first");
    let client = guarded.client(Some(login(&present)));
    let store = open(client.clone(), one.path(), &prefix());
    let follows = open(guarded.client(Some(login(&present))), other.path(), &prefix());
    let _follower = follows.follow();
    put(&store, "alice", "1").await;
    until_value(&follows, "alice", Some("1")).await;

    guarded.etcd.members[0].kill();
    let told = store.catch_up(Duration::from_secs(1)).await.unwrap_err().to_string();
    assert!(told.contains("cannot be reached"), "{told}");
    assert_eq!(value(&follows, "alice").await.as_deref(), Some("1"), "what is known is read");
    guarded.etcd.members[0].start();
    guarded.until_it_serves().await;
    // One attempt, with the old token.
    let write = Put { key: format!("{}x/once", prefix()).into(), value: "1".into(), lease: 0 };
    let txn = Txn { success: vec![Operation::Put(write)], ..Txn::default() };
    client.txn(&txn).await.expect("it is asked again with another token");
    put(&store, "alice", "2").await;
    until_value(&follows, "alice", Some("2")).await;

    "second".clone_into(&mut present.lock().unwrap());
    // etcdctl asks for the new one on its input.
    guarded.etcd.operator(ROOT, &["user", "delete", "platform"]);
    guarded.etcd.operator(ROOT, &["user", "add", "platform:second"]);
    guarded.etcd.operator(ROOT, &["user", "grant-role", "platform", "platform"]);
    put(&store, "alice", "3").await;
    until_value(&follows, "alice", Some("3")).await;
}

/// Each member forgets for itself.
#[tokio::test]
async fn a_token_that_one_of_three_members_has_forgotten_is_had_anew() {
    let Some(mut guarded) = Guarded::start(3, false).await else { return };
    let directory = tempfile::tempdir().unwrap();
    let store = open(guarded.client(Some(login(&password("first")))), directory.path(), &prefix());
    put(&store, "alice", "1").await;
    for member in 0..3 {
        guarded.etcd.members[member].kill();
        put(&store, "alice", &format!("without {member}")).await;
        guarded.etcd.members[member].start();
        guarded.until_it_serves().await;
    }
    put(&store, "alice", "last").await;
    assert_eq!(value(&store, "alice").await.as_deref(), Some("last"));
}

/// Two of ours and somebody else in one etcd.
#[tokio::test]
async fn clusters_in_one_etcd_do_not_meet() {
    let Some(etcd) = etcd::start(1, None) else { return };
    etcd.leader().await;
    let names = ["c1", "c2"].map(Namespace::of_cluster);
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let opened = |n: usize| open(etcd.client(), directories[n].path(), &names[n].records());
    let (one, other) = (opened(0), opened(1));
    let _followers = (one.follow(), other.follow());
    put(&one, "alice", "of the first").await;
    put(&other, "bob", "of the second").await;
    until_value(&one, "alice", Some("of the first")).await;
    until_value(&other, "bob", Some("of the second")).await;
    for store in [&one, &other] {
        store.catch_up(Duration::from_secs(20)).await.unwrap();
        assert_eq!(store.scan(&SPACE, &Prefix::All, None, 10).await.unwrap().len(), 1);
    }

    let client = etcd.client();
    let files = names.clone().map(|namespace| Files::new(client.clone(), &namespace));
    let note = files[0].put("echo", b"of the first").await.unwrap();
    assert!(files[1].get("echo", &note).await.is_err());
    files[1].put("echo", b"of the first").await.unwrap();
    files[1].remove("echo", &note).await.unwrap();
    assert_eq!(files[0].get("echo", &note).await.unwrap(), b"of the first");
    let mut held = Vec::new();
    for namespace in &names {
        match Lock::take(&client, &namespace.lock("chore"), "node1", 10, soon()).await.unwrap() {
            Taken::Held(lock) => held.push(lock),
            Taken::By(holder) => panic!("{holder} has it"),
        }
    }
    // All that is there is below what an operator is asked to let us write.
    let all = Range { key: "\0".into(), range_end: "\0".into(), ..Range::default() };
    for kv in client.range(&all, soon()).await.unwrap().kvs {
        let is_named = names.iter().any(|namespace| {
            let prefix = namespace.records();
            let files = prefix.replace("outlast/", "outlast-files/");
            kv.key.starts_with(prefix.as_bytes()) || kv.key.starts_with(files.as_bytes())
        });
        assert!(is_named, "{:?}", kv.key);
    }

    // While one is away the others' changes, which are not told to it, are compacted.
    drop(one);
    for number in 0..20 {
        etcd.operator(None, &["put", "somebody-else", &number.to_string()]);
    }
    put(&other, "bob", "changed").await;
    let present = client.range(&all, soon()).await.unwrap().header.revision;
    etcd.operator(None, &["compact", &present.to_string()]);
    let back = opened(0);
    put(&back, "alice", "changed").await;
    assert_eq!(value(&back, "alice").await.as_deref(), Some("changed"));
    assert_eq!(back.scan(&SPACE, &Prefix::All, None, 10).await.unwrap().len(), 1);
}
