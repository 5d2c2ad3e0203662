//! Who we are to an etcd that asks for a name and a password: a token, had for them once, goes with every request.
//!
//! A member keeps tokens in its memory: one ends there after five minutes without use, with the member's process, and when the
//! user's password changes. A request whose token is refused was not done, so it is asked again with a new one, once and within
//! its own deadline. The password is had anew each time, so that it may change while processes run. One that was refused is not
//! shown again for a while ([`REST`]): a wrong one costs etcd as much as a right one, which is a lot (bcrypt).
//!
//! Source: etcd's `auth/simple_token.go` and `v3rpc/rpctypes/error.go`, 3.4.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::messages::{Authenticate, Authenticated};
use super::{Client, ClientError, Endpoint};

/// How long a refusal holds.
const REST: Duration = Duration::from_secs(1);

/// Where it is asked.
const PATH: &str = "auth/authenticate";

/// A user of etcd's.
#[derive(Clone)]
pub struct Login {
    /// Its name.
    pub user: String,
    /// Its password, as it is now; or why it cannot be had.
    pub password: Arc<dyn Fn() -> Result<String, String> + Send + Sync>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The token that is in use.
#[derive(Debug)]
pub(super) struct Tokens {
    login: Login,
    had: Mutex<Had>,
}

#[derive(Debug)]
enum Had {
    Nothing,
    Token(HeaderValue),
    Refusal(Instant, ClientError),
}

impl Tokens {
    pub(super) fn new(login: Login) -> Tokens {
        Tokens { login, had: Mutex::new(Had::Nothing) }
    }

    /// A token other than the one that was refused.
    ///
    /// # Errors
    /// [`ClientError`]; it is never in doubt.
    pub(super) async fn other_than(
        &self,
        refused: Option<&HeaderValue>,
        client: &Client,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<HeaderValue, ClientError> {
        // Of many that are refused at the same time one has a new token for all.
        let Ok(mut had) = timeout_at(deadline, self.had.lock()).await else {
            return Err(ClientError::unreachable(&endpoint.address, "no token in time"));
        };
        match &*had {
            Had::Token(token) if Some(token) != refused => return Ok(token.clone()),
            Had::Refusal(at, error) if at.elapsed() < REST => return Err(error.clone()),
            Had::Nothing | Had::Token(_) | Had::Refusal(..) => {}
        }
        let outcome = self.authenticate(client, endpoint, deadline).await;
        *had = match &outcome {
            Ok(token) => Had::Token(token.clone()),
            Err(error @ ClientError::NotAdmitted { .. }) => {
                Had::Refusal(Instant::now(), error.clone())
            }
            Err(_) => Had::Nothing,
        };
        outcome
    }

    async fn authenticate(
        &self,
        client: &Client,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<HeaderValue, ClientError> {
        let address = &endpoint.address;
        let password =
            (self.login.password)().map_err(|reason| ClientError::not_admitted(address, reason))?;
        let request = Authenticate { name: &self.login.user, password: &password };
        let answer = client.call_as(None, endpoint, PATH, &request, deadline).await;
        let Authenticated { token } = match answer {
            Ok(answer) => answer,
            // Whether or not it was done changes nothing.
            Err(ClientError::Broken { address, reason }) => {
                return Err(ClientError::Unreachable { address, reason });
            }
            Err(error) => return Err(error),
        };
        let mut token = HeaderValue::try_from(token)
            .map_err(|_| ClientError::unreachable(address, "its token is none"))?;
        token.set_sensitive(true);
        Ok(token)
    }
}
