//! Files with mistakes, and what their operator is told.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// Asserts the exact lines that an operator reads.
fn check(text: &str, expected: &[&str]) {
    let lines: Vec<String> =
        parse(text).expect_err("a refusal").iter().map(ToString::to_string).collect();
    assert_eq!(lines, expected);
}

#[test]
fn a_listen_address_without_address_is_shown_what_one_looks_like() {
    check(
        "\n[[edge.instances]]\nname = \"edge1\"\nlisten = [\"5060\"]\n",
        &[
            r#"outlast.toml:4 edge.instances.listen: "5060" needs address:port, for example "0.0.0.0:5060""#,
        ],
    );
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_their_lines() {
    check(
        r#"[registrar]
authenticate = "yes"
domain = ["example.com"]
domains = ["exa mple", 5]

[heartbeat]
intervall = "1s"
interval = "1ms"
allowed_miss_count = -1

[edge]
nat_traversal = 1
workers = 0

[colour]
"#,
        &[
            r#"outlast.toml:2 registrar.authenticate: "yes" needs true or false, for example true"#,
            "outlast.toml:3 registrar.domain: unknown; did you mean domains?",
            r#"outlast.toml:4 registrar.domains: "exa mple" needs a domain name or address, for example "example.com""#,
            r#"outlast.toml:4 registrar.domains: 5 needs a domain name or address, for example "example.com""#,
            "outlast.toml:7 heartbeat.intervall: unknown; did you mean interval?",
            r#"outlast.toml:8 heartbeat.interval: "1ms" needs a time from 20ms to 1m, for example "500ms""#,
            "outlast.toml:9 heartbeat.allowed_miss_count: -1 needs a whole number from 0 to 100, for example 2",
            "outlast.toml:12 edge.nat_traversal: 1 needs true or false, for example true",
            r#"outlast.toml:13 edge.workers: 0 needs "auto" or a whole number from 1 to 64, for example "auto""#,
            "outlast.toml:15 colour: unknown; known here: node, cluster, registrar, heartbeat, restart, container, edge, peer, keys, state, log",
        ],
    );
}

#[test]
fn names_and_ports_belong_to_one_process() {
    check(
        r#"[[edge.instances]]
name = "container1"
listen = ["127.0.0.1:5060"]
[[edge.instances]]
name = "edge2"
listen = ["tcp:127.0.0.1:5060"]
"#,
        &[
            r#"outlast.toml:2 edge.instances.name: "container1" is the name of another process already (container.count); needs a name of its own"#,
            "outlast.toml:6 edge.instances.listen: TCP 127.0.0.1:5060 is listened on by container1 already (127.0.0.1:5060); needs an address or port of its own",
        ],
    );
}

#[test]
fn udp_and_tcp_of_one_port_may_belong_to_two_edges() {
    let text = "[[edge.instances]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\n\
                [[edge.instances]]\nname = \"b\"\nlisten = [\"tcp:127.0.0.1:5060\"]\n";
    assert_eq!(parse(text).unwrap().edge.instances.len(), 2);
}

#[test]
fn required_keys_are_missed_and_wrong_sections_explained() {
    check(
        "edge = 5\n[[peer]]\nweight = 7\n[node]\nname = \"Node 1\"\n",
        &[
            "outlast.toml:1 edge: needs a section, for example [edge]",
            "outlast.toml:2 peer.name: is missing, for example name = \"pbx\"",
            "outlast.toml:2 peer.address: is missing, for example address = \"192.0.2.1:5060\"",
            r#"outlast.toml:5 node.name: "Node 1" needs 1 to 32 of a-z, 0-9 and - that begin with a letter, for example "node1""#,
        ],
    );
}

#[test]
fn an_edge_that_is_refused_is_not_called_missing_as_well() {
    check(
        "[[edge.instances]]\nname = \"edge1\"\nlisten = \"5060\"\n",
        &[
            r#"outlast.toml:3 edge.instances.listen: "5060" needs a list of texts, each address:port, for example ["0.0.0.0:5060"]"#,
        ],
    );
    check(
        "[edge]\ninstances = []\n",
        &["outlast.toml:2 edge.instances: needs at least one edge, for example [[edge.instances]]"],
    );
}

/// Edges with so many addresses each, every one on a port of its own.
fn edges(count: usize, addresses: usize) -> String {
    let mut text = String::new();
    for edge in 0..count {
        let listen: Vec<String> =
            (0..addresses).map(|port| format!("\"127.0.0.{edge}:{}\"", port + 1)).collect();
        text +=
            &format!("[[edge.instances]]\nname = \"e{edge}\"\nlisten = [{}]\n", listen.join(", "));
    }
    text
}

#[test]
fn sockets_are_bounded_for_each_edge_and_for_all() {
    // One worker by "auto": what is known of the machine is counted when the sockets are opened.
    parse(&edges(4, 2_048)).unwrap();
    check(
        &edges(1, 2_049),
        &[
            "outlast.toml:1 edge.instances.listen: 4098 sockets (addresses × UDP, TCP × edge.workers); needs at most \
             4096: fewer addresses or fewer workers",
        ],
    );
    let text = |edges_text: &str| format!("[edge]\nworkers = 64\n{edges_text}");
    parse(&text(&edges(4, 32))).unwrap();
    check(
        &text(&edges(5, 32)),
        &[
            "outlast.toml:1 edge.instances: 20480 sockets of all edges (addresses × UDP, TCP × edge.workers); needs at \
             most 16384: fewer edges, addresses or workers",
        ],
    );
    parse(&edges(64, 1)).unwrap();
    check(&edges(65, 1), &["outlast.toml:1 edge.instances: 65 edges; needs at most 64"]);
}

#[test]
fn a_wildcard_takes_the_port_of_every_address_of_its_family() {
    let two = |first: &str, second: &str| {
        parse(&format!(
            "[[edge.instances]]\nname = \"a\"\nlisten = [\"{first}\"]\n\
             [[edge.instances]]\nname = \"b\"\nlisten = [\"{second}\"]\n"
        ))
    };
    let problems = two("0.0.0.0:5060", "tcp:127.0.0.1:5060").unwrap_err();
    assert_eq!(
        problems[0].message,
        "TCP 127.0.0.1:5060 is listened on by a already (0.0.0.0:5060); needs an address or port of its own"
    );
    for second in ["[::1]:5060", "127.0.0.1:5061", "127.0.0.1:0"] {
        assert!(two("0.0.0.0:5060", second).is_ok(), "{second}");
    }
}

#[test]
fn a_node_that_could_serve_nothing_is_refused() {
    check(
        "[container]\ncount = 0\n",
        &[
            "outlast.toml:1 container.count: 0 containers and no [[peer]]: nothing would serve; needs 1 or more, for example 2",
        ],
    );
    let with_peer =
        "[container]\ncount = 0\n[[peer]]\nname = \"pbx\"\naddress = \"192.0.2.1:5060\"\n";
    assert_eq!(parse(with_peer).unwrap().peer[0].weight, 100);
}

#[test]
fn registration_times_need_their_order() {
    let problems = parse("[registrar]\nexpires_min = \"2h\"\n").unwrap_err();
    assert!(problems[0].message.contains("rising order"), "{problems:?}");
}

#[test]
fn delays_between_restarts_are_settings_and_need_their_order() {
    let text = "[restart]\ndelay_min = \"1s\"\ndelay_max = \"1m\"\nstable_after = \"10s\"\n";
    let restart = parse(text).unwrap().restart;
    assert_eq!(
        (restart.delay_min, restart.delay_max, restart.stable_after),
        (SECOND, 60 * SECOND, 10 * SECOND)
    );
    check(
        "[restart]\ndelay_min = \"11s\"\nstable_after = \"1ms\"\n",
        &[
            r#"outlast.toml:1 restart.delay_max: "10s" needs to be at least delay_min = "11s""#,
            r#"outlast.toml:3 restart.stable_after: "1ms" needs a time from 10ms to 1h, for example "2s""#,
        ],
    );
}

#[test]
fn applications_are_known_and_the_registrar_is_one() {
    let text = "[container]\napplications = [\"registrar\", \"back-to-back\"]\n";
    let applications = parse(text).unwrap().container.applications;
    assert_eq!(applications, [Application::Registrar, Application::BackToBack]);
    check(
        "[container]\napplications = [\"registrar\", \"back-to-bak\"]\n",
        &[
            r#"outlast.toml:2 container.applications: "back-to-bak" needs one of registrar, back-to-back, for example "registrar""#,
        ],
    );
    check(
        "[container]\napplications = [\"back-to-back\", \"back-to-back\"]\n",
        &[
            "outlast.toml:2 container.applications: names an application twice",
            r#"outlast.toml:2 container.applications: needs the registrar in it, for example ["registrar"]"#,
        ],
    );
}

#[test]
fn each_container_has_a_port_of_its_own_for_http() {
    let container = |http: &str| parse(&format!("[container]\n{http}")).unwrap().container;
    let address = |http: &str, name: &str| {
        container(http).http_address(name).map(|address| address.to_string())
    };
    assert_eq!(address("", "container2").unwrap(), "127.0.0.1:8081");
    assert_eq!(address("http = \"[::]:80\"", "container1").unwrap(), "[::]:80");
    assert_eq!(address("http = \"[::1]:80\"", "container3").unwrap(), "[::1]:82");
    assert_eq!(address("http = \"0.0.0.0:0\"", "container2").unwrap(), "0.0.0.0:0");
    assert_eq!(address("http = \"off\"", "container1"), None);
    check(
        "[container]\nhttp = \"8080\"\n",
        &[
            r#"outlast.toml:2 container.http: "8080" needs address:port or "off", for example "127.0.0.1:8080""#,
        ],
    );
    check(
        "[container]\ncount = 3\nhttp = \"127.0.0.1:65534\"\n",
        &[
            "outlast.toml:3 container.http: the port of the last of 3 containers would be greater than 65535; needs a lower one",
        ],
    );
}

#[test]
fn keys_outlast_registrations() {
    assert_eq!(parse("[keys]\nrotate_every = \"7d\"\n").unwrap(), NodeConfig::default());
    check(
        "[keys]\nrotate_every = \"59m\"\n",
        &[
            r#"outlast.toml:2 keys.rotate_every: "59m" needs a time from 1h to 365days, for example "7days""#,
        ],
    );
    check(
        "[keys]\nrotate_every = \"1h\"\n",
        &[
            r#"outlast.toml:2 keys.rotate_every: "1h" needs to be at least registrar.expires_max = "1day": a phone must register again before the keys that it is reached by are forgotten"#,
        ],
    );
    let text = "[registrar]\nexpires_max = \"1h\"\n[keys]\nrotate_every = \"1h\"\n";
    assert!(parse(text).is_ok());
}

#[test]
fn durability_and_snapshots_are_settings() {
    let text = "[state]\ndurability = \"power\"\nsnapshot_every = \"30s\"\n";
    let state = parse(text).unwrap().state;
    assert_eq!(state.durability, Durability::Power);
    assert_eq!(state.snapshot_every, Duration::from_secs(30));
    check(
        "[state]\ndurability = \"full\"\nsnapshots_every = \"1m\"\n",
        &[
            r#"outlast.toml:2 state.durability: "full" needs "normal" or "power", for example "normal""#,
            "outlast.toml:3 state.snapshots_every: unknown; did you mean snapshot_every?",
        ],
    );
}

#[test]
fn broken_toml_is_told_with_its_line() {
    let problems = parse("[registrar]\nauthenticate = \n[edge\n").unwrap_err();
    assert!(problems.iter().any(|problem| problem.line == 2), "{problems:?}");
    assert!(problems.iter().any(|problem| problem.line == 3), "{problems:?}");
}

#[test]
fn the_effective_configuration_survives_the_way_to_a_child() {
    let text = "[edge]\nworkers = 3\npublic = \"sip.example.com\"\n[[peer]]\nname = \"pbx\"\naddress = \"[2001:db8::1]:5060\"\ntransport = \"tcp\"\n";
    let config = parse(text).unwrap();
    let sent = toml::to_string(&config).unwrap();
    assert_eq!(toml::from_str::<NodeConfig>(&sent).unwrap(), config);
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in "[\\[\\]a-z._=\"0-9\n# -]{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn any_value_of_any_key_is_read_without_panic(key in 0..KEYS.len(), value in "(true|-?[0-9]{1,25}|\"[a-z0-9:. -]{0,20}\"|\\[\\]|\\{\\}|[0-9]\\.5|1979-05-27)") {
        let (section, name) = KEYS[key];
        let text = format!("{section}\n{name} = {value}\n");
        if let Err(problems) = parse(&text) {
            for problem in problems {
                prop_assert!(problem.line <= 3, "{}", problem);
            }
        }
    }
}

const KEYS: [(&str, &str); 13] = [
    ("[node]", "name"),
    ("[registrar]", "domains"),
    ("[registrar]", "expires_min"),
    ("[heartbeat]", "interval"),
    ("[container]", "count"),
    ("[container]", "applications"),
    ("[keys]", "rotate_every"),
    ("[state]", "durability"),
    ("[edge]", "workers"),
    ("[edge]", "instances"),
    ("[edge.tcp]", "unwritten_bytes_max"),
    ("[[edge.instances]]", "listen"),
    ("[[peer]]", "address"),
];

#[test]
fn a_member_says_where_it_is_and_how_it_finds_the_others() {
    let cluster = |text: &str| parse(&format!("[cluster]\n{text}")).unwrap().cluster.unwrap();
    let alone = cluster("address = \"192.0.2.11:6200\"");
    assert_eq!(alone.address, "192.0.2.11:6200".parse().unwrap());
    assert_eq!((alone.discover, alone.nodes.len()), (None, 0));
    for (discover, first) in [
        ("\"*225.0.0.20:6200\"", Some("*225.0.0.20:6200")),
        ("\"*224.0.1.0:1\"", Some("*224.0.1.0:1")),
        ("\"*239.255.255.255:6200\"", Some("*239.255.255.255:6200")),
        ("[\"node1:6200\", \"192.0.2.2:6200\"]", None),
    ] {
        let text = format!("address = \"[2001:db8::1]:6200\"\ndiscover = {discover}");
        let read = cluster(&text);
        match (read.discover.as_ref().unwrap(), first) {
            (crate::Discover::Multicast(address), Some(first)) => {
                assert_eq!(address.to_string(), first);
            }
            (crate::Discover::Servers(servers), None) => {
                assert_eq!(servers[0].as_str(), "node1:6200");
            }
            other => panic!("{other:?}"),
        }
        let json = serde_json::to_value(&read).unwrap();
        assert_eq!(serde_json::from_value::<crate::ClusterSettings>(json).unwrap(), read);
    }
    let fixed = cluster("address = \"192.0.2.11:6200\"\nnodes = [\"192.0.2.12:6200\"]");
    assert_eq!(fixed.nodes[0].as_str(), "192.0.2.12:6200");
    assert_eq!(fixed.link_ports, None);
    let walled = cluster("address = \"192.0.2.11:6200\"\nlink_ports = \"6210-6219\"");
    let ports = walled.link_ports.unwrap();
    assert_eq!((ports.first, ports.last), (6210, 6219));
}

#[test]
fn a_member_says_how_many_copies_a_write_must_have() {
    let cluster = |more: &str| {
        let text = format!("[cluster]\naddress = \"192.0.2.11:6200\"\n{more}");
        parse(&text).unwrap().cluster.unwrap()
    };
    let usual = cluster("");
    assert_eq!((usual.write_quota, usual.below_quota), (1, crate::BelowQuota::Refuse));
    let copies = [1, 2, 8].map(|members| usual.copies_among(members));
    assert_eq!(copies, [0, 1, 1], "never more than there are other members");
    let asked = cluster("write_quota = 2\nbelow_quota = \"continue\"\n");
    assert_eq!((asked.copies_among(3), asked.below_quota), (2, crate::BelowQuota::Continue));
    assert_eq!(cluster("write_quota = 0\n").copies_among(3), 0);
    check(
        "[cluster]\naddress = \"192.0.2.11:6200\"\nwrite_quota = 9\nbelow_quota = \"go\"\n",
        &[
            "outlast.toml:3 cluster.write_quota: 9 needs a whole number from 0 to 8, for example 1",
            r#"outlast.toml:4 cluster.below_quota: "go" needs "refuse" or "continue", for example "refuse""#,
        ],
    );
}

#[test]
fn mistakes_in_the_cluster_section_are_told() {
    check(
        r#"[cluster]
adress = "192.0.2.11:6200"
discover = "225.0.0.20:6200"
nodes = ["node1"]
"#,
        &[
            r#"outlast.toml:1 cluster.address: is missing, for example "192.0.2.11:6200""#,
            "outlast.toml:2 cluster.adress: unknown; did you mean address?",
            r#"outlast.toml:3 cluster.discover: "225.0.0.20:6200" needs "*" and a multicast address from 224.0.1.0 to 239.255.255.255 with port, or a list of host:port, for example "*225.0.0.20:6200" or ["node1:6200", "node2:6200"]"#,
            r#"outlast.toml:4 cluster.nodes: "node1" needs host:port, for example "node1:6200" or "192.0.2.11:6200""#,
        ],
    );
    check(
        "[cluster]\naddress = \"0.0.0.0:6200\"\ndiscover = [\"a:1\"]\nnodes = [\"b:1\"]\n",
        &[
            r#"outlast.toml:2 cluster.address: "0.0.0.0:6200" needs this host's own address and a port, no wildcard, for example "192.0.2.11:6200""#,
            "outlast.toml:4 cluster.nodes: says, as cluster.discover does, how members are found; needs one of them, not both",
        ],
    );
    for ports in ["6210", "0-9", "6219-6210", "6210-", "6210-65536"] {
        let text = format!("[cluster]\naddress = \"192.0.2.11:6200\"\nlink_ports = \"{ports}\"\n");
        check(
            &text,
            &[&format!(
                r#"outlast.toml:3 cluster.link_ports: "{ports}" needs the first and the last of some ports, for example "6210-6219""#
            )],
        );
    }
    for address in
        ["*224.0.0.255:6200", "*240.0.0.0:6200", "*192.0.2.1:6200", "*225.0.0.20", "*225.0.0.20:0"]
    {
        let text = format!("[cluster]\naddress = \"192.0.2.11:6200\"\ndiscover = \"{address}\"\n");
        let problems = parse(&text).unwrap_err();
        assert_eq!(problems[0].line, 3, "{address}");
    }
}

#[test]
fn stores_and_their_ports_are_read() {
    use crate::{ClusterSettings, Stores};
    let cluster = |text: &str| {
        let text = format!("[cluster]\naddress = \"192.0.2.11:6200\"\n{text}");
        parse(&text).unwrap().cluster.unwrap()
    };
    let default = cluster("");
    assert_eq!(default, ClusterSettings::at("192.0.2.11:6200".parse().unwrap()));
    assert_eq!((default.stores.count(), default.store_ports.count()), (2, 8));
    let small = cluster("stores = \"vote\"\nstore_ports = \"7000-7001\"\nallow_colocation = true");
    assert!(matches!(small.stores, Stores::Vote(_)) && small.allow_colocation);
    let json = serde_json::to_value(&small).unwrap();
    assert_eq!(json["stores"], "vote");
    assert_eq!(serde_json::from_value::<ClusterSettings>(json).unwrap(), small);
    assert_eq!(cluster("stores = 0").stores, Stores::Count(0));
    let older = serde_json::json!({ "address": "192.0.2.11:6200" });
    assert_eq!(serde_json::from_value::<ClusterSettings>(older).unwrap(), default);
}

#[test]
fn an_operators_own_stores_are_read() {
    use crate::{ClusterSettings, ServerAccess, Stores};
    let head = "[cluster]\naddress = \"192.0.2.11:6200\"\n";
    let own = format!(
        "{head}stores = [\"redis1:6379\", \"192.0.2.9:6379\"]\nstore_user = \"outlast\"\nstore_password_file = \"/p\"\n\
         store_authority = \"/a\"\nstore_certificate = \"/c\"\nstore_key = \"/k\"\nwrite_quota = 2\n"
    );
    let settings = parse(&own).unwrap().cluster.unwrap();
    assert_eq!(settings.stores.own().len(), 2);
    assert_eq!((settings.stores.count(), settings.copies_among(1)), (0, 2));
    let expected = ServerAccess {
        user: Some("outlast".to_owned()),
        password_file: Some("/p".into()),
        authority: Some("/a".into()),
        certificate: Some("/c".into()),
        key: Some("/k".into()),
    };
    assert_eq!(settings.store_access, expected);
    let json = serde_json::to_value(&settings).unwrap();
    assert_eq!(json["stores"], serde_json::json!(["redis1:6379", "192.0.2.9:6379"]));
    assert_eq!(serde_json::from_value::<ClusterSettings>(json).unwrap(), settings);
    assert!(matches!(settings.stores, Stores::Own(_)));
    check(
        &format!("{head}store_user = \"outlast\"\n"),
        &[
            "outlast.toml:1 cluster.stores: names no servers that store_user and the like could be for; needs a list of host:port",
        ],
    );
    check(
        &own.replace("store_key = \"/k\"\n", ""),
        &["outlast.toml:7 cluster.store_certificate: needs both store_certificate and store_key"],
    );
}

#[test]
fn an_operators_own_etcd_is_read() {
    use crate::{ClusterSettings, ServerAccess};
    let head = "[cluster]\naddress = \"192.0.2.11:6200\"\n";
    let own = format!(
        "{head}repository = [\"https://etcd1:2379\", \"https://[2001:db8::1]:2379/\"]\nrepository_user = \"outlast\"\n\
         repository_password_file = \"/p\"\nrepository_authority = \"/a\"\nrepository_certificate = \"/c\"\nrepository_key = \"/k\"\n"
    );
    let settings = parse(&own).unwrap().cluster.unwrap();
    let named = |n: usize| (settings.repository[n].address(), settings.repository[n].host());
    assert_eq!(named(0), ("etcd1:2379", "etcd1"));
    assert_eq!(named(1), ("[2001:db8::1]:2379", "2001:db8::1"));
    let expected = ServerAccess {
        user: Some("outlast".to_owned()),
        password_file: Some("/p".into()),
        authority: Some("/a".into()),
        certificate: Some("/c".into()),
        key: Some("/k".into()),
    };
    assert_eq!(settings.repository_access, expected);
    let json = serde_json::to_value(&settings).unwrap();
    assert_eq!(json["repository"][1], "https://[2001:db8::1]:2379");
    assert_eq!(serde_json::from_value::<ClusterSettings>(json).unwrap(), settings);
    for without in ["repository_user = \"outlast\"\n", "repository_password_file = \"/p\"\n"] {
        let problems = parse(&own.replace(without, "")).unwrap_err();
        let told = "needs both repository_user and repository_password_file";
        assert_eq!(problems[0].message, told, "{problems:?}");
    }
    check(
        &own.replace("repository_certificate = \"/c\"\n", ""),
        &[
            "outlast.toml:7 cluster.repository_key: needs both repository_certificate and repository_key",
        ],
    );
}

#[test]
fn an_etcd_that_cannot_be_spoken_with_is_refused() {
    let text = |text: &str| format!("[cluster]\naddress = \"192.0.2.11:6200\"\n{text}\n");
    check(
        &text(
            "repository = [\n  \"https://192.0.2.51:2379\",\n  \"http://192.0.2.52:2379\",\n  \"192.0.2.53:2379\",\n  \
             \"https://etcd1\",\n  \"https://etcd1:2379/v3\",\n]",
        ),
        &[
            r#"outlast.toml:5 cluster.repository: "http://192.0.2.52:2379" needs https, for nothing goes over the network in plaintext: give your etcd a certificate (--cert-file, --key-file) and name https://host:port, for example "https://192.0.2.51:2379""#,
            r#"outlast.toml:6 cluster.repository: "192.0.2.53:2379" needs https://host:port of a member of your etcd, for example "https://192.0.2.51:2379""#,
            r#"outlast.toml:7 cluster.repository: "https://etcd1" needs https://host:port of a member of your etcd, for example "https://192.0.2.51:2379""#,
            r#"outlast.toml:8 cluster.repository: "https://etcd1:2379/v3" needs https://host:port of a member of your etcd, for example "https://192.0.2.51:2379""#,
        ],
    );
    for value in ["[]", "\"https://192.0.2.51:2379\"", "true"] {
        check(
            &text(&format!("repository = {value}")),
            &[&format!(
                r#"outlast.toml:3 cluster.repository: {value} needs a list of https://host:port of your own etcd, 1 to 16 of its members, for example ["https://192.0.2.51:2379"]"#
            )],
        );
    }
    check(
        &text("repository_user = \"outlast\"\nrepository_password_file = \"/p\""),
        &[
            "outlast.toml:1 cluster.repository: names no servers that repository_user and the like could be for; needs a list of https://host:port",
        ],
    );
}

#[test]
fn stores_that_cannot_be_are_refused() {
    let text = |text: &str| format!("[cluster]\naddress = \"192.0.2.11:6200\"\n{text}\n");
    for stores in ["5", "\"votes\"", "-1"] {
        let needs = "a whole number from 0 to 4, \"vote\" for a store that holds no data, or a list of host:port of your own servers";
        check(
            &text(&format!("stores = {stores}")),
            &[&format!("outlast.toml:3 cluster.stores: {stores} needs {needs}, for example 2")],
        );
    }
    check(&text("store = 2"), &["outlast.toml:3 cluster.store: unknown; did you mean stores?"]);
    check(
        &text("store_ports = \"6220-6222\""),
        &[
            "outlast.toml:3 cluster.store_ports: \"6220-6222\" are too few ports: 2 stores need 4, two each",
        ],
    );
    check(
        &text("link_ports = \"6220-6229\"\nrepository_ports = \"6200-6201\""),
        &[
            "outlast.toml:1 cluster.store_ports: has ports of cluster.link_ports in it; needs ports of its own",
            "outlast.toml:4 cluster.repository_ports: has ports of cluster.address in it; needs ports of its own",
        ],
    );
    check(
        &text("repository_ports = \"6230-6232\""),
        &[
            r#"outlast.toml:3 cluster.repository_ports: "6230-6232" needs two ports, the first and the last, for example "6230-6231""#,
        ],
    );
}

#[test]
fn no_process_has_the_name_of_a_server_of_the_cluster() {
    for name in ["store1", "store4", "repository"] {
        let text = format!("[[edge.instances]]\nname = \"{name}\"\nlisten = [\"0.0.0.0:5060\"]\n");
        let problems = parse(&text).unwrap_err();
        assert!(problems[0].message.contains("a server of the cluster"), "{problems:?}");
    }
}

#[test]
fn ports_that_are_not_named_follow_that_of_the_address() {
    let ports = |address: &str| {
        let read =
            parse(&format!("[cluster]\naddress = \"{address}\"\n")).unwrap().cluster.unwrap();
        [read.store_ports, read.repository_ports].map(|ports| ports.to_string())
    };
    assert_eq!(ports("192.0.2.11:6200"), ["6220-6227", "6230-6231"]);
    assert_eq!(ports("192.0.2.11:7000"), ["7020-7027", "7030-7031"]);
    assert_eq!(ports("192.0.2.11:65535"), ["6220-6227", "6230-6231"], "there is no room above");
}
