//! Which keys a manifest may have, their ranges, and what must hold between them.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::condition::{self, Comparison, Condition, DEPTH_MAX, PARTS_MAX, Variable};
use super::{
    Calls, ClusterSettings, FILE_NAME, HealthSettings, HttpSettings, InstanceSettings, Limits,
    Manifest, Region, Replication, SessionSettings, SipSettings, Version, size_text,
};
use crate::listen::domain_name;
use crate::nearest::nearest;
use crate::parse::process_name;
use crate::problem::Problem;
use crate::reader::{Expected, Reader, Section, read};

const SECOND: Duration = Duration::from_secs(1);
const CONDITION: Expected<'_> = Expected {
    needs: "a condition, a table with one of the keys all, any, not, equal, contains, exists, subdomain_of",
    example: "{ equal = [\"request.method\", \"INVITE\"] }",
};

/// Every problem of `text` at once, or the manifest.
pub(super) fn parse(text: &str) -> Result<Manifest, Vec<Problem>> {
    read(FILE_NAME, text, manifest)?.ok_or_else(Vec::new)
}

/// What an application's name is.
pub const NAME_NEEDS: &str = "1 to 32 of a-z, 0-9 and - that begin with a letter";

/// Whether an application may be called so.
pub fn is_name(text: &str) -> bool {
    process_name(text).is_some()
}

/// None: a required key is missing or bad, and reported.
fn manifest(reader: &mut Reader<'_>, mut root: Section<'_>) -> Option<Manifest> {
    let expected = Expected { needs: NAME_NEEDS, example: "\"click-to-dial\"" };
    let name = root.text(reader, "name", expected, process_name);
    let expected = Expected { needs: "three numbers", example: "\"1.2.0\"" };
    let version = root.text(reader, "version", expected, |text| text.parse::<Version>().ok());
    let expected = Expected {
        needs: "the name of a file beside this one, without directory",
        example: "\"click_to_dial.wasm\"",
    };
    let component = root.text(reader, "component", expected, file_name);
    root.require(reader, "name", "name = \"click-to-dial\"");
    root.require(reader, "version", "version = \"1.0.0\"");
    root.require(reader, "component", "component = \"click_to_dial.wasm\"");
    let distributable = root.flag(reader, "distributable", true);
    let expected = Expected { needs: "a whole number from -1000 to 1000", example: "100" };
    let order = root.optional(reader, "order", expected, order);
    let cluster = root.section(reader, "cluster");
    let cluster = cluster_settings(reader, cluster);
    let sip = root.section(reader, "sip");
    let sip = sip_settings(reader, sip);
    let http = root.optional_section(reader, "http");
    let http = http.and_then(|section| http_settings(reader, section));
    let session = root.section(reader, "session");
    let session = session_settings(reader, session);
    let instances = root.section(reader, "instances");
    let instances = instance_settings(reader, instances);
    let limits = root.section(reader, "limits");
    let limits = limit_settings(reader, limits);
    let config = root.texts_by_name(reader, "config");
    let health = root.section(reader, "health");
    let health = health_settings(reader, health, http.as_ref());
    root.finish(reader);
    Some(Manifest {
        name: name?,
        version: version?,
        component: component?,
        distributable,
        order: order.unwrap_or(0),
        cluster,
        sip,
        http,
        session,
        instances,
        limits,
        config,
        health,
    })
}

fn file_name(text: &str) -> Option<String> {
    let fits = !text.is_empty()
        && text.len() <= 128
        && !text.starts_with('.')
        && !text.contains(['/', '\\', '\0']);
    fits.then(|| text.to_owned())
}

fn order(value: &DeValue<'_>) -> Option<i32> {
    let DeValue::Integer(integer) = value else { return None };
    let order = i32::from_str_radix(integer.as_str(), integer.radix()).ok()?;
    (-1_000..=1_000).contains(&order).then_some(order)
}

fn cluster_settings(reader: &mut Reader<'_>, mut section: Section<'_>) -> ClusterSettings {
    let default = ClusterSettings::default();
    let name = Expected {
        needs: "1 to 32 of a-z, 0-9 and - that begin with a letter",
        example: "\"default\"",
    };
    let replication =
        Expected { needs: "\"before-reply\" or \"after-reply\"", example: "\"before-reply\"" };
    let settings = ClusterSettings {
        enabled: section.flag(reader, "enabled", default.enabled),
        group_name: section
            .text(reader, "group_name", name, process_name)
            .unwrap_or(default.group_name),
        replication: section
            .text(reader, "replication", replication, |text| match text {
                "before-reply" => Some(Replication::BeforeReply),
                "after-reply" => Some(Replication::AfterReply),
                _ => None,
            })
            .unwrap_or(default.replication),
        write_quota: section.integer(reader, "write_quota", default.write_quota, 0..=8),
        allow_colocation: section.flag(reader, "allow_colocation", default.allow_colocation),
    };
    section.finish(reader);
    settings
}

fn sip_settings(reader: &mut Reader<'_>, mut section: Section<'_>) -> SipSettings {
    let default = SipSettings::default();
    let key = section.key("match");
    let condition = section.value("match").and_then(|value| {
        let mut parts = PARTS_MAX;
        condition(reader, &key, value, DEPTH_MAX, &mut parts)
    });
    let events = Expected { needs: "\"created\" or \"ended\"", example: "\"ended\"" };
    let events = section
        .texts(reader, "events", events, |text| {
            ["created", "ended"].into_iter().find(|known| *known == text)
        })
        .unwrap_or_default();
    let region = Expected {
        needs: "\"originating\", \"neutral\" or \"terminating\"",
        example: "\"terminating\"",
    };
    let calls = Expected { needs: "\"continue\" or \"new\"", example: "\"continue\"" };
    let settings = SipSettings {
        condition,
        authenticate: section.flag(reader, "authenticate", default.authenticate),
        region: section
            .text(reader, "region", region, |text| {
                let all = [Region::Originating, Region::Neutral, Region::Terminating];
                all.into_iter().find(|region| region.to_string() == text)
            })
            .unwrap_or(default.region),
        calls: section
            .text(reader, "calls", calls, |text| match text {
                "continue" => Some(Calls::Continue),
                "new" => Some(Calls::New),
                _ => None,
            })
            .unwrap_or(default.calls),
        hears_created: events.contains(&"created"),
        hears_ended: events.contains(&"ended"),
        on_failure: section.integer(reader, "on_failure", default.on_failure, 400..=699),
    };
    section.finish(reader);
    settings
}

/// None: it is none, and that is reported.
fn condition(
    reader: &mut Reader<'_>,
    key: &str,
    value: Spanned<DeValue<'_>>,
    depth: usize,
    parts: &mut usize,
) -> Option<Condition> {
    let span = value.span();
    if depth == 0 || *parts == 0 {
        let message = format!(
            "needs at most {DEPTH_MAX} conditions in one another and {PARTS_MAX} in all: several applications may \
             share the work"
        );
        reader.report(span.start, key.to_owned(), message);
        return None;
    }
    *parts -= 1;
    let DeValue::Table(table) = value.into_inner() else {
        reader.refuse(key.to_owned(), span, CONDITION);
        return None;
    };
    let mut ignore_case = false;
    let mut operator = None;
    for (name, value) in table {
        let name_at = name.span().start;
        let name = name.into_inner();
        match (&*name, value.get_ref()) {
            ("ignore_case", DeValue::Boolean(flag)) => ignore_case = *flag,
            ("ignore_case", _) => {
                let expected = Expected { needs: "true or false", example: "true" };
                reader.refuse(key.to_owned(), value.span(), expected);
            }
            _ if operator.is_none() => operator = Some((name.into_owned(), name_at, value)),
            _ => {
                reader.refuse(key.to_owned(), span, CONDITION);
                return None;
            }
        }
    }
    let Some((name, name_at, value)) = operator else {
        reader.refuse(key.to_owned(), span, CONDITION);
        return None;
    };
    let compared = |reader: &mut Reader<'_>, value| comparison(reader, key, value, ignore_case);
    match name.as_str() {
        "all" => conditions(reader, key, value, depth, parts).map(Condition::All),
        "any" => conditions(reader, key, value, depth, parts).map(Condition::Any),
        "not" => {
            let inner = condition(reader, key, value, depth - 1, parts)?;
            Some(Condition::Not(Box::new(inner)))
        }
        "exists" => variable(reader, key, &value).map(Condition::Exists),
        "equal" => compared(reader, value).map(Condition::Equal),
        "contains" => compared(reader, value).map(Condition::Contains),
        "subdomain_of" => compared(reader, value).map(Condition::SubdomainOf),
        _ => {
            let known = ["all", "any", "not", "equal", "contains", "exists", "subdomain_of"];
            let message = match nearest(&name, &known) {
                Some(known) => format!("unknown; did you mean {known}?"),
                None => format!("unknown; known here: {}, ignore_case", known.join(", ")),
            };
            reader.report(name_at, format!("{key}.{name}"), message);
            None
        }
    }
}

fn conditions(
    reader: &mut Reader<'_>,
    key: &str,
    value: Spanned<DeValue<'_>>,
    depth: usize,
    parts: &mut usize,
) -> Option<Vec<Condition>> {
    let span = value.span();
    let DeValue::Array(array) = value.into_inner() else {
        let expected = Expected {
            needs: "a list of conditions",
            example: "[{ equal = [\"request.method\", \"INVITE\"] }]",
        };
        reader.refuse(key.to_owned(), span, expected);
        return None;
    };
    let read: Vec<_> =
        array.into_iter().map(|value| condition(reader, key, value, depth - 1, parts)).collect();
    read.into_iter().collect()
}

fn comparison(
    reader: &mut Reader<'_>,
    key: &str,
    value: Spanned<DeValue<'_>>,
    ignore_case: bool,
) -> Option<Comparison> {
    let span = value.span();
    let pair = match value.into_inner() {
        DeValue::Array(array) => <[_; 2]>::try_from(array.into_iter().collect::<Vec<_>>()).ok(),
        _ => None,
    };
    let text = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        _ => None,
    };
    let Some(([first, second], second_text)) =
        pair.and_then(|pair| text(pair[1].get_ref()).map(|text| (pair, text)))
    else {
        let expected = Expected {
            needs: "a variable and a text",
            example: "[\"request.uri.user\", \"dial\"]",
        };
        reader.refuse(key.to_owned(), span, expected);
        return None;
    };
    drop(second);
    Some(Comparison { variable: variable(reader, key, &first)?, text: second_text, ignore_case })
}

fn variable(reader: &mut Reader<'_>, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Variable> {
    let variable = match value.get_ref() {
        DeValue::String(text) => text.parse().ok(),
        _ => None,
    };
    if variable.is_none() {
        let expected = Expected { needs: condition::NEEDS, example: "\"request.uri.host\"" };
        reader.refuse(key.to_owned(), value.span(), expected);
    }
    variable
}

fn http_settings(reader: &mut Reader<'_>, mut section: Section<'_>) -> Option<HttpSettings> {
    let expected = Expected {
        needs: "a path that begins with / and, but for / itself, does not end with it",
        example: "\"/click-to-dial\"",
    };
    let path = section.text(reader, "path", expected, |text| http_path(text, true));
    section.require(reader, "path", "path = \"/click-to-dial\"");
    let expected = Expected { needs: "a domain name or address", example: "\"app.example.com\"" };
    let host = section.text(reader, "host", expected, |text| domain_name(text).ok());
    let expected = Expected { needs: "1 to 64 letters, digits, - and _", example: "\"OUTLAST\"" };
    let session_cookie = section.text(reader, "session_cookie", expected, |text| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        ((1..=64).contains(&text.len()) && text.bytes().all(fits)).then(|| text.to_owned())
    });
    section.finish(reader);
    let session_cookie = session_cookie.unwrap_or_else(|| "OUTLASTSESSION".to_owned());
    Some(HttpSettings { path: path?, host, session_cookie })
}

fn http_path(text: &str, may_be_root: bool) -> Option<String> {
    let is_visible = |byte: u8| byte.is_ascii_graphic() && !b"?#%\"<>\\".contains(&byte);
    let fits = text.starts_with('/')
        && text.len() <= 256
        && text.bytes().all(is_visible)
        && !text.contains("//")
        && !text.split('/').any(|part| part == "." || part == "..")
        && (!text.ends_with('/') || (may_be_root && text == "/"));
    fits.then(|| text.to_owned())
}

fn session_settings(reader: &mut Reader<'_>, mut section: Section<'_>) -> SessionSettings {
    let default = SessionSettings::default();
    let range = SECOND..=24 * 3_600 * SECOND;
    let settings =
        SessionSettings { expires: section.time(reader, "expires", default.expires, range) };
    section.finish(reader);
    settings
}

fn instance_settings(reader: &mut Reader<'_>, mut section: Section<'_>) -> InstanceSettings {
    let default = InstanceSettings::default();
    let settings = InstanceSettings { reuse: section.flag(reader, "reuse", default.reuse) };
    section.finish(reader);
    settings
}

fn limit_settings(reader: &mut Reader<'_>, mut section: Section<'_>) -> Limits {
    let default = Limits::default();
    let milli = Duration::from_millis(1);
    let settings = Limits {
        memory: size(reader, &mut section, "memory", default.memory, (1 << 16, 1 << 30)),
        time: section.time(reader, "time", default.time, milli..=10 * SECOND),
        http_body: size(reader, &mut section, "http_body", default.http_body, (0, 16 << 20)),
    };
    section.finish(reader);
    settings
}

fn size(
    reader: &mut Reader<'_>,
    section: &mut Section<'_>,
    name: &'static str,
    default: u64,
    (least, most): (u64, u64),
) -> u64 {
    let needs = format!("a size from {} to {}", size_text::shown(least), size_text::shown(most));
    let example = format!("\"{}\"", size_text::shown(default));
    let expected = Expected { needs: &needs, example: &example };
    let read = |text: &str| size_text::parse(text).filter(|size| (least..=most).contains(size));
    section.text(reader, name, expected, read).unwrap_or(default)
}

/// Containers tell four times a second what their handlers count: a shorter watch would see nothing.
const WATCH_MIN: Duration = Duration::from_millis(500);

/// Whether a request for `path` is for what stands at `root`.
fn is_below(path: &str, root: &str) -> bool {
    let rest = path.strip_prefix(root);
    root == "/" || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn health_settings(
    reader: &mut Reader<'_>,
    mut section: Section<'_>,
    http: Option<&HttpSettings>,
) -> HealthSettings {
    let default = HealthSettings::default();
    let expected = Expected { needs: "a path that begins with /", example: "\"/health\"" };
    let settings = HealthSettings {
        http_path: section.text(reader, "http_path", expected, |text| http_path(text, false)),
        failures_percent_max: section.integer(
            reader,
            "failures_percent_max",
            default.failures_percent_max,
            0..=100,
        ),
        watch: section.time(reader, "watch", default.watch, WATCH_MIN..=600 * SECOND),
    };
    let message = match (&settings.http_path, http) {
        (Some(_), None) => Some("needs [http] with a path that it stands below".to_owned()),
        (Some(path), Some(http)) if !is_below(path, &http.path) => Some(format!(
            "{path:?} stands not below http.path, which is {:?}: another application would be asked",
            http.path
        )),
        (Some(_), Some(_)) | (None, _) => None,
    };
    if let Some(message) = message {
        reader.report(section.at_key("http_path"), section.key("http_path"), message);
    }
    section.finish(reader);
    settings
}

/// The most settings of an application's own.
const CONFIG_MAX: usize = 256;
/// The longest of their names, and of their values, in octets.
pub(super) const CONFIG_BYTES_MAX: (usize, usize) = (64, 4_096);

impl Section<'_> {
    /// A section with keys of the author's own, all of them texts.
    fn texts_by_name(
        &mut self,
        reader: &mut Reader<'_>,
        name: &'static str,
    ) -> BTreeMap<String, String> {
        let path = self.key(name);
        let mut texts = BTreeMap::new();
        let Some(value) = self.value(name) else { return texts };
        let span = value.span();
        let DeValue::Table(table) = value.into_inner() else {
            let message = format!("needs a section, for example [{path}]");
            reader.report(span.start, path, message);
            return texts;
        };
        for (key, value) in table {
            let at = key.span().start;
            let key = key.into_inner().into_owned();
            let DeValue::String(text) = value.get_ref() else {
                let expected = Expected { needs: "a text", example: "\"30\"" };
                reader.refuse(format!("{path}.{key}"), value.span(), expected);
                continue;
            };
            if key.len() > CONFIG_BYTES_MAX.0 || text.len() > CONFIG_BYTES_MAX.1 {
                let (name, value) = CONFIG_BYTES_MAX;
                let message =
                    format!("needs a name of at most {name} octets and a value of {value}");
                reader.report(at, path.clone(), message);
            }
            texts.insert(key, text.clone().into_owned());
        }
        if texts.len() > CONFIG_MAX {
            let message = format!("{} settings; needs at most {CONFIG_MAX}", texts.len());
            reader.report(span.start, path, message);
        }
        texts
    }
}
