//! What a call costs that an application answers, with fresh instances and reused ones, beside one that is relayed.

use crate::compare::{self, Comparison, Contender, Extent, Group};
use crate::load::Load;
use crate::server::{Authentication, Bench, Instances, ServerKind};

/// The only group.
pub const GROUP: &str = "application-call-udp";
/// A call that is relayed, without any application.
pub const RELAYED: &str = "relayed";
/// Each event has an instance of its own.
pub const FRESH: &str = "fresh";
/// Events share instances.
pub const REUSED: &str = "reused";
/// The bare echo.
pub const ECHO: &str = "echo";

/// Who takes the load.
pub fn group(extent: Extent) -> Group {
    let contender = |id, server, scenario| Contender {
        id,
        server,
        load: Load {
            duration: extent.duration,
            warmup: extent.warmup,
            ..Load::saturating(scenario, extent.users)
        },
        parts: 1.0,
    };
    Group {
        id: GROUP,
        title: "call over UDP that an application answers",
        contenders: vec![
            contender(REUSED, ServerKind::OutlastAnswering(Instances::Reused), "call"),
            contender(FRESH, ServerKind::OutlastAnswering(Instances::Fresh), "call"),
            contender(RELAYED, ServerKind::Outlast(Authentication::Off), "call"),
            contender(ECHO, ServerKind::Echo, "echo"),
        ],
    }
}

/// Runs it.
pub fn run(bench: &Bench, extent: Extent, say: impl FnMut(&str)) -> Comparison {
    compare::run_groups(bench, &[group(extent)], extent.rounds, say)
}
