//! What commands print: results on stdout, as a table for people or JSON for programs; errors on stderr.

use std::io::{self, Write as _};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;
use crate::outlet::Outlet;

/// Whoever reads an error at all reads it within this.
const PATIENCE: Duration = Duration::from_secs(1);

/// Names of lives in JSON: their greatest are above 2^53.
const LIVES: [&str; 2] = ["incarnation", "last_life"];

/// Prints a line on stdout. Who closed the pipe wants no more: that is not an error.
pub(crate) fn line(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Prints the failure on stderr, which may be closed as well, or a pipe that nobody reads.
pub(crate) fn error(failure: &Failure) {
    let stderr = Outlet::new(io::stderr());
    stderr.line(&format!("outlast: {failure}"));
    stderr.flush(PATIENCE);
}

/// Prints a remark on stderr.
pub(crate) fn remark(text: &str) {
    let _ = writeln!(io::stderr().lock(), "outlast: {text}");
}

/// Prints a value as JSON on one line.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(anyhow::Error::from)?;
    line(&text);
    Ok(())
}

/// Prints a value as JSON on one line, with the lives in it as text, as logs show them: programs that read numbers as floating
/// point would take two lives of one node for the same.
pub(crate) fn json_with_lives(value: &impl Serialize) -> Result<(), Failure> {
    let mut value = serde_json::to_value(value).map_err(anyhow::Error::from)?;
    lives_as_text(&mut value);
    json(&value)
}

fn lives_as_text(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value.as_u64() {
                    Some(life) if LIVES.contains(&name.as_str()) => {
                        *value = Value::String(format!("{life:x}"));
                    }
                    Some(_) | None => lives_as_text(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(lives_as_text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Prints rows in columns as wide as their widest cell.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) {
    for row in columns(head, rows) {
        line(&row);
    }
}

/// What phones sent may hold anything: control characters, which could command the operator's terminal, are shown
/// as `�`.
fn columns(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let head = head.iter().map(ToString::to_string).collect();
    let printable = |cell: &String| cell.replace(char::is_control, "\u{fffd}");
    let rows = rows.iter().map(|row| row.iter().map(printable).collect());
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let aligned = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<String>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(aligned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_text_wherever_they_stand() {
        let life = (1_u64 << 52) * 3 + 1;
        let mut value = serde_json::json!({
            "pid": 7, "processes": [{"incarnation": life, "restarts": 2}], "node": {"last_life": 255},
        });
        lives_as_text(&mut value);
        let expected = serde_json::json!({
            "pid": 7, "processes": [{"incarnation": "30000000000001", "restarts": 2}], "node": {"last_life": "ff"},
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn columns_are_aligned_and_command_no_terminal() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let rows = [row(["alice", "sip:a@192.0.2.1"]), row(["bär\u{1b}[2J", ""])];
        assert_eq!(
            columns(&["NAME", "CONTACT"], &rows),
            ["NAME     CONTACT", "alice    sip:a@192.0.2.1", "bär\u{fffd}[2J"]
        );
    }
}
