//! A cluster whose accounts and applications lie in an etcd of the operator's own, which no manager runs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use testbed::etcd::OwnEtcd;
use testbed::loopback::Loopback;
use testbed::node::{Node, outlast_in};
use testbed::wait;

use crate::accounts::{LIMIT, add_user, done, start, users, wait_until_registered};
use crate::applications::guests::{Handler, application};
use crate::shared_applications::current;
use crate::world::{DOMAIN, PASSWORD, has_etcd};

const USER: &str = "platform";
const SECRET: &str = "a secret of the operator's";

/// What the operator has beside the nodes.
struct Operator {
    etcd: OwnEtcd,
    files: PathBuf,
    password: PathBuf,
    hosts: Loopback,
    _directory: tempfile::TempDir,
}

impl Operator {
    fn new() -> Operator {
        // Another authority, as operators have one: that of another cluster.
        let directory = tempfile::tempdir().unwrap();
        done(directory.path(), &["cluster", "create", "--address", "127.0.0.1"], "");
        let files = directory.path().join("cluster");
        let password = directory.path().join("password");
        fs::write(&password, format!("{SECRET}\n")).unwrap();
        let operator = Operator {
            etcd: OwnEtcd::start(&files, USER, SECRET),
            files,
            password,
            hosts: Loopback::new(),
            _directory: directory,
        };
        operator.readable_by(0o600);
        operator
    }

    fn readable_by(&self, mode: u32) {
        fs::set_permissions(&self.password, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn host(&self, number: u8) -> String {
        self.hosts.host(number).to_string()
    }

    /// `[cluster]` of that node, with what names the etcd or without.
    fn cluster(&self, number: u8, names_etcd: bool) -> String {
        let base = format!("[cluster]\naddress = \"{}:6200\"\nstores = 0\n", self.host(number));
        if !names_etcd {
            return base;
        }
        format!(
            "{base}repository = [{:?}]\nrepository_user = \"{USER}\"\nrepository_password_file = {:?}\n\
             repository_authority = {:?}\nrepository_certificate = {:?}\nrepository_key = {:?}\n",
            self.etcd.url(),
            self.password,
            self.files.join("ca.pem"),
            self.files.join("node.pem"),
            self.files.join("node.key"),
        )
    }

    fn write(&self, directory: &Path, number: u8, names_etcd: bool) {
        let config = format!(
            "[node]\nname = \"node{number}\"\n[registrar]\ndomains = [\"{DOMAIN}\"]\n[container]\nhttp = \"off\"\n{}\
             [[edge.instances]]\nname = \"edge1\"\nlisten = [\"127.0.0.{number}:0\"]\n",
            self.cluster(number, names_etcd)
        );
        fs::write(directory.join("outlast.toml"), config).unwrap();
    }

    fn first(&self) -> Node {
        let directory = tempfile::tempdir().unwrap();
        self.write(directory.path(), 1, true);
        let node = start(directory);
        node.add_user(&format!("alice@{DOMAIN}"), PASSWORD);
        // Until the etcd is to be had nothing is carried along, and why is said.
        self.readable_by(0o644);
        let told = refused(&outlast_in(node.directory(), &["cluster", "create"], b""));
        let advice =
            format!("mode 644 lets others read it: run chmod 600 {}", self.password.display());
        assert!(
            told.contains(&advice) && told.contains("cluster.repository_password_file"),
            "{told}"
        );
        assert!(told.contains("type outlast cluster create again"), "{told}");
        self.readable_by(0o600);
        let created = done(node.directory(), &["cluster", "create"], "");
        assert!(created.contains("lie in the cluster's repository now"), "{created}");
        node
    }

    fn joined(&self, member: &Node) -> Node {
        let directory = tempfile::tempdir().unwrap();
        let token = done(member.directory(), &["cluster", "token"], "");
        let token = token.lines().next().unwrap_or_default().to_owned();
        let host = self.host(2);
        let join = ["cluster", "join", token.as_str(), "--address", host.as_str()];
        // It would look for the accounts where none are.
        self.write(directory.path(), 2, false);
        let told = refused(&outlast_in(directory.path(), &join, b""));
        assert!(
            told.contains("the cluster refused") && told.contains("write [cluster] repository"),
            "{told}"
        );
        assert!(!directory.path().join("cluster").exists(), "it is no member");
        self.write(directory.path(), 2, true);
        done(directory.path(), &join, "");
        start(directory)
    }
}

fn refused(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{told}");
    told
}

/// The line about the repository.
fn status(node: &Node) -> String {
    let shown = done(node.directory(), &["status"], "");
    shown.lines().filter(|line| line.starts_with("repository:")).collect()
}

fn wait_for_status(nodes: &[Node], what: &str, is_so: impl Fn(&str) -> bool) {
    for node in nodes {
        wait::until(what, LIMIT, || match status(node) {
            line if is_so(&line) => Ok(()),
            line => Err(line),
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_and_applications_lie_in_the_operators_own_etcd_and_are_served_on_while_it_is_away()
 {
    if !has_etcd() {
        return;
    }
    let mut operator = Operator::new();
    let one = operator.first();
    let two = operator.joined(&one);
    let nodes = [one, two];
    for node in &nodes {
        wait_until_registered(node, "alice").await;
        let processes = node.status().processes;
        assert!(!processes.iter().any(|it| it.name.starts_with("repository")), "{processes:?}");
        assert!(!node.directory().join("repository/data").exists(), "nodes run none");
    }
    assert!(add_user(&nodes[0], "bob").status.success());
    wait_until_registered(&nodes[1], "bob").await;
    let url = operator.etcd.url();
    let is_well = |line: &str| line == format!("repository: your own etcd at {url}");
    wait_for_status(&nodes, "the etcd to be well", is_well);

    let sources = tempfile::tempdir().unwrap();
    let source = application(sources.path(), "1.0.0", &Handler::Answers(486));
    done(nodes[0].directory(), &["app", "deploy", source.to_str().unwrap()], "");
    let has = |name: &str| (name.to_owned(), Some("1.0.0".to_owned()));
    let both = ["node1", "node2"].map(has);
    for node in &nodes {
        wait::until("the application on both", LIMIT, || match current(node) {
            found if found == both => Ok(()),
            found => Err(found),
        });
    }
    // Several clusters may share it: all keys have this one's id.
    let member = fs::read_to_string(nodes[0].directory().join("cluster/cluster.json")).unwrap();
    let member: serde_json::Value = serde_json::from_str(&member).unwrap();
    let id = member["cluster"].as_str().unwrap();
    let (records, files) = (format!("outlast/{id}/"), format!("outlast-files/{id}/"));
    let keys = operator.etcd.keys();
    let is_ours = |key: &String| key.starts_with(&records) || key.starts_with(&files);
    assert!(keys.len() > 3 && keys.iter().all(is_ours), "{keys:?}");

    operator.etcd.kill();
    let told = wait::until("changes to be refused", LIMIT, || {
        let added = add_user(&nodes[1], "erin");
        let told = String::from_utf8_lossy(&added.stderr).into_owned();
        if told.contains("changes are refused until it answers") { Ok(told) } else { Err(told) }
    });
    assert!(told.contains(&url.replace("https://", "")), "{told}");
    let is_away =
        |line: &str| line.contains("are refused") && line.contains("etcdctl endpoint health");
    wait_for_status(&nodes, "the status to say so", is_away);
    // A container that begins meanwhile serves what the node knows.
    for node in &nodes {
        node.kill_and_wait_ready("container1");
        wait_until_registered(node, "bob").await;
        assert!(users(node).contains("bob@") && !users(node).contains("erin@"), "{}", users(node));
    }
    operator.etcd.run();
    wait::until("changes to go on", LIMIT, || {
        let added = add_user(&nodes[1], "carol");
        if added.status.success() { Ok(()) } else { Err(format!("{added:?}")) }
    });
    wait_until_registered(&nodes[0], "carol").await;
    wait_for_status(&nodes, "the etcd to be well again", is_well);

    // Who leaves has nothing to give away, and nothing changes there.
    let before = operator.etcd.keys().len();
    done(nodes[1].directory(), &["cluster", "leave"], "");
    assert!(operator.etcd.keys().len() >= before, "{:?}", operator.etcd.keys());
    assert!(add_user(&nodes[0], "dave").status.success());
    assert!(!users(&nodes[1]).contains("alice@"), "it is a single node: {}", users(&nodes[1]));
}
