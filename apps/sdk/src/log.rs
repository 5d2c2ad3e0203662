//! Lines for the operator, which carry application, version and session. They are written also when the event fails.

use crate::bindings::handler::outlast::app::log::{Level, write};

/// For whoever looks for a fault.
pub fn debug(line: &str) {
    write(Level::Debug, line);
}

/// What happened.
pub fn info(line: &str) {
    write(Level::Info, line);
}

/// What the operator should look at some day.
pub fn warn(line: &str) {
    write(Level::Warn, line);
}

/// What the operator must look at.
pub fn error(line: &str) {
    write(Level::Error, line);
}

/// From now on a panic's message and place are lines of the log: not every system for WebAssembly has a standard error.
pub(crate) fn report_panics() {
    std::panic::set_hook(Box::new(|panic| error(&panic.to_string())));
}
