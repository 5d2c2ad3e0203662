//! `docs/cluster.md` as it stands: what a reader copies and pastes is typed here, on three hosts and on one machine.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use testbed::lab::{self, Host};
use testbed::{binary, wait};

use crate::world::has_etcd;

const PAGE: &str = include_str!("../../../../docs/cluster.md");
const TEST_LIMIT: Duration = Duration::from_secs(300);
/// How long a debug build on a busy machine may take for what takes a second or two.
const LIMIT: Duration = Duration::from_secs(60);

/// A section of the page.
fn section(title: &str) -> &'static str {
    let (_, behind) =
        PAGE.split_once(&format!("\n## {title}\n")).expect("the page has this section");
    behind.split("\n## ").next().expect("a split has a first part")
}

/// What a section has to copy.
fn blocks(title: &str) -> Vec<&'static str> {
    let fenced = section(title).split("```sh\n").skip(1);
    fenced.map(|rest| rest.split("```").next().expect("the fence is closed")).collect()
}

/// The commands in the second column of a section's table.
fn commands_of_table(title: &str) -> Vec<&'static str> {
    let rows = section(title).lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    rows.map(|row| row.split('`').nth(1).expect("a command in its marks")).collect()
}

/// Somebody at a host, in a directory of his own, who has `outlast` in his path.
struct Desk<'l> {
    host: &'l Host,
    home: tempfile::TempDir,
}

impl<'l> Desk<'l> {
    fn at(host: &'l Host) -> Desk<'l> {
        let home = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(home.path().join("bin")).expect("it is writable");
        symlink(binary::outlast(), home.path().join("bin/outlast")).expect("it is writable");
        Desk { host, home }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }

    /// Types that, and gives the status and what was shown.
    fn try_type(&self, commands: &str) -> (bool, String) {
        let shown = self.path("shown");
        let file = |path: &Path| File::create(path).expect("it is writable");
        let path =
            format!("{}:{}", self.path("bin").display(), std::env::var("PATH").expect("a path"));
        let mut shell = Command::new("bash");
        shell.args(["-e", "-c", commands]).env("PATH", path).current_dir(self.home.path());
        // Files, not pipes: what goes on behind an & keeps them open.
        let (out, err) = (file(&shown), file(&self.path("errors")));
        shell.stdin(Stdio::null()).stdout(out).stderr(err);
        let status = self.host.enter(|| shell.status().expect("bash runs"));
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        (status.success(), read(&shown) + &read(&self.path("errors")))
    }

    fn types(&self, commands: &str) -> String {
        let (is_done, shown) = self.try_type(commands);
        assert!(is_done, "{commands}\n{shown}");
        shown
    }

    /// Types that into a terminal that stays open, and waits until the node serves.
    fn starts(&self, command: &str) {
        let line = command.trim_end();
        self.types(&format!("{line} > up.out 2> up.err &"));
        wait::until("the node to be ready", LIMIT, || {
            let said = std::fs::read_to_string(self.path("up.out")).unwrap_or_default();
            let errors = std::fs::read_to_string(self.path("up.err")).unwrap_or_default();
            if said.contains("outlast ready ") { Ok(()) } else { Err(format!("{said}{errors}")) }
        });
    }

    /// Types that until all processes of three nodes are shown ready.
    fn sees_all(&self, command: &str) {
        wait::until("three whole nodes", LIMIT, || {
            let (is_done, shown) = self.try_type(command);
            let of = |node: &str| {
                let mut processes =
                    shown.lines().filter(|line| line.contains(&format!("@{node} ")));
                let count = processes.clone().count();
                count >= 3 && processes.all(|line| line.contains(" ready "))
            };
            let is_whole = is_done && ["node1", "node2", "node3"].into_iter().all(of);
            if is_whole { Ok(()) } else { Err(shown) }
        });
    }
}

#[test]
fn a_reader_takes_three_hosts_to_one_cluster_by_copy_and_paste() {
    if !has_etcd() {
        return;
    }
    lab::run_within(TEST_LIMIT, &["first", "second", "third"], |lab| {
        let desks: Vec<Desk<'_>> = lab.hosts().iter().map(Desk::at).collect();
        for desk in &desks {
            assert!(PAGE.contains(&format!("`{}`", desk.host.ipv4())), "the page's addresses");
        }
        let [up, create, join, status, _on_one_machine] =
            blocks("Three hosts by copy and paste")[..]
        else {
            panic!("the section has other blocks");
        };
        desks[0].starts(up);
        let shown = desks[0].types(create);
        let token =
            shown.lines().find(|line| !line.contains(' ')).expect("a line that is the token");
        for desk in &desks[1..] {
            let (join, up) = join.split_once('\n').expect("two lines");
            desk.types(&join.replace("TOKEN", token));
            desk.starts(up);
        }
        for desk in &desks {
            desk.sees_all(status);
        }
        let day_by_day = commands_of_table("Day by day");
        assert!(day_by_day.len() >= 5, "{day_by_day:?}");
        for command in day_by_day {
            desks[1].types(command);
            desks[1].sees_all(status);
        }
    });
}

#[test]
fn a_reader_tries_three_nodes_on_one_machine_by_copy_and_paste() {
    if !has_etcd() {
        return;
    }
    lab::run_within(TEST_LIMIT, &["machine"], |lab| {
        let desk = Desk::at(lab.host("machine"));
        let on_one_machine = blocks("Three hosts by copy and paste").pop().expect("the last block");
        desk.types(on_one_machine);
        let status = on_one_machine.lines().last().expect("it ends with a look at all");
        desk.sees_all(status);
    });
}
