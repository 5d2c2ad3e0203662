//! From what a developer has to what the manager takes over: manifest, component, compiled code and settings in a directory
//! below `apps/.staging`. What cannot be deployed is refused here, with all that is wrong with the manifest at once.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use config::ConfigError;
use config::manifest::{self, Manifest};
use guest::limits::COMPONENT_BYTES_MAX;
use guest::{Engine, Handlers, Refused};
use manager::{ApplicationsDirectory, applications_directory};
use topology::protocol::ApplicationStatus;

use crate::failure::Failure;
use crate::guest_limits::guest_limits;
use crate::output;
use crate::stores::cluster;

/// A directory that waits to be moved; it is removed with this value, if it is still there.
pub(super) struct Staged {
    pub(super) word: String,
    pub(super) name: String,
    pub(super) version: String,
    path: PathBuf,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // The manager has moved it, if all went well.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Staged {
    /// Checks and compiles what lies at `path`, and puts it there.
    pub(super) fn make(
        directory: &Path,
        path: &Path,
        set: &[(String, String)],
        deployed: &[ApplicationStatus],
        wanted: Wanted,
    ) -> Result<Staged, Failure> {
        let source = Source::find(path)?;
        let manifest = manifest::load(&source.manifest).map_err(refused)?;
        source.fits(&manifest)?;
        wanted.fits(&manifest.name, path, deployed)?;
        let component = source.directory.join(&manifest.component);
        let wasm = read_component(&component)?;
        let before = deployed.iter().find(|one| one.name == manifest.name);
        is_new(&manifest, before)?;
        if cluster::list(directory)?.is_some()
            && let Some(cluster) = cluster::settings(directory)
        {
            is_kept(&manifest, &cluster)?;
        }
        let apps = ApplicationsDirectory::of_node(directory);
        let settings = settings(&apps, &manifest, before, set)?;

        let engine = Engine::new().context("the component cannot be tried")?;
        let prepared = guest::prepare(&engine, &wasm, guest_limits(&manifest));
        let prepared = prepared.map_err(|refused| {
            Failure::Application(format!("{} is refused: {refused}", component.display()))
        })?;
        has_its_handlers(&manifest, prepared.handlers)?;

        let word = word().context("no random octets from the system")?;
        let cannot = || format!("{} cannot be written", directory.join("apps").display());
        let path = apps.stage(&word).with_context(cannot)?;
        let (name, version) = (manifest.name.clone(), manifest.version.to_string());
        let staged = Staged { word, name, version, path };
        let manifest_text = fs::read(&source.manifest).with_context(cannot)?;
        let settings = manifest::settings_text(&settings);
        staged
            .write(manifest::FILE_NAME, &manifest_text)
            .and_then(|()| staged.write(applications_directory::COMPONENT, &prepared.component))
            .and_then(|()| staged.write(applications_directory::CODE, &prepared.code))
            .and_then(|()| staged.write(applications_directory::SETTINGS, settings.as_bytes()))
            .and_then(|()| File::open(&staged.path)?.sync_all())
            .with_context(cannot)?;
        Ok(staged)
    }

    /// On the disk before the table names it.
    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        // Settings may hold secrets.
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(self.path.join(name))?;
        file.write_all(content)?;
        file.sync_all()
    }
}

/// What is expected to be deployed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Whatever it is.
    Any,
    /// A version of something that is.
    Upgrade,
}

impl Wanted {
    fn fits(self, name: &str, path: &Path, deployed: &[ApplicationStatus]) -> Result<(), Failure> {
        let names: Vec<&str> = deployed.iter().map(|one| one.name.as_str()).collect();
        if self == Wanted::Any || names.contains(&name) {
            return Ok(());
        }
        let known = match (config::nearest(name, &names), names.as_slice()) {
            (Some(near), _) => format!("did you mean {near}?"),
            (None, []) => "nothing is".to_owned(),
            (None, names) => format!("deployed are: {}", names.join(", ")),
        };
        Err(Failure::Application(format!(
            "{file}: name = {name:?} is not deployed, so there is nothing to upgrade; {known}. A new application comes in \
             with: outlast app deploy {path}",
            file = manifest::FILE_NAME,
            path = path.display(),
        )))
    }
}

fn refused(error: ConfigError) -> Failure {
    Failure::Application(error.to_string())
}

/// What the command line names: a directory, the component in it, or the manifest.
struct Source {
    directory: PathBuf,
    manifest: PathBuf,
    /// The component that was named.
    component: Option<String>,
}

impl Source {
    fn find(path: &Path) -> Result<Source, Failure> {
        let metadata = fs::metadata(path).map_err(|error| {
            let path = path.display();
            Failure::Application(format!(
                "{path}: {error}; name a directory with {}, or the component in it",
                manifest::FILE_NAME
            ))
        })?;
        if metadata.is_dir() {
            let manifest = path.join(manifest::FILE_NAME);
            return Ok(Source { directory: path.to_owned(), manifest, component: None });
        }
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let component = name.filter(|name| name != manifest::FILE_NAME);
        Ok(Source { manifest: directory.join(manifest::FILE_NAME), directory, component })
    }

    fn fits(&self, manifest: &Manifest) -> Result<(), Failure> {
        match &self.component {
            Some(named) if *named != manifest.component => Err(Failure::Application(format!(
                "{} is about {}, not about {named}; name that one, or change component in it",
                self.manifest.display(),
                manifest.component
            ))),
            Some(_) | None => Ok(()),
        }
    }
}

fn read_component(path: &Path) -> Result<Vec<u8>, Failure> {
    let told = |reason: String| Failure::Application(format!("{}: {reason}", path.display()));
    let unreadable = |error: io::Error| {
        told(format!("{error}; build it first, or correct component in {}", manifest::FILE_NAME))
    };
    let file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    if length > COMPONENT_BYTES_MAX as u64 {
        return Err(told(Refused::TooLarge(length).to_string()));
    }
    let mut wasm = Vec::new();
    // One that grows is read to the limit, and refused for what it is.
    file.take(COMPONENT_BYTES_MAX as u64).read_to_end(&mut wasm).map_err(unreadable)?;
    Ok(wasm)
}

/// Before it is compiled; the manager says the same to whoever was faster.
fn is_new(manifest: &Manifest, deployed: Option<&ApplicationStatus>) -> Result<(), Failure> {
    let (name, version) = (&manifest.name, manifest.version.to_string());
    let known = deployed.into_iter().flat_map(|one| &one.versions);
    if known.into_iter().any(|one| one.version == version) {
        return Err(Failure::Application(format!(
            "{name} {version} is deployed already; give the new one another version in {}, or remove that one with: outlast \
             app remove {name}@{version}",
            manifest::FILE_NAME
        )));
    }
    Ok(())
}

/// What the manifest asks of the copies of its sessions, and the cluster does not keep. On a single node, which has no
/// copies, it asks in vain and is told so by `outlast app show`.
fn is_kept(manifest: &Manifest, cluster: &config::ClusterSettings) -> Result<(), Failure> {
    let asked = &manifest.cluster;
    if !manifest.distributable || !asked.enabled {
        return Ok(());
    }
    let reason = match () {
        () if asked.write_quota > cluster.write_quota => format!(
            "[cluster] write_quota = {} asks for more copies of its sessions than this cluster keeps, which is {}; set \
             [cluster] write_quota in outlast.toml of every node, or ask for fewer",
            asked.write_quota, cluster.write_quota
        ),
        () if !asked.allow_colocation && cluster.allow_colocation => {
            "[cluster] allow_colocation = false wants copies on other hosts only, and outlast.toml of this cluster has \
             allow_colocation = true; one of them must change"
                .to_owned()
        }
        () if asked.group_name != manifest::ClusterSettings::default().group_name => format!(
            "[cluster] group_name = {:?}: the containers of a cluster are one group, \"default\", and each may take over \
             every session; leave it out",
            asked.group_name
        ),
        () => return Ok(()),
    };
    Err(Failure::Application(format!("{}: {reason}", manifest::FILE_NAME)))
}

/// What the manifest promises and the component has not, or the other way round.
fn has_its_handlers(manifest: &Manifest, handlers: Handlers) -> Result<(), Failure> {
    let reason = match () {
        () if manifest.sip.condition.is_some() && !handlers.sip => {
            "[sip] match chooses requests, and the component exports no outlast:app/handler"
        }
        () if manifest.http.is_some() && !handlers.http => {
            "[http] has a path, and the component exports no wasi:http/incoming-handler"
        }
        () if handlers.http && !handlers.sip && manifest.http.is_none() => {
            "the component serves HTTP only: say where, with a path under [http]"
        }
        () => return Ok(()),
    };
    Err(Failure::Application(format!("{}: {reason}", manifest::FILE_NAME)))
}

/// What the operator sets now, and has set for the version before it.
fn settings(
    apps: &ApplicationsDirectory,
    manifest: &Manifest,
    before: Option<&ApplicationStatus>,
    set: &[(String, String)],
) -> Result<BTreeMap<String, String>, Failure> {
    let mut checked = manifest.clone();
    let mut settings = BTreeMap::new();
    if let Some(before) = before
        && let Some(version) = &before.current
    {
        let path = apps.version(&before.name, version).join(applications_directory::SETTINGS);
        for (key, value) in manifest::load_settings(&path)? {
            match checked.set(&key, &value) {
                Ok(()) => drop(settings.insert(key, value)),
                Err(error) => {
                    output::remark(&format!("{error}: what was set for {version} is dropped"))
                }
            }
        }
    }
    for (key, value) in set {
        checked.set(key, value).map_err(|error| Failure::Application(error.to_string()))?;
        settings.insert(key.clone(), value.clone());
    }
    Ok(settings)
}

/// A name that no other command takes at the same time.
fn word() -> io::Result<String> {
    let mut random = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random.iter().map(|octet| format!("{octet:02x}")).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_directory_its_component_and_its_manifest_name_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let manifest = directory.path().join(manifest::FILE_NAME);
        let text = "name = \"echo\"\nversion = \"1.0.0\"\ncomponent = \"echo.wasm\"\n";
        fs::write(&manifest, text).unwrap();
        fs::write(directory.path().join("echo.wasm"), "").unwrap();
        fs::write(directory.path().join("other.wasm"), "").unwrap();
        let read = manifest::load(&manifest).unwrap();
        for path in
            [directory.path().to_owned(), manifest.clone(), directory.path().join("echo.wasm")]
        {
            let source = Source::find(&path).unwrap();
            assert_eq!(source.manifest, manifest);
            source.fits(&read).unwrap();
        }
        let other = Source::find(&directory.path().join("other.wasm")).unwrap();
        let message = other.fits(&read).unwrap_err().to_string();
        assert!(message.contains("echo.wasm") && message.contains("other.wasm"), "{message}");
        assert!(Source::find(&directory.path().join("nothing")).is_err());
    }

    #[test]
    fn what_the_cluster_does_not_keep_is_refused() {
        let cluster = config::ClusterSettings::at(([192, 0, 2, 1], 6200).into());
        let asks = |more: &str| {
            let text = "name = \"echo\"\nversion = \"1.0.0\"\ncomponent = \"echo.wasm\"\n";
            manifest::parse(&format!("{text}{more}")).unwrap()
        };
        for kept in ["", "[cluster]\nwrite_quota = 1\nallow_colocation = false\n"] {
            is_kept(&asks(kept), &cluster).unwrap();
        }
        is_kept(&asks("distributable = false\n[cluster]\nwrite_quota = 8\n"), &cluster).unwrap();
        for (asked, told) in [
            (
                "[cluster]\nwrite_quota = 2\n",
                "more copies of its sessions than this cluster keeps, which is 1",
            ),
            ("[cluster]\ngroup_name = \"voice\"\n", "are one group"),
        ] {
            let refused = is_kept(&asks(asked), &cluster).unwrap_err().to_string();
            assert!(refused.contains(told), "{refused}");
        }
        let shares = config::ClusterSettings { allow_colocation: true, ..cluster };
        let refused = is_kept(&asks("[cluster]\nallow_colocation = false\n"), &shares).unwrap_err();
        assert!(refused.to_string().contains("other hosts only"), "{refused}");
    }

    #[test]
    fn a_manifest_that_promises_what_the_component_has_not_is_refused() {
        let parse = |more: &str| {
            let text =
                format!("name = \"echo\"\nversion = \"1.0.0\"\ncomponent = \"echo.wasm\"\n{more}");
            manifest::parse(&text).unwrap()
        };
        let sip = Handlers { sip: true, ..Handlers::default() };
        let http = Handlers { http: true, ..Handlers::default() };
        let chooses = "[sip]\nmatch = { exists = \"request.uri\" }\n";
        let serves = "[http]\npath = \"/echo\"\n";
        for (more, handlers, said) in [
            (chooses, http, "outlast:app/handler"),
            (serves, sip, "wasi:http/incoming-handler"),
            ("", http, "a path under [http]"),
        ] {
            let message = has_its_handlers(&parse(more), handlers).unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
        }
        has_its_handlers(&parse(chooses), sip).unwrap();
        has_its_handlers(&parse(serves), http).unwrap();
        has_its_handlers(&parse(""), sip).unwrap();
    }
}
