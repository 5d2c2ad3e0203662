//! A browser has the witness call a phone, and both give it notes: HTTP and SIP on one session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use phone::{LineTransport, Phone};
use testbed::node::Node;

use super::call::{give, heard_and_judged, in_order, is_counted, on_a_runtime, text};
use crate::http::client::try_ask;
use crate::http::port;
use crate::turnstile::{Turnstile, VICTIM};
use crate::world::{self, DOMAIN, PASSWORD};

/// A request that nobody answers within this is lost.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// All that a call's thread needs.
pub(super) struct CallOut {
    name: String,
    transport: LineTransport,
    edge: SocketAddr,
    browser: Browser,
}

impl CallOut {
    /// A call whose session begins in the victim.
    pub(super) fn new(node: &Node, transport: LineTransport, id: &str) -> CallOut {
        let browser = Browser {
            session: id.to_owned(),
            ports: [VICTIM, "container2"].map(|container| port(node, container)),
            number: 0,
        };
        let edge = world::address(node, transport);
        CallOut { name: id.to_owned(), transport, edge, browser }
    }

    /// Asks for the call, to the end; gives the longest that a timer was late.
    pub(super) fn play(self, at: &Arc<Turnstile>) -> Result<Duration, String> {
        on_a_runtime(async {
            let CallOut { name, transport, edge, mut browser } = self;
            let phone = Phone::new(&name, DOMAIN, PASSWORD, transport, edge).await;
            let phone = phone.map_err(text)?;
            phone.register(3_600).await.map_err(text)?;
            phone.watch(at.watcher());
            let called = async { phone.incoming().await?.answer().await };
            let form = format!("to=sip:{name}@{DOMAIN}");
            let asked = browser.post(at, &form);
            let (asked, call) = tokio::join!(asked, called);
            let (_, mut call) = (asked?, call.map_err(text)?);

            let mut notes = vec!["first"];
            give(&mut call, &notes).await?;
            notes.push("second");
            is_counted(&browser.post(at, "note=second").await?, &notes)?;
            heard_and_judged(&mut call, &notes).await?;
            notes.push("third");
            is_counted(&browser.post(at, "note=third").await?, &notes)?;
            notes.push("fourth");
            give(&mut call, &notes).await?;
            let late = heard_and_judged(&mut call, &notes).await?;
            let shown = browser.ask(at, "GET", "").await?;
            if !(shown.contains("count: 4\n") && shown.contains("last: fourth\n")) {
                return Err(format!("the browser is shown {shown:?}"));
            }
            call.hang_up().await.map_err(text)?;
            in_order(&phone)?;
            Ok(late)
        })
    }
}

/// Asks again, and another container, while it is not answered; each request has a number, by which the witness knows it again.
struct Browser {
    session: String,
    ports: [SocketAddr; 2],
    number: u32,
}

impl Browser {
    async fn post(&mut self, at: &Turnstile, form: &str) -> Result<String, String> {
        self.number += 1;
        let form = format!("&number={}&{form}", self.number);
        self.ask(at, "POST", &form).await
    }

    /// What a request was answered with a 200.
    async fn ask(&self, at: &Turnstile, method: &str, more: &str) -> Result<String, String> {
        let request = format!("{method} /witness?session={}{more}", self.session);
        at.pass(&format!("browser > {request}"));
        let began = Instant::now();
        let mut seen = Vec::new();
        for port in self.ports.into_iter().cycle() {
            let request = request.clone();
            // The thread is the phone's as well.
            let asked = tokio::task::spawn_blocking(move || try_ask(port, &request, "", b""));
            match asked.await {
                Ok(Ok(answer)) if answer.status == 200 => {
                    at.pass("browser < 200");
                    return Ok(String::from_utf8_lossy(&answer.body).into_owned());
                }
                // 503: come again.
                Ok(Ok(answer)) if answer.status != 503 => {
                    return Err(format!("{more} was answered {answer:?}"));
                }
                unanswered => seen.push(format!("{port}: {unanswered:?}")),
            }
            if began.elapsed() > ANSWERED_WITHIN {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(format!("{more} was not answered: {seen:?}"))
    }
}
