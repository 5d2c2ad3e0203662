//! Accounts over the store that fails on demand.
#![allow(clippy::unwrap_used)]

use sip::digest::Algorithm;
use state::engine::fake::{CommitFault, FakeStore};

use super::*;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn accounts() -> (FakeStore, AccountStore) {
    let fake = FakeStore::default();
    (fake.clone(), AccountStore::new(Arc::new(fake)))
}

const BOB: &str = "bob@example.com";

#[test]
fn an_added_account_has_one_identity_of_each_kind() {
    block_on(async {
        let (_, accounts) = accounts();
        let added = accounts.add("bob@Example.COM", b"secret", &[]).await.unwrap();
        assert_eq!(added.name, BOB);
        assert_eq!(added.roles, [ROLE_DEFAULT]);
        assert_eq!(added.private_identities, [BOB]);
        assert_eq!(added.public_identities, ["sip:bob@example.com"]);
        assert_eq!(accounts.show(BOB).await.unwrap(), added);
        assert_eq!(accounts.list().await.unwrap(), [added]);
        let aor = AddressOfRecord::parse(b"sip:bob@example.com").unwrap();
        assert_eq!(accounts.owner_of(&aor).await.unwrap().as_deref(), Some(BOB));
        let again = accounts.add(BOB, b"other", &[]).await;
        assert!(matches!(again, Err(AccountError::Exists(_))), "{again:?}");
    });
}

#[test]
fn both_spellings_of_the_user_name_have_their_hash() {
    block_on(async {
        let (_, accounts) = accounts();
        accounts.add(BOB, b"secret", &[]).await.unwrap();
        let identity = accounts.private_identity("bob", "example.com").await.unwrap().unwrap();
        for (form, username) in [(UsernameForm::User, "bob"), (UsernameForm::UserAtRealm, BOB)] {
            for algorithm in Algorithm::STRONGEST_FIRST {
                let expected = sip::digest::Ha1::new(
                    algorithm,
                    username.as_bytes(),
                    b"example.com",
                    b"secret",
                );
                assert_eq!(
                    identity.ha1(form, algorithm),
                    Some(&expected),
                    "{username} {algorithm}"
                );
            }
        }
        assert_eq!(accounts.private_identity("bob", "example.org").await.unwrap(), None);
        assert_eq!(accounts.private_identity(&"b".repeat(5000), "x").await.unwrap(), None);
    });
}

#[test]
fn an_identity_belongs_to_one_account_until_it_is_removed() {
    block_on(async {
        let (_, accounts) = accounts();
        accounts.add(BOB, b"secret", &[]).await.unwrap();
        accounts.add("alice@example.com", b"secret", &[]).await.unwrap();
        accounts.add_public_identity(BOB, "sip:sales@example.com").await.unwrap();
        accounts.add_public_identity(BOB, "sales@example.com").await.unwrap();
        for result in [
            accounts.add_public_identity("alice@example.com", "sales@example.com").await,
            accounts.add_private_identity("alice@example.com", BOB, b"x").await,
            accounts.add("sales@example.com", b"x", &[]).await.map(drop),
        ] {
            let Err(AccountError::IdentityTaken { owner, .. }) = &result else {
                panic!("{result:?}")
            };
            assert_eq!(owner, BOB);
        }
        assert_eq!(accounts.show(BOB).await.unwrap().public_identities.len(), 2);
        accounts.remove_public_identity(BOB, "sales@example.com").await.unwrap();
        let gone = accounts.remove_public_identity(BOB, "sales@example.com").await;
        assert!(matches!(gone, Err(AccountError::NoSuchIdentity { .. })), "{gone:?}");
        accounts.add_public_identity("alice@example.com", "sales@example.com").await.unwrap();
    });
}

#[test]
fn removing_an_account_frees_all_its_records() {
    block_on(async {
        let (fake, accounts) = accounts();
        accounts.add(BOB, b"secret", &["admin".into()]).await.unwrap();
        accounts.add_public_identity(BOB, "sales@example.com").await.unwrap();
        accounts.add_private_identity(BOB, "bob@example.org", b"x").await.unwrap();
        accounts.remove(BOB).await.unwrap();
        assert_eq!(fake.records(), 0);
        assert!(matches!(accounts.remove(BOB).await, Err(AccountError::NoSuchAccount(_))));
        accounts.add(BOB, b"secret", &[]).await.unwrap();
    });
}

#[test]
fn a_new_password_reaches_every_private_identity() {
    block_on(async {
        let (_, accounts) = accounts();
        accounts.add(BOB, b"old", &[]).await.unwrap();
        accounts.add_private_identity(BOB, "robert@example.com", b"old").await.unwrap();
        accounts.set_password(BOB, b"new").await.unwrap();
        for user in ["bob", "robert"] {
            let identity = accounts.private_identity(user, "example.com").await.unwrap().unwrap();
            assert_eq!(*identity, PrivateIdentity::new(BOB, user, "example.com", b"new"));
        }
    });
}

#[test]
fn what_is_no_identity_or_password_is_refused() {
    block_on(async {
        let (fake, accounts) = accounts();
        for name in ["bob", "@example.com", "bob@", "bob:pw@x", "bob@x;a=b", "bob@x:5060", "b b@x"]
        {
            let refused = accounts.add(name, b"secret", &[]).await;
            assert!(matches!(refused, Err(AccountError::BadIdentity(_))), "{name}: {refused:?}");
        }
        for password in [&b""[..], b"a\nb", &[b'x'; 2000]] {
            let refused = accounts.add(BOB, password, &[]).await;
            assert!(matches!(refused, Err(AccountError::BadPassword)), "{refused:?}");
        }
        assert_eq!(fake.records(), 0);
    });
}

#[test]
fn a_change_survives_conflicts_and_doubtful_commits() {
    block_on(async {
        let (fake, accounts) = accounts();
        fake.inject_commit_fault(CommitFault::AppliedButUnknown);
        accounts.add(BOB, b"secret", &[]).await.unwrap();
        fake.inject_commit_fault(CommitFault::LostAndUnknown);
        let lost = accounts.add_public_identity(BOB, "sales@example.com").await;
        assert!(matches!(lost, Err(AccountError::Write(_))), "{lost:?}");
        accounts.add_public_identity(BOB, "sales@example.com").await.unwrap();
        fake.inject_commit_fault(CommitFault::AppliedButUnknown);
        accounts.remove(BOB).await.unwrap();
        assert_eq!(fake.records(), 0);
    });
}

#[test]
fn what_is_kept_of_an_account_ends_with_the_next_commit_of_anybody() {
    block_on(async {
        let (fake, accounts) = accounts();
        let elsewhere = AccountStore::new(Arc::new(fake.clone()));
        accounts.add(BOB, b"secret", &[]).await.unwrap();
        let aor = AddressOfRecord::parse(b"sip:bob@example.com").unwrap();
        let before = accounts.private_identity("bob", "example.com").await.unwrap().unwrap();
        assert!(accounts.owner_of(&aor).await.unwrap().is_some());
        // Both are kept: the store is not asked again.
        fake.inject_read_fault(StoreError::Closed);
        assert_eq!(
            accounts.private_identity("bob", "example.com").await.unwrap(),
            Some(before.clone())
        );
        assert_eq!(accounts.owner_of(&aor).await.unwrap().as_deref(), Some(BOB));
        assert!(accounts.show(BOB).await.is_err(), "the fault still waits");
        elsewhere.set_password(BOB, b"other").await.unwrap();
        let after = accounts.private_identity("bob", "example.com").await.unwrap();
        assert_ne!(after, Some(before));
        elsewhere.remove(BOB).await.unwrap();
        assert_eq!(accounts.private_identity("bob", "example.com").await.unwrap(), None);
        assert_eq!(accounts.owner_of(&aor).await.unwrap(), None);
    });
}
