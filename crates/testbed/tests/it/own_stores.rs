//! A cluster whose state lies in a Redis Cluster of the operator's own, which no manager runs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use phone::LineTransport;
use testbed::loopback::Loopback;
use testbed::node::{Node, outlast_in};
use testbed::stores::Stores;

use crate::world::{self, has_etcd};

const USER: &str = "platform";
const PASSWORD: &str = "a secret of the operator's";

fn said(node: &Node, arguments: &[&str]) -> (bool, String) {
    let output = node.outlast(arguments);
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_carried_to_the_operators_own_redis_and_outlasts_the_containers_there() {
    if !Stores::are_installed() || !has_etcd() {
        return;
    }
    // Another authority, as operators have one: that of another cluster.
    let others = tempfile::tempdir().expect("a temporary directory");
    let made = outlast_in(others.path(), &["cluster", "create", "--address", "127.0.0.1"], b"");
    assert!(made.status.success(), "{made:?}");
    let files = others.path().join("cluster");
    let stores = Stores::start(3, &files);
    let password = others.path().join("password");
    fs::write(&password, format!("{PASSWORD}\n")).expect("the directory is writable");
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).expect("it is ours");
    // Nobody else is let in.
    stores.admit_only(USER, PASSWORD);

    let places: Vec<String> = stores.addresses().iter().map(|at| format!("\"{at}\"")).collect();
    let cluster = format!(
        "[cluster]\naddress = \"{}:6200\"\nstores = [{}]\nstore_user = \"{USER}\"\nstore_password_file = {password:?}\n\
         store_authority = {:?}\nstore_certificate = {:?}\nstore_key = {:?}\nwrite_quota = 0\n",
        Loopback::new().host(1),
        places.join(", "),
        files.join("ca.pem"),
        files.join("node.pem"),
        files.join("node.key"),
    );
    let node = world::node_of_its_own(&world::open_config(1, &cluster));
    let alice = world::registered_openly(&node, "alice", LineTransport::Udp).await;
    let (is_done, told) = said(&node, &["cluster", "create"]);
    assert!(is_done, "{told}");
    let processes = node.status().processes;
    let is_store = |name: &str| name.starts_with("store");
    assert!(!processes.iter().any(|process| is_store(&process.name)), "{processes:?}");

    for container in ["container1", "container2"] {
        node.kill_and_wait_ready(container);
    }
    let contacts = alice.registered_contacts(0).await.expect("an answer");
    assert_eq!(contacts.len(), 1, "{contacts:?}");
    world::registered_openly(&node, "bob", LineTransport::Udp).await;
    assert_eq!(node.registrations().len(), 2);
    assert!(!node.directory().join("state").exists(), "nothing lies in the node's own directory");

    let (is_well, told) = said(&node, &["state", "status"]);
    assert!(is_well && told.contains("your own Redis"), "{told}");
    for command in [&["state", "recover"][..], &["state", "duplicate", "store2"]] {
        let (is_done, told) = said(&node, command);
        assert!(!is_done && told.contains("keeps its copies by itself"), "{told}");
    }
}
