//! Changes of single settings in a file that an operator wrote: all else in it, comments too, stays as it is.

use std::ops::Range;

/// `text` with `key = value` in `[section]`; `value` is TOML. A line that sets the key, or that shows its default behind
/// a `#`, is replaced; else the line goes to the top of the section, and a section that is missing to the end of the file.
pub fn set(text: &str, section: &str, key: &str, value: &str) -> String {
    let line = format!("{key} = {value}");
    let mut lines: Vec<&str> = text.lines().collect();
    let Some(range) = range_of(&lines, section) else {
        let gap = if text.is_empty() { "" } else { "\n" };
        return format!("{}{gap}[{section}]\n{line}\n", ended(text));
    };
    let sets = |line: &str| sets(line, key);
    let find = |is_wanted: &dyn Fn(&str) -> bool| range.clone().find(|at| is_wanted(lines[*at]));
    let at = find(&sets).or_else(|| find(&|line: &str| line.strip_prefix('#').is_some_and(sets)));
    match at {
        Some(at) if sets(lines[at]) => {
            lines.splice(at..at + lines_of_value(&lines[at..]), [line.as_str()]);
        }
        Some(at) => lines[at] = &line,
        None => lines.insert(range.start, &line),
    }
    lines.join("\n") + "\n"
}

/// `text` without the line that sets `key` in `[section]`; a value goes on over further lines until its brackets close.
pub fn unset(text: &str, section: &str, key: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let at = range_of(&lines, section).and_then(|mut range| range.find(|at| sets(lines[*at], key)));
    if let Some(at) = at {
        lines.drain(at..at + lines_of_value(&lines[at..]));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Whether a line sets that key.
fn sets(line: &str, key: &str) -> bool {
    let rest = line.trim_start().strip_prefix(key).map(str::trim_start);
    rest.is_some_and(|rest| rest.starts_with('='))
}

/// The lines of a setting whose value may be a list over several. What stands in our lists has no bracket in it but
/// IPv6 addresses, which open and close theirs.
fn lines_of_value(lines: &[&str]) -> usize {
    let mut open = 0_i32;
    for (at, line) in lines.iter().enumerate() {
        let code = line.split_once('#').map_or(*line, |(code, _)| code);
        open += code.matches('[').count() as i32 - code.matches(']').count() as i32;
        if open <= 0 {
            return at + 1;
        }
    }
    lines.len()
}

/// `text` without `[section]` and its lines; comments before it stay.
pub fn remove_section(text: &str, section: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    if let Some(Range { start, end }) = range_of(&lines, section) {
        lines.drain(start - 1..end);
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The lines between a section's header and the next one.
fn range_of(lines: &[&str], section: &str) -> Option<Range<usize>> {
    let is_header = |line: &&str| {
        let rest = line.trim_start().strip_prefix('[').and_then(|rest| rest.split_once(']'));
        rest.is_some_and(|(name, _)| name.trim() == section)
    };
    let start = lines.iter().position(is_header)? + 1;
    let end = lines[start..].iter().position(|line| line.trim_start().starts_with('['));
    Some(start..end.map_or(lines.len(), |length| start + length))
}

fn ended(text: &str) -> String {
    if text.is_empty() || text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{FirstRun, parse};

    #[test]
    fn a_setting_of_the_first_runs_file_is_replaced_where_it_is_explained() {
        let text = FirstRun::default().text();
        let named = set(&text, "node", "name", "\"node7\"");
        assert_eq!(parse(&named).unwrap().node.name, "node7");
        assert_eq!(named.lines().count(), text.lines().count());
        let again = set(&named, "node", "name", "\"node8\"");
        assert_eq!(parse(&again).unwrap().node.name, "node8");
    }

    #[test]
    fn a_section_comes_and_goes_and_leaves_the_rest_alone() {
        for text in
            [FirstRun::default().text(), "[log]\nlevel = \"warn\"".to_owned(), String::new()]
        {
            let member = set(&text, "cluster", "address", "\"192.0.2.11:6200\"");
            let config = parse(&member).unwrap();
            assert_eq!(config.cluster.unwrap().address.port(), 6200);
            assert_eq!(config.log, parse(&text).unwrap().log);
            let left = remove_section(&member, "cluster");
            assert_eq!(parse(&left).unwrap(), parse(&text).unwrap());
            assert_eq!(left.trim_end(), text.trim_end());
        }
        assert_eq!(remove_section("[log]\n", "cluster"), "[log]\n");
    }

    #[test]
    fn a_list_over_several_lines_goes_and_is_replaced_whole() {
        let text = "[cluster]\naddress = \"a:1\"\nnodes = [ # all\n  \"[::1]:1\",\n  \"b:1\",\n]\nx = 1\n\n[log]\n";
        let left = "[cluster]\naddress = \"a:1\"\nx = 1\n\n[log]\n";
        assert_eq!(unset(text, "cluster", "nodes"), left);
        assert_eq!(unset(left, "cluster", "nodes"), left);
        assert_eq!(unset(left, "log", "x"), left, "of another section");
        let set = set(text, "cluster", "nodes", "[\"c:1\"]");
        assert_eq!(set, "[cluster]\naddress = \"a:1\"\nnodes = [\"c:1\"]\nx = 1\n\n[log]\n");
    }

    #[test]
    fn a_key_is_set_in_its_own_section_only() {
        let text = "[a]\nname = 1\n\n[b]\nnames = 2\n";
        assert_eq!(set(text, "b", "name", "3"), "[a]\nname = 1\n\n[b]\nname = 3\nnames = 2\n");
    }
}
