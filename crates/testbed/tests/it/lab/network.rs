//! What reaches whom. What is lost is proved by what comes behind it: packets between two hosts keep their order.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use testbed::lab::{self, Traffic};
use testbed::wait;

use super::{LIMIT, heard, say, socket};

#[test]
fn hosts_reach_each_other_by_ipv4_ipv6_and_multicast_but_not_the_machine() {
    let of_the_machine = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    lab::run(&["a", "b", "c"], |lab| {
        let (a, b) = (lab.host("a"), lab.host("b"));
        let pairs = [
            (socket(a, a.ipv4()), socket(b, b.ipv4())),
            (socket(a, a.ipv6()), socket(b, b.ipv6())),
            (socket(a, Ipv4Addr::LOCALHOST), socket(a, Ipv4Addr::LOCALHOST)),
        ];
        for (one, other) in pairs {
            say(&one, &other, "there");
            assert_eq!(heard(&other), "there");
            say(&other, &one, "back");
            assert_eq!(heard(&one), "back");
        }

        let group = Ipv4Addr::new(225, 0, 0, 20);
        let members = ["b", "c"].map(|name| {
            let member = lab.host(name).enter(|| {
                let member = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 6200)).expect("a socket");
                member.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED).expect("a card");
                member
            });
            member.set_read_timeout(Some(LIMIT)).expect("a time-out");
            member
        });
        let speaker = socket(a, Ipv4Addr::UNSPECIFIED);
        speaker.send_to(b"to all", (group, 6200)).expect("a card");
        members.iter().for_each(|member| assert_eq!(heard(member), "to all"));

        let outside = a.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a socket");
        outside.connect("198.51.100.1:53").expect_err("no way out");
    });
    of_the_machine.set_nonblocking(true).expect("a socket");
    of_the_machine.recv(&mut [0; 1]).expect_err("nobody knows it");
}

#[test]
fn a_host_that_is_cut_off_hears_and_says_nothing_until_it_is_healed() {
    lab::run(&["a", "b", "c"], |lab| {
        let [a, b, c] = ["a", "b", "c"].map(|name| socket(lab.host(name), lab.host(name).ipv4()));
        let cut = lab.cut("a");
        say(&b, &a, "lost");
        say(&a, &b, "lost");
        say(&b, &c, "others are not cut off");
        assert_eq!(heard(&c), "others are not cut off");
        cut.heal();
        say(&b, &a, "healed");
        say(&a, &b, "healed");
        assert_eq!([heard(&a), heard(&b)], ["healed", "healed"]);
    });
}

#[test]
fn two_hosts_are_parted_while_a_third_reaches_both() {
    lab::run(&["a", "b", "c"], |lab| {
        let [a, b, c] = ["a", "b", "c"].map(|name| socket(lab.host(name), lab.host(name).ipv4()));
        let parted = lab.part("a", "b");
        for (one, other) in [(&a, &b), (&b, &a)] {
            say(one, other, "lost");
        }
        for other in [&a, &b] {
            say(&c, other, "from c");
            assert_eq!(heard(other), "from c");
        }
        drop(parted);
        say(&a, &b, "again");
        assert_eq!(heard(&b), "again");
    });
}

#[test]
fn loss_goes_one_way_or_takes_one_port_only_and_faults_heal_one_by_one() {
    lab::run(&["a", "b"], |lab| {
        let [a, b] = ["a", "b"].map(|name| socket(lab.host(name), lab.host(name).ipv4()));
        let one_way = lab.lose(Traffic::from("a").and_to("b"));
        say(&a, &b, "lost");
        say(&b, &a, "the other way");
        assert_eq!(heard(&a), "the other way");

        let spared = socket(lab.host("b"), lab.host("b").ipv4());
        let port = b.local_addr().expect("bound").port();
        let one_port = lab.lose(Traffic::to("b").of_port(port));
        one_way.heal();
        say(&a, &b, "lost");
        say(&a, &spared, "another port");
        assert_eq!(heard(&spared), "another port");
        one_port.heal();
        say(&a, &b, "healed");
        assert_eq!(heard(&b), "healed");
    });
}

#[test]
fn random_loss_takes_about_the_share_that_was_asked_for() {
    const BATCHES: usize = 40;
    const BATCH: usize = 50;
    lab::run(&["a", "b"], |lab| {
        let [a, b] = ["a", "b"].map(|name| socket(lab.host(name), lab.host(name).ipv4()));
        let marks = socket(lab.host("b"), lab.host("b").ipv4());
        // The marks that end a batch are spared.
        let port = b.local_addr().expect("bound").port();
        let _loss = lab.lose_some(Traffic::to("b").of_port(port), 5);
        b.set_nonblocking(true).expect("a socket");
        let mut arrived = 0;
        for _ in 0..BATCHES {
            (0..BATCH).for_each(|_| say(&a, &b, "word"));
            say(&a, &marks, "mark");
            heard(&marks);
            while b.recv(&mut [0; 64]).is_ok() {
                arrived += 1;
            }
        }
        let lost = BATCHES * BATCH - arrived;
        // Of 2,000, 100 on average; 40 is six standard deviations away.
        assert!((40..=180).contains(&lost), "{lost} of {} are lost", BATCHES * BATCH);
    });
}

#[test]
fn a_delay_holds_every_packet_back_and_harms_none() {
    const DELAY: Duration = Duration::from_millis(60);
    lab::run(&["a", "b"], |lab| {
        let (a, b) = (lab.host("a"), lab.host("b"));
        let [one, other] = [socket(a, a.ipv6()), socket(b, b.ipv6())];
        let there_and_back = || {
            let began = Instant::now();
            say(&one, &other, "there");
            heard(&other);
            say(&other, &one, "back");
            heard(&one);
            began.elapsed()
        };
        let delayed = lab.delay("a", DELAY);
        for _ in 0..3 {
            let took = there_and_back();
            assert!(took >= DELAY * 2, "{took:?}");
        }
        // A stream, whose segments and checksums are made by the cards otherwise.
        let listener = b.enter(|| TcpListener::bind((b.ipv4(), 0))).expect("a port");
        let address = listener.local_addr().expect("bound");
        let sent: Vec<u8> = (0..600_000_u32).map(|number| (number % 251) as u8).collect();
        let began = Instant::now();
        let received = thread::scope(|scope| {
            let receiving = scope.spawn(|| {
                let (mut stream, _) = listener.accept().expect("a connection");
                stream.set_read_timeout(Some(LIMIT)).expect("a time-out");
                let mut received = Vec::new();
                stream.read_to_end(&mut received).expect("a stream to its end");
                received
            });
            let mut stream = a.enter(|| TcpStream::connect(address)).expect("a way there");
            stream.write_all(&sent).expect("a stream");
            drop(stream);
            receiving.join().expect("no panic")
        });
        assert!(received == sent, "{} of {} octets", received.len(), sent.len());
        assert!(began.elapsed() >= DELAY * 3, "{:?}", began.elapsed());

        delayed.heal();
        wait::until("a short way", LIMIT, || {
            let took = there_and_back();
            if took < DELAY { Ok(()) } else { Err(took) }
        });
    });
}

#[test]
fn faults_meet_a_host_that_is_delayed_as_well() {
    lab::run(&["a", "b"], |lab| {
        let [a, b] = ["a", "b"].map(|name| socket(lab.host(name), lab.host(name).ipv4()));
        let spared = socket(lab.host("b"), lab.host("b").ipv4());
        let port = b.local_addr().expect("bound").port();
        let _delayed = lab.delay("a", Duration::from_millis(1));
        let from_it = lab.lose(Traffic::from("a").of_port(port));
        say(&a, &b, "lost");
        say(&a, &spared, "behind it");
        assert_eq!(heard(&spared), "behind it");
        from_it.heal();
        say(&a, &b, "healed");
        assert_eq!(heard(&b), "healed");

        let to_it = lab.lose(Traffic::to("a"));
        say(&b, &a, "lost");
        to_it.heal();
        say(&b, &a, "healed");
        assert_eq!(heard(&a), "healed");
    });
}
