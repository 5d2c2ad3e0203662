//! A connection to one node: opened and given up by deadlines, commands in a row.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, RedisError, Value};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use super::options::Options;

/// How long a node may be silent while it owes an answer, or while a connection is made.
pub(super) const SILENCE_MAX: Duration = Duration::from_millis(300);
/// After that much silence the other nodes are asked whether they know more.
pub(super) const SILENCE_SUSPICIOUS: Duration = Duration::from_millis(100);

/// A node did not answer, or the connection broke: what was asked may have been done or not.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    /// Nothing came in time.
    #[error("no answer within {SILENCE_MAX:?}")]
    Silent,
    /// The cluster goes on without that node.
    #[error("another node has its place")]
    Replaced,
    /// The connection could not be made, or broke.
    #[error(transparent)]
    Broken(#[from] RedisError),
    /// The node could not be reached.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It is not what it should be.
    #[error("{0}")]
    Odd(String),
}

/// An open connection. Dropping it closes it.
pub(super) struct Connection {
    inner: MultiplexedConnection,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // By itself it would end only when everything that is owed was answered.
        self.driver.abort();
    }
}

impl Connection {
    /// Connects, encrypts if told to, and logs in, within the time that a node has.
    pub(super) async fn open(address: SocketAddr, options: &Options) -> Result<Self, Lost> {
        patiently(Self::open_whenever(address, options)).await
    }

    /// The same, and waits for ever.
    pub(super) async fn open_whenever(
        address: SocketAddr,
        options: &Options,
    ) -> Result<Self, Lost> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut info = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(user) = &options.user {
            info = info.set_username(user);
        }
        if let Some(password) = &options.password {
            info = info.set_password(password);
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (inner, driver) = match &options.tls {
            None => {
                let (inner, driver) =
                    MultiplexedConnection::new_with_config(&info, stream, config).await?;
                (inner, tokio::spawn(driver))
            }
            Some(tls) => {
                let name = ServerName::from(address.ip());
                let stream = TlsConnector::from(tls.clone()).connect(name, stream).await?;
                let (inner, driver) =
                    MultiplexedConnection::new_with_config(&info, stream, config).await?;
                (inner, tokio::spawn(driver))
            }
        };
        Ok(Self { inner, driver: driver.abort_handle() })
    }

    /// Sends commands in a row and returns the answer to each, whatever it is. Waits for ever: see [`patiently`].
    pub(super) async fn exchange(&self, commands: &Pipeline) -> Result<Vec<Value>, Lost> {
        let mut inner = self.inner.clone();
        Ok(inner.send_packed_commands(commands, 0, commands.len()).await?)
    }

    /// Sends one command and returns its answer within the time that a node has.
    pub(super) async fn ask(&self, command: Cmd) -> Result<Value, Lost> {
        let mut commands = Pipeline::with_capacity(1);
        commands.add_command(command);
        let mut answers = patiently(self.exchange(&commands)).await?;
        Ok(answers.pop().unwrap_or_default())
    }

    /// As [`ask`](Self::ask), for commands that answer with text.
    pub(super) async fn ask_text(&self, command: Cmd) -> Result<String, Lost> {
        text(self.ask(command).await?)
    }
}

/// The text of an answer.
pub(super) fn text(answer: Value) -> Result<String, Lost> {
    match answer {
        Value::BulkString(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Ok(text),
        Value::Okay => Ok("OK".to_owned()),
        Value::ServerError(error) => {
            let details = error.details().unwrap_or_default();
            Err(Lost::Odd(format!("{} {details}", error.code())))
        }
        _ => Err(Lost::Odd("an answer of another kind than asked for".to_owned())),
    }
}

/// An answer within the time that a node has.
pub(super) async fn patiently<T>(answer: impl Future<Output = Result<T, Lost>>) -> Result<T, Lost> {
    tokio::time::timeout(SILENCE_MAX, answer).await.unwrap_or(Err(Lost::Silent))
}
