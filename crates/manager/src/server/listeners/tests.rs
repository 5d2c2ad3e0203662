//! Listening sockets on real ports: shared among the workers of one edge and with nobody else.

#![allow(clippy::unwrap_used)]

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;

use config::EdgeInstance;

use super::*;

fn config(listen: &str) -> NodeConfig {
    let mut config = NodeConfig::default();
    config.edge.workers = Some(3);
    config.edge.instances = vec![EdgeInstance {
        name: "edge1".to_owned(),
        listen: vec![listen.parse().unwrap()],
        public: None,
    }];
    config
}

fn bind(listen: &str) -> Result<EdgeListeners, UpError> {
    Ok(bind_all(&config(listen))?.remove(0))
}

#[test]
fn port_zero_is_one_port_for_both_transports_and_all_workers() {
    let edge = bind("127.0.0.1:0").unwrap();
    let bound = edge.addresses();
    assert_eq!(bound.len(), 2);
    assert_eq!(bound[0].own, bound[1].own);
    assert_ne!(bound[0].own.port(), 0);
    let (passed, descriptors) = edge.to_pass().unwrap();
    assert_eq!(passed.len(), 6);
    assert_eq!(descriptors.len(), 6);
    let port = bound[0].own.port();
    let expected = [format!("udp:127.0.0.1:{port}"), format!("tcp:127.0.0.1:{port}")];
    assert_eq!(edge.as_configured(), expected);
}

#[test]
fn datagrams_and_connections_are_spread_over_the_workers_first_socket_included() {
    let edge = bind("127.0.0.1:0").unwrap();
    let local = edge.groups[0].local;
    for _ in 0..200 {
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", local).unwrap();
    }
    let connections: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(local).unwrap()).collect();
    for group in &edge.groups {
        for socket in &group.sockets {
            let socket = socket.as_fd().try_clone_to_owned().unwrap();
            let reached = match group.transport {
                ListenerTransport::Udp => UdpSocket::from(socket).recv(&mut [0; 1]).is_ok(),
                ListenerTransport::Tcp => TcpListener::from(socket).accept().is_ok(),
            };
            assert!(reached, "a worker of {} gets nothing", group.transport);
        }
    }
    drop(connections);
}

#[test]
fn sockets_are_counted_before_the_first_is_opened() {
    let mut config = config("127.0.0.1:0");
    config.edge.workers = Some(64);
    // On one port each, which is not tried: they would collide.
    config.edge.instances[0].listen = vec!["127.0.0.1:9".parse().unwrap(); 32];
    let edge = config.edge.instances[0].clone();
    config.edge.instances = vec![edge.clone(); 5];
    let refused = |config: &NodeConfig| bind_all(config).err().unwrap().to_string();
    let message = refused(&config);
    assert!(message.contains("20480 sockets of all edges"), "{message}");
    config.edge.instances = vec![edge.clone()];
    config.edge.instances[0].listen.push("udp:127.0.0.1:9".parse().unwrap());
    let message = refused(&config);
    assert!(message.contains("edge edge1: 4160 sockets"), "{message}");

    let plans = vec![EdgePlan::new(&edge, 64).unwrap()];
    check_count(&plans, Some(2 * 4096 + 256)).unwrap();
    check_count(&plans, None).unwrap();
    let message = check_count(&plans, Some(2 * 4096 + 255)).err().unwrap().to_string();
    assert!(message.contains("need 8448 open files, and the limit is 8447"), "{message}");
}

#[test]
fn a_taken_port_is_named_whoever_has_it() {
    let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    let message = bind(&format!("udp:{address}")).err().unwrap().to_string();
    assert!(message.contains(&format!("udp {address}: address in use")), "{message}");
    assert!(message.contains("ss -lntup"), "{message}");

    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    assert!(matches!(bind(&format!("tcp:{address}")), Err(UpError::AddressInUse { .. })));
}

#[test]
fn another_node_of_the_same_user_is_refused_though_both_share_ports_among_their_workers() {
    let first = bind("127.0.0.1:0").unwrap();
    let address = first.groups[0].local;
    assert!(matches!(bind(&format!("udp:{address}")), Err(UpError::AddressInUse { .. })));
    assert!(matches!(bind(&format!("tcp:{address}")), Err(UpError::AddressInUse { .. })));
}

#[test]
fn a_wildcard_becomes_concrete_addresses() {
    let edge = bind("0.0.0.0:0").unwrap();
    assert!(
        edge.addresses()
            .iter()
            .all(|bound| !bound.own.ip().is_unspecified() && bound.own.is_ipv4())
    );
    assert!(edge.addresses().iter().any(|bound| bound.own.ip().is_loopback()));
    let configured = edge.as_configured();
    assert!(configured[0].starts_with("udp:0.0.0.0:"), "{configured:?}");
}

#[test]
fn closed_listeners_free_the_port_and_reopen_on_it() {
    let mut edge = bind("127.0.0.1:0").unwrap();
    let local = edge.groups[0].local;
    edge.close();
    let holder = UdpSocket::bind(local).unwrap();
    assert!(matches!(edge.reopen(), Err(UpError::AddressInUse { .. })));
    drop(holder);
    edge.reopen().unwrap();
    assert_eq!(edge.to_pass().unwrap().1.len(), 6);
}

#[test]
fn an_address_of_another_machine_is_refused_with_a_hint() {
    let message = bind("192.0.2.1:0").err().unwrap().to_string();
    assert!(message.contains("does not have that address"), "{message}");
}

#[test]
fn phones_are_told_the_configured_address() {
    let mut config = config("127.0.0.1:0");
    config.edge.public = Some("sip.example.com".parse().unwrap());
    let edge = bind_all(&config).unwrap().remove(0);
    assert!(edge.addresses().iter().all(|bound| bound.public == "sip.example.com"));
}
