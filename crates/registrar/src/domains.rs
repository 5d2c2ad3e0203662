//! Whose business a URI is: an address-of-record of ours, this server itself, or somebody else's.
//!
//! Source: RFC 3261 §10.3(1) and (5), §16.5. An address-of-record has no port: the port in a Request-URI only says
//! where the request was sent, and that may be another edge, or a load balancer before them.

use std::net::SocketAddr;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use sip::{AddressOfRecord, Host, SipUri};

use crate::settings::{Settings, SettingsError};

/// The domains served and the server's other names, in canonical form.
#[derive(Debug)]
pub struct Domains {
    served: Vec<String>,
    /// Changes as edges come and go in the cluster.
    own_hosts: RwLock<Vec<String>>,
}

/// Whose business a URI is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A user of a domain served here.
    Local(AddressOfRecord),
    /// No user part: the server is meant.
    Server,
    /// A user part at an address of the server that is no domain: nobody there.
    NobodyHere,
    /// Another domain.
    Elsewhere,
}

impl Domains {
    /// # Errors
    /// [`SettingsError::NoDomain`], [`SettingsError::BadHost`].
    pub fn new(settings: &Settings) -> Result<Domains, SettingsError> {
        if settings.domains.is_empty() {
            return Err(SettingsError::NoDomain);
        }
        Ok(Domains {
            served: canonical(&settings.domains)?,
            own_hosts: RwLock::new(canonical(&settings.own_hosts)?),
        })
    }

    /// The server's other names have changed.
    ///
    /// # Errors
    /// [`SettingsError::BadHost`]; they stay as they were.
    pub fn use_own_hosts(&self, hosts: &[String]) -> Result<(), SettingsError> {
        let hosts = canonical(hosts)?;
        *self.own_hosts.write().unwrap_or_else(PoisonError::into_inner) = hosts;
        Ok(())
    }

    fn own_hosts(&self) -> RwLockReadGuard<'_, Vec<String>> {
        self.own_hosts.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The served domain that is this host, in its canonical spelling: the realm.
    pub fn served(&self, host: &Host<'_>) -> Option<&str> {
        self.served.iter().find(|domain| is(host, domain)).map(String::as_str)
    }

    /// Whose business `uri` is, in a request that came in at `local`.
    pub fn place(&self, uri: &SipUri<'_>, local: SocketAddr) -> Place {
        let own_ip = uri.host.ip() == Some(local.ip());
        let own = own_ip || self.own_hosts().iter().any(|host| is(&uri.host, host));
        if uri.user.is_none() {
            let meant = own || self.served(&uri.host).is_some();
            return if meant { Place::Server } else { Place::Elsewhere };
        }
        if let Some(aor) = self.address_of_record(uri) {
            return Place::Local(aor);
        }
        // At another port of the same address may be a phone.
        let own_port = uri.port.is_none_or(|port| [local.port(), 5060, 5061].contains(&port));
        if own && own_port { Place::NobodyHere } else { Place::Elsewhere }
    }

    /// The address-of-record that `uri` names, without port; `None` when its domain is not served or it has no user.
    pub fn address_of_record(&self, uri: &SipUri<'_>) -> Option<AddressOfRecord> {
        let domain = self.served(&uri.host)?;
        let aor = AddressOfRecord::from(uri);
        if aor.domain() == domain {
            return aor.user().is_some().then_some(aor);
        }
        let bare = format!("sip:{}@{domain}", aor.user()?);
        AddressOfRecord::parse(bare.as_bytes()).ok()
    }
}

fn canonical(hosts: &[String]) -> Result<Vec<String>, SettingsError> {
    let canonical = |host: &String| match Host::parse(host.as_bytes()) {
        Some(parsed) => Ok(parsed.to_string()),
        None => Err(SettingsError::BadHost(host.clone())),
    };
    hosts.iter().map(canonical).collect()
}

fn is(host: &Host<'_>, canonical: &str) -> bool {
    // Most requests spell the domain as it is configured.
    if matches!(host, Host::Name(name) if *name == canonical.as_bytes()) {
        return true;
    }
    Host::parse(canonical.as_bytes()).is_some_and(|other| *host == other)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sip::Uri;

    fn place(uri: &str) -> Place {
        let mut settings = Settings::for_domains(["Example.com", "192.0.2.1"]);
        settings.own_hosts.push("sip.example.net".into());
        let Uri::Sip(uri) = Uri::parse(uri.as_bytes()).unwrap() else {
            panic!("{uri} is not a SIP URI")
        };
        Domains::new(&settings).unwrap().place(&uri, "198.51.100.1:5080".parse().unwrap())
    }

    #[test]
    fn an_edge_that_comes_later_is_the_server_itself() {
        let domains = Domains::new(&Settings::for_domains(["example.com"])).unwrap();
        let place = || {
            let Ok(Uri::Sip(uri)) = Uri::parse(b"sip:192.0.2.12") else { panic!("a SIP URI") };
            domains.place(&uri, "192.0.2.11:5060".parse().unwrap())
        };
        assert_eq!(place(), Place::Elsewhere);
        domains.use_own_hosts(&["192.0.2.11".to_owned(), "192.0.2.12".to_owned()]).unwrap();
        assert_eq!(place(), Place::Server);
        assert!(domains.use_own_hosts(&["no host".to_owned()]).is_err());
        assert_eq!(place(), Place::Server, "they stay");
    }

    #[test]
    fn uris_are_put_in_their_place() {
        let local = |text: &str| Place::Local(AddressOfRecord::parse(text.as_bytes()).unwrap());
        for (uri, expected) in [
            ("sip:bob@example.COM", local("sip:bob@example.com")),
            ("sips:%62ob@example.com:5070;x=y", local("sip:bob@example.com")),
            ("sip:bob@192.0.2.1:5080", local("sip:bob@192.0.2.1")),
            ("sip:bob@192.0.2.1", local("sip:bob@192.0.2.1")),
            ("sip:bob@192.0.2.1:49152", local("sip:bob@192.0.2.1")),
            ("sip:example.com", Place::Server),
            ("sip:198.51.100.1:5080", Place::Server),
            ("sip:sip.example.net", Place::Server),
            ("sip:bob@sip.example.net", Place::NobodyHere),
            ("sip:bob@198.51.100.1", Place::NobodyHere),
            ("sip:bob@198.51.100.1:49152", Place::Elsewhere),
            ("sip:bob@example.org", Place::Elsewhere),
            ("sip:example.org", Place::Elsewhere),
        ] {
            assert_eq!(place(uri), expected, "{uri}");
        }
    }

    #[test]
    fn settings_without_a_usable_domain_are_refused() {
        let none = Settings::for_domains(Vec::<String>::new());
        assert_eq!(Domains::new(&none).unwrap_err(), SettingsError::NoDomain);
        let bad = Settings::for_domains(["exa mple"]);
        assert_eq!(Domains::new(&bad).unwrap_err(), SettingsError::BadHost("exa mple".into()));
    }
}
