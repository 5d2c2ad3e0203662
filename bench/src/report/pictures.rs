//! The plots of the report.

use crate::compare::{self, Comparison, ROWS};
use crate::latency::{LatencyFigures, Operation, SHARES, Timed, Who};
use crate::pieces::Pieces;
use crate::plot::{Bar, BarChart, LineChart, OURS, Panel, Row, Scale, Series, THEIRS, THEIRS_DARK};
use crate::scale::{ScaleFigures, SizeFigures};
use crate::statistics::Summary;

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

fn cpu(figures: &Comparison) -> BarChart {
    let row = |row: &compare::Row| {
        let compare::Row { title, remark, group, ours, fastest, packaged } = *row;
        let bars = [
            ("Outlast", ours, OURS),
            ("Kamailio, fastest allocator", fastest, THEIRS_DARK),
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
        (!bars.is_empty()).then(|| Row { title: title.to_owned(), remark: remark.to_owned(), bars })
    };
    BarChart {
        title: "CPU for an operation, beside Kamailio's".to_owned(),
        subtitle: "All processes of the server, at saturation; each row has its own scale. Outlast's state is durable, \
                   Kamailio's is in memory."
            .to_owned(),
        rows: ROWS.iter().filter_map(row).collect(),
    }
}

fn latency(figures: &LatencyFigures) -> LineChart {
    type Percentile = (&'static str, fn(&Timed) -> f64, &'static str);
    let percentiles: [Percentile; 2] =
        [("p50", |run| run.latency_us.p50, ""), ("p99", |run| run.latency_us.p99, "5 4")];
    let panels = Operation::ALL.into_iter().map(|operation| {
        let series = Who::AT_SHARES.into_iter().flat_map(|who| {
            percentiles.into_iter().map(move |(name, figure, dashes)| {
                let points = SHARES.into_iter().filter_map(|share| {
                    let runs = figures.at_share(who, operation, share);
                    let summary = Summary::of(runs.into_iter().map(figure))?;
                    Some((share * 100.0, summary.median))
                });
                Series {
                    name: format!("{} {name}", who.name()),
                    colour: match who {
                        Who::Outlast => OURS,
                        Who::Kamailio => THEIRS_DARK,
                        Who::KamailioPackaged => THEIRS,
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
