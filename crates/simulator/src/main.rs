//! `simulator --seeds 10000 [--from N]` runs many worlds, `simulator --seed N` tells the story of one.
#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::process::ExitCode;
use std::time::Instant;

use simulator::runs::{run_all, story};

const USAGE: &str = "usage: simulator --seed N | --seeds COUNT [--from N]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        arguments.get(place + 1)?.parse::<u64>().ok()
    };
    match (value("--seed"), value("--seeds")) {
        (Some(seed), None) => one(seed),
        (None, Some(count)) => many(value("--from").unwrap_or(0), count),
        (None, None) | (Some(_), Some(_)) => {
            eprintln!("{USAGE}");
            ExitCode::from(64)
        }
    }
}

fn one(seed: u64) -> ExitCode {
    let (report, story) = story(seed);
    println!("{story}");
    println!("seed {seed}: {} steps, hash {:016x}", report.steps, report.hash);
    for violation in &report.violations {
        println!("  {violation}");
    }
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn many(from: u64, count: u64) -> ExitCode {
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let summary = run_all(from..from.saturating_add(count), threads);
    for (_, failure) in &summary.failures {
        println!("{failure}");
    }
    println!(
        "{} seeds, {} steps, {} calls answered, {} failures, {:.1} s",
        summary.seeds,
        summary.steps,
        summary.talked,
        summary.failures.len(),
        began.elapsed().as_secs_f64()
    );
    if summary.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
