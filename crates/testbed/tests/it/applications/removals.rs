//! Versions and applications that go: by themselves, behind their last session, or at once.

use std::fs;
use std::sync::Arc;

use phone::PhoneError;

use super::*;
use crate::http::client::get;
use crate::http::guests::write_desk;
use crate::http::port;

/// A session that is over is remembered for 32 s, so that what is repeated gets its answer again.
const GONE_WITHIN: Duration = Duration::from_secs(90);

fn until_gone(node: &Node, what: &str, is_gone: impl Fn(&[Value]) -> bool) {
    wait::until(what, GONE_WITHIN, || {
        let all = list(node);
        if is_gone(&all) { Ok(()) } else { Err(all) }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_goes_by_itself_behind_its_last_session() {
    let sources = tempfile::tempdir().unwrap();
    let node = world::node_of(&world::open_config(1, "[container]\nold_versions_kept = \"1s\"\n"));
    let caller = phone(&node).await;
    let first = application(sources.path(), "1.0.0", &Handler::Holds(202));
    let second = application(sources.path(), "1.1.0", &Handler::Holds(204));
    let third = application(sources.path(), "1.2.0", &Handler::Holds(209));
    done(&node, &["deploy", text(&first)]);
    let mut old = held(&caller).await;
    done(&node, &["deploy", text(&second)]);
    done(&node, &["deploy", text(&third)]);
    // Nothing ever lived of the second one; it goes while the first one stays.
    until_gone(&node, "the version without sessions to go", |all| {
        all[0]["versions"].as_array().is_some_and(|versions| versions.len() == 2)
    });
    let versions: Vec<Value> = list(&node)[0]["versions"].as_array().unwrap().clone();
    assert_eq!(versions[0]["version"], "1.0.0", "{versions:?}");
    assert!(!node.directory().join("apps/gate/1.1.0").exists());
    assert_eq!(asked(&mut old).await, 202);
    let said = refused(&node, &["remove", "gate@1.0.0"], 1);
    assert!(said.contains("1 session that lives") && said.contains("by itself"), "{said}");
    old.hang_up().await.unwrap();
    until_gone(&node, "the old version to go", |all| {
        all[0]["versions"].as_array().is_some_and(|versions| versions.len() == 1)
    });
    assert!(!node.directory().join("apps/gate/1.0.0").exists());
    let mut new = held(&caller).await;
    assert_eq!(asked(&mut new).await, 209);
    new.hang_up().await.unwrap();
    node.stop();
}

/// Sessions of HTTP are at rest as soon as their request is answered: nothing shows them but the store, or a container's memory.
#[test]
fn a_version_whose_sessions_are_at_rest_stays_wherever_those_are() {
    for distributable in [true, false] {
        let sources = tempfile::tempdir().unwrap();
        let node = world::node_of(&world::open_config(
            1,
            "[container]\nhttp = \"127.0.0.1:0\"\nold_versions_kept = \"1s\"\n",
        ));
        let directory = write_desk(sources.path(), DOMAIN);
        let manifest = directory.join("outlast-app.toml");
        let first = fs::read_to_string(&manifest).unwrap();
        let deploy = |version: &str| {
            let manifest_text = first.replace("1.0.0", version);
            fs::write(&manifest, format!("distributable = {distributable}\n{manifest_text}"))
                .unwrap();
            done(&node, &["deploy", text(&directory)]);
        };
        deploy("1.0.0");
        let at = port(&node, "container1");
        let cookie = get(at, "/desk/n", "").cookie().unwrap();
        deploy("1.1.0");
        deploy("1.2.0");
        // Nothing lives of the second one: once it is gone the first one was judged too.
        until_gone(&node, "a version without sessions to go", |all| {
            all[0]["versions"].as_array().is_some_and(|versions| versions.len() == 2)
        });
        assert_eq!(list(&node)[0]["versions"][0]["version"], "1.0.0", "{distributable}");
        assert_eq!(get(at, "/desk/n", &cookie).octet(), 2, "{distributable}");
        node.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_with_calls_is_not_removed_unless_it_drains_or_is_forced() {
    let sources = tempfile::tempdir().unwrap();
    let node = world::node_of(&world::open_config(1, ""));
    let caller = phone(&node).await;
    let first = application(sources.path(), "1.0.0", &Handler::Holds(202));
    done(&node, &["deploy", text(&first)]);
    let mut call = held(&caller).await;
    let said = refused(&node, &["remove", "gate"], 1);
    for words in ["1 session that lives", "--drain", "--force", "outlast sessions"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(asked(&mut call).await, 202);
    assert!(refused(&node, &["remove", "gate@1.0.0", "--drain"], 1).contains("one version"));
    assert!(done(&node, &["remove", "gate", "--drain"]).contains("behind the last one"));
    assert!(done(&node, &["list"]).contains("goes behind its last session"));
    assert_eq!(answer(&caller).await, 404, "no new one");
    assert_eq!(asked(&mut call).await, 202, "the one that lives goes on");
    call.hang_up().await.unwrap();
    until_gone(&node, "the application to go", <[Value]>::is_empty);
    assert!(!node.directory().join("apps/gate").exists());

    done(&node, &["deploy", text(&first)]);
    let mut call = held(&caller).await;
    done(&node, &["remove", "gate", "--force"]);
    assert_eq!(asked(&mut call).await, 503);
    done(&node, &["deploy", text(&first)]);
    assert_eq!(asked(&mut call).await, 202, "its session was kept");
    call.hang_up().await.unwrap();
    node.stop();
}

/// A call comes in while it is removed, each time a little later: either it is, and no session of it lives, or it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_call_begins_behind_the_count_of_a_removal() {
    const ROUNDS: u32 = 10;
    let sources = tempfile::tempdir().unwrap();
    let node = Arc::new(world::node_of(&world::open_config(1, "")));
    let application = application(sources.path(), "1.0.0", &Handler::Holds(202));
    let caller = phone(&node).await;
    done(&node, &["deploy", text(&application)]);
    let began = Instant::now();
    done(&node, &["remove", "gate"]);
    let mut takes = began.elapsed();
    let mut removed = 0;
    for round in 0..=ROUNDS {
        if list(&node).is_empty() {
            done(&node, &["deploy", text(&application)]);
        }
        let (remover, began) = (Arc::clone(&node), Instant::now());
        let removing = tokio::task::spawn_blocking(move || {
            (app(&remover, &["remove", "gate"]).status.success(), began.elapsed())
        });
        tokio::time::sleep(takes * round / ROUNDS).await;
        let invitation = caller.call(0, &format!("sip:gate@{DOMAIN}")).await.unwrap();
        let call = match invitation.answered().await {
            Ok(call) => Some(call),
            Err(PhoneError::Refused { status: 404, .. }) => None,
            Err(other) => panic!("{other}"),
        };
        let (is_removed, took) = removing.await.unwrap();
        if let Some(mut call) = call {
            assert!(!is_removed, "round {round}: it was removed, and a session of it lives");
            assert_eq!(asked(&mut call).await, 202, "round {round}");
            call.hang_up().await.unwrap();
        }
        assert_eq!(list(&node).is_empty(), is_removed, "round {round}");
        if is_removed {
            (removed, takes) = (removed + 1, took);
        }
    }
    println!("it was removed {removed} times of {}", ROUNDS + 1);
    Arc::into_inner(node).unwrap().stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_whose_sessions_are_in_memory_only_drains_behind_them() {
    let sources = tempfile::tempdir().unwrap();
    let node = world::node_of(&world::open_config(1, ""));
    let caller = phone(&node).await;
    let first = application(sources.path(), "1.0.0", &Handler::Holds(202));
    let manifest = first.join("outlast-app.toml");
    let text_before = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, format!("distributable = false\n{text_before}")).unwrap();
    done(&node, &["deploy", text(&first)]);
    let mut call = held(&caller).await;
    let said = refused(&node, &["remove", "gate"], 1);
    assert!(
        said.contains("in the memory of their containers") && said.contains("--drain"),
        "{said}"
    );
    done(&node, &["remove", "gate", "--drain"]);
    assert_eq!(answer(&caller).await, 404, "no new one");
    // Its session is not stored. Were it not found all the same, all would be gone after a second.
    let drained = Instant::now();
    while drained.elapsed() < Duration::from_secs(3) {
        assert_eq!(asked(&mut call).await, 202);
    }
    call.hang_up().await.unwrap();
    until_gone(&node, "the application to go", <[Value]>::is_empty);
    node.stop();
}
