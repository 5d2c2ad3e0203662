//! Measures Outlast beside Kamailio and a bare echo, and writes what came out.
//!
//! ```text
//! server  ─ starts ─▶ Outlast, Kamailio, echo ◀─ loads ─ load (outlast-load)
//! compare, applications, latency, scale: who gets which load, in which order ─▶ figures ─▶ pieces (JSON)
//! pieces ─▶ report (RESULTS.md, README's table) and plot (SVG)
//! ```
//!
//! Everything but [`server`] and [`load`] is a function of figures. Deliberately absent: thresholds that fail a build;
//! a budget that is missed is written down with by how much.

pub mod applications;
pub mod budget;
pub mod compare;
pub mod latency;
pub mod load;
pub mod machine;
pub mod messages;
pub mod pieces;
pub mod plot;
pub mod progress;
pub mod report;
pub mod scale;
pub mod server;
pub mod statistics;
pub mod steps;
