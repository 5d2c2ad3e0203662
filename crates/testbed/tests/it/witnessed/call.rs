//! A phone that calls the witness, gives it notes and judges what it hears.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use phone::{Call, LineTransport, Phone, PhoneError};
use testbed::node::Node;

use super::judge::{beats, is_all_told, judge};
use crate::turnstile::Turnstile;
use crate::world::{self, DOMAIN, PASSWORD};

/// A call that is not over by then waits for ever.
const LIMIT: Duration = Duration::from_secs(75);
/// Of the timer that repeats, as the manifest says.
pub(super) const PERIOD: Duration = Duration::from_millis(500);
/// So long after its last message a session is at rest: 64·T1, and a while to say so.
const UNTIL_REST: Duration = Duration::from_millis(33_500);

/// What the phone does in its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plot {
    /// Talks, and stands still at any message.
    Talk,
    /// Gives one note, and stands still when nothing happened for so long that the session is at rest.
    Rest,
}

/// All that a call's thread needs.
pub(super) struct CallIn {
    name: String,
    call_id: String,
    transport: LineTransport,
    edge: SocketAddr,
}

impl CallIn {
    pub(super) fn new(node: &Node, transport: LineTransport, id: &str, call_id: String) -> CallIn {
        let edge = world::address(node, transport);
        CallIn { name: id.to_owned(), call_id, transport, edge }
    }

    /// Calls, to the end; gives the longest that a timer was late.
    pub(super) fn play(self, plot: Plot, at: &Arc<Turnstile>) -> Result<Duration, String> {
        on_a_runtime(async {
            let phone = Phone::new(&self.name, DOMAIN, PASSWORD, self.transport, self.edge).await;
            let phone = phone.map_err(text)?;
            if plot == Plot::Talk {
                phone.watch(at.watcher());
            }
            let uri = format!("sip:witness@{DOMAIN}");
            let invitation = phone.call_as(0, &uri, &self.call_id).await.map_err(text)?;
            let call = invitation.answered().await.map_err(text)?;
            let late = match plot {
                Plot::Talk => talk(call).await?,
                Plot::Rest => rest(call, at).await?,
            };
            in_order(&phone)?;
            Ok(late)
        })
    }
}

/// Runs all of one call on the thread that it has.
pub(super) fn on_a_runtime<T>(play: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime for one call").block_on(async {
        match tokio::time::timeout(LIMIT, play).await {
            Ok(result) => result,
            Err(_) => Err(format!("not over after {LIMIT:?}")),
        }
    })
}

/// Gives notes, hears, judges and hangs up.
async fn talk(mut call: Call) -> Result<Duration, String> {
    let mut notes = Vec::new();
    for note in ["first", "second", "third", "fourth"] {
        notes.push(note);
        give(&mut call, &notes).await?;
        if note == "second" {
            heard_and_judged(&mut call, &notes).await?;
        }
    }
    let late = heard_and_judged(&mut call, &notes).await?;
    call.hang_up().await.map_err(text)?;
    Ok(late)
}

async fn rest(mut call: Call, at: &Turnstile) -> Result<Duration, String> {
    let notes = ["only"];
    give(&mut call, &notes).await?;
    call.listen(|heard| !heard.is_empty()).await.map_err(text)?;
    tokio::time::sleep(UNTIL_REST).await;
    at.pass("nothing, for long");
    call.listen(|heard| is_all_told(heard, notes.len())).await.map_err(text)?;
    let late = judged(&mut call, &notes).await?;
    call.hang_up().await.map_err(text)?;
    Ok(late)
}

/// Gives the last one of the notes, which must be counted as that.
pub(super) async fn give(call: &mut Call, notes: &[&str]) -> Result<(), String> {
    let note = notes.last().expect("a note to give");
    let count = say(call, note).await?;
    is_counted(&count, notes)
}

/// Whether the last one of the notes was counted once.
pub(super) fn is_counted(count: &str, notes: &[&str]) -> Result<(), String> {
    if count.trim_end() == notes.len().to_string() {
        return Ok(());
    }
    Err(format!("note {} was counted as {count:?}", notes.len()))
}

/// Says something, and gives what was answered with a 200.
async fn say(call: &mut Call, words: &str) -> Result<String, String> {
    let answer = call.say(words).await.map_err(text)?;
    match answer.status() {
        Some(200) => Ok(String::from_utf8_lossy(answer.body()).into_owned()),
        status => Err(format!("{words:?} was answered {status:?}")),
    }
}

/// Waits until everything was told and a few more periods are over, and judges it.
pub(super) async fn heard_and_judged(call: &mut Call, notes: &[&str]) -> Result<Duration, String> {
    let before = beats(call.heard());
    let is_enough = |heard: &[String]| is_all_told(heard, notes.len()) && beats(heard) > before + 1;
    call.listen(is_enough).await.map_err(|error| format!("{error}; heard {:?}", call.heard()))?;
    judged(call, notes).await
}

/// Asks for a report, and judges it by what was heard.
async fn judged(call: &mut Call, notes: &[&str]) -> Result<Duration, String> {
    let report = say(call, "report").await?;
    // What was noted before the report may be told behind it.
    let noted = report.lines().filter(|line| line.starts_with("fired: ")).count();
    let fired = |heard: &[String]| heard.iter().filter(|line| line.starts_with("fired ")).count();
    call.listen(|heard| fired(heard) >= noted).await.map_err(text)?;
    judge(notes, call.heard(), &report, PERIOD)
}

/// What the phone saw of broken order.
pub(super) fn in_order(phone: &Phone) -> Result<(), String> {
    let seen: Vec<String> = phone.rang_again().into_iter().chain(phone.violations()).collect();
    if seen.is_empty() { Ok(()) } else { Err(seen.join("; ")) }
}

pub(super) fn text(error: PhoneError) -> String {
    error.to_string()
}
