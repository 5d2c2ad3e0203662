//! A child without SIP: says hello, is ready, notes what it is told in `DIR/NAME.notes`, ends when told.
//!
//! It runs as the test [`runs`] of this binary, started by the manager with the variables below set; in an
//! ordinary test run they are not, and it does nothing.

use std::collections::HashMap;
use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, exit};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use manager::ChildStart;
use topology::protocol::{
    ApplicationEntry, ApplicationReport, ApplicationTable, ApplicationsReport, Command, Hello,
    ToManager,
};
use topology::server::{Event, Reporter, Subscription, beat};
use topology::{ListenerTransport, ProcessName, ProcessState, ProcessType, TopologyView};

const NAME: &str = "FAKE_CHILD_NAME";
const SOCKET: &str = "FAKE_CHILD_SOCKET";
const BEHAVIOUR: &str = "FAKE_CHILD_BEHAVIOUR";

/// More often than any manager of these tests wants to hear of it.
const BEAT_INTERVAL: Duration = Duration::from_millis(20);

/// The command line that makes this test binary a fake child.
pub(crate) fn program(start: &ChildStart, behaviour: &str) -> Program {
    let mut program = Program::new(env::current_exe().unwrap());
    program
        .args(["--exact", "fake_child::runs", "--nocapture"])
        .env(NAME, start.name.as_str())
        .env(SOCKET, &start.socket)
        .env(BEHAVIOUR, behaviour);
    program
}

#[test]
fn runs() {
    let Ok(name) = env::var(NAME) else {
        return;
    };
    let socket = PathBuf::from(env::var(SOCKET).unwrap());
    let behaviour = env::var(BEHAVIOUR).unwrap();
    if behaviour == "dies" {
        exit(1);
    }
    let process_type =
        if name.starts_with("edge") { ProcessType::Edge } else { ProcessType::Container };
    let hello =
        Hello { name: ProcessName::new(&name), process_type, pid: std::process::id(), life: None };
    let (welcome, descriptors, subscription) = Subscription::connect(&socket, hello).unwrap();
    assert_eq!(descriptors.len(), welcome.sockets.len());
    for (passed, descriptor) in welcome.sockets.iter().zip(descriptors) {
        if passed.transport == ListenerTransport::Udp {
            answer_with(name.clone(), descriptor);
        }
    }
    let applications =
        Applications { behaviour: behaviour.clone(), reporter: subscription.reporter() };
    if process_type == ProcessType::Container {
        applications.load(&Notes::new(&welcome.directory, &name), welcome.applications.clone());
    }
    subscription.ready();
    beat(subscription.reporter(), BEAT_INTERVAL, Vec::new(), || 0);
    let (sender, events) = mpsc::channel();
    subscription.spawn(move |event| sender.send(event).unwrap());
    live(&Notes::new(&welcome.directory, &name), &behaviour, &applications, &events);
    exit(0);
}

/// "Loads" whatever it is told to, but for version 6.6.6, and counts as its behaviour says.
struct Applications {
    behaviour: String,
    reporter: Reporter,
}

impl Applications {
    fn load(&self, notes: &Notes, table: ApplicationTable) {
        let told = |entry: &ApplicationEntry| {
            format!(" {}@{}{}", entry.name, entry.version, if entry.is_current { "*" } else { "" })
        };
        let all: String = table.applications.iter().map(told).collect();
        notes.write(&format!("applications{all}"));
        let report = |entry: ApplicationEntry, failures| ApplicationReport {
            refused: (entry.version == "6.6.6").then(|| "it is a beast".to_owned()),
            name: entry.name,
            version: entry.version,
            events: failures,
            failures,
            is_unused: false,
            is_beginning: false,
        };
        let all = |failures| ApplicationsReport {
            generation: table.generation,
            applications: table
                .applications
                .iter()
                .cloned()
                .map(|one| report(one, failures))
                .collect(),
        };
        self.reporter.report(&ToManager::Applications(all(0)));
        if self.behaviour == "fails" {
            self.reporter.report(&ToManager::Applications(all(50)));
        }
    }
}

fn live(
    notes: &Notes,
    behaviour: &str,
    applications: &Applications,
    events: &mpsc::Receiver<Event>,
) {
    let mut states: HashMap<ProcessName, ProcessState> = HashMap::new();
    for event in events {
        match event {
            Event::View(view) => {
                accuse(&view, behaviour, &applications.reporter);
                for process in view.processes {
                    if states.insert(process.name.clone(), process.state) != Some(process.state) {
                        notes.write(&format!("{} {}", process.name, process.state));
                    }
                }
            }
            Event::Command(Command::Drain { .. }) => {
                notes.write("told drain");
                if behaviour != "stubborn" {
                    return;
                }
            }
            Event::Command(Command::Stop) => {
                notes.write("told stop");
                if behaviour != "stubborn" {
                    return;
                }
            }
            Event::Keys(_) => {}
            Event::Applications(table) => applications.load(notes, table),
            #[cfg(feature = "faults")]
            Event::Command(Command::Fault(_)) => {}
            Event::ManagerGone => return,
        }
    }
}

/// An edge that "accuses NAME" gets no answers from that container, whichever life it has.
fn accuse(view: &TopologyView, behaviour: &str, reporter: &Reporter) {
    let accused = behaviour.strip_prefix("accuses ").map(ProcessName::new);
    if let Some(process) = accused.and_then(|name| view.process(&name))
        && process.state == ProcessState::Ready
    {
        let (name, incarnation) = (process.name.clone(), process.incarnation);
        reporter.report(&ToManager::Unresponsive { name, incarnation });
    }
}

fn answer_with(name: String, descriptor: OwnedFd) {
    let socket = UdpSocket::from(descriptor);
    socket.set_nonblocking(false).unwrap();
    thread::spawn(move || {
        let mut question = [0; 64];
        while let Ok((_, asker)) = socket.recv_from(&mut question) {
            socket.send_to(name.as_bytes(), asker).unwrap();
        }
    });
}

struct Notes {
    path: PathBuf,
}

impl Notes {
    fn new(directory: &Path, name: &str) -> Notes {
        Notes { path: directory.join(format!("{name}.notes")) }
    }

    fn write(&self, note: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(&self.path).unwrap();
        file.write_all(format!("{note}\n").as_bytes()).unwrap();
    }
}
