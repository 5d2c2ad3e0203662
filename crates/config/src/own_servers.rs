//! Servers of the operator's own in the place of what the managers would run: where his etcd is, and how such servers are spoken
//! with. Always by TLS.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::DeValue;

use crate::cluster::MemberAddress;
use crate::reader::{Expected, Reader, Section};

/// Members of an etcd are few: more do not make it safer.
const ENDPOINTS_MAX: usize = 16;

const ENDPOINT: Expected<'_> =
    Expected { needs: "https://host:port of a member of your etcd", example: EXAMPLE };
const PLAINTEXT: Expected<'_> = Expected {
    needs: "https, for nothing goes over the network in plaintext: give your etcd a certificate (--cert-file, --key-file) and name \
            https://host:port",
    example: EXAMPLE,
};
const EXAMPLE: &str = "\"https://192.0.2.51:2379\"";

/// `https://host:port` of a member of the operator's own etcd; a name is looked up when it is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EtcdEndpoint(MemberAddress);

/// A text that is no [`EtcdEndpoint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("needs https://host:port, for example \"https://192.0.2.51:2379\"")]
pub struct EtcdEndpointError;

impl EtcdEndpoint {
    /// `host:port`.
    pub fn address(&self) -> &str {
        self.0.as_str()
    }

    /// Without the port: what its certificate must be good for.
    pub fn host(&self) -> &str {
        let address = self.address();
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }
}

impl FromStr for EtcdEndpoint {
    type Err = EtcdEndpointError;

    fn from_str(text: &str) -> Result<EtcdEndpoint, EtcdEndpointError> {
        let rest = text.strip_prefix("https://").ok_or(EtcdEndpointError)?;
        let address = rest.strip_suffix('/').unwrap_or(rest);
        address.parse().map(EtcdEndpoint).map_err(|_| EtcdEndpointError)
    }
}

impl fmt::Display for EtcdEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.0)
    }
}

impl TryFrom<String> for EtcdEndpoint {
    type Error = EtcdEndpointError;
    fn try_from(text: String) -> Result<EtcdEndpoint, EtcdEndpointError> {
        text.parse()
    }
}

impl From<EtcdEndpoint> for String {
    fn from(endpoint: EtcdEndpoint) -> String {
        endpoint.to_string()
    }
}

/// How servers of the operator's own are spoken with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerAccess {
    /// The user to log in as. Default: Redis's `default`; of etcd none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A file with the password in its first line, which nobody else may read. Default: none is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// The certificates of the authorities that the servers' certificates are of, in PEM. Default: the cluster's own authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<PathBuf>,
    /// The certificate that is shown to the servers, in PEM. Default: with an `authority` none, else the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// The keys of one kind of servers.
pub(crate) struct AccessKeys {
    /// The key that names them.
    pub(crate) servers: &'static str,
    /// What that needs.
    pub(crate) needs: &'static str,
    pub(crate) user: &'static str,
    pub(crate) password_file: &'static str,
    pub(crate) authority: &'static str,
    pub(crate) certificate: &'static str,
    pub(crate) key: &'static str,
    /// An example of a password file.
    pub(crate) example: &'static str,
}

pub(crate) const STORES: AccessKeys = AccessKeys {
    servers: "stores",
    needs: "a list of host:port",
    user: "store_user",
    password_file: "store_password_file",
    authority: "store_authority",
    certificate: "store_certificate",
    key: "store_key",
    example: "\"/etc/outlast/redis-password\"",
};

pub(crate) const REPOSITORY: AccessKeys = AccessKeys {
    servers: "repository",
    needs: "a list of https://host:port",
    user: "repository_user",
    password_file: "repository_password_file",
    authority: "repository_authority",
    certificate: "repository_certificate",
    key: "repository_key",
    example: "\"/etc/outlast/etcd-password\"",
};

/// `store_user` and the like; `has_servers`: there is somebody whom they could be for.
pub(crate) fn access(
    reader: &mut Reader<'_>,
    section: &mut Section<'_>,
    keys: &AccessKeys,
    has_servers: bool,
) -> ServerAccess {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let path = |text: &str| some(text).map(PathBuf::from);
    let user = Expected { needs: "a name", example: "\"outlast\"" };
    let file = Expected { needs: "the path of a file", example: keys.example };
    let access = ServerAccess {
        user: section.text(reader, keys.user, user, some),
        password_file: section.text(reader, keys.password_file, file, path),
        authority: section.text(reader, keys.authority, file, path),
        certificate: section.text(reader, keys.certificate, file, path),
        key: section.text(reader, keys.key, file, path),
    };
    if access != ServerAccess::default() && !has_servers {
        let message = format!(
            "names no servers that {} and the like could be for; needs {}",
            keys.user, keys.needs
        );
        reader.report(section.at_key(keys.servers), section.key(keys.servers), message);
    }
    if access.certificate.is_some() != access.key.is_some() {
        let message = format!("needs both {} and {}", keys.certificate, keys.key);
        let at = if access.key.is_some() { keys.key } else { keys.certificate };
        reader.report(section.at_key(at), section.key(at), message);
    }
    access
}

/// `repository` and what goes with it.
pub(crate) fn repository(
    reader: &mut Reader<'_>,
    section: &mut Section<'_>,
) -> (Vec<EtcdEndpoint>, ServerAccess) {
    let key = section.key(REPOSITORY.servers);
    let value = section.value(REPOSITORY.servers);
    let is_named = value.is_some();
    let endpoints = value.map(|value| endpoints(reader, &key, value)).unwrap_or_default();
    let access = access(reader, section, &REPOSITORY, is_named);
    if access.user.is_some() != access.password_file.is_some() {
        // etcd knows nobody without a password.
        let message = "needs both repository_user and repository_password_file";
        let at = match access.user {
            Some(_) => REPOSITORY.user,
            None => REPOSITORY.password_file,
        };
        reader.report(section.at_key(at), section.key(at), message.to_owned());
    }
    (endpoints, access)
}

/// At least one; each bad one is reported at its own line.
fn endpoints(reader: &mut Reader<'_>, key: &str, value: Spanned<DeValue<'_>>) -> Vec<EtcdEndpoint> {
    let span = value.span();
    let list = Expected {
        needs: "a list of https://host:port of your own etcd, 1 to 16 of its members",
        example: "[\"https://192.0.2.51:2379\"]",
    };
    let DeValue::Array(array) = value.into_inner() else {
        reader.refuse(key.to_owned(), span, list);
        return Vec::new();
    };
    if !(1..=ENDPOINTS_MAX).contains(&array.len()) {
        reader.refuse(key.to_owned(), span, list);
        return Vec::new();
    }
    let mut endpoints = Vec::new();
    for element in array {
        let text = match element.get_ref() {
            DeValue::String(text) => text.as_ref(),
            _ => "",
        };
        match text.parse() {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(EtcdEndpointError) => {
                let is_plaintext = text.starts_with("http://");
                let expected = if is_plaintext { PLAINTEXT } else { ENDPOINT };
                reader.refuse(key.to_owned(), element.span(), expected);
            }
        }
    }
    endpoints
}
