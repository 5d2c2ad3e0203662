//! `bench`: measures, and writes what came out. `bench/run` builds what it needs and starts it.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use bench::compare::Comparison;
use bench::machine::Made;
use bench::pieces::{Piece, Pieces};
use bench::server::Bench;
use bench::steps::timing;
use bench::{applications, compare, latency, report, scale};
use clap::{Parser, ValueEnum};

/// Measures Outlast beside Kamailio and a bare echo.
#[derive(Debug, Parser)]
struct CommandLine {
    /// What to measure.
    #[arg(value_enum, default_value_t = Mode::All)]
    mode: Mode,
    /// Directory of `outlast` and `outlast-load`, release builds.
    #[arg(long)]
    binaries: PathBuf,
    /// The repository.
    #[arg(long, default_value = ".")]
    repository: PathBuf,
    /// Directory for servers; whoever gives it removes it
    #[arg(long)]
    scratch: PathBuf,
    /// Share of the bindings, calls and connections of `scale`: less than 1 to try it out
    #[arg(long, default_value_t = 1.0)]
    share: f64,
    /// Directory that `apps/build` has built into; `applications` needs it. Not given: target/apps of the repository
    #[arg(long)]
    applications: Option<PathBuf>,
    /// Two short rounds of `applications`, shown and not written
    #[arg(long)]
    quick: bool,
    /// This part of `scale` only, shown and not written; may be repeated
    #[arg(long, value_enum)]
    only: Vec<scale::Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Everything, and the report.
    All,
    /// Two short rounds beside Kamailio, shown and not written.
    Quick,
    /// Beside Kamailio and the echo.
    Compare,
    /// An application beside a relayed call and the echo; by itself only.
    Applications,
    /// Percentiles below saturation.
    Latency,
    /// A million bindings, a hundred thousand calls.
    Scale,
    /// The steps of a message's way, each alone.
    Steps,
    /// The report and its plots, from figures that are there.
    Report,
}

impl Mode {
    fn includes(self, part: Mode) -> bool {
        self == part || (self == Mode::All && part != Mode::Applications)
    }

    /// The command that a reader types.
    fn command(self) -> String {
        let name =
            self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        if self == Mode::All { "bench/run".to_owned() } else { format!("bench/run {name}") }
    }
}

fn main() -> anyhow::Result<()> {
    let CommandLine { mode, binaries, repository, scratch, share, applications, quick, only } =
        CommandLine::parse();
    let repository = repository.canonicalize().context("--repository")?;
    let bench = Bench {
        binaries: binaries.canonicalize().context("--binaries")?,
        peers: repository.join("bench/peers"),
        applications: applications.unwrap_or_else(|| repository.join("target/apps")),
        scratch: scratch.canonicalize().context("--scratch")?,
        users: compare::Extent::FULL.users,
    };
    if mode == Mode::Quick {
        let figures = compare::run(&bench, compare::Extent::QUICK, say);
        return show(&report::headline(&figures));
    }
    // Before anything is written, so that the commit is that of what is measured.
    let made = Made::here(&mode.command(), &repository);
    if mode == Mode::Applications && quick {
        return show_applications(&applications::run(&bench, compare::Extent::QUICK, say), &made);
    }
    let results = repository.join("bench/results");
    let mut pieces = Pieces::read(&results)?;
    if mode.includes(Mode::Compare) {
        let figures = compare::run(&bench, compare::Extent::FULL, say);
        pieces.compare = Some(Piece { made: made.clone(), figures });
    }
    if mode.includes(Mode::Applications) {
        let figures = applications::run(&bench, compare::Extent::FULL, say);
        show_applications(&figures, &made)?;
        pieces.applications = Some(Piece { made: made.clone(), figures });
    }
    if mode.includes(Mode::Latency) {
        let figures = latency::run(&bench, latency::Extent::FULL, say)?;
        pieces.latency = Some(Piece { made: made.clone(), figures });
    }
    if mode.includes(Mode::Scale) {
        let extent = scale::Extent { only, ..scale::Extent::share(share) };
        let is_partial = !extent.only.is_empty();
        let figures = scale::run(&bench, &extent, say);
        if is_partial {
            return show(&(serde_json::to_string_pretty(&figures)? + "\n"));
        }
        pieces.scale = Some(Piece { made: made.clone(), figures });
    }
    if mode.includes(Mode::Steps) {
        let tell = |time: &timing::StepTime| {
            say(&format!("{:<20} {:>9.1} ns", time.name, time.nanoseconds.median));
        };
        let figures = timing::run(&bench.scratch.join("steps"), |_| true, tell);
        pieces.steps = Some(Piece { made, figures });
    }
    pieces.write(&results)?;
    report::write(&pieces, &repository)?;
    if let Some(piece) = &pieces.compare {
        show(&report::headline(&piece.figures))?;
    }
    show("written: bench/RESULTS.md, bench/plots, bench/results, the table in README.md\n")
}

fn show_applications(figures: &Comparison, made: &Made) -> anyhow::Result<()> {
    let profile = if made.profile.is_empty() { "as it is" } else { &made.profile };
    show(&format!("{}\nrelease profile: {profile}\n", report::applications_table(figures)))
}

/// Progress goes to stderr, so that what was asked for can be taken from stdout.
fn say(line: &str) {
    // Whoever closed stderr does not want to know.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn show(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}
