//! Takes a parsed TOML table apart key by key, and collects everything that is wrong with it.
//!
//! A [`Section`] hands out each known key once; what is left at [`Section::finish`] is unknown. A
//! setting that cannot be read yields its default, so that reading goes on and finds the next
//! problem; the caller throws the result away when there was any.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::nearest::nearest;
use crate::problem::Problem;
use crate::time_text::shown;

/// Longer values are cut in messages.
const SHOWN_CHARS_MAX: usize = 60;

/// The text and what was found wrong with it so far.
pub(crate) struct Reader<'t> {
    /// Where each file begins in the text, and its name: the first begins at 0.
    files: Vec<(usize, String)>,
    text: &'t str,
    problems: Vec<Problem>,
}

/// What a value must be, for the message: `needs {needs}, for example {example}`.
#[derive(Clone, Copy)]
pub(crate) struct Expected<'a> {
    pub(crate) needs: &'a str,
    pub(crate) example: &'a str,
}

/// What `sections` makes of `text`, or every problem of it at once.
pub(crate) fn read<T>(
    file: &'static str,
    text: &str,
    sections: impl FnOnce(&mut Reader<'_>, Section<'_>) -> T,
) -> Result<T, Vec<Problem>> {
    let mut reader = Reader::new(vec![(0, file.to_owned())], text);
    // A broken table would only yield riddles about keys that are there.
    let Some(table) = reader.table(text) else { return Err(reader.into_problems()) };
    let value = sections(&mut reader, Section::root(table));
    reader.outcome(value)
}

impl<'t> Reader<'t> {
    /// Of files that follow one another in `text`: where each begins, and the name that problems of it carry.
    pub(crate) fn new(files: Vec<(usize, String)>, text: &'t str) -> Reader<'t> {
        Reader { files, text, problems: Vec::new() }
    }

    /// The table of a text in which everything stands where it stands in the reader's; `None`: it is broken, and reported.
    pub(crate) fn table<'p>(&mut self, text: &'p str) -> Option<Spanned<DeTable<'p>>> {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let at = error.span().map_or(0, |span| span.start);
            self.report(at, String::new(), error.message().to_owned());
        }
        errors.is_empty().then_some(table)
    }

    /// What was made of the text, if nothing is wrong with it.
    pub(crate) fn outcome<T>(self, value: T) -> Result<T, Vec<Problem>> {
        let problems = self.into_problems();
        if problems.is_empty() { Ok(value) } else { Err(problems) }
    }

    /// The problems, file by file in the order of their lines.
    pub(crate) fn into_problems(mut self) -> Vec<Problem> {
        let files = &self.files;
        let number = |name: &str| files.iter().position(|(_, file)| file == name);
        self.problems.sort_by_key(|problem| (number(&problem.file), problem.line));
        self.problems
    }

    pub(crate) fn report(&mut self, at: usize, key: String, message: String) {
        let (file, line) = self.place(at);
        self.problems.push(Problem { file, line, key, message });
    }

    /// The file and the line of a place in the text.
    pub(crate) fn place(&self, at: usize) -> (String, usize) {
        let at = at.min(self.text.len());
        let (begin, file) = self
            .files
            .iter()
            .rev()
            .find(|(begin, _)| *begin <= at)
            .expect("the first file begins at 0");
        let before = &self.text.as_bytes()[*begin..at];
        (file.clone(), 1 + before.iter().filter(|byte| **byte == b'\n').count())
    }

    pub(crate) fn refuse(&mut self, key: String, span: Range<usize>, expected: Expected<'_>) {
        let Expected { needs, example } = expected;
        let shown = self.shown(span.clone());
        let message = format!("{shown} needs {needs}, for example {example}");
        self.report(span.start, key, message);
    }

    /// What stands there, cut if it is long.
    pub(crate) fn shown(&self, span: Range<usize>) -> String {
        let value = self.text.get(span).unwrap_or_default();
        let line = value.lines().next().unwrap_or_default();
        if line.len() == value.len() && line.chars().count() <= SHOWN_CHARS_MAX {
            return line.to_owned();
        }
        let cut: String = line.chars().take(SHOWN_CHARS_MAX).collect();
        format!("{cut}…")
    }
}

struct Entry<'t> {
    name: String,
    name_at: usize,
    value: Spanned<DeValue<'t>>,
}

/// One table of the file.
pub(crate) struct Section<'t> {
    path: String,
    at: usize,
    entries: Vec<Entry<'t>>,
    known: Vec<&'static str>,
    /// Those of `known` that the file sets, and where.
    taken: Vec<(&'static str, usize)>,
}

impl<'t> Section<'t> {
    pub(crate) fn root(table: Spanned<DeTable<'t>>) -> Section<'t> {
        let at = table.span().start;
        Section::new(String::new(), at, table.into_inner())
    }

    fn new(path: String, at: usize, table: DeTable<'t>) -> Section<'t> {
        let entries = table
            .into_iter()
            .map(|(name, value)| Entry {
                name_at: name.span().start,
                name: name.into_inner().into_owned(),
                value,
            })
            .collect();
        Section { path, at, entries, known: Vec::new(), taken: Vec::new() }
    }

    /// Where the section begins in the text.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Where the file sets one of the keys that were asked for, else where the section begins.
    pub(crate) fn at_key(&self, name: &str) -> usize {
        self.taken.iter().find(|(taken, _)| *taken == name).map_or(self.at, |(_, at)| *at)
    }

    /// The dotted name of one of its keys.
    pub(crate) fn key(&self, name: &str) -> String {
        match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }

    fn take(&mut self, name: &'static str) -> Option<Entry<'t>> {
        self.known.push(name);
        let at = self.entries.iter().position(|entry| entry.name == name)?;
        let entry = self.entries.remove(at);
        self.taken.push((name, entry.name_at));
        Some(entry)
    }

    /// Reports a key that has no default and is not set (a bad value is reported already).
    pub(crate) fn require(&self, reader: &mut Reader<'_>, name: &str, example: &str) {
        if !self.taken.iter().any(|(taken, _)| *taken == name) {
            let message = format!("is missing, for example {example}");
            reader.report(self.at, self.key(name), message);
        }
    }

    /// The table of that name; an empty one when the file has none.
    pub(crate) fn section(&mut self, reader: &mut Reader<'_>, name: &'static str) -> Section<'t> {
        let path = self.key(name);
        let Some(entry) = self.take(name) else {
            return Section::new(path, self.at, DeTable::new());
        };
        let span = entry.value.span();
        let table = match entry.value.into_inner() {
            DeValue::Table(table) => table,
            _ => {
                let message = format!("needs a section, for example [{path}]");
                reader.report(entry.name_at, path.clone(), message);
                DeTable::new()
            }
        };
        Section::new(path, span.start, table)
    }

    /// The table of that name; `None` when the file has none.
    pub(crate) fn optional_section(
        &mut self,
        reader: &mut Reader<'_>,
        name: &'static str,
    ) -> Option<Section<'t>> {
        let is_there = self.entries.iter().any(|entry| entry.name == name);
        let section = self.section(reader, name);
        is_there.then_some(section)
    }

    /// The value of that name as it stands; `None` when the file does not set it.
    pub(crate) fn value(&mut self, name: &'static str) -> Option<Spanned<DeValue<'t>>> {
        self.take(name).map(|entry| entry.value)
    }

    /// The array of tables of that name; `None` when the file has none.
    pub(crate) fn sections(
        &mut self,
        reader: &mut Reader<'_>,
        name: &'static str,
    ) -> Option<Vec<Section<'t>>> {
        let path = self.key(name);
        let entry = self.take(name)?;
        let refuse = |reader: &mut Reader<'_>, at| {
            let message = format!("needs a list of sections, for example [[{path}]]");
            reader.report(at, path.clone(), message);
        };
        let DeValue::Array(array) = entry.value.into_inner() else {
            refuse(reader, entry.name_at);
            return None;
        };
        let mut sections = Vec::new();
        for element in array {
            let at = element.span().start;
            match element.into_inner() {
                DeValue::Table(table) => sections.push(Section::new(path.clone(), at, table)),
                _ => refuse(reader, at),
            }
        }
        Some(sections)
    }

    /// Any value, by `read`; `None` when the file does not set it or `read` refuses it.
    pub(crate) fn optional<T>(
        &mut self,
        reader: &mut Reader<'_>,
        name: &'static str,
        expected: Expected<'_>,
        read: impl FnOnce(&DeValue<'_>) -> Option<T>,
    ) -> Option<T> {
        let entry = self.take(name)?;
        let value = read(entry.value.get_ref());
        if value.is_none() {
            reader.refuse(self.key(name), entry.value.span(), expected);
        }
        value
    }

    /// A list of texts; each bad one is reported at its own line.
    pub(crate) fn texts<T>(
        &mut self,
        reader: &mut Reader<'_>,
        name: &'static str,
        expected: Expected<'_>,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let entry = self.take(name)?;
        let key = self.key(name);
        let span = entry.value.span();
        let list = |example: &str| format!("[{example}]");
        let DeValue::Array(array) = entry.value.into_inner() else {
            let needs = format!("a list of texts, each {}", expected.needs);
            let example = list(expected.example);
            let expected = Expected { needs: &needs, example: &example };
            reader.refuse(key, span, expected);
            return None;
        };
        if array.is_empty() {
            let example = list(expected.example);
            let expected = Expected { needs: "at least one element", example: &example };
            reader.refuse(key, span, expected);
            return None;
        }
        let mut values = Vec::new();
        for element in array {
            let span = element.span();
            match element.get_ref() {
                DeValue::String(text) => match read(text) {
                    Some(value) => values.push(value),
                    None => reader.refuse(key.clone(), span, expected),
                },
                _ => reader.refuse(key.clone(), span, expected),
            }
        }
        Some(values)
    }

    pub(crate) fn text<T>(
        &mut self,
        reader: &mut Reader<'_>,
        name: &'static str,
        expected: Expected<'_>,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.optional(reader, name, expected, |value| match value {
            DeValue::String(text) => read(text),
            _ => None,
        })
    }

    pub(crate) fn flag(
        &mut self,
        reader: &mut Reader<'_>,
        name: &'static str,
        default: bool,
    ) -> bool {
        let expected = Expected { needs: "true or false", example: "true" };
        self.optional(reader, name, expected, |value| match value {
            DeValue::Boolean(flag) => Some(*flag),
            _ => None,
        })
        .unwrap_or(default)
    }

    pub(crate) fn integer<T: TryFrom<u64> + Copy + Display + Into<u64>>(
        &mut self,
        reader: &mut Reader<'_>,
        name: &'static str,
        default: T,
        range: RangeInclusive<T>,
    ) -> T {
        let needs = format!("a whole number from {} to {}", range.start(), range.end());
        let example = default.to_string();
        let expected = Expected { needs: &needs, example: &example };
        let range: RangeInclusive<u64> = (*range.start()).into()..=(*range.end()).into();
        self.optional(reader, name, expected, |value| integer_in(value, &range)).unwrap_or(default)
    }

    pub(crate) fn time(
        &mut self,
        reader: &mut Reader<'_>,
        name: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let needs = format!("a time from {} to {}", shown(*range.start()), shown(*range.end()));
        let example = format!("\"{}\"", shown(default));
        let expected = Expected { needs: &needs, example: &example };
        self.text(reader, name, expected, |text| {
            let time = humantime::parse_duration(text).ok()?;
            range.contains(&time).then_some(time)
        })
        .unwrap_or(default)
    }

    /// Reports the keys that nobody asked for.
    pub(crate) fn finish(self, reader: &mut Reader<'_>) {
        for entry in &self.entries {
            let key = self.key(&entry.name);
            let message = match nearest(&entry.name, &self.known) {
                Some(known) => format!("unknown; did you mean {known}?"),
                None => format!("unknown; known here: {}", self.known.join(", ")),
            };
            reader.report(entry.name_at, key, message);
        }
    }
}

/// A whole number within `range`, in any of TOML's notations.
pub(crate) fn integer_in<T: TryFrom<u64>>(
    value: &DeValue<'_>,
    range: &RangeInclusive<u64>,
) -> Option<T> {
    let DeValue::Integer(integer) = value else {
        return None;
    };
    let digits = integer.as_str().trim_start_matches('+');
    let number = u64::from_str_radix(digits, integer.radix()).ok()?;
    range.contains(&number).then(|| T::try_from(number).ok())?
}
