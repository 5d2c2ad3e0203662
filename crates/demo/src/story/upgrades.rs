//! Bringing another version of the WebAssembly agent in while calls are up and others come and go.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::calls::{NoCall, Pair, State, Way};
use super::{Act, CallAct, Cast, FAULT_CALLS, Listener, StoryError, of};
use crate::report::{Count, Outcome, Upgrade, millis};
use crate::webassembly::Version;

/// How long a pair rests after each of the calls that it makes meanwhile.
const BETWEEN_CALLS: Duration = Duration::from_millis(50);

/// Brings a version in as `outlast app deploy` and `outlast app upgrade` do; blocks until that is over.
pub type BringIn = Arc<dyn Fn(Version) -> Result<Rollout, String> + Send + Sync>;

/// How bringing a version in ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rollout {
    /// New calls begin with it.
    In,
    /// It was found ill, and new calls begin with the version before.
    TakenBack {
        /// What was wrong.
        reason: String,
    },
}

impl Cast {
    /// The first version is deployed.
    pub(super) async fn deploy(&self) -> Result<(), StoryError> {
        match brings_in(&self.stage.bring_in, Version::First).await? {
            Rollout::In => Ok(()),
            Rollout::TakenBack { reason } => Err(StoryError::Deploy(reason)),
        }
    }

    /// Some pairs call again and again while a version comes in; then all calls are tried and asked for theirs.
    pub(super) async fn upgrade(
        &mut self,
        version: Version,
        callers: Range<usize>,
        losses: &mut Vec<String>,
        listener: &mut dyn Listener,
    ) -> Result<Upgrade, StoryError> {
        let up = callers.start;
        let is_well = version != Version::Broken;
        let manner = if is_well { "container by container" } else { "which falls over" };
        let what = format!("upgrade to {version}, {manner}, under {up} calls");
        listener.begins(&what);
        let began = Instant::now();
        let (over, is_over) = watch::channel(false);
        // While it comes in there are both; the broken one has no call that comes up.
        let versions: &[Version] =
            if is_well { &[Version::First, Version::Second] } else { &[Version::Second] };
        let bring_in = Arc::clone(&self.stage.bring_in);
        let (rollout, tries) = tokio::join!(
            async {
                let end = brings_in(&bring_in, version).await;
                over.send_replace(true);
                end.map(|end| (end, began.elapsed()))
            },
            self.each(callers.clone(), |mut pair| {
                let is_over = is_over.clone();
                async move {
                    let mut tries = Vec::new();
                    while !*is_over.borrow() && !matches!(pair.state, State::Lost) {
                        let called = pair.calls_once(versions).await;
                        tries.push(called.map_err(|why| (pair.to_string(), why)));
                        sleep(BETWEEN_CALLS).await;
                    }
                    (pair, tries)
                }
            })
        );
        let (end, took) = rollout?;
        let Tries { outcomes, refused } = Tries::of(tries.into_iter().flatten(), is_well);
        let lost_before = losses.len();
        let mut counts = vec![Count::of("new calls meanwhile", outcomes, losses)];
        counts.extend(self.with_their_versions(version, callers, losses).await);
        let taken_back = match end {
            Rollout::In if is_well => false,
            Rollout::TakenBack { .. } if !is_well => true,
            Rollout::In => {
                losses.push(format!("{version}, which falls over, was brought in"));
                false
            }
            Rollout::TakenBack { reason } => {
                losses.push(format!("{version} was taken back: {reason}"));
                true
            }
        };
        let outcome = match losses.len() - lost_before {
            0 if is_well => "nothing lost".to_owned(),
            0 => "taken back, no call that was up lost".to_owned(),
            lost => format!("{lost} LOST"),
        };
        listener.done(&format!("{what}: {outcome}"));
        let version = version.to_string();
        Ok(Upgrade { version, taken_back, took_ms: millis(took), refused, counts })
    }

    /// Calls that were up go on with the version that they began with; new ones begin with the current one.
    async fn with_their_versions(
        &mut self,
        version: Version,
        callers: Range<usize>,
        losses: &mut Vec<String>,
    ) -> Vec<Count> {
        let (try_it, ask) = (Act::Call(CallAct::Try), |version| Act::Call(CallAct::Ask(version)));
        let up = self.all_do(0..callers.start, |pair| match (&pair.state, pair.way) {
            (State::Up(_), Way::WebAssembly) => vec![try_it, ask(began_with(pair))],
            (State::Up(_), Way::Direct | Way::BackToBack) => vec![try_it],
            (State::Idle | State::Ringing(_) | State::Lost, _) => Vec::new(),
        });
        let up = up.await;
        let begin = [Act::Call(CallAct::Ring), Act::Call(CallAct::Answer), ask(Version::Second)];
        let new = self.all_do(callers, |_| begin.to_vec()).await;
        let asked = up.iter().filter(|(act, _)| matches!(act, Act::Call(CallAct::Ask(_))));
        let asked = asked.map(|(_, outcome)| outcome.clone()).collect();
        let with = match version {
            Version::First | Version::Second => format!("still with {}", Version::First),
            Version::Broken => "each with its version".to_owned(),
        };
        let (up, new) = (of(try_it, &up), of(ask(Version::Second), &new));
        vec![
            Count::of("calls up", up, losses),
            Count::of(&format!("calls up, {with}"), asked, losses),
            Count::of(&format!("new calls, with {}", Version::Second), new, losses),
        ]
    }
}

async fn brings_in(bring_in: &BringIn, version: Version) -> Result<Rollout, StoryError> {
    let bring_in = Arc::clone(bring_in);
    let brought = spawn_blocking(move || bring_in(version)).await;
    brought.expect("bringing a version in does not panic").map_err(StoryError::Deploy)
}

/// The version that has the call of a pair.
fn began_with(pair: &Pair) -> Version {
    if pair.number < FAULT_CALLS { Version::First } else { Version::Second }
}

/// What became of the calls that were made meanwhile.
struct Tries {
    outcomes: Vec<Outcome>,
    /// By a version that falls over.
    refused: usize,
}

impl Tries {
    fn of(tries: impl Iterator<Item = Result<Duration, (String, NoCall)>>, is_well: bool) -> Tries {
        let mut all = Tries { outcomes: Vec::new(), refused: 0 };
        for called in tries {
            match called {
                Err((_, NoCall::Refused(500))) if !is_well => all.refused += 1,
                Ok(took) => all.outcomes.push(Ok(took)),
                Err((pair, why)) => all.outcomes.push(Err(format!("{pair} was to begin: {why}"))),
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_version_that_falls_over_may_refuse_calls() {
        let tries = || {
            let refused = |status| Err(("call 1".to_owned(), NoCall::Refused(status)));
            [Ok(Duration::ZERO), refused(500), refused(404)].into_iter()
        };
        let well = Tries::of(tries(), true);
        assert_eq!((well.outcomes.len(), well.refused), (3, 0));
        let ill = Tries::of(tries(), false);
        assert_eq!((ill.outcomes.len(), ill.refused), (2, 1));
        let last = ill.outcomes.last();
        assert_eq!(last, Some(&Err("call 1 was to begin: it was answered 404".to_owned())));
    }
}
