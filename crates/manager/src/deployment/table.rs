//! Which versions of which applications a node has, and with which of them new sessions begin.

use std::collections::{BTreeMap, BTreeSet};

use config::manifest::Version;
use serde::{Deserialize, Serialize};
use topology::protocol::{APPLICATIONS_MAX, VERSIONS_MAX};

use crate::repository::applications::Local;

/// The deployed applications by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployedTable {
    pub(super) applications: BTreeMap<String, Deployed>,
}

/// One of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Deployed {
    /// All whose files are kept.
    pub(super) versions: BTreeSet<Version>,
    /// New sessions begin with it; none while the first version is on its way in, and of an application that is retired.
    pub(super) current: Option<Version>,
    /// On its way in.
    pub(super) rolling_to: Option<Version>,
}

/// Why the table does not change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TableRefusal {
    #[error(
        "a node has at most {APPLICATIONS_MAX} applications; remove one with: outlast app remove NAME"
    )]
    TooManyApplications,
    #[error(
        "{name} {version} is deployed already; give the new one another version in outlast-app.toml, or remove that one \
         with: outlast app remove {name}@{version}"
    )]
    VersionExists { name: String, version: Version },
    #[error(
        "{VERSIONS_MAX} versions of {name} are kept; remove one that has no sessions, for example with: outlast app remove \
         {name}@{oldest}"
    )]
    TooManyVersions { name: String, oldest: Version },
    #[error("no application is named {name}; deployed are: {}", list(.deployed))]
    UnknownApplication { name: String, deployed: Vec<String> },
    #[error("{name} has no version {version}; it has {}", list(.versions))]
    UnknownVersion { name: String, version: String, versions: Vec<Version> },
    #[error("{name} {version} is on its way in; try again when it is there")]
    ComingIn { name: String, version: Version },
    #[error("new sessions of {name} begin with {version} already")]
    IsCurrent { name: String, version: Version },
    #[error(
        "new sessions of {name} begin with {version}: bring in another one first, with outlast app upgrade, or remove all \
         of it with: outlast app remove {name}"
    )]
    StillCurrent { name: String, version: Version },
}

fn list(items: &[impl ToString]) -> String {
    match items {
        [] => "none".to_owned(),
        items => items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// What becomes of a version whose rollout failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abandoned {
    /// It stays, without being current: sessions may have begun with it. Once nobody uses it, it goes by itself.
    Kept,
    /// It is as if it had never been deployed.
    Forgotten,
}

/// What no table names any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Which application.
    pub name: String,
    /// Which version; `None`: all of them.
    pub version: Option<Version>,
}

impl DeployedTable {
    /// Every application, as others may know it.
    pub fn overview(&self) -> BTreeMap<String, Local> {
        let local = |deployed: &Deployed| Local {
            versions: deployed.versions.iter().map(ToString::to_string).collect(),
            current: deployed.current.as_ref().map(ToString::to_string),
            is_coming_in: deployed.rolling_to.is_some(),
        };
        self.applications.iter().map(|(name, deployed)| (name.clone(), local(deployed))).collect()
    }

    /// A version that the table does not know comes in.
    pub(super) fn begin(&mut self, name: &str, version: Version) -> Result<(), TableRefusal> {
        self.nothing_comes_in(name)?;
        let name = name.to_owned();
        match self.applications.get(&name) {
            None if self.applications.len() >= APPLICATIONS_MAX => {
                return Err(TableRefusal::TooManyApplications);
            }
            Some(deployed) if deployed.versions.contains(&version) => {
                return Err(TableRefusal::VersionExists { name, version });
            }
            Some(deployed) if deployed.versions.len() >= VERSIONS_MAX => {
                let mut others =
                    deployed.versions.iter().filter(|kept| Some(**kept) != deployed.current);
                let oldest = *others.next().expect("one of several is not current");
                return Err(TableRefusal::TooManyVersions { name, oldest });
            }
            Some(_) | None => {}
        }
        let deployed = self.applications.entry(name).or_default();
        deployed.versions.insert(version);
        deployed.rolling_to = Some(version);
        Ok(())
    }

    /// A version that is kept comes in again.
    pub(super) fn begin_again(&mut self, name: &str, version: Version) -> Result<(), TableRefusal> {
        self.nothing_comes_in(name)?;
        let deployed = self.known_version(name, &version.to_string())?;
        if deployed.current == Some(version) {
            return Err(TableRefusal::IsCurrent { name: name.to_owned(), version });
        }
        deployed.rolling_to = Some(version);
        Ok(())
    }

    /// The version that is on its way in has arrived.
    pub(super) fn finish(&mut self, name: &str) {
        if let Some(deployed) = self.applications.get_mut(name)
            && let Some(version) = deployed.rolling_to.take()
        {
            deployed.current = Some(version);
        }
    }

    /// The version that is on its way in does not arrive; what is to be removed of it.
    pub(super) fn abandon(&mut self, name: &str, fate: Abandoned) -> Option<Removed> {
        let deployed = self.applications.get_mut(name)?;
        let version = deployed.rolling_to.take()?;
        if fate == Abandoned::Kept {
            return None;
        }
        deployed.versions.remove(&version);
        let is_last = deployed.versions.is_empty();
        if is_last {
            self.applications.remove(name);
        }
        Some(Removed { name: name.to_owned(), version: Some(version).filter(|_| !is_last) })
    }

    /// A version, or all of them, go.
    pub(super) fn remove(
        &mut self,
        name: &str,
        version: Option<&str>,
    ) -> Result<Removed, TableRefusal> {
        self.nothing_comes_in(name)?;
        let Some(version) = version else {
            self.known(name)?;
            self.applications.remove(name);
            return Ok(Removed { name: name.to_owned(), version: None });
        };
        let deployed = self.known_version(name, version)?;
        let is_it = |kept: &&Version| kept.to_string() == version;
        let version = *deployed.versions.iter().find(is_it).expect("it was found just now");
        if deployed.versions.len() == 1 {
            return self.remove(name, None);
        }
        if deployed.current == Some(version) {
            return Err(TableRefusal::StillCurrent { name: name.to_owned(), version });
        }
        deployed.versions.remove(&version);
        Ok(Removed { name: name.to_owned(), version: Some(version) })
    }

    /// No session begins any more.
    pub(super) fn retire(&mut self, name: &str) -> Result<(), TableRefusal> {
        self.nothing_comes_in(name)?;
        self.known(name)?.current = None;
        Ok(())
    }

    /// Nobody brings in any more what was on its way: the manager that did has died.
    pub(super) fn recover(&mut self) {
        for deployed in self.applications.values_mut() {
            // As `Abandoned::Kept`: who knows how far it came.
            deployed.rolling_to = None;
        }
    }

    fn nothing_comes_in(&self, name: &str) -> Result<(), TableRefusal> {
        match self.applications.get(name).and_then(|deployed| deployed.rolling_to) {
            Some(version) => Err(TableRefusal::ComingIn { name: name.to_owned(), version }),
            None => Ok(()),
        }
    }

    fn known(&mut self, name: &str) -> Result<&mut Deployed, TableRefusal> {
        if !self.applications.contains_key(name) {
            let deployed = self.applications.keys().cloned().collect();
            return Err(TableRefusal::UnknownApplication { name: name.to_owned(), deployed });
        }
        Ok(self.applications.get_mut(name).expect("it was found just now"))
    }

    fn known_version(&mut self, name: &str, version: &str) -> Result<&mut Deployed, TableRefusal> {
        let deployed = self.known(name)?;
        if !deployed.versions.iter().any(|kept| kept.to_string() == version) {
            return Err(TableRefusal::UnknownVersion {
                name: name.to_owned(),
                version: version.to_owned(),
                versions: deployed.versions.iter().copied().collect(),
            });
        }
        Ok(deployed)
    }
}
