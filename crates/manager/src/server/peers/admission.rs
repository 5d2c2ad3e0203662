//! How a node becomes a member: it shows a token, and is given number, secret, authority and keys.
//!
//! [`serve`] is the member's end; [`join`] that of `outlast cluster join`, which knows the cluster by the fingerprint in
//! its token, and is told nothing before it has shown that token: who listens or pretends learns nothing.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, split};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use topology::credentials::{
    Authority, ClusterSecret, CredentialError, JoinToken, JoinTokenError, joining_client_config,
};
use topology::protocol::{Admission, Answer, Request, encode_line};
use topology::{ReleaseFormats, RunBy};

use super::lines::{PeerError, Reader, write};
use super::protocol::{Admitted, JOIN_LINE_BYTES_MAX, JoinAnswer, JoinRequest, LINE_BYTES_MAX};
use super::{HANDSHAKE_TIMEOUT, Port, unix_time};
use crate::server::Input;
use crate::server::connection::ANSWERS_MAX;

/// From the wish to the answer: a list may have to be written on a slow disk, by another member.
const DECISION_TIMEOUT: Duration = Duration::from_secs(20);

/// Answers one node that wants to be admitted.
///
/// # Errors
/// Why it was not: told to it already.
pub(super) async fn serve(
    port: &Port,
    stream: impl AsyncRead + AsyncWrite,
) -> Result<(), PeerError> {
    let (read, write_half) = split(stream);
    let mut writer = Box::pin(write_half);
    let mut reader = Reader::new(Box::pin(read), JOIN_LINE_BYTES_MAX);
    let request: JoinRequest = reader.next(HANDSHAKE_TIMEOUT).await?;
    let decided = tokio::time::timeout(DECISION_TIMEOUT, decide(port, request)).await;
    let decided = decided.unwrap_or_else(|_| Err("the cluster did not decide in time".to_owned()));
    let (answer, refused) = match decided {
        Ok(admitted) => (JoinAnswer::Admitted(Box::new(admitted)), None),
        Err(reason) => (JoinAnswer::Refused { reason: reason.clone() }, Some(reason)),
    };
    write(&mut writer, &encode_line(&answer), HANDSHAKE_TIMEOUT).await?;
    refused.map_or(Ok(()), |reason| Err(PeerError::Refused(reason)))
}

async fn decide(port: &Port, request: JoinRequest) -> Result<Admitted, String> {
    let JoinRequest { token, name, address, repository, newest_format } = request;
    let told = |error: &dyn std::fmt::Display| error.to_string();
    token
        .parse::<JoinToken>()
        .and_then(|token| token.verify(&port.secret, &port.cluster, unix_time()))
        .map_err(|error| told(&error))?;
    let authority = Authority::load(port.credentials.directory()).map_err(|error| told(&error))?;
    let (reply, mut answers) = mpsc::channel(ANSWERS_MAX);
    let request = Request::ClusterJoin { name, address, repository, newest_format };
    let asked = port.inputs.send(Input::Request { request, reply }).await;
    asked.map_err(|_| "the manager is ending".to_owned())?;
    match answers.recv().await {
        Some(Answer::Admitted(admission)) => Ok(Admitted {
            admission: *admission,
            secret: port.secret.to_hex(),
            authority: authority.certificate_pem().to_owned(),
            authority_key: authority.key_pem(),
        }),
        Some(Answer::Refused { reason }) => Err(reason),
        Some(other) => Err(format!("an answer to something else: {other:?}")),
        None => Err("the manager is ending".to_owned()),
    }
}

/// What a node has that was admitted.
pub struct Joined {
    /// Its place, the members, the keys.
    pub admission: Admission,
    /// The cluster's secret.
    pub secret: ClusterSecret,
    /// The cluster's authority.
    pub authority: Authority,
}

/// Why a node was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token is none.
    #[error(transparent)]
    Token(#[from] JoinTokenError),
    /// TLS cannot be set up, or what came is not what makes a member.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// No member that the token names could be spoken with.
    #[error("no member of the cluster can be spoken with: {}", attempts.join("; "))]
    OutOfReach {
        /// Each address, and what happened there.
        attempts: Vec<String>,
    },
    /// The cluster said no.
    #[error("the cluster refused: {0}")]
    Refused(String),
}

/// Asks the members that the token names, one after the other, to admit a node. `address`, where others reach it, is `None`
/// for that by which this host reaches the member, with `port`; its file has the repository run by `repository`.
///
/// # Errors
/// [`JoinError`].
pub async fn join(
    token: &str,
    name: Option<String>,
    address: Option<SocketAddr>,
    port: u16,
    repository: RunBy,
) -> Result<Joined, JoinError> {
    let parsed: JoinToken = token.parse()?;
    let config = joining_client_config(parsed.authority()?)?;
    let mut attempts = Vec::new();
    for member in parsed.addresses() {
        let asking = ask(TlsConnector::from(Arc::clone(&config)), *member, |own| JoinRequest {
            token: token.trim().to_owned(),
            name: name.clone(),
            address: address.unwrap_or(SocketAddr::new(own.ip(), port)),
            repository,
            newest_format: ReleaseFormats::own().newest(),
        });
        match asking.await {
            Ok(JoinAnswer::Admitted(admitted)) => return joined(*admitted),
            Ok(JoinAnswer::Refused { reason }) => return Err(JoinError::Refused(reason)),
            Err(error) => attempts.push(format!("{member}: {error}")),
        }
    }
    Err(JoinError::OutOfReach { attempts })
}

async fn ask(
    connector: TlsConnector,
    member: SocketAddr,
    request: impl FnOnce(SocketAddr) -> JoinRequest,
) -> Result<JoinAnswer, PeerError> {
    let connecting = async {
        let stream = TcpStream::connect(member).await?;
        let own = stream.local_addr()?;
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("a DNS name");
        let stream = connector.connect(name, stream).await?;
        Ok::<_, io::Error>((stream, own))
    };
    let connected = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await;
    let (stream, own) = connected.map_err(|_| PeerError::Silent(HANDSHAKE_TIMEOUT))??;
    let (read, mut write_half) = split(stream);
    write(&mut write_half, &encode_line(&request(own)), HANDSHAKE_TIMEOUT).await?;
    Reader::new(read, LINE_BYTES_MAX).next(DECISION_TIMEOUT + HANDSHAKE_TIMEOUT).await
}

fn joined(admitted: Admitted) -> Result<Joined, JoinError> {
    let Admitted { admission, secret, authority, authority_key } = admitted;
    let secret = ClusterSecret::from_hex(&secret)
        .ok_or_else(|| JoinError::Refused("what came is no secret".to_owned()))?;
    Ok(Joined { admission, secret, authority: Authority::from_pem(authority, &authority_key)? })
}
