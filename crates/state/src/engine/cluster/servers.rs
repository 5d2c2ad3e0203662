//! What whoever runs the servers asks them, and tells them.
//!
//! Each call opens a connection of its own, asks, and gives up by the time that a node has ([`Options`] say how it is
//! opened; their seeds are not used). These are for a tokio runtime of the caller's.

use std::fmt;
use std::net::SocketAddr;

use redis::{Value, cmd};
use tokio::sync::Mutex;

use super::connection::Connection;
use super::options::Options;

/// What a server answers to the question whether it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// It serves.
    Serves,
    /// It lives and does not serve yet: it reads what it has written before.
    Begins,
    /// It does not answer, or nobody listens.
    Silent,
}

/// Asks one server again and again whether it serves, over one connection as long as that lasts.
pub struct Pinger {
    server: SocketAddr,
    options: Options,
    connection: Mutex<Option<Connection>>,
}

impl fmt::Debug for Pinger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinger").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Pinger {
    /// Asks nothing yet.
    pub fn new(server: SocketAddr, options: Options) -> Self {
        Self { server, options, connection: Mutex::new(None) }
    }

    /// Asks it. A question that is given up by its caller ends the connection.
    pub async fn ask(&self) -> Pulse {
        let mut kept = self.connection.lock().await;
        let connection = match kept.take() {
            Some(connection) => connection,
            None => match Connection::open(self.server, &self.options).await {
                Ok(connection) => connection,
                Err(_) => return Pulse::Silent,
            },
        };
        let pulse = match connection.ask(cmd("PING")).await {
            Ok(Value::ServerError(error)) if error.code() == "LOADING" => Pulse::Begins,
            // Whoever refuses it is there all the same: a function runs for long, perhaps.
            Ok(_) => Pulse::Serves,
            Err(_) => return Pulse::Silent,
        };
        *kept = Some(connection);
        pulse
    }
}
