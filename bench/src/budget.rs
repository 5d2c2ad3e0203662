//! The budgets of the design that concern SIP, and how figures stand beside them.

use crate::applications;
use crate::pieces::Pieces;
use crate::statistics::Summary;

/// What a figure is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A multiple of a peer's figure in the same round.
    Times,
    /// Octets.
    Bytes,
    /// Microseconds of processor time.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
}

/// One budget.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What is held to it.
    pub subject: &'static str,
    /// What it is measured against; empty for figures that stand alone.
    pub against: &'static str,
    /// The most that is allowed.
    pub limit: f64,
    /// What it is counted in.
    pub unit: Unit,
    /// What was measured; `None` when it was not.
    pub measured: Option<Summary>,
    /// The same beside Kamailio with its fastest allocator. The budgets were written beside Kamailio as packaged.
    pub beside_fastest: Option<Summary>,
}

impl Line {
    /// By which part of the limit the median is over it; `None` when it is not, or nothing was measured.
    pub fn missed_by(&self) -> Option<f64> {
        let over = self.measured?.median / self.limit - 1.0;
        (over > 0.0).then_some(over)
    }
}

/// Every budget with what was measured of it.
pub fn lines(pieces: &Pieces) -> Vec<Line> {
    let compared = pieces.compare.as_ref().map(|piece| &piece.figures);
    let ratio = |group, of, to| compared.and_then(|figures| figures.cpu_ratio(group, of, to));
    let scale = pieces.scale.as_ref().map(|piece| &piece.figures);
    let largest = scale.and_then(|figures| figures.sizes.last());
    let times = |subject, against, limit, measured| Line {
        subject,
        against,
        limit,
        unit: Unit::Times,
        measured,
        beside_fastest: None,
    };
    let beside_kamailio = |subject, against, limit, group, ours| Line {
        beside_fastest: ratio(group, ours, "kamailio-fast"),
        ..times(subject, against, limit, ratio(group, ours, "kamailio"))
    };
    let applied = pieces.applications.as_ref().map(|piece| &piece.figures);
    let microseconds = |subject, limit, contender| Line {
        subject,
        against: "",
        limit,
        unit: Unit::Microseconds,
        measured: applied.and_then(|figures| figures.cpu_us(applications::GROUP, contender)),
        beside_fastest: None,
    };
    let one = |figure: Option<f64>| Summary::of(figure);
    let bytes = |subject, limit, measured| Line {
        subject,
        against: "",
        limit,
        unit: Unit::Bytes,
        measured: one(measured),
        beside_fastest: None,
    };
    let flatness = scale.and_then(|figures| {
        let (first, last) = (figures.sizes.first()?, figures.sizes.last()?);
        Some(last.outlast.refresh_cpu_us / first.outlast.refresh_cpu_us)
    });
    let expiry = scale.and_then(|figures| figures.expiry.as_ref());
    vec![
        beside_kamailio("REGISTER, durable", REGISTER, 0.45, "register-udp", "outlast"),
        beside_kamailio(
            "REGISTER with digest, durable",
            REGISTER,
            0.65,
            "register-udp",
            "outlast-digest",
        ),
        beside_kamailio(
            "relayed call through registrar, set-up record on",
            "Kamailio's in memory",
            1.0 / 3.0,
            "call-udp",
            "outlast",
        ),
        times(
            "edge alone, per forwarded message",
            "the bare echo's datagram",
            2.0,
            ratio("dialog-udp", "outlast", "echo"),
        ),
        microseconds(
            "application (Rust guest) answering INVITE and BYE, replicated, reused instances",
            120.0,
            applications::REUSED,
        ),
        microseconds("the same, fresh instances", 200.0, applications::FRESH),
        bytes(
            "store for a binding, record and index, of a million",
            500.0,
            largest.map(|size| size.outlast.store_bytes_per_binding),
        ),
        bytes(
            "store of 1,000,000 bindings",
            1e9,
            largest
                .filter(|size| size.bindings == 1_000_000)
                .map(|size| size.outlast.store_bytes_per_binding * 1e6),
        ),
        bytes(
            "edge's memory for an idle TCP flow",
            4_096.0,
            scale.and_then(|figures| figures.flows.as_ref()).map(|flows| flows.edge_bytes_per_flow),
        ),
        times("refresh with the most bindings", "with the fewest", FLAT, one(flatness)),
        Line {
            subject: "slowest answer to a ping while a million bindings end",
            against: "",
            limit: 5.0,
            unit: Unit::Milliseconds,
            measured: one(expiry.map(|figures| figures.sweeping_ping_us.max / 1000.0)),
            beside_fastest: None,
        },
    ]
}

const REGISTER: &str = "Kamailio's REGISTER without authentication, in memory";

/// "Flat" of the design: a tree of a hundred times as many records is one level deeper, and less of it is in the
/// processor's caches.
const FLAT: f64 = 1.5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_missed_by_the_part_over_its_limit() {
        let line = |median| Line {
            subject: "",
            against: "",
            limit: 2.0,
            unit: Unit::Times,
            measured: Summary::of(median),
            beside_fastest: None,
        };
        assert_eq!(line(Some(2.5)).missed_by(), Some(0.25));
        assert_eq!(line(Some(2.0)).missed_by(), None);
        assert_eq!(line(None).missed_by(), None);
    }

    #[test]
    fn budgets_stand_in_the_list_though_nothing_was_measured() {
        let lines = lines(&Pieces::default());
        assert!(lines.len() >= 9 && lines.iter().all(|line| line.measured.is_none()));
    }
}
