//! Lays the cluster's configuration over a node's own file, before either is read: what the document says of a key holds in the
//! place of the file's value, and what it says of this node (`[on.NAME.…]`) in the place of both. Every value keeps its place, so
//! that problems and origins name the right file and line. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::document::{ALIKE, OF_ONE_NODE, ON};
use crate::parse::{node_config, process_name};
use crate::problem::Problem;
use crate::reader::{Reader, Section};
use crate::settings::{NodeConfig, NodeSettings};

/// What is laid over what; each with the name that its problems carry.
pub(crate) struct Layers<'a> {
    /// The node's own file.
    pub(crate) own: (&'a str, &'a str),
    /// The cluster's document, printed.
    pub(crate) over: Option<(&'a str, &'a str)>,
    /// See there.
    pub(crate) exceptions: Exceptions,
}

/// What the document says of single nodes (`[on.NAME.…]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exceptions {
    /// That of the node whose own file it is.
    OfNode,
    /// None of it: as for a node that the document does not name.
    Nobodys,
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: String,
    pub(crate) line: usize,
    /// In `[on.NAME.…]` of the document.
    pub(crate) is_of_node: bool,
}

/// What became of the layers.
pub(crate) struct Laid {
    pub(crate) config: NodeConfig,
    /// Where the value of each key stands that is set.
    pub(crate) places: BTreeMap<String, Place>,
    /// Keys of the node's own file that the document sets, too, and where the file does.
    pub(crate) hidden: BTreeMap<String, Place>,
}

/// What holds, without where it comes from.
pub(crate) fn config(layers: &Layers<'_>) -> Result<NodeConfig, Vec<Problem>> {
    lay(layers).map(|laid| laid.config)
}

/// What holds, and where it comes from; or every problem of both at once.
pub(crate) fn lay(layers: &Layers<'_>) -> Result<Laid, Vec<Problem>> {
    let (own_name, own) = layers.own;
    let (over_name, over) = layers.over.unwrap_or_default();
    // Both in one text, so that a place in it says which of them is meant.
    let begin = own.len() + 1;
    let text = format!("{own}\n{over}");
    let moved = format!("{}{over}", " ".repeat(begin));
    let files = vec![(0, own_name.to_owned()), (begin, over_name.to_owned())];
    let mut reader = Reader::new(files, &text);
    let (Some(table), Some(document)) = (reader.table(own), reader.table(&moved)) else {
        return Err(reader.into_problems());
    };
    let span = table.span();
    let (mut table, mut document) = (table.into_inner(), document.into_inner());
    let name = name_in(&table);
    let mut of_node = of_node(&mut document, &name);
    if layers.exceptions == Exceptions::Nobodys {
        of_node = DeTable::new();
    }
    let before = format!("{ON}.{name}.");
    refuse_what_is_of_one_node(&mut reader, &mut document, "");
    refuse_what_is_of_one_node(&mut reader, &mut of_node, &before);
    refuse_what_is_to_be_alike(&mut reader, &mut of_node, &before);
    let mut node_places = BTreeMap::new();
    collect(&of_node, "", &mut node_places);
    let mut hidden = BTreeMap::new();
    put_over(&mut table, document, "", &mut hidden);
    put_over(&mut table, of_node, "", &mut hidden);
    let mut places = BTreeMap::new();
    collect(&table, "", &mut places);
    let place = |(key, at): (String, usize)| {
        let (file, line) = reader.place(at);
        let is_of_node = node_places.get(&key) == Some(&at);
        (key, Place { file, line, is_of_node })
    };
    let places = places.into_iter().map(place).collect();
    // What the document itself says twice is not hidden from anybody.
    let hidden = hidden.into_iter().filter(|(_, at)| *at < begin).map(place).collect();
    let config = node_config(&mut reader, Section::root(Spanned::new(span, table)));
    reader.outcome(Laid { config, places, hidden })
}

/// As the file has it; a name that is none is reported when the file is read.
fn name_in(table: &DeTable<'_>) -> String {
    let section = table.get("node").and_then(|node| node.get_ref().as_table());
    let name = section.and_then(|node| node.get("name")?.get_ref().as_str());
    name.and_then(process_name).unwrap_or_else(|| NodeSettings::default().name)
}

/// What a document says of single nodes is taken out of it; what it says of this one is left.
fn of_node<'t>(document: &mut DeTable<'t>, name: &str) -> DeTable<'t> {
    let Some(DeValue::Table(mut nodes)) = document.remove(ON).map(Spanned::into_inner) else {
        return DeTable::new();
    };
    match nodes.remove(name).map(Spanned::into_inner) {
        Some(DeValue::Table(tables)) => tables,
        Some(_) | None => DeTable::new(),
    }
}

fn refuse_what_is_of_one_node(reader: &mut Reader<'_>, document: &mut DeTable<'_>, before: &str) {
    for (key, reason) in OF_ONE_NODE {
        if let Some(at) = take_out(document, key) {
            let message = format!("{reason}; it belongs into outlast.toml of each node");
            reader.report(at, format!("{before}{key}"), message);
        }
    }
}

fn refuse_what_is_to_be_alike(reader: &mut Reader<'_>, of_node: &mut DeTable<'_>, before: &str) {
    for (key, reason) in ALIKE {
        if let Some(at) = take_out(of_node, key) {
            let message =
                format!("needs to be alike on all nodes, for {reason}; set it outside [{ON}.NAME]");
            reader.report(at, format!("{before}{key}"), message);
        }
    }
}

/// Where it stood.
fn take_out(table: &mut DeTable<'_>, key: &str) -> Option<usize> {
    match key.split_once('.') {
        None => table.remove_entry(key).map(|(name, _)| name.span().start),
        Some((section, rest)) => match table.get_mut(section)?.get_mut() {
            DeValue::Table(section) => take_out(section, rest),
            _ => None,
        },
    }
}

/// Tables are laid over tables key by key; anything else takes the place of what was there, lists as a whole.
fn put_over<'t>(
    table: &mut DeTable<'t>,
    over: DeTable<'t>,
    path: &str,
    hidden: &mut BTreeMap<String, usize>,
) {
    for (name, value) in over {
        let key = join(path, name.get_ref());
        let Some((old_name, old)) = table.remove_entry(name.get_ref().as_ref()) else {
            table.insert(name, value);
            continue;
        };
        let spans = (old.span(), value.span());
        match (old.into_inner(), value.into_inner()) {
            (DeValue::Table(mut old), DeValue::Table(value)) => {
                put_over(&mut old, value, &key, hidden);
                table.insert(old_name, Spanned::new(spans.0, DeValue::Table(old)));
            }
            (old, value) => {
                hidden.entry(key).or_insert(first(&old, spans.0));
                table.insert(name, Spanned::new(spans.1, value));
            }
        }
    }
}

/// Where each value stands that is no table.
fn collect(table: &DeTable<'_>, path: &str, places: &mut BTreeMap<String, usize>) {
    for (name, value) in table {
        let key = join(path, name.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) => collect(inner, &key, places),
            other => drop(places.insert(key, first(other, value.span()))),
        }
    }
}

/// Where a value begins; a list of sections with the first of them.
fn first(value: &DeValue<'_>, span: Range<usize>) -> usize {
    let element = value.as_array().and_then(|array| array.first());
    element.map_or(span.start, |element| element.span().start)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
