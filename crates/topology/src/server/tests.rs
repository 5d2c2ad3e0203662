//! The client of the manager's socket against a manager of a few lines.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, IoSlice, Write as _};
use std::net::UdpSocket;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::sync::mpsc;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::*;
use crate::keys::KeyRing;
use crate::protocol::{ApplicationTable, ApplicationsReport, NodeStatus, PassedSocket};
use crate::view::{Incarnation, ListenerTransport, ProcessName, ProcessState, ProcessType};

fn hello() -> Hello {
    Hello {
        name: ProcessName::new("edge1"),
        process_type: ProcessType::Edge,
        pid: std::process::id(),
        life: None,
    }
}

fn welcome(sockets: &[UdpSocket]) -> Welcome {
    Welcome {
        node: "node1".to_owned(),
        directory: PathBuf::from("/"),
        incarnation: Incarnation(1),
        settings: serde_json::json!({"any": "thing"}),
        keys: KeyRing::new([1; 32]),
        link: None,
        sockets: sockets
            .iter()
            .map(|socket| PassedSocket {
                listener: 0,
                worker: 0,
                transport: ListenerTransport::Udp,
                local: socket.local_addr().unwrap(),
                public: String::new(),
            })
            .collect(),
        view: TopologyView::default(),
        applications: ApplicationTable::default(),
    }
}

fn send(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space =
        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_MESSAGE_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    (&*stream).write_all(&bytes[sent..]).unwrap();
}

/// A manager that accepts one connection, reads one line and goes on as the test says.
fn manager(
    answer: impl FnOnce(UnixStream, ToManager) + Send + 'static,
) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("manager.sock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        answer(stream, serde_json::from_str(&line).unwrap());
    });
    (directory, path)
}

#[test]
fn a_child_gets_more_sockets_than_one_message_carries_in_their_order() {
    let count = DESCRIPTORS_PER_MESSAGE_MAX * 2 + 3;
    let sockets: Vec<UdpSocket> =
        (0..count).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let (_directory, path) = manager(move |stream, said| {
        assert!(matches!(said, ToManager::Hello(hello) if hello.name.as_str() == "edge1"));
        let mut line = encode_line(&FromManager::Welcome(Box::new(welcome(&sockets))));
        for chunk in sockets.chunks(DESCRIPTORS_PER_MESSAGE_MAX) {
            let descriptors: Vec<_> = chunk.iter().map(|socket| socket.as_fd()).collect();
            send(&stream, &line, &descriptors);
            line = b"\n".to_vec();
        }
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
    });
    let (welcome, descriptors, subscription) = Subscription::connect(&path, hello()).unwrap();
    assert_eq!(descriptors.len(), count);
    for (passed, descriptor) in welcome.sockets.iter().zip(descriptors) {
        let socket = UdpSocket::from(descriptor);
        assert_eq!(socket.local_addr().unwrap(), passed.local);
    }
    subscription.ready();
}

#[test]
fn events_come_in_their_order_and_the_last_says_that_no_manager_came() {
    let (_directory, path) = manager(|stream, _| {
        let mut said = encode_line(&FromManager::Welcome(Box::new(welcome(&[]))));
        let view = TopologyView { version: 2, ..TopologyView::default() };
        said.extend(encode_line(&FromManager::View(view)));
        said.extend(encode_line(&FromManager::Command(Command::Stop)));
        (&stream).write_all(&said).unwrap();
    });
    let (_, _, mut subscription) = Subscription::connect(&path, hello()).unwrap();
    subscription.orphan_limit = Duration::from_millis(120);
    let (sender, events) = mpsc::channel();
    let thread = subscription.spawn(move |event| sender.send(event).unwrap());
    thread.join().unwrap();
    let events: Vec<Event> = events.iter().collect();
    assert!(
        matches!(
            events.as_slice(),
            [
                Event::View(TopologyView { version: 2, .. }),
                Event::Command(Command::Stop),
                Event::ManagerGone
            ]
        ),
        "{events:?}"
    );
}

/// Managers that accept one connection each, one after the other, and go on as the test says; each ends with its
/// connection.
fn managers(
    answers: Vec<Box<dyn FnOnce(Heard) + Send>>,
) -> (tempfile::TempDir, PathBuf, JoinHandle<()>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("manager.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = thread::spawn(move || {
        for answer in answers {
            let (stream, _) = listener.accept().unwrap();
            answer(Heard {
                lines: Lines { stream, buffer: Vec::new(), descriptors: VecDeque::new() },
            });
        }
    });
    (directory, path, thread)
}

/// What a manager hears on one connection.
struct Heard {
    lines: Lines,
}

impl Heard {
    fn next(&mut self) -> ToManager {
        loop {
            match next_line(&mut self.lines.buffer).unwrap() {
                Some(line) if line.is_empty() => {}
                Some(line) => return serde_json::from_slice(&line).unwrap(),
                None => assert_ne!(self.lines.fill().unwrap(), 0, "the child has gone"),
            }
        }
    }

    fn say(&self, message: &FromManager) {
        (&self.lines.stream).write_all(&encode_line(message)).unwrap();
    }

    fn welcome(&self) {
        self.say(&FromManager::Welcome(Box::new(welcome(&[]))));
    }
}

fn life(said: ToManager) -> Life {
    match said {
        ToManager::Hello(hello) => hello.life.unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_next_manager_is_told_the_life_and_handed_its_sockets() {
    let count = DESCRIPTORS_PER_MESSAGE_MAX + 3;
    let sockets: Vec<UdpSocket> =
        (0..count).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let (heard, told) = mpsc::channel();
    let first = Box::new(move |mut manager: Heard| {
        manager.next();
        let mut line = encode_line(&FromManager::Welcome(Box::new(welcome(&sockets))));
        for handful in sockets.chunks(DESCRIPTORS_PER_MESSAGE_MAX) {
            let descriptors: Vec<_> = handful.iter().map(|socket| socket.as_fd()).collect();
            send(&manager.lines.stream, &line, &descriptors);
            line = b"\n".to_vec();
        }
        assert!(matches!(manager.next(), ToManager::Ready));
        manager.say(&FromManager::Command(Command::drain(Duration::from_secs(1))));
    });
    let second = Box::new(move |mut manager: Heard| {
        let life = life(manager.next());
        let descriptors = manager.lines.take_descriptors(life.sockets.len()).unwrap();
        heard.send((life, descriptors)).unwrap();
        let mut welcome = welcome(&[]);
        welcome.keys = KeyRing::new([2; 32]);
        manager.say(&FromManager::Welcome(Box::new(welcome)));
        manager.say(&FromManager::Command(Command::Stop));
    });
    let (_directory, path, _thread) = managers(vec![first, second]);
    let (_, _, mut subscription) = Subscription::connect(&path, hello()).unwrap();
    subscription.ready();
    assert!(matches!(subscription.next_event(), Event::Command(Command::Drain { .. })));
    assert_eq!(subscription.next_event(), Event::Keys(KeyRing::new([2; 32])));
    assert_eq!(subscription.next_event(), Event::View(TopologyView::default()));
    assert_eq!(subscription.next_event(), Event::Command(Command::Stop));
    let (life, descriptors) = told.recv().unwrap();
    assert_eq!((life.incarnation, life.state), (Incarnation(1), ProcessState::Draining));
    assert_eq!(life.sockets.len(), count);
    for (passed, descriptor) in life.sockets.iter().zip(descriptors) {
        assert_eq!(UdpSocket::from(descriptor).local_addr().unwrap(), passed.local);
    }
}

#[test]
fn readiness_that_nobody_heard_is_told_to_the_next_manager() {
    let first = Box::new(|mut manager: Heard| {
        manager.next();
        manager.welcome();
    });
    let second = Box::new(|mut manager: Heard| {
        let life = life(manager.next());
        manager.welcome();
        if life.state == ProcessState::Starting {
            // Between its hello and this welcome it became ready.
            assert!(matches!(manager.next(), ToManager::Ready));
        }
        manager.say(&FromManager::Command(Command::Stop));
    });
    let (_directory, path, _thread) = managers(vec![first, second]);
    let (_, _, mut subscription) = Subscription::connect(&path, hello()).unwrap();
    let reporter = subscription.reporter();
    let ready = thread::spawn(move || reporter.ready());
    assert!(matches!(subscription.next_event(), Event::View(_)));
    assert_eq!(subscription.next_event(), Event::Command(Command::Stop));
    ready.join().unwrap();
}

#[test]
fn the_next_manager_is_told_by_a_container_what_became_of_its_applications() {
    let table = |generation| ApplicationTable { generation, ..ApplicationTable::default() };
    let first = Box::new(move |mut manager: Heard| {
        manager.next();
        manager.welcome();
        manager.say(&FromManager::Applications(table(1)));
    });
    let second = Box::new(move |mut manager: Heard| {
        manager.next();
        let welcome = Welcome { applications: table(2), ..welcome(&[]) };
        manager.say(&FromManager::Welcome(Box::new(welcome)));
        let ToManager::Applications(report) = manager.next() else { panic!("it reports") };
        assert_eq!(report.generation, 2);
        manager.say(&FromManager::Command(Command::Stop));
    });
    let (_directory, path, _thread) = managers(vec![first, second]);
    let hello = Hello { process_type: ProcessType::Container, ..hello() };
    let (_, _, mut subscription) = Subscription::connect(&path, hello).unwrap();
    assert_eq!(subscription.next_event(), Event::Applications(table(1)));
    assert!(matches!(subscription.next_event(), Event::View(_)));
    assert_eq!(subscription.next_event(), Event::Applications(table(2)));
    let report = ApplicationsReport { generation: 2, ..ApplicationsReport::default() };
    subscription.reporter().report(&ToManager::Applications(report));
    assert_eq!(subscription.next_event(), Event::Command(Command::Stop));
}

#[test]
fn a_child_that_the_next_manager_does_not_want_is_told_to_end() {
    let first = Box::new(|mut manager: Heard| {
        manager.next();
        manager.welcome();
    });
    let second = Box::new(|mut manager: Heard| {
        manager.next();
        let refusal = Answer::Refused { reason: "not one of mine".to_owned() };
        manager.say(&FromManager::Answer(refusal));
    });
    let (_directory, path, _thread) = managers(vec![first, second]);
    let (_, _, mut subscription) = Subscription::connect(&path, hello()).unwrap();
    assert_eq!(subscription.next_event(), Event::ManagerGone);
}

#[test]
fn reports_to_a_manager_that_does_not_read_block_nobody() {
    let (done, said_all) = mpsc::channel();
    let (_directory, path, thread) = managers(vec![Box::new(move |mut manager: Heard| {
        manager.next();
        manager.welcome();
        // The connection stays open and unread until the child has said all it had to say.
        said_all.recv().unwrap();
    })]);
    let (_, _, subscription) = Subscription::connect(&path, hello()).unwrap();
    let reporter = subscription.reporter();
    for _ in 0..100_000 {
        reporter.report(&ToManager::Alive { left: 1 });
    }
    done.send(()).unwrap();
    thread.join().unwrap();
}

#[test]
fn a_refused_child_is_told_why() {
    let (_directory, path) = manager(|stream, _| {
        let refusal = Answer::Refused { reason: "who are you".to_owned() };
        (&stream).write_all(&encode_line(&FromManager::Answer(refusal))).unwrap();
    });
    let error = Subscription::connect(&path, hello()).unwrap_err();
    assert!(matches!(&error, ManagerError::Refused(reason) if reason == "who are you"), "{error}");
}

#[test]
fn an_admin_request_gets_its_answer() {
    let (_directory, path) = manager(|stream, said| {
        assert!(matches!(said, ToManager::Request(Request::Status)));
        let answer = Answer::Status(NodeStatus::default());
        (&stream).write_all(&encode_line(&FromManager::Answer(answer))).unwrap();
    });
    assert_eq!(
        admin_request(&path, Request::Status).unwrap(),
        Answer::Status(NodeStatus::default())
    );
}

#[test]
fn a_node_that_is_down_is_said_to_be_down() {
    let directory = tempfile::tempdir().unwrap();
    let error = admin_request(&directory.path().join("manager.sock"), Request::Status).unwrap_err();
    assert!(matches!(error, ManagerError::NotUp { .. }), "{error}");
}
