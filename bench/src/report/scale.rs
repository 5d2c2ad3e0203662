//! Many bindings, calls, flows.

use std::fmt::Write as _;

use super::{bytes, number};
use crate::scale::{ExpiryFigures, ScaleFigures, StormFigures};

pub(super) fn section(figures: &ScaleFigures) -> String {
    let mut text = String::from(
        "\n## Scale\n\nOne node, one machine, state durable; Kamailio's contacts in memory.\n",
    );
    if !figures.sizes.is_empty() {
        text += &sizes(figures);
    }
    if let Some(expiry) = &figures.expiry {
        text += &expiring(expiry);
    }
    if let Some(calls) = &figures.calls {
        write!(
            text,
            "\n### {} calls up at one time\n\nAll up, {} requests in their dialogs a second at {} µs CPU for a forwarded \
             message, then ended: {} s in all. The node's processes grew by {} ({} for a call), the store is {}; \
             {} operations failed.\n",
            number(f64::from(calls.calls)),
            number(calls.requests_per_s),
            number(calls.message_cpu_us),
            number(calls.up_in_s),
            bytes(calls.node_bytes as f64),
            bytes(calls.node_bytes as f64 / f64::from(calls.calls)),
            bytes(calls.store_bytes as f64),
            calls.failures,
        )
        .expect("a text takes all");
    }
    if let Some(flows) = &figures.flows {
        write!(
            text,
            "\n### {} idle TCP flows\n\nThe edge's private memory grew by {} for each; {} failed. One process may open \
             20,000 files here.\n",
            number(f64::from(flows.flows)),
            bytes(flows.edge_bytes_per_flow),
            flows.failures,
        )
        .expect("a text takes all");
    }
    if !figures.storms.is_empty() {
        text += &storms(&figures.storms);
    }
    for missing in &figures.missing {
        writeln!(text, "\nNot measured: {missing}.").expect("a text takes all");
    }
    text
}

fn sizes(figures: &ScaleFigures) -> String {
    let mut text = String::from(
        "\n### Bindings\n\n![CPU of a refresh from ten thousand to a million bindings](plots/scale.svg)\n\n\
         CPU of a refresh at saturation; its time and that of a lookup (INVITE until 180, through the callee) at 2,000 \
         refreshes or 200 calls a second.\n\n\
         | bindings | added a second | store, each | refresh, CPU | p50 / p99 | lookup, p50 / p99 | Kamailio: memory, each | refresh, CPU | failed |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for size in &figures.sizes {
        let (ours, theirs) = (&size.outlast, &size.kamailio);
        let lookup = ours.lookup_us.map_or("–".to_owned(), |times| {
            format!("{} / {} µs", number(times.p50), number(times.p99))
        });
        writeln!(
            text,
            "| {} | {} | {} | {} µs | {} / {} µs | {lookup} | {} | {} µs | {} |",
            number(f64::from(size.bindings)),
            number(f64::from(ours.added) / ours.added_in_s),
            bytes(ours.store_bytes_per_binding),
            number(ours.refresh_cpu_us),
            number(ours.refresh_us.p50),
            number(ours.refresh_us.p99),
            bytes(theirs.bytes_per_binding),
            number(theirs.refresh_cpu_us),
            ours.failures + theirs.failures,
        )
        .expect("a text takes all");
    }
    text
}

fn expiring(figures: &ExpiryFigures) -> String {
    let mut text = format!(
        "\n### {} bindings end at one time\n\nSwept in {} s, between the commits of others. Meanwhile phones ping 1,000 \
         times a second and register 500 times; times in µs, of the slowest of several windows; {} failed.\n\n\
         | | p50 | p99 | p99.9 | slowest |\n|---|---|---|---|---|\n",
        number(f64::from(figures.bindings)),
        number(figures.swept_in_s),
        figures.failures,
    );
    for (title, times) in [
        ("ping, nothing ends", figures.quiet_ping_us),
        ("ping, all end", figures.sweeping_ping_us),
        ("REGISTER, nothing ends", figures.quiet_register_us),
        ("REGISTER, all end", figures.sweeping_register_us),
    ] {
        let [p50, p99, p999, max] = [times.p50, times.p99, times.p999, times.max].map(number);
        writeln!(text, "| {title} | {p50} | {p99} | {p999} | {max} |").expect("a text takes all");
    }
    text
}

fn storms(storms: &[StormFigures]) -> String {
    let mut text = String::from(
        "\n### Everybody registers at once after `kill -9` of the edge\n\nUDP. From the kill until the last had its 200; \
         messages sent again are the phones' (RFC 3261, Timer E).\n\n\
         | users | all registered after | median | sent again | never |\n|---|---|---|---|---|\n",
    );
    for storm in storms {
        writeln!(
            text,
            "| {} | {} s | {} ms | {} | {} |",
            number(f64::from(storm.users)),
            number(storm.all_registered_in_s),
            number(storm.latency_us.p50 / 1000.0),
            storm.retransmissions,
            storm.failures,
        )
        .expect("a text takes all");
    }
    text
}
