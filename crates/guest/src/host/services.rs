//! The interfaces `naming`, `cache` and `sessions`: what lies outside of the session.
//!
//! A guest waits for its answers, [`limits::ANSWER_TIME_MAX`] for each and no longer than its event may take in all; no
//! processor time is counted meanwhile.

use std::sync::Arc;
use std::time::Duration;

use container::session::SessionId;

use super::{Host, wit};
use crate::overlay::Refusal;
use crate::services::{
    ServiceError, Services, checked_key, checked_lifetime, checked_value, limits,
};

type Outcome<T> = Result<T, wit::types::Error>;

impl Host {
    fn services(&self) -> Arc<dyn Services> {
        Arc::clone(&self.application.services)
    }
}

/// What a service answers; one that takes too long is not waited for.
async fn answered<T>(answer: impl Future<Output = Result<T, ServiceError>>) -> Outcome<T> {
    match tokio::time::timeout(limits::ANSWER_TIME_MAX, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => {
            let why = format!("the store took more than {:?}", limits::ANSWER_TIME_MAX);
            Err(ServiceError::Unavailable(why).into())
        }
    }
}

impl wit::naming::Host for Host {
    async fn bind(&mut self, name: String, value: Vec<u8>) -> Outcome<()> {
        checked_key(&name)?;
        checked_value(&value, limits::NAMED_BYTES_MAX)?;
        let application = self.application.unversioned.clone();
        answered(self.services().bind(application, name, value.into())).await
    }

    async fn rebind(&mut self, name: String, value: Vec<u8>) -> Outcome<()> {
        checked_key(&name)?;
        checked_value(&value, limits::NAMED_BYTES_MAX)?;
        let application = self.application.unversioned.clone();
        answered(self.services().rebind(application, name, value.into())).await
    }

    async fn unbind(&mut self, name: String) -> Outcome<()> {
        checked_key(&name)?;
        let application = self.application.unversioned.clone();
        answered(self.services().unbind(application, name)).await
    }

    async fn lookup(&mut self, name: String) -> Outcome<Option<Vec<u8>>> {
        checked_key(&name)?;
        Ok(answered(self.services().lookup(name)).await?.map(|value| value.to_vec()))
    }

    async fn list(&mut self, prefix: String, after: Option<String>) -> Outcome<Vec<String>> {
        if !prefix.is_empty() {
            checked_key(&prefix)?;
        }
        if let Some(after) = &after {
            checked_key(after)?;
        }
        let mut names =
            answered(self.services().list(prefix, after, limits::NAMES_LISTED_MAX)).await?;
        names.truncate(limits::NAMES_LISTED_MAX);
        Ok(names)
    }
}

impl wit::cache::Host for Host {
    async fn get(&mut self, key: String) -> Outcome<Option<Vec<u8>>> {
        checked_key(&key)?;
        let application = self.application.unversioned.clone();
        Ok(answered(self.services().cached(application, key)).await?.map(|value| value.to_vec()))
    }

    async fn put(&mut self, key: String, value: Vec<u8>, lifetime: u64) -> Outcome<()> {
        checked_key(&key)?;
        checked_value(&value, limits::CACHED_BYTES_MAX)?;
        let lifetime = checked_lifetime(Duration::from_millis(lifetime))?;
        let application = self.application.unversioned.clone();
        answered(self.services().cache(application, key, value.into(), lifetime)).await
    }

    async fn invalidate(&mut self, key: String) -> Outcome<()> {
        checked_key(&key)?;
        let application = self.application.unversioned.clone();
        answered(self.services().invalidate(application, key)).await
    }
}

impl wit::sessions::Host for Host {
    async fn find(&mut self, key: String) -> Outcome<Option<String>> {
        checked_key(&key)?;
        let application = self.application.unversioned.clone();
        let found = answered(self.services().session_of_key(application, key)).await?;
        Ok(found.map(|id| id.to_string()))
    }

    async fn exists(&mut self, id: String) -> Outcome<bool> {
        let id = session_id(&id)?;
        let application = self.application.unversioned.clone();
        answered(self.services().session_exists(application, id)).await
    }

    async fn attribute(&mut self, id: String, name: String) -> Outcome<Option<Vec<u8>>> {
        let id = session_id(&id)?;
        let application = self.application.unversioned.clone();
        let value = answered(self.services().session_attribute(application, id, name)).await?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn signal(&mut self, id: String, name: String, payload: Vec<u8>) -> Outcome<()> {
        let id = session_id(&id)?;
        Ok(self.session()?.signal(id, name, payload)?)
    }
}

/// A session's name as text.
fn session_id(text: &str) -> Result<SessionId, Refusal> {
    let invalid =
        || Refusal::Invalid(format!("{text:.40?} names no session: 32 hexadecimal digits"));
    if text.len() != 32 || !text.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        return Err(invalid());
    }
    let number = u128::from_str_radix(text, 16).map_err(|_| invalid())?;
    Ok(SessionId(number.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_of_sessions_are_read_back_and_forged_ones_are_refused() {
        let id = SessionId([0x0a, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff]);
        assert_eq!(session_id(&id.to_string()), Ok(id));
        for forged in ["", "0a", "+a0102030405060708090a0b0c0d0eff", &"é".repeat(16)] {
            assert!(matches!(session_id(forged), Err(Refusal::Invalid(_))), "{forged}");
        }
    }
}
