//! The three records of the account store and their compact forms.
//!
//! | space | id | value |
//! |---|---|---|
//! | `accounts` | account name | [`Account`] |
//! | `private-identities` | `user@realm` | [`PrivateIdentity`]: whose it is, and the hashes it logs in with |
//! | `public-identities` | address-of-record | name of the account |
//!
//! All have one hash tag, so that an account and its index records change in one commit and no identity can ever
//! belong to two accounts.

use bytes::Bytes;
use sip::AddressOfRecord;
use sip::digest::{Algorithm, Ha1};
use state::{Key, Space};

use state::codec::{Reader, RecordError, Writer};

const FORMAT_LEVEL: u8 = 1;
const TAG: &[u8] = b"accounts";

pub(super) const ACCOUNTS: Space = Space::named("accounts");
const PRIVATE_IDENTITIES: Space = Space::named("private-identities");
const PUBLIC_IDENTITIES: Space = Space::named("public-identities");

pub(super) fn account_key(name: &str) -> Key {
    Key::new(ACCOUNTS, TAG, name.as_bytes().to_vec())
}

pub(super) fn private_key(user: &str, realm: &str) -> Key {
    Key::new(PRIVATE_IDENTITIES, TAG, format!("{user}@{realm}"))
}

pub(super) fn public_key(identity: &AddressOfRecord) -> Key {
    Key::new(PUBLIC_IDENTITIES, TAG, identity.as_str().as_bytes().to_vec())
}

/// Who may log in, and what for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Account {
    /// Unique; `NAME@DOMAIN` of the identity it was made with.
    pub name: String,
    /// What its owner may do; `user` unless said otherwise.
    pub roles: Vec<String>,
    /// `user@realm`, each with hashes of its own.
    pub private_identities: Vec<String>,
    /// Addresses-of-record that it may register and be called by.
    pub public_identities: Vec<String>,
}

impl Account {
    pub(super) fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT_LEVEL, 128);
        writer.octets(self.name.as_bytes());
        for list in [&self.roles, &self.private_identities, &self.public_identities] {
            writer.number(list.len() as u64);
            for item in list {
                writer.octets(item.as_bytes());
            }
        }
        writer.finish()
    }

    pub(super) fn decode(record: &Bytes) -> Result<Account, RecordError> {
        let mut reader = Reader::new(record, FORMAT_LEVEL)?;
        let name = reader.text()?;
        let mut list = || -> Result<Vec<String>, RecordError> {
            let count: usize = reader.small()?;
            let mut items = Vec::new();
            for _ in 0..count {
                items.push(reader.text()?);
            }
            Ok(items)
        };
        let account = Account {
            name,
            roles: list()?,
            private_identities: list()?,
            public_identities: list()?,
        };
        reader.finish()?;
        Ok(account)
    }
}

/// A name to log in with: whose it is, and its hashes. The password itself is never stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateIdentity {
    /// Name of the account.
    pub account: String,
    hashes: Vec<(UsernameForm, Ha1)>,
}

/// How a phone may spell its user name: the hash covers the spelling, so each has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsernameForm {
    /// `bob`
    User,
    /// `bob@example.com`
    UserAtRealm,
}

impl UsernameForm {
    const ALL: [UsernameForm; 2] = [UsernameForm::User, UsernameForm::UserAtRealm];

    /// Splits the user name of credentials into the user and the form it was spelled in.
    pub fn split<'a>(username: &'a str, realm: &str) -> (&'a str, UsernameForm) {
        let user = username.strip_suffix(realm).and_then(|user| user.strip_suffix('@'));
        match user {
            Some(user) if !user.is_empty() => (user, UsernameForm::UserAtRealm),
            Some(_) | None => (username, UsernameForm::User),
        }
    }

    fn spell(self, user: &str, realm: &str) -> String {
        match self {
            UsernameForm::User => user.to_owned(),
            UsernameForm::UserAtRealm => format!("{user}@{realm}"),
        }
    }
}

impl PrivateIdentity {
    /// Hashes a password for every algorithm and spelling.
    pub(super) fn new(account: &str, user: &str, realm: &str, password: &[u8]) -> PrivateIdentity {
        let mut hashes = Vec::with_capacity(6);
        for form in UsernameForm::ALL {
            let username = form.spell(user, realm);
            for algorithm in Algorithm::STRONGEST_FIRST {
                let ha1 = Ha1::new(algorithm, username.as_bytes(), realm.as_bytes(), password);
                hashes.push((form, ha1));
            }
        }
        PrivateIdentity { account: account.to_owned(), hashes }
    }

    /// The hash for one spelling and algorithm; `None` when it was stored by a release that did not know it.
    pub fn ha1(&self, form: UsernameForm, algorithm: Algorithm) -> Option<&Ha1> {
        self.hashes
            .iter()
            .find(|(stored_form, ha1)| *stored_form == form && ha1.algorithm() == algorithm)
            .map(|(_, ha1)| ha1)
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT_LEVEL, 240);
        writer.octets(self.account.as_bytes());
        writer.number(self.hashes.len() as u64);
        for (form, ha1) in &self.hashes {
            writer.fixed(&[form_code(*form), algorithm_code(ha1.algorithm())]);
            writer.octets(ha1.as_bytes());
        }
        writer.finish()
    }

    pub(super) fn decode(record: &Bytes) -> Result<PrivateIdentity, RecordError> {
        let mut reader = Reader::new(record, FORMAT_LEVEL)?;
        let account = reader.text()?;
        let count: usize = reader.small()?;
        let mut hashes = Vec::new();
        for _ in 0..count {
            let [form, algorithm] = reader.fixed()?;
            let form = UsernameForm::ALL
                .into_iter()
                .find(|known| form_code(*known) == form)
                .ok_or(RecordError::Malformed)?;
            let algorithm = Algorithm::STRONGEST_FIRST
                .into_iter()
                .find(|known| algorithm_code(*known) == algorithm)
                .ok_or(RecordError::Malformed)?;
            let ha1 =
                Ha1::from_bytes(algorithm, &reader.octets()?).ok_or(RecordError::Malformed)?;
            hashes.push((form, ha1));
        }
        reader.finish()?;
        Ok(PrivateIdentity { account, hashes })
    }
}

fn form_code(form: UsernameForm) -> u8 {
    match form {
        UsernameForm::User => 1,
        UsernameForm::UserAtRealm => 2,
    }
}

fn algorithm_code(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::Md5 => 1,
        Algorithm::Sha256 => 2,
        Algorithm::Sha512_256 => 3,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn records_come_back() {
        let account = Account {
            name: "bob@example.com".into(),
            roles: vec!["user".into(), "admin".into()],
            private_identities: vec!["bob@example.com".into()],
            public_identities: vec!["sip:bob@example.com".into(), "sip:b@example.org".into()],
        };
        assert_eq!(Account::decode(&account.encode()), Ok(account));
        let identity = PrivateIdentity::new("bob@example.com", "bob", "example.com", b"secret");
        assert_eq!(PrivateIdentity::decode(&identity.encode()), Ok(identity));
    }

    #[test]
    fn no_record_holds_the_password() {
        let record = PrivateIdentity::new("a@b", "a", "b", b"correct horse").encode();
        assert!(!record.windows(13).any(|window| window == b"correct horse"));
        assert!(record.len() < 240, "{} octets", record.len());
    }

    #[test]
    fn a_user_name_may_be_spelled_with_or_without_its_realm() {
        use UsernameForm::*;
        for (username, expected) in [
            ("bob", ("bob", User)),
            ("bob@example.com", ("bob", UserAtRealm)),
            ("bob@example.org", ("bob@example.org", User)),
            ("@example.com", ("@example.com", User)),
        ] {
            assert_eq!(UsernameForm::split(username, "example.com"), expected);
        }
    }
}
