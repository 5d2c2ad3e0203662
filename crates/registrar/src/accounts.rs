//! Accounts: who may log in with which private identities, and which public identities are theirs.
//!
//! [`AccountStore`] is used by the command line and by every container, on the synchronous store that both share:
//! `outlast user add` works with the node up or down, and a running registrar sees it with its next request.
//! Changes are compare-and-set with a bounded number of attempts; nothing is ever half done (`record` says why).
//!
//! Deliberately absent: passwords (only their digest hashes are kept) and what roles mean (the console's business).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sip::AddressOfRecord;
use state::{Batch, Change, CommitError, Expect, Key, Prefix, Store, StoreError, Version};

use known::Known;
use record::{ACCOUNTS, account_key, private_key, public_key};
use state::codec::RecordError;

mod known;
mod record;

pub use record::{Account, PrivateIdentity, UsernameForm};

/// Most private and, separately, most public identities of one account; more are refused.
pub const IDENTITIES_MAX: usize = 100;

/// Octets of an account name or identity; longer ones are refused.
pub const NAME_BYTES_MAX: usize = 255;

/// Octets of a password; longer ones are refused.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// Attempts at a change that keeps meeting concurrent ones; then [`AccountError::Contended`].
const ATTEMPTS_MAX: usize = 16;

/// The role of an account that is given none.
pub const ROLE_DEFAULT: &str = "user";

/// Why an account cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// Not `NAME@DOMAIN`, or too long.
    #[error(
        "\"{0}\" is not an identity; it needs the form NAME@DOMAIN, for example \"alice@example.com\""
    )]
    BadIdentity(String),
    /// Empty, too long, or with a line break.
    #[error(
        "the password is empty, longer than {PASSWORD_BYTES_MAX} octets, or holds a line break or NUL"
    )]
    BadPassword,
    /// There is one of that name.
    #[error("account {0} exists already; change its password with: outlast user passwd {0}")]
    Exists(String),
    /// There is none of that name.
    #[error("there is no account {0}; list them with: outlast user list")]
    NoSuchAccount(String),
    /// Somebody has it.
    #[error("identity {identity} belongs to account {owner}; remove it there first")]
    IdentityTaken {
        /// Which identity.
        identity: String,
        /// Whose it is.
        owner: String,
    },
    /// The account does not have it.
    #[error("account {account} has no identity {identity}; see: outlast user show {account}")]
    NoSuchIdentity {
        /// Which account.
        account: String,
        /// Which identity.
        identity: String,
    },
    /// [`IDENTITIES_MAX`] are there.
    #[error("account {0} has {IDENTITIES_MAX} identities, which is the most; remove one first")]
    TooManyIdentities(String),
    /// Others changed the same account all the time.
    #[error("account {0} is being changed by others; try again")]
    Contended(String),
    /// A record cannot be read.
    #[error("the stored record {item} cannot be used")]
    Record {
        /// Which one.
        item: String,
        /// Why.
        #[source]
        source: RecordError,
    },
    /// The store failed while reading.
    #[error("the account store cannot be read")]
    Read(#[from] StoreError),
    /// The store failed while writing.
    #[error("the account store cannot be written")]
    Write(#[source] CommitError),
}

/// Reads and changes accounts in a store.
#[derive(Clone)]
pub struct AccountStore {
    store: Arc<dyn Store>,
    known: Arc<Mutex<Known>>,
}

impl AccountStore {
    /// On the synchronous store of the node.
    pub fn new(store: Arc<dyn Store>) -> AccountStore {
        AccountStore { store, known: Arc::default() }
    }

    /// Adds an account `NAME@DOMAIN` with one private and one public identity of that name; without roles it gets
    /// [`ROLE_DEFAULT`].
    ///
    /// # Errors
    /// [`AccountError::Exists`], [`AccountError::IdentityTaken`], and those of form and store.
    pub async fn add(
        &self,
        name: &str,
        password: &[u8],
        roles: &[String],
    ) -> Result<Account, AccountError> {
        let identity = Identity::parse(name)?;
        check_password(password)?;
        let name = identity.name();
        if self.account(&name).await?.is_some() {
            return Err(AccountError::Exists(name));
        }
        let roles = if roles.is_empty() { vec![ROLE_DEFAULT.to_owned()] } else { roles.to_vec() };
        let account = Account {
            roles,
            private_identities: vec![name.clone()],
            public_identities: vec![identity.aor.to_string()],
            name,
        };
        let private =
            PrivateIdentity::new(&account.name, &identity.user, &identity.realm, password);
        let batch = Batch::new()
            .put(account_key(&account.name), Expect::Absent, account.encode(), None)
            .put(
                private_key(&identity.user, &identity.realm),
                Expect::Absent,
                private.encode(),
                None,
            )
            .put(public_key(&identity.aor), Expect::Absent, account.name.clone(), None);
        match self.commit(batch).await? {
            Committed::Yes => Ok(account),
            Committed::Conflict(key) if key == account_key(&account.name) => {
                Err(AccountError::Exists(account.name))
            }
            Committed::Conflict(key) => Err(self.taken(key).await?),
        }
    }

    /// All accounts in the order of their names.
    ///
    /// # Errors
    /// Those of the store and its records.
    pub async fn list(&self) -> Result<Vec<Account>, AccountError> {
        const PAGE: usize = 1_000;
        let mut accounts = Vec::new();
        let mut after: Option<Key> = None;
        loop {
            let page = self.store.scan(&ACCOUNTS, &Prefix::All, after.as_ref(), PAGE).await?;
            let last = page.len() < PAGE;
            for (key, record) in page {
                accounts.push(decoded(&key, Account::decode(&record.value))?);
                after = Some(key);
            }
            if last {
                return Ok(accounts);
            }
        }
    }

    /// One account.
    ///
    /// # Errors
    /// [`AccountError::NoSuchAccount`], and those of form and store.
    pub async fn show(&self, name: &str) -> Result<Account, AccountError> {
        let name = Identity::parse(name)?.name();
        match self.account(&name).await? {
            Some((_, account)) => Ok(account),
            None => Err(AccountError::NoSuchAccount(name)),
        }
    }

    /// Gives all private identities of an account a new password.
    ///
    /// # Errors
    /// [`AccountError::NoSuchAccount`], and those of form and store.
    pub async fn set_password(&self, name: &str, password: &[u8]) -> Result<(), AccountError> {
        check_password(password)?;
        self.change(name, |account, batch| {
            let mut batch = batch;
            for text in &account.private_identities {
                let identity = Identity::parse(text)?;
                let (user, realm) = (&identity.user, &identity.realm);
                let private = PrivateIdentity::new(&account.name, user, realm, password);
                batch = batch.put(private_key(user, realm), Expect::Any, private.encode(), None);
            }
            Ok(batch)
        })
        .await
    }

    /// Removes an account and frees its identities. Its bindings stay until they end, but nobody is put through to
    /// them any more when the registrar authenticates.
    ///
    /// # Errors
    /// [`AccountError::NoSuchAccount`], and those of form and store.
    pub async fn remove(&self, name: &str) -> Result<(), AccountError> {
        self.change(name, |account, _| {
            let mut batch = Batch::new().delete(account_key(&account.name), Expect::Any);
            for text in &account.private_identities {
                let identity = Identity::parse(text)?;
                batch = batch.delete(private_key(&identity.user, &identity.realm), Expect::Any);
            }
            for text in &account.public_identities {
                batch = batch.delete(public_key(&Identity::parse(text)?.aor), Expect::Any);
            }
            Ok(batch)
        })
        .await
    }

    /// Adds an address-of-record that the account may register and be called by.
    ///
    /// Its domain challenges with itself as realm, so the account needs a private identity of that realm too.
    ///
    /// # Errors
    /// [`AccountError::IdentityTaken`], [`AccountError::TooManyIdentities`], and those of form and store.
    pub async fn add_public_identity(
        &self,
        name: &str,
        identity: &str,
    ) -> Result<(), AccountError> {
        let aor = Identity::parse(identity)?.aor;
        self.change(name, |account, batch| {
            if account.public_identities.iter().any(|held| held == aor.as_str()) {
                return Ok(Batch::new());
            }
            account.public_identities.push(aor.to_string());
            Ok(batch.put(public_key(&aor), Expect::Absent, account.name.clone(), None))
        })
        .await
    }

    /// Takes an address-of-record from the account.
    ///
    /// # Errors
    /// [`AccountError::NoSuchIdentity`], and those of form and store.
    pub async fn remove_public_identity(
        &self,
        name: &str,
        identity: &str,
    ) -> Result<(), AccountError> {
        let aor = Identity::parse(identity)?.aor;
        self.change(name, |account, batch| {
            take(&account.name, &mut account.public_identities, aor.as_str())?;
            Ok(batch.delete(public_key(&aor), Expect::Any))
        })
        .await
    }

    /// Adds a name to log in with, `NAME@REALM`, with a password of its own.
    ///
    /// # Errors
    /// [`AccountError::IdentityTaken`], [`AccountError::TooManyIdentities`], and those of form and store.
    pub async fn add_private_identity(
        &self,
        name: &str,
        identity: &str,
        password: &[u8],
    ) -> Result<(), AccountError> {
        check_password(password)?;
        let identity = Identity::parse(identity)?;
        self.change(name, |account, batch| {
            let (user, realm) = (&identity.user, &identity.realm);
            let private = PrivateIdentity::new(&account.name, user, realm, password);
            let held = account.private_identities.contains(&identity.name());
            let expect = if held { Expect::Any } else { Expect::Absent };
            if !held {
                account.private_identities.push(identity.name());
            }
            Ok(batch.put(private_key(user, realm), expect, private.encode(), None))
        })
        .await
    }

    /// Takes a name to log in with from the account.
    ///
    /// # Errors
    /// [`AccountError::NoSuchIdentity`], and those of form and store.
    pub async fn remove_private_identity(
        &self,
        name: &str,
        identity: &str,
    ) -> Result<(), AccountError> {
        let identity = Identity::parse(identity)?;
        self.change(name, |account, batch| {
            take(&account.name, &mut account.private_identities, &identity.name())?;
            Ok(batch.delete(private_key(&identity.user, &identity.realm), Expect::Any))
        })
        .await
    }

    /// The private identity `user` of a realm, for checking credentials.
    ///
    /// # Errors
    /// Those of the store and its records.
    pub async fn private_identity(
        &self,
        user: &str,
        realm: &str,
    ) -> Result<Option<Arc<PrivateIdentity>>, AccountError> {
        let as_of = self.store.last_commit();
        let name = format!("{user}@{realm}");
        if let Some(known) = self.known_as_of(as_of).identities.get(name.as_str()) {
            return Ok(Some(Arc::clone(known)));
        }
        let key = private_key(user, realm);
        if key.check().is_err() {
            // Longer than any name that was ever stored.
            return Ok(None);
        }
        let Some(record) = self.store.read(&key).await? else { return Ok(None) };
        let identity = Arc::new(decoded(&key, PrivateIdentity::decode(&record.value))?);
        let mut known = self.known();
        if known.is_as_of(as_of) {
            known.identities.insert(name.into(), Arc::clone(&identity));
        }
        Ok(Some(identity))
    }

    /// The name of the account that has this public identity.
    ///
    /// # Errors
    /// Those of the store and its records.
    pub async fn owner_of(
        &self,
        identity: &AddressOfRecord,
    ) -> Result<Option<Arc<str>>, AccountError> {
        let as_of = self.store.last_commit();
        if let Some(known) = self.known_as_of(as_of).owners.get(identity.as_str()) {
            return Ok(Some(Arc::clone(known)));
        }
        let key = public_key(identity);
        if key.check().is_err() {
            return Ok(None);
        }
        let Some(record) = self.store.read(&key).await? else { return Ok(None) };
        let owner: Arc<str> = owner_name(&key, record.value.into())?.into();
        let mut known = self.known();
        if known.is_as_of(as_of) {
            known.owners.insert(identity.as_str().into(), Arc::clone(&owner));
        }
        Ok(Some(owner))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Copies of records: a panic elsewhere cannot leave one half-made.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_as_of(&self, last_commit: Option<u64>) -> MutexGuard<'_, Known> {
        let mut known = self.known();
        known.keep_if_as_of(last_commit);
        known
    }

    async fn account(&self, name: &str) -> Result<Option<(Version, Account)>, AccountError> {
        let key = account_key(name);
        let record = self.store.read(&key).await?;
        record
            .map(|record| Ok((record.version, decoded(&key, Account::decode(&record.value))?)))
            .transpose()
    }

    /// Changes one account: `decide` alters it and adds to a batch that everything else goes into; its own record is
    /// written unless the batch says otherwise. Decides anew when others changed the account meanwhile.
    async fn change(
        &self,
        name: &str,
        decide: impl Fn(&mut Account, Batch) -> Result<Batch, AccountError>,
    ) -> Result<(), AccountError> {
        let name = Identity::parse(name)?.name();
        let own = account_key(&name);
        for _ in 0..ATTEMPTS_MAX {
            let Some((version, before)) = self.account(&name).await? else {
                return Err(AccountError::NoSuchAccount(name));
            };
            let mut after = before.clone();
            let mut batch = decide(&mut after, Batch::new())?;
            if batch.is_empty() {
                return Ok(());
            }
            if after.private_identities.len() > IDENTITIES_MAX
                || after.public_identities.len() > IDENTITIES_MAX
            {
                return Err(AccountError::TooManyIdentities(name));
            }
            match batch.writes.iter_mut().find(|write| write.key == own) {
                Some(write) => write.expect = Expect::Version(version),
                None => {
                    batch = batch.put(own.clone(), Expect::Version(version), after.encode(), None);
                }
            }
            match self.commit(batch).await? {
                Committed::Yes => return Ok(()),
                Committed::Conflict(key) if key == own => {}
                Committed::Conflict(key) => return Err(self.taken(key).await?),
            }
        }
        Err(AccountError::Contended(name))
    }

    /// Commits; when the engine cannot say whether it did, looks.
    async fn commit(&self, batch: Batch) -> Result<Committed, AccountError> {
        match self.store.commit(batch.clone()).await {
            Ok(_) => Ok(Committed::Yes),
            Err(CommitError::Conflict { key, .. }) => Ok(Committed::Conflict(*key)),
            Err(CommitError::Unknown { reason }) => {
                for write in &batch.writes {
                    let found = self.store.read(&write.key).await?.map(|record| record.value);
                    let wanted = match &write.change {
                        Change::Put { value, .. } => Some(value.clone()),
                        Change::Delete => None,
                    };
                    if found != wanted {
                        return Err(AccountError::Write(CommitError::Unknown { reason }));
                    }
                }
                Ok(Committed::Yes)
            }
            Err(error) => Err(AccountError::Write(error)),
        }
    }

    /// The error for an identity whose index record was there already.
    async fn taken(&self, key: Key) -> Result<AccountError, AccountError> {
        let record = self.store.read(&key).await?;
        let owner = match record.map(|record| record.value) {
            None => "(just removed)".to_owned(),
            Some(value) => match PrivateIdentity::decode(&value) {
                Ok(private) => private.account,
                Err(_) => owner_name(&key, value.into())?,
            },
        };
        let identity = String::from_utf8_lossy(&key.id).into_owned();
        Ok(AccountError::IdentityTaken { identity, owner })
    }
}

enum Committed {
    Yes,
    /// The first key that was not as expected.
    Conflict(Key),
}

fn decoded<T>(key: &Key, result: Result<T, RecordError>) -> Result<T, AccountError> {
    result.map_err(|source| AccountError::Record { item: key.to_string(), source })
}

fn owner_name(key: &Key, value: Vec<u8>) -> Result<String, AccountError> {
    decoded(key, String::from_utf8(value).map_err(|_| RecordError::Malformed))
}

fn take(account: &str, list: &mut Vec<String>, identity: &str) -> Result<(), AccountError> {
    let Some(place) = list.iter().position(|held| held == identity) else {
        return Err(AccountError::NoSuchIdentity {
            account: account.to_owned(),
            identity: identity.to_owned(),
        });
    };
    list.remove(place);
    Ok(())
}

fn check_password(password: &[u8]) -> Result<(), AccountError> {
    let breaks = password.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0));
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX || breaks {
        return Err(AccountError::BadPassword);
    }
    Ok(())
}

/// `NAME@DOMAIN`, read once as a private and as a public identity.
struct Identity {
    aor: AddressOfRecord,
    user: String,
    realm: String,
}

impl Identity {
    fn parse(text: &str) -> Result<Identity, AccountError> {
        let bad = || AccountError::BadIdentity(text.to_owned());
        let address =
            text.strip_prefix("sip:").or_else(|| text.strip_prefix("sips:")).unwrap_or(text);
        if address.len() > NAME_BYTES_MAX {
            return Err(bad());
        }
        let aor = AddressOfRecord::parse(format!("sip:{address}").as_bytes()).map_err(|_| bad())?;
        // `AddressOfRecord` drops passwords, parameters and headers; here they would be typing errors.
        let (user, realm) = address.rsplit_once('@').ok_or_else(bad)?;
        if user.contains(':') || realm.contains([':', ';', '?']) && !realm.starts_with('[') {
            return Err(bad());
        }
        let (user, realm) = (user.to_owned(), realm.to_ascii_lowercase());
        Ok(Identity { aor, user, realm })
    }

    fn name(&self) -> String {
        format!("{}@{}", self.user, self.realm)
    }
}

#[cfg(test)]
mod tests;
