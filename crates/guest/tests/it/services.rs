//! What every implementation of `Services` does, on each of them; and what the stored one does beyond.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use container::session::SessionId;
use container::session::identity::KeyedNames;
use futures_util::future::{BoxFuture, join_all};
use guest::services::limits::{
    CACHE_BYTES_MAX, CACHED_BYTES_MAX, ENTRY_BYTES, NAME_CHANGES_AT_ONCE, NAMES_BYTES_MAX,
    NAMES_SHARE_BYTES,
};
use guest::services::{InMemory, Stored};
use guest::{Limits, ServiceError, Services};
use state::clock::{Clock, ManualClock, SystemClock};
use state::engine::embedded::{Durability, EmbeddedStore, Options};
use state::engine::fake::{CommitFault, FakeStore};
use state::{Store, UnixMillis};
use topology::KeyRing;

use crate::bench::*;
use crate::module::{Module, RESULT, respond};

const MINUTE: Duration = Duration::from_secs(60);

/// As in a container: names in a store that syncs each commit, and the rest in one that does not.
fn stored(state: Arc<dyn Store>, names: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Stored {
    Stored::new(state, names, clock, KeyedNames::new(&KeyRing::new([7; 32])))
}

/// The stores of a node.
fn embedded(directory: &Path) -> [Arc<dyn Store>; 2] {
    let open = |name: &str, durability| -> Arc<dyn Store> {
        let options = Options { durability, map_size: 1 << 26, ..Options::default() };
        Arc::new(EmbeddedStore::open(&directory.join(name), options).unwrap())
    };
    [open("state", Durability::Relaxed), open("names", Durability::EveryCommit)]
}

fn fake() -> Arc<FakeStore> {
    Arc::new(FakeStore::default())
}

fn on_fakes() -> Stored {
    stored(fake(), fake(), Arc::new(SystemClock::default()))
}

/// Runs a clause on all implementations.
async fn each(clause: impl Fn(Arc<dyn Services>) -> BoxFuture<'static, ()>) {
    let directory = tempfile::tempdir().unwrap();
    let [state, names] = embedded(directory.path());
    let embedded = stored(state, names, Arc::new(SystemClock::default()));
    let all: [Arc<dyn Services>; 3] =
        [Arc::new(InMemory::default()), Arc::new(on_fakes()), Arc::new(embedded)];
    for services in all {
        clause(services).await;
    }
}

async fn bind(services: &dyn Services, name: &str, value: &str) -> Result<(), ServiceError> {
    bind_by(services, "app", name, value).await
}

async fn bind_by(
    services: &dyn Services,
    application: &str,
    name: &str,
    value: &str,
) -> Result<(), ServiceError> {
    services.bind(application.to_owned(), name.to_owned(), value.to_owned().into()).await
}

async fn rebind_by(
    services: &dyn Services,
    application: &str,
    name: &str,
    value: &str,
) -> Result<(), ServiceError> {
    services.rebind(application.to_owned(), name.to_owned(), value.to_owned().into()).await
}

async fn unbind_by(services: &dyn Services, application: &str, name: &str) {
    services.unbind(application.to_owned(), name.to_owned()).await.unwrap();
}

async fn lookup(services: &dyn Services, name: &str) -> Option<Bytes> {
    services.lookup(name.to_owned()).await.unwrap()
}

async fn list(
    services: &dyn Services,
    prefix: &str,
    after: Option<&str>,
    most: usize,
) -> Vec<String> {
    services.list(prefix.to_owned(), after.map(str::to_owned), most).await.unwrap()
}

async fn put(
    services: &dyn Services,
    application: &str,
    key: &str,
    value: &str,
    lifetime: Duration,
) {
    let value = value.to_owned().into();
    services.cache(application.to_owned(), key.to_owned(), value, lifetime).await.unwrap();
}

async fn get(services: &dyn Services, application: &str, key: &str) -> Option<Bytes> {
    services.cached(application.to_owned(), key.to_owned()).await.unwrap()
}

#[tokio::test]
async fn a_name_is_bound_once_and_to_the_same_value_as_often_as_one_likes() {
    each(|services| {
        Box::pin(async move {
            let services = &*services;
            bind(services, "desk", "1").await.unwrap();
            bind(services, "desk", "1").await.unwrap();
            let taken = ServiceError::Taken("desk".to_owned());
            assert_eq!(bind(services, "desk", "2").await, Err(taken));
            assert_eq!(lookup(services, "desk").await, Some("1".into()));
            rebind_by(services, "other", "desk", "2").await.unwrap();
            rebind_by(services, "app", "new", "").await.unwrap();
            assert_eq!(lookup(services, "desk").await, Some("2".into()));
            assert_eq!(lookup(services, "new").await, Some("".into()), "bound to nothing");
            unbind_by(services, "app", "desk").await;
            unbind_by(services, "app", "desk").await;
            assert_eq!(lookup(services, "desk").await, None);
            bind(services, "desk", "3").await.unwrap();
        })
    })
    .await;
}

#[tokio::test]
async fn names_are_listed_in_order_by_prefix_and_in_pages() {
    each(|services| {
        Box::pin(async move {
            let services = &*services;
            for name in ["b/2", "b/10", "a", "c", "b/ä", "b"] {
                bind(services, name, "x").await.unwrap();
            }
            let all = ["a", "b", "b/10", "b/2", "b/ä", "c"];
            assert_eq!(list(services, "", None, 9).await, all);
            assert_eq!(list(services, "b/", None, 9).await, all[2..5]);
            assert_eq!(list(services, "b/", Some("b/10"), 9).await, all[3..5]);
            assert_eq!(list(services, "b/", Some("b/1"), 1).await, ["b/10"], "need not be bound");
            assert_eq!(list(services, "b/", Some("a"), 9).await, all[2..5], "before all of them");
            assert_eq!(list(services, "b/", Some("c"), 9).await, [""; 0], "behind all of them");
            assert_eq!(list(services, "d", None, 9).await, [""; 0]);
            for number in 0..250 {
                let application = format!("app{}", number / 50);
                bind_by(services, &application, &format!("many/{number:03}"), "x").await.unwrap();
            }
            let many = list(services, "many/", None, 240).await;
            assert_eq!((many.len(), many.last().unwrap().as_str()), (240, "many/239"));
            let rest = list(services, "many/", Some("many/239"), 240).await;
            assert_eq!((rest.len(), rest[9].as_str()), (10, "many/249"));
        })
    })
    .await;
}

#[tokio::test]
async fn cached_values_go_when_their_time_is_over_or_they_are_invalidated() {
    each(|services| {
        Box::pin(async move {
            let services = &*services;
            put(services, "app", "gone", "1", Duration::ZERO).await;
            put(services, "app", "there", "1", MINUTE).await;
            put(services, "app", "there", "2", MINUTE).await;
            assert_eq!(get(services, "app", "gone").await, None);
            assert_eq!(get(services, "app", "there").await, Some("2".into()));
            assert_eq!(get(services, "other", "there").await, None, "each has its own");
            for _ in 0..2 {
                services.invalidate("app".to_owned(), "there".to_owned()).await.unwrap();
                assert_eq!(get(services, "app", "there").await, None);
            }
            put(services, "app", "there", "3", Duration::from_millis(20)).await;
            tokio::time::sleep(Duration::from_millis(30)).await;
            assert_eq!(get(services, "app", "there").await, None);
        })
    })
    .await;
}

#[tokio::test]
async fn nobody_knows_a_session_that_is_none() {
    each(|services| {
        Box::pin(async move {
            let (app, id) = (|| "app".to_owned(), SessionId([1; 16]));
            assert_eq!(services.session_of_key(app(), "key".to_owned()).await, Ok(None));
            assert_eq!(services.session_exists(app(), id).await, Ok(false));
            assert_eq!(services.session_attribute(app(), id, "a".to_owned()).await, Ok(None));
        })
    })
    .await;
}

#[tokio::test]
async fn two_containers_share_names_and_values_and_one_of_them_binds() {
    let directory = tempfile::tempdir().unwrap();
    let [state, names] = embedded(directory.path());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let one = stored(Arc::clone(&state), Arc::clone(&names), Arc::clone(&clock));
    let other = stored(state, names, clock);
    let binds = (0..40).map(|number| {
        let services = if number % 2 == 0 { &one } else { &other };
        async move { bind(services, "room", &number.to_string()).await }
    });
    let bound = join_all(binds).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(bound, 1);
    assert_eq!(lookup(&one, "room").await, lookup(&other, "room").await);
    put(&one, "app", "key", "1", MINUTE).await;
    assert_eq!(get(&other, "app", "key").await, Some("1".into()));
    other.invalidate("app".to_owned(), "key".to_owned()).await.unwrap();
    assert_eq!(get(&one, "app", "key").await, None);
}

#[tokio::test]
async fn a_change_that_meets_another_one_is_tried_again_and_a_doubtful_one_may_be_repeated() {
    let (state, names) = (fake(), fake());
    let services = stored(state.clone(), names.clone(), Arc::new(SystemClock::default()));
    for _ in 0..3 {
        names.inject_commit_fault(CommitFault::Conflicts);
        state.inject_commit_fault(CommitFault::Conflicts);
    }
    bind(&services, "desk", "1").await.unwrap();
    put(&services, "app", "key", "1", MINUTE).await;
    names.inject_commit_fault(CommitFault::AppliedButUnknown);
    let unknown = bind(&services, "door", "1").await;
    assert!(matches!(unknown, Err(ServiceError::Unavailable(_))), "{unknown:?}");
    bind(&services, "door", "1").await.unwrap();
    for _ in 0..100 {
        names.inject_commit_fault(CommitFault::Conflicts);
    }
    let refused = bind(&services, "wall", "1").await.unwrap_err();
    assert!(refused.to_string().contains("changed by others"), "{refused}");
}

#[tokio::test]
async fn names_of_an_application_are_full_until_some_are_freed_and_others_have_room() {
    let services = on_fakes();
    let value = "x".repeat(1 << 18);
    let bound = |number: u64| format!("{number:03}");
    let fits = NAMES_SHARE_BYTES / (value.len() + ENTRY_BYTES + 3) as u64;
    for number in 0..fits {
        bind(&services, &bound(number), &value).await.unwrap();
    }
    let full = bind(&services, &bound(fits), &value).await;
    assert!(matches!(&full, Err(ServiceError::Full(why)) if why.contains("unbind")), "{full:?}");
    bind_by(&services, "other", "theirs", &value).await.unwrap();
    rebind_by(&services, "app", &bound(0), &value[1..]).await.unwrap();
    let theirs = rebind_by(&services, "app", "theirs", &value[1..]).await;
    assert!(theirs.is_err(), "it would be its own");
    // What another application frees, or binds to something else, is no more this one's.
    unbind_by(&services, "other", &bound(1)).await;
    rebind_by(&services, "other", &bound(2), &value[1..]).await.unwrap();
    bind(&services, &bound(fits), &value).await.unwrap();
    bind(&services, &bound(1), &value).await.unwrap();
    assert!(bind(&services, &bound(fits + 1), &value).await.is_err());
    for other in 2..NAMES_BYTES_MAX / NAMES_SHARE_BYTES + 2 {
        for number in 0..fits {
            let (application, name) = (format!("app{other}"), format!("{other}/{number}"));
            let bound = bind_by(&services, &application, &name, &value).await;
            if let Err(full) = bound {
                let is_last = other > NAMES_BYTES_MAX / NAMES_SHARE_BYTES - 1;
                assert!(is_last && full.to_string().contains("of all"), "{other}: {full}");
                return;
            }
        }
    }
    panic!("all of them together have a bound as well");
}

#[tokio::test]
async fn an_application_that_changes_names_all_the_time_is_held_up_and_no_other() {
    let services = on_fakes();
    let mut changes = 0;
    let refused = loop {
        match rebind_by(&services, "app", "desk", &changes.to_string()).await {
            Ok(()) => changes += 1,
            Err(refused) => break refused,
        }
        assert!(changes < 2_000, "no bound");
    };
    assert!(matches!(&refused, ServiceError::Full(why) if why.contains("a second")), "{refused}");
    assert!(changes >= NAME_CHANGES_AT_ONCE, "{changes}");
    rebind_by(&services, "app", "desk", &(changes - 1).to_string()).await.unwrap();
    rebind_by(&services, "other", "desk", "theirs").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    unbind_by(&services, "app", "desk").await;
    assert_eq!(lookup(&services, "desk").await, None);
}

#[tokio::test]
async fn a_cache_is_full_until_something_of_it_has_gone() {
    let clock = Arc::new(ManualClock::at(UnixMillis(1_800_000_000_000)));
    let state = Arc::new(FakeStore::new(clock.clone()));
    let services = stored(state, fake(), clock.clone());
    let value = "x".repeat(CACHED_BYTES_MAX);
    let fits = CACHE_BYTES_MAX as usize / (CACHED_BYTES_MAX + ENTRY_BYTES + 4);
    let key = |number: usize| format!("{number:04}");
    for number in 0..fits {
        let lifetime = if number % 2 == 0 { MINUTE } else { 60 * MINUTE };
        put(&services, "app", &key(number), &value, lifetime).await;
    }
    put(&services, "app", &key(0), &value, MINUTE).await;
    let one_more = || services.cache("app".to_owned(), key(fits), value.clone().into(), MINUTE);
    assert!(matches!(one_more().await, Err(ServiceError::Full(_))));
    put(&services, "other", &key(0), &value, MINUTE).await;
    services.invalidate("app".to_owned(), key(1)).await.unwrap();
    one_more().await.unwrap();
    services.invalidate("app".to_owned(), key(fits)).await.unwrap();
    clock.set(clock.now().saturating_add(2 * MINUTE));
    for number in 0..fits / 2 - 1 {
        put(&services, "app", &key(fits + number), &value, MINUTE).await;
    }
}

/// Answers each request with 200, or 200 and the kind of the error that binding a name ended with.
fn binding() -> Vec<u8> {
    let mut module = Module::new();
    let (name, value) = (module.text("desk"), module.text("7"));
    let status = format!("(i32.add (i32.const 200) (i32.load8_u {RESULT}))");
    let answer = respond(999).replace("(i32.const 999)", &status);
    module
        .handler(&format!(
            "(call $bind {name} {value} {RESULT})
             (if (i32.load8_u {RESULT}) (then
               (i32.store8 {RESULT} (i32.load8_u offset=4 {RESULT}))))
             {answer}"
        ))
        .build()
}

#[tokio::test]
async fn a_handler_that_runs_again_binds_again_what_it_bound() {
    // As after a commit of its effects that met another one: the name stands already.
    let mut settings = settings();
    settings.services = Arc::new(on_fakes());
    let guest = load(&binding(), settings);
    for run in ["first", "second"] {
        assert_eq!(told(&handled(&guest, &begun()).await), Some(200), "{run}");
    }
}

#[tokio::test]
async fn a_guest_waits_for_a_store_longer_than_it_may_compute_but_not_for_ever() {
    let names = fake();
    let mut settings = settings();
    settings.services = Arc::new(stored(fake(), names.clone(), Arc::new(SystemClock::default())));
    settings.limits = Limits { cpu_time: Duration::from_millis(20), ..settings.limits };
    let guest = load(&binding(), settings);
    let hold = names.hold_next_commit();
    let event = begun();
    let (effects, ()) = tokio::join!(handled(&guest, &event), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(hold);
    });
    assert_eq!((told(&effects), guest.counts().failed()), (Some(200), 0));
    let beside = stored(fake(), names.clone(), Arc::new(SystemClock::default()));
    unbind_by(&beside, "app", "desk").await;
    let _hold = names.hold_next_commit();
    let unavailable = 204;
    assert_eq!(told(&handled(&guest, &event).await), Some(unavailable));
}
