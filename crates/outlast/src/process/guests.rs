//! From the files of a deployed version to a guest that runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use config::manifest::{self, HttpSettings, Manifest};
use container::http_port::{HttpRoute, Place};
use container::session::{Callers, Directive, Region, Replication};
use guest::engine::NoEngine;
use guest::{Engine, Guest, Instances, Services, Settings};
use manager::{ApplicationsDirectory, applications_directory};
use tracing::warn;

use super::applications::{Load, Loaded};
use crate::failure::with_causes;
use crate::guest_limits::guest_limits;

/// Loads WebAssembly components.
pub(super) struct Guests {
    /// Made for the first application: a node without one needs none.
    engine: Mutex<Option<Engine>>,
    directory: ApplicationsDirectory,
    services: Arc<dyn Services>,
}

impl Guests {
    /// Of the node in that directory.
    pub(super) fn new(directory: ApplicationsDirectory, services: Arc<dyn Services>) -> Guests {
        Guests { engine: Mutex::new(None), directory, services }
    }

    fn engine(&self) -> Result<Engine, NoEngine> {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        match &*engine {
            Some(engine) => Ok(engine.clone()),
            None => Ok(engine.insert(Engine::new()?).clone()),
        }
    }

    fn try_load(&self, name: &str, version: &str) -> anyhow::Result<Loaded> {
        let files = self.directory.version(name, version);
        let mut manifest = manifest::load(&files.join(manifest::FILE_NAME))?;
        let settings = manifest::load_settings(&files.join(applications_directory::SETTINGS))?;
        for (key, value) in &settings {
            manifest.set(key, value)?;
        }
        let component = files.join(applications_directory::COMPONENT);
        let component = fs::read(&component).map_err(|source| unreadable(&component, &source))?;
        let code_path = files.join(applications_directory::CODE);
        // Made anew if it is not there, or not ours.
        let code = fs::read(&code_path).ok();
        let order = manifest.order;
        let http = manifest.http.clone();
        let body_bytes_max = usize::try_from(manifest.limits.http_body).unwrap_or(usize::MAX);
        let settings = settings_of(manifest, Arc::clone(&self.services));
        let (guest, made) = Guest::load(&self.engine()?, &component, code.as_deref(), settings)?;
        if let Some(made) = made
            && let Err(error) = keep(&code_path, &made)
        {
            warn!(%error, name, version, "its code is compiled again at the next start");
        }
        let guest = Arc::new(guest);
        let counted = Arc::clone(&guest);
        let counts = move || {
            let counts = counted.counts();
            (counts.events, counts.failed())
        };
        let route = |http: HttpSettings| {
            let place = Place { path: http.path, host: http.host };
            let application = Arc::<Guest>::clone(&guest);
            HttpRoute::new(application, place, http.session_cookie, body_bytes_max)
        };
        let http = http.filter(|_| guest.handlers().http).map(route);
        Ok(Loaded { application: guest, http, order, counts: Box::new(counts) })
    }
}

impl Load for Guests {
    fn load(&self, name: &str, version: &str) -> Result<Loaded, String> {
        self.try_load(name, version).map_err(|error| with_causes(&error))
    }
}

/// Makes the compiled code of the component in that directory: one that another node deployed, which may be of another kind.
pub(super) fn prepare(files: &Path) -> anyhow::Result<()> {
    let manifest = manifest::load(&files.join(manifest::FILE_NAME))?;
    let component = files.join(applications_directory::COMPONENT);
    let component = fs::read(&component).map_err(|source| unreadable(&component, &source))?;
    let prepared = guest::prepare(&Engine::new()?, &component, guest_limits(&manifest))?;
    keep(&files.join(applications_directory::CODE), &prepared.code)?;
    Ok(())
}

fn unreadable(path: &Path, source: &io::Error) -> anyhow::Error {
    anyhow::anyhow!("{}: {source}; deploy it again", path.display())
}

/// Several containers may make the same code at one time: each writes its own file, and the last one stays.
fn keep(path: &PathBuf, code: &[u8]) -> io::Result<()> {
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    fs::write(&beside, code)?;
    fs::rename(beside, path)
}

fn settings_of(manifest: Manifest, services: Arc<dyn Services>) -> Settings {
    let limits = guest_limits(&manifest);
    let Manifest { name, version, sip, instances, config, cluster, distributable, .. } = manifest;
    let accepts: guest::Accepts = match sip.condition {
        Some(condition) => {
            Box::new(move |request| guest::condition::is_fulfilled(&condition, request))
        }
        None => Box::new(|_| false),
    };
    Settings {
        accepts,
        config,
        limits,
        instances: if instances.reuse { Instances::Reused } else { Instances::Fresh },
        hears_created: sip.hears_created,
        hears_ended: sip.hears_ended,
        on_failure: sip.on_failure,
        callers: if sip.authenticate { Callers::Admitted } else { Callers::Anybody },
        region: match sip.region {
            manifest::Region::Originating => Region::Originating,
            manifest::Region::Neutral => Region::Neutral,
            manifest::Region::Terminating => Region::Terminating,
        },
        replication: match cluster.replication {
            _ if !(distributable && cluster.enabled) => Replication::Nowhere,
            manifest::Replication::BeforeReply => Replication::BeforeReply,
            manifest::Replication::AfterReply => Replication::AfterReply,
        },
        directive: match sip.calls {
            manifest::Calls::Continue => Directive::Continue,
            manifest::Calls::New => Directive::New,
        },
        services,
        ..Settings::new(&name, &version.to_string())
    }
}
