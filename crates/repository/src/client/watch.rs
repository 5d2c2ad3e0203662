//! Changes as they happen: one answer without end, a JSON object a line.

use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::{Duration, Instant};

use super::connection::Connection;
use super::messages::{BrokenOff, Streamed, WatchCreate, WatchRequest, WatchResponse};
use super::{BODY_BYTES_MAX, Client, ClientError, Endpoint};

pub(super) const PATH: &str = "watch";

/// How long a member has to begin.
const BEGIN: Duration = Duration::from_secs(3);

/// What one member tells of the changes of a range. Dropping it ends the watch.
#[derive(Debug)]
pub struct WatchStream {
    endpoint: Endpoint,
    body: Incoming,
    /// Keeps the connection open.
    _connection: Connection,
    received: BytesMut,
    /// Up to here there is no end of a line.
    searched: usize,
}

impl Client {
    /// The changes of a range from a revision on, by the member whose turn it is.
    ///
    /// # Errors
    /// [`ClientError`]; the next call asks the next member.
    pub async fn watch(&self, create: WatchCreate) -> Result<WatchStream, ClientError> {
        let turn = self.shared.turn.load(std::sync::atomic::Ordering::Relaxed);
        let endpoint = self.whose(turn)?;
        let request = WatchRequest { create };
        let deadline = Instant::now() + BEGIN;
        // A token that the member has forgotten ends the watch; whoever follows asks something else first, and so has another one.
        let outcome = match self.token(None, &endpoint, deadline).await {
            Ok(token) => self.send(token.as_ref(), &endpoint, PATH, &request, deadline).await,
            Err(error) => Err(error),
        };
        let (response, connection) = match outcome {
            Ok(begun) => begun,
            Err(error) => {
                self.turn_from(turn, &error);
                return Err(error);
            }
        };
        if response.status() != http::StatusCode::OK {
            let reason = format!("it answers {}", response.status());
            let error = ClientError::unreachable(&endpoint.address, reason);
            self.turn_from(turn, &error);
            return Err(error);
        }
        let body = response.into_body();
        let received = BytesMut::new();
        Ok(WatchStream { endpoint, body, _connection: connection, received, searched: 0 })
    }

    /// Has the next request go to the next member: this one has failed in a way that its answers do not show.
    pub fn turn_away_from(&self, stream: &WatchStream, reason: &str) {
        let turn = self.shared.turn.load(std::sync::atomic::Ordering::Relaxed);
        if self.whose(turn).is_ok_and(|endpoint| endpoint == stream.endpoint) {
            self.turn_from(turn, &ClientError::unreachable(&stream.endpoint.address, reason));
        }
    }
}

impl WatchStream {
    /// The member.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Waits for what is told next. Cancel-safe.
    ///
    /// # Errors
    /// After an error the watch is over.
    pub async fn next(&mut self) -> Result<WatchResponse, ClientError> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.received[self.searched..]) {
                let line = self.received.split_to(self.searched + end + 1);
                self.searched = 0;
                return self.parse(&line);
            }
            self.searched = self.received.len();
            if self.searched > BODY_BYTES_MAX {
                return Err(self.over("it sends more than is taken"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.received.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    return Err(ClientError::broken(&self.endpoint.address, &error));
                }
                None => return Err(self.over("the watch ended")),
            }
        }
    }

    fn parse(&self, line: &[u8]) -> Result<WatchResponse, ClientError> {
        match serde_json::from_slice::<Streamed<WatchResponse>>(line) {
            Ok(Streamed { result }) => Ok(result),
            Err(error) => match serde_json::from_slice::<BrokenOff>(line) {
                Ok(BrokenOff { error }) => Err(self.over(&error.message)),
                Err(_) => Err(ClientError::broken(&self.endpoint.address, &error)),
            },
        }
    }

    fn over(&self, reason: &str) -> ClientError {
        ClientError::unreachable(&self.endpoint.address, reason)
    }
}
