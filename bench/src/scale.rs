//! Scale: a million bindings, a hundred thousand calls, fifteen thousand connections, and everybody at once after a
//! restart. Figures of one node on one machine, Kamailio's beside ours where it does the same.

mod calls;
mod expiry;
mod flows;
mod sizes;
mod storms;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::compare;
use crate::load::Latency;
use crate::server::Bench;

/// How cost and memory grow with the number of bindings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SizeFigures {
    /// Bindings held.
    pub bindings: u32,
    /// Ours.
    pub outlast: OutlastAtSize,
    /// Kamailio's.
    pub kamailio: KamailioAtSize,
}

/// Outlast holding so many bindings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutlastAtSize {
    /// Time to register those that were added since the size before, in seconds.
    pub added_in_s: f64,
    /// How many that were.
    pub added: u32,
    /// Octets of the store's pages for a binding, records and index.
    pub store_bytes_per_binding: f64,
    /// CPU of a refresh at saturation, in microseconds.
    pub refresh_cpu_us: f64,
    /// Time of a refresh at a low rate.
    pub refresh_us: Latency,
    /// INVITE until 180 at a low rate: what a lookup and all around it takes. Of the fewest and the most bindings.
    pub lookup_us: Option<Latency>,
    /// Operations that did not end as they should.
    pub failures: u64,
}

/// Kamailio holding so many contacts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KamailioAtSize {
    /// Octets of its shared memory for a contact.
    pub bytes_per_binding: f64,
    /// CPU of a refresh at saturation, in microseconds.
    pub refresh_cpu_us: f64,
    /// Operations that did not end as they should.
    pub failures: u64,
}

/// Pings and registrations while a million bindings end, and beside them the same while nothing ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpiryFigures {
    /// Bindings that ended at one time.
    pub bindings: u32,
    /// From that time until the store had none of them, in seconds.
    pub swept_in_s: f64,
    /// Answers to pings while nothing ended.
    pub quiet_ping_us: Latency,
    /// … and while the bindings went.
    pub sweeping_ping_us: Latency,
    /// REGISTER, durable as always, while nothing ended.
    pub quiet_register_us: Latency,
    /// … and while the bindings went.
    pub sweeping_register_us: Latency,
    /// Operations that did not end as they should.
    pub failures: u64,
}

/// Calls that are up at one time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallFigures {
    /// How many were meant to be up.
    pub calls: u32,
    /// Time to bring them up, in seconds.
    pub up_in_s: f64,
    /// Requests in these dialogs a second.
    pub requests_per_s: f64,
    /// CPU for one of their messages, in microseconds.
    pub message_cpu_us: f64,
    /// Private memory of the node, in octets, less what it had before.
    pub node_bytes: u64,
    /// Octets of the store.
    pub store_bytes: u64,
    /// Operations that did not end as they should.
    pub failures: u64,
}

/// Connections that are open and silent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowFigures {
    /// How many.
    pub flows: u32,
    /// Memory of the edge for one of them, in octets, less what it had before.
    pub edge_bytes_per_flow: f64,
    /// Operations that did not end as they should.
    pub failures: u64,
}

/// Everybody registers at once after the edge was killed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StormFigures {
    /// Users.
    pub users: u32,
    /// From the kill until the last had its 200, in seconds.
    pub all_registered_in_s: f64,
    /// Median and slowest of them, from the storm's begin.
    pub latency_us: Latency,
    /// Messages sent again.
    pub retransmissions: u64,
    /// Those that never got a 200.
    pub failures: u64,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScaleFigures {
    /// From the smallest to the largest.
    pub sizes: Vec<SizeFigures>,
    /// See [`ExpiryFigures`].
    pub expiry: Option<ExpiryFigures>,
    /// See [`CallFigures`].
    pub calls: Option<CallFigures>,
    /// See [`FlowFigures`].
    pub flows: Option<FlowFigures>,
    /// See [`StormFigures`].
    pub storms: Vec<StormFigures>,
    /// Parts that did not come about, and why.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// A part of it, which can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// From 10,000 bindings to a million.
    Sizes,
    /// A million bindings end at one time.
    Expiry,
    /// A hundred thousand calls.
    Calls,
    /// Idle connections.
    Flows,
    /// Everybody registers at once.
    Storms,
}

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Extent {
    /// These parts only; none: all of them.
    pub only: Vec<Part>,
    /// Bindings, ascending.
    pub sizes: Vec<u32>,
    /// Bindings that end at once.
    pub expiring: u32,
    /// Calls that are up at once.
    pub calls: u32,
    /// Connections.
    pub flows: u32,
    /// Users of each storm.
    pub storms: Vec<u32>,
}

impl Extent {
    /// That of the report, or a share of it.
    pub fn share(share: f64) -> Extent {
        let of = |full: u32| ((f64::from(full) * share) as u32).max(100);
        Extent {
            only: Vec::new(),
            sizes: [10_000, 30_000, 100_000, 300_000, 1_000_000].map(of).to_vec(),
            expiring: of(1_000_000),
            calls: of(100_000),
            flows: of(15_000),
            storms: [10_000, 50_000].map(of).to_vec(),
        }
    }
}

/// Measures all of it, one part after the other. A part that cannot be measured is written down, and the rest goes on.
pub fn run(bench: &Bench, extent: &Extent, mut progress: impl FnMut(&str)) -> ScaleFigures {
    let mut figures = ScaleFigures::default();
    let mut part = |part: Part, what: &str, measure: &mut Measure<'_>| {
        if !extent.only.is_empty() && !extent.only.contains(&part) {
            return;
        }
        progress(&format!("{what} …"));
        if let Err(error) = measure(&mut figures, &mut progress) {
            progress(&format!("{what}: {error:#}"));
            figures.missing.push(format!("{what}: {}", compare::first_line(&error)));
        }
    };
    part(Part::Sizes, "many bindings", &mut |figures, progress| {
        figures.sizes = sizes::run(bench, &extent.sizes, progress)?;
        Ok(())
    });
    part(Part::Expiry, "bindings that end at one time", &mut |figures, progress| {
        figures.expiry = Some(expiry::run(bench, extent.expiring, progress)?);
        Ok(())
    });
    part(Part::Calls, "many calls", &mut |figures, progress| {
        figures.calls = Some(calls::run(bench, extent.calls, progress)?);
        Ok(())
    });
    part(Part::Flows, "idle connections", &mut |figures, progress| {
        figures.flows = Some(flows::run(bench, extent.flows, progress)?);
        Ok(())
    });
    part(Part::Storms, "storms", &mut |figures, progress| {
        figures.storms = storms::run(bench, &extent.storms, progress)?;
        Ok(())
    });
    figures
}

/// Measures a part into the figures.
type Measure<'a> = dyn FnMut(&mut ScaleFigures, &mut dyn FnMut(&str)) -> anyhow::Result<()> + 'a;
