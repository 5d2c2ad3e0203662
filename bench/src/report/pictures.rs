//! The plots of the report.

use crate::compare::Comparison;
use crate::latency::{LatencyFigures, Operation, SHARES, Timed, Who};
use crate::pieces::Pieces;
use crate::plot::{Bar, BarChart, LineChart, OURS, Panel, Row, Scale, Series, THEIRS, THEIRS_DARK};
use crate::scale::{ScaleFigures, SizeFigures};

pub(super) fn all(pieces: &Pieces) -> Vec<(&'static str, String)> {
    let mut pictures = Vec::new();
    if let Some(piece) = &pieces.compare {
        pictures.push(("cpu.svg", cpu(&piece.figures).render()));
    }
    if let Some(piece) = &pieces.latency {
        pictures.push(("latency.svg", latency(&piece.figures).render()));
    }
    if let Some(piece) = &pieces.scale
        && !piece.figures.sizes.is_empty()
    {
        pictures.push(("scale.svg", scale(&piece.figures).render()));
    }
    pictures
}

/// A row's title and remark, its group, our contender, Kamailio's at its fastest and as packaged.
const COMPARED: [[&str; 6]; 7] = [
    ["REGISTER", "UDP", "register-udp", "outlast", "kamailio-fast", "kamailio"],
    [
        "REGISTER with digest",
        "UDP",
        "register-udp",
        "outlast-digest",
        "kamailio-digest-fast",
        "kamailio-digest",
    ],
    ["REGISTER", "TCP", "register-tcp", "outlast", "kamailio-fast", "kamailio"],
    [
        "REGISTER with digest",
        "TCP",
        "register-tcp",
        "outlast-digest",
        "kamailio-digest-fast",
        "kamailio-digest",
    ],
    ["Relayed call", "through registrar, UDP", "call-udp", "outlast", "kamailio-fast", "kamailio"],
    [
        "Message in a dialog",
        "forwarded without state, UDP",
        "dialog-udp",
        "outlast",
        "kamailio-fast",
        "kamailio",
    ],
    ["OPTIONS keep-alive", "UDP", "options-udp", "outlast", "kamailio-fast", "kamailio"],
];

fn cpu(figures: &Comparison) -> BarChart {
    let row = |[title, remark, group, ours, fast, packaged]: &[&str; 6]| {
        let bars = [
            ("Outlast", ours, OURS),
            ("Kamailio, fastest allocator", fast, THEIRS_DARK),
            ("Kamailio, as packaged", packaged, THEIRS),
        ];
        let cpus = bars.map(|(_, contender, _)| figures.cpu_us(group, contender));
        let whole = cpus.iter().flatten().map(|cpu| cpu.max).fold(0.0, f64::max);
        let bars = bars.iter().zip(cpus).filter_map(|((name, _, colour), cpu)| {
            let cpu = cpu?;
            Some(Bar {
                name: (*name).to_owned(),
                share: cpu.median / whole,
                spread: (cpu.min / whole, cpu.max / whole),
                figure: format!("{:.1} µs", cpu.median),
                colour,
            })
        });
        let bars: Vec<Bar> = bars.collect();
        (!bars.is_empty()).then(|| Row {
            title: (*title).to_owned(),
            remark: (*remark).to_owned(),
            bars,
        })
    };
    BarChart {
        title: "CPU for an operation, beside Kamailio's".to_owned(),
        subtitle: "All processes of the server, at saturation; each row has its own scale. Outlast's state is durable, \
                   Kamailio's is in memory."
            .to_owned(),
        rows: COMPARED.iter().filter_map(row).collect(),
    }
}

fn latency(figures: &LatencyFigures) -> LineChart {
    type Percentile = (&'static str, fn(&Timed) -> f64, &'static str);
    let percentiles: [Percentile; 2] =
        [("p50", |run| run.latency_us.p50, ""), ("p99", |run| run.latency_us.p99, "5 4")];
    let panels = Operation::ALL.into_iter().map(|operation| {
        let series = Who::ALL.into_iter().flat_map(|who| {
            percentiles.into_iter().map(move |(name, figure, dashes)| {
                let points = SHARES.into_iter().filter_map(|share| {
                    let summary = figures.summary(who, operation, share, figure)?;
                    Some((share * 100.0, summary.median))
                });
                Series {
                    name: format!("{} {name}", who.name()),
                    colour: match who {
                        Who::Outlast => OURS,
                        Who::Kamailio => THEIRS_DARK,
                    },
                    dashes,
                    points: points.collect(),
                }
            })
        });
        Panel { title: operation.title().to_owned(), series: series.collect() }
    });
    LineChart {
        title: "Latency below saturation".to_owned(),
        subtitle: "Open loop, from the intended time; load and server share the machine's cores."
            .to_owned(),
        x_name: "share of each server's own capacity, %".to_owned(),
        x_ticks: SHARES
            .into_iter()
            .map(|share| (share * 100.0, format!("{:.0} %", share * 100.0)))
            .collect(),
        x_scale: Scale::Linear,
        y_scale: Scale::Logarithmic,
        y_text: |micros| match micros {
            micros if micros >= 1e6 => format!("{:.0} s", micros / 1e6),
            micros if micros >= 1e3 => format!("{:.0} ms", micros / 1e3),
            micros => format!("{micros:.0} µs"),
        },
        panels: panels.collect(),
    }
}

fn scale(figures: &ScaleFigures) -> LineChart {
    let series = |name: &str, colour, figure: fn(&SizeFigures) -> f64| Series {
        name: name.to_owned(),
        colour,
        dashes: "",
        points: figures.sizes.iter().map(|size| (f64::from(size.bindings), figure(size))).collect(),
    };
    let ticks = figures.sizes.iter().map(|size| {
        let text = match size.bindings {
            count if count >= 1_000_000 => format!("{} M", count / 1_000_000),
            count => format!("{} k", count / 1_000),
        };
        (f64::from(size.bindings), text)
    });
    LineChart {
        title: "CPU of a refresh, from ten thousand bindings to a million".to_owned(),
        subtitle: "REGISTER over UDP at saturation, all users in turn.".to_owned(),
        x_name: "bindings held".to_owned(),
        x_ticks: ticks.collect(),
        x_scale: Scale::Logarithmic,
        y_scale: Scale::Linear,
        y_text: |micros| format!("{micros:.0} µs"),
        panels: vec![Panel {
            title: String::new(),
            series: vec![
                series("Outlast, durable", OURS, |size| size.outlast.refresh_cpu_us),
                series("Kamailio, in memory", THEIRS_DARK, |size| size.kamailio.refresh_cpu_us),
            ],
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare;

    #[test]
    fn rows_name_groups_and_contenders_that_there_are() {
        let groups = compare::groups(compare::Extent::QUICK);
        for [_, _, group, contenders @ ..] in COMPARED {
            let group = groups.iter().find(|found| found.id == group).expect("it is measured");
            for id in contenders {
                assert!(group.contenders.iter().any(|contender| contender.id == id), "{id}");
            }
        }
    }
}
