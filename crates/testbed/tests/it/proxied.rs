//! Calls that a deployed application lets go on to the registered phone, on the route of their dialog and hearing of every
//! response: on real nodes, whose containers are killed.

use std::fs;
use std::path::Path;

use phone::{Call, LineTransport, Phone, PhoneError};
use testbed::node::Node;
use testbed::wait;

use crate::applications::done;
use crate::applications::guests::embedded;
use crate::back_to_back::{assert_in_order, go_on_and_end};
use crate::world::{self, DOMAIN};

const BOTH: [LineTransport; 2] = [LineTransport::Udp, LineTransport::Tcp];

/// Takes every call, and lets it go on.
fn watch(at: &Path) -> String {
    // Request, no targets, on the route, supervised, no Timer C of its own, no headers; 16 is where the outcome goes.
    let text = r#"(module
        (import "outlast:app/sip@0.1.0" "proxy"
          (func $proxy (param i64 i32 i32 i32 i32 i32 i64 i32 i32 i32)))
        (memory (export "memory") 2)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
        (func (export "outlast:app/handler@0.1.0#handle")
          (param $event i32) (param i32 i32) (param $request i64) (param $initial i32) (param i32 i32)
          (if (i32.and (i32.eq (local.get $event) (i32.const 1)) (local.get $initial)) (then
            (call $proxy (local.get $request) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1)
              (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 16))))))"#;
    let directory = at.join("watch");
    fs::create_dir(&directory).unwrap();
    let manifest = "name = \"watch\"\nversion = \"1.0.0\"\ncomponent = \"watch.wasm\"\n\
        [sip]\nmatch = { equal = [\"request.method\", \"INVITE\"] }\n";
    fs::write(directory.join("outlast-app.toml"), manifest).unwrap();
    fs::write(directory.join("watch.wasm"), embedded(text, "sip-application")).unwrap();
    directory.to_str().unwrap().to_owned()
}

fn node() -> Node {
    let sources = tempfile::tempdir().unwrap();
    let node = world::node_of(&world::open_config(1, ""));
    done(&node, &["deploy", &watch(sources.path())]);
    node
}

async fn pair(node: &Node, name: &str, from: LineTransport, to: LineTransport) -> (Phone, Phone) {
    let caller = world::registered_openly(node, &format!("caller-{name}"), from).await;
    let callee = world::registered_openly(node, &format!("callee-{name}"), to).await;
    (caller, callee)
}

fn address(callee: &Phone) -> String {
    format!("sip:{}@{DOMAIN}", callee.user())
}

async fn established(caller: &Phone, callee: &Phone) -> (Call, Call) {
    let calling = async {
        let mut invitation = caller.call(0, &address(callee)).await?;
        invitation.ringing().await?;
        invitation.answered().await
    };
    let answering = async {
        let ringing = callee.incoming().await?;
        ringing.ring().await?;
        ringing.answer().await
    };
    let (calling, answering) = tokio::join!(calling, answering);
    (calling.expect("the call is answered"), answering.expect("the answer is acknowledged"))
}

fn sessions(node: &Node) -> Vec<serde_json::Value> {
    let output = node.outlast(&["sessions", "--json", "--application", "watch"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxied_call_comes_up_goes_on_and_ends_through_its_session() {
    let node = node();
    for (number, (from, to)) in
        BOTH.into_iter().flat_map(|from| BOTH.map(|to| (from, to))).enumerate()
    {
        let (caller, callee) = pair(&node, &number.to_string(), from, to).await;
        let (calling, answering) = established(&caller, &callee).await;
        assert_eq!(calling.call_id(), answering.call_id(), "one dialog");
        let listed = sessions(&node);
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!(listed[0]["legs"][0]["state"], "confirmed", "{listed:?}");
        go_on_and_end(calling, answering, number % 2 == 0).await;
        assert_in_order(&[&caller, &callee]);
        assert_eq!(callee.invites(), 1);
        wait::until("the session to be over", world::LIMIT, || match sessions(&node) {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        });
    }
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxied_call_outlasts_every_container_while_it_rings_and_while_it_stands() {
    for transport in BOTH {
        let node = node();
        let (caller, callee) = pair(&node, "a", transport, transport).await;
        let mut invitation = caller.call(0, &address(&callee)).await.unwrap();
        let (heard, ringing) = tokio::join!(invitation.ringing(), async {
            let ringing = callee.incoming().await?;
            ringing.ring().await?;
            Ok::<_, PhoneError>(ringing)
        });
        heard.unwrap();
        for container in ["container1", "container2"] {
            node.kill_and_wait_ready(container);
        }
        let (calling, answering) = tokio::join!(invitation.answered(), ringing.unwrap().answer());
        let (calling, answering) = (calling.unwrap(), answering.unwrap());
        assert_eq!(sessions(&node).len(), 1);
        for container in ["container1", "container2"] {
            node.kill_and_wait_ready(container);
        }
        go_on_and_end(calling, answering, false).await;
        assert_in_order(&[&caller, &callee]);
        assert_eq!(callee.invites(), 1, "it rings once");
        wait::until("the session to be over", world::LIMIT, || match sessions(&node) {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxied_call_that_is_given_up_stops_ringing_and_a_refusal_is_passed_back() {
    let node = node();
    let (caller, callee) = pair(&node, "a", LineTransport::Udp, LineTransport::Tcp).await;
    let (calling, answering) = tokio::join!(
        async {
            let mut invitation = caller.call(0, &address(&callee)).await?;
            invitation.ringing().await?;
            invitation.cancel().await
        },
        async {
            let ringing = callee.incoming().await?;
            ringing.ring().await?;
            ringing.canceled().await
        }
    );
    answering.expect("the CANCEL reaches the callee");
    assert_eq!(calling.expect("the INVITE ends").status(), Some(487));
    let (outcome, rejected) = tokio::join!(
        async { caller.call(0, &address(&callee)).await?.final_response().await },
        async { callee.incoming().await?.reject(486).await }
    );
    rejected.unwrap();
    assert_eq!(outcome.unwrap().status(), Some(486));
    let nobody = format!("sip:nobody@{DOMAIN}");
    let outcome = caller.call(0, &nobody).await.unwrap().final_response().await.unwrap();
    assert_eq!(outcome.status(), Some(404), "the registrar's answer");
    assert_in_order(&[&caller, &callee]);
}
