//! `outlast app …`: applications are begun, checked, deployed, shown, upgraded and removed.
//!
//! The command does what takes long and can be refused early: it reads the manifest, checks and compiles the component,
//! and puts both beside the deployed ones. The manager does the rest, and tells how far it is.

use std::path::Path;

use anyhow::anyhow;
use topology::protocol::{Answer, ApplicationStatus, NodeApplications, Request, RolloutPace};

use crate::command_line::{AppCommand, Reader};
use crate::control::{ask, unexpected};
use crate::failure::Failure;
use crate::output;
use crate::sessions;

mod new;
mod nodes;
mod progress;
pub(crate) mod show;
mod staging;

use progress::{bring_in, carry_through};
use staging::{Staged, Wanted};

/// `NAME` or `NAME@VERSION`.
struct Named<'a> {
    name: &'a str,
    version: Option<&'a str>,
}

impl<'a> Named<'a> {
    fn read(text: &'a str) -> Named<'a> {
        match text.split_once('@') {
            Some((name, version)) => Named { name, version: Some(version) },
            None => Named { name: text, version: None },
        }
    }
}

pub(crate) fn app(directory: &Path, command: AppCommand) -> Result<(), Failure> {
    match command {
        AppCommand::New { name, path } => new::write(&name, path.as_deref()),
        AppCommand::Deploy { path, set, json } => {
            deploy(directory, &path, &set, RolloutPace::AtOnce, Some(json.into()))
        }
        AppCommand::Upgrade { what, set, json } => upgrade(directory, &what, &set, json.into()),
        AppCommand::List { json } => show::list(directory, &everywhere(directory)?, json.into()),
        AppCommand::Show { name, json } => {
            let nodes = everywhere(directory)?;
            let status = find_in(nodes::as_one(&nodes), &name)?;
            show::show(directory, &status, &nodes, json.into())
        }
        AppCommand::Remove { what, drain: true, .. } => retire(directory, &what),
        AppCommand::Remove { what, force, .. } => remove(directory, &what, force),
    }
}

/// What is deployed.
fn applications(directory: &Path) -> Result<Vec<ApplicationStatus>, Failure> {
    match ask(directory, Request::Applications)? {
        Answer::Applications(all) => Ok(all),
        other => Err(unexpected(&other)),
    }
}

/// What is deployed on each node of the cluster, this one first; of a single node it alone.
fn everywhere(directory: &Path) -> Result<Vec<NodeApplications>, Failure> {
    match ask(directory, Request::ClusterApplications)? {
        Answer::ClusterApplications(all) => Ok(all),
        other => Err(unexpected(&other)),
    }
}

fn find(directory: &Path, name: &str) -> Result<ApplicationStatus, Failure> {
    find_in(applications(directory)?, name)
}

fn find_in(all: Vec<ApplicationStatus>, name: &str) -> Result<ApplicationStatus, Failure> {
    let names: Vec<String> = all.iter().map(|one| one.name.clone()).collect();
    let found = all.into_iter().find(|one| one.name == name);
    found.ok_or_else(|| {
        let deployed = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        anyhow!("no application is named {name}; deployed are: {deployed}").into()
    })
}

/// What `outlast app deploy` and `outlast app upgrade` do with a directory; `reader` is who is told each step.
pub(crate) fn deploy(
    directory: &Path,
    path: &Path,
    set: &[(String, String)],
    pace: RolloutPace,
    reader: Option<Reader>,
) -> Result<(), Failure> {
    // Before anything is compiled: whether there is a node at all.
    let deployed = applications(directory)?;
    let wanted = match pace {
        RolloutPace::AtOnce => Wanted::Any,
        RolloutPace::OneByOne => Wanted::Upgrade,
    };
    let staged = Staged::make(directory, path, set, &deployed, wanted)?;
    let request = Request::AppDeploy { staged: staged.word.clone(), pace };
    match reader {
        Some(reader) => bring_in(directory, request, &staged.name, &staged.version, reader),
        None => carry_through(directory, request, &staged.name, &staged.version, |_| {}),
    }
}

/// A path is deployed, and what is deployed already is brought in again.
fn upgrade(
    directory: &Path,
    what: &str,
    set: &[(String, String)],
    reader: Reader,
) -> Result<(), Failure> {
    let pace = RolloutPace::OneByOne;
    let Named { name, version: Some(version) } = Named::read(what) else {
        if !Path::new(what).exists()
            && let Ok(known) = find(directory, what)
        {
            let versions: Vec<&str> = known.versions.iter().map(|one| &*one.version).collect();
            let versions = versions.join(", ");
            return Err(Failure::Application(format!(
                "{what} is an application and no file: name a version that is kept ({versions}), as {what}@VERSION, or the \
                 directory of a new one"
            )));
        }
        return deploy(directory, Path::new(what), set, pace, Some(reader));
    };
    if Path::new(what).exists() {
        return deploy(directory, Path::new(what), set, pace, Some(reader));
    }
    if !set.is_empty() {
        let reason = "settings are of a version: deploy another one to change them";
        return Err(Failure::Application(reason.to_owned()));
    }
    let (name, version) = (name.to_owned(), version.to_owned());
    let request = Request::AppSwitch { name: name.clone(), version: version.clone(), pace };
    bring_in(directory, request, &name, &version, reader)
}

fn remove(directory: &Path, what: &str, force: bool) -> Result<(), Failure> {
    let Named { name, version } = Named::read(what);
    let status = find(directory, name)?;
    if force {
        return remove_at_once(directory, what);
    }
    let instead = match version {
        Some(_) => "It goes by itself behind the last one".to_owned(),
        None => format!("With outlast app remove {what} --drain it goes behind the last one"),
    };
    if !show::are_sessions_stored(directory, &status, version) {
        return Err(anyhow!(
            "sessions of {what} are in the memory of their containers only, where they are not counted (distributable or [cluster] \
             enabled is false). {instead}, or it is removed all the same with --force"
        )
        .into());
    }
    let refusal = |living: usize| {
        let sessions = if living == 1 { "session that lives" } else { "sessions that live" };
        anyhow!(
            "{what} has {living} {sessions}, whose messages would be answered 503 (outlast sessions --application {what} lists \
             them). {instead}, or it is removed all the same with --force"
        )
    };
    let is_unused = || match sessions::count(directory, name, version)? {
        0 => Ok(()),
        living => Err(Failure::from(refusal(living))),
    };
    // What is in use goes on without a pause.
    is_unused()?;
    if version.is_some() && status.versions.len() > 1 {
        return remove_at_once(directory, what);
    }
    // One may have begun since: first none begins any more, then it is counted.
    order(directory, Request::AppHold { name: name.to_owned() })?;
    if let Err(refusal) = is_unused() {
        order(directory, Request::AppRelease { name: name.to_owned() })?;
        return Err(refusal);
    }
    remove_at_once(directory, what)
}

fn remove_at_once(directory: &Path, what: &str) -> Result<(), Failure> {
    let Named { name, version } = Named::read(what);
    let (name, version) = (name.to_owned(), version.map(str::to_owned));
    carry_out(directory, Request::AppRemove { name, version }, &format!("removed {what}"))
}

/// No new sessions; the manager removes it behind the last one.
fn retire(directory: &Path, what: &str) -> Result<(), Failure> {
    let Named { name, version: None } = Named::read(what) else {
        return Err(anyhow!(
            "{what} is one version, and goes by itself when no session of it lives any more; --drain is for a whole \
             application"
        )
        .into());
    };
    find(directory, name)?;
    let request = Request::AppRetire { name: name.to_owned() };
    let done = format!(
        "no session of {name} begins any more; it is removed behind the last one that lives"
    );
    carry_out(directory, request, &done)
}

fn carry_out(directory: &Path, request: Request, done: &str) -> Result<(), Failure> {
    order(directory, request)?;
    output::line(done);
    Ok(())
}

fn order(directory: &Path, request: Request) -> Result<(), Failure> {
    match ask(directory, request)? {
        Answer::Done => Ok(()),
        Answer::Refused { reason } => Err(anyhow!(reason).into()),
        other => Err(unexpected(&other)),
    }
}
