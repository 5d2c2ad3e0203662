//! `forward-path STEP TIMES`: does one step of the forward path so many times. `forward-path list` names them,
//! `forward-path title STEP` says what one does.
//! `bench/instructions` runs it twice under callgrind and takes the difference.

use std::io::Write as _;
use std::process::ExitCode;

use bench::steps::STEPS;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["list"] => {
            let names: String = STEPS.iter().map(|step| format!("{}\n", step.name)).collect();
            print(&names)
        }
        ["title", name] => match STEPS.iter().find(|step| step.name == name) {
            Some(step) => print(&format!("{}\n", step.title)),
            None => usage(),
        },
        [name, times] => {
            let step = STEPS.iter().find(|step| step.name == name);
            let (Some(step), Ok(times)) = (step, times.parse::<u64>()) else { return usage() };
            let mut work = (step.prepare)();
            for _ in 0..times {
                work();
            }
            ExitCode::SUCCESS
        }
        _ => usage(),
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn usage() -> ExitCode {
    eprintln!("forward-path STEP TIMES, forward-path title STEP, or forward-path list");
    ExitCode::from(2)
}
