//! Manifests, with and without mistakes.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::condition::{AddressHeader, AddressPart, UriPart, Variable};
use super::*;

const LEAST: &str = "name = \"a\"\nversion = \"1.0.0\"\ncomponent = \"a.wasm\"\n";

/// Asserts the exact lines that a developer reads.
fn check(text: &str, expected: &[&str]) {
    let lines: Vec<String> =
        parse(text).expect_err("a refusal").iter().map(ToString::to_string).collect();
    assert_eq!(lines, expected);
}

#[test]
fn three_keys_are_enough() {
    let manifest = parse(LEAST).unwrap();
    assert_eq!(manifest.id(), "a@1.0.0");
    assert!(manifest.distributable && manifest.http.is_none() && manifest.sip.condition.is_none());
    assert_eq!(manifest.limits, Limits::default());
}

#[test]
fn everything_can_be_said() {
    let text = r#"
name = "click-to-dial"
version = "1.12.3"
component = "click_to_dial.wasm"
distributable = true
order = -10

[cluster]
enabled = true
group_name = "voice"
replication = "after-reply"
write_quota = 1
allow_colocation = false

[sip]
match = { all = [
    { equal = ["request.method", "INVITE"] },
    { any = [
        { equal = ["request.uri.user", "Dial"], ignore_case = true },
        { subdomain_of = ["request.uri.host", "pbx.example.com"] },
    ] },
    { not = { exists = "request.header.X-Bypass" } },
] }
authenticate = false
region = "terminating"
calls = "new"
events = ["created", "ended"]
on_failure = 503

[http]
path = "/click-to-dial"
host = "app.example.com"
session_cookie = "CALLS"

[session]
expires = "1h"

[instances]
reuse = true

[limits]
memory = "128MiB"
time = "20ms"
http_body = "64KiB"

[config]
ring_seconds = "30"

[health]
http_path = "/click-to-dial/health"
failures_percent_max = 0
watch = "5s"
"#;
    let manifest = parse(text).unwrap();
    assert_eq!(manifest.version, Version { major: 1, minor: 12, patch: 3 });
    assert_eq!(manifest.order, -10);
    assert_eq!(manifest.cluster.replication, Replication::AfterReply);
    assert_eq!((manifest.sip.region, manifest.sip.calls), (Region::Terminating, Calls::New));
    assert!(!manifest.sip.authenticate && parse(LEAST).unwrap().sip.authenticate);
    assert_eq!(manifest.limits.memory, 128 << 20);
    assert_eq!(manifest.config["ring_seconds"], "30");
    let Some(Condition::All(conditions)) = &manifest.sip.condition else { panic!("no all") };
    assert_eq!(conditions.len(), 3);
    let Condition::Any(choices) = &conditions[1] else { panic!("no any: {:?}", conditions[1]) };
    let Condition::Equal(user) = &choices[0] else { panic!("no equal: {:?}", choices[0]) };
    assert!(user.ignore_case && user.variable == Variable::RequestUri(UriPart::User));
    let json = serde_json::to_string(&manifest).unwrap();
    assert_eq!(serde_json::from_str::<Manifest>(&json).unwrap(), manifest);
}

#[test]
fn what_is_missing_or_misspelt_is_told_at_once() {
    check(
        "name = \"Bad Name\"\ncomponent = \"../a.wasm\"\ndistributible = true\n[cluster]\nwrite-quota = 1\n",
        &[
            "outlast-app.toml:1 name: \"Bad Name\" needs 1 to 32 of a-z, 0-9 and - that begin with a letter, for example \"click-to-dial\"",
            "outlast-app.toml:1 version: is missing, for example version = \"1.0.0\"",
            "outlast-app.toml:2 component: \"../a.wasm\" needs the name of a file beside this one, without directory, for example \"click_to_dial.wasm\"",
            "outlast-app.toml:3 distributible: unknown; did you mean distributable?",
            "outlast-app.toml:5 cluster.write-quota: unknown; did you mean write_quota?",
        ],
    );
}

#[test]
fn a_condition_is_refused_where_it_is_wrong() {
    check(
        &format!(
            "{LEAST}[sip]\nmatch = {{ all = [\n  {{ equals = [\"request.method\", \"INVITE\"] }},\n  {{ equal = [\"request.methods\", \"INVITE\"] }},\n  {{ equal = [\"request.method\"] }},\n] }}\n"
        ),
        &[
            "outlast-app.toml:6 sip.match.equals: unknown; did you mean equal?",
            "outlast-app.toml:7 sip.match: \"request.methods\" needs request.method, request.header.NAME, or request.uri, request.from.uri, request.to.uri, request.route.uri with perhaps .scheme, .user, .host, .port, .tel or .param.NAME behind it, for example \"request.uri.host\"",
            "outlast-app.toml:8 sip.match: [\"request.method\"] needs a variable and a text, for example [\"request.uri.user\", \"dial\"]",
        ],
    );
}

#[test]
fn conditions_are_bounded() {
    let depth = condition::DEPTH_MAX;
    let deep = |depth: usize| {
        let mut text = "{ exists = \"request.uri\" }".to_owned();
        for _ in 0..depth {
            text = format!("{{ not = {text} }}");
        }
        format!("{LEAST}[sip]\nmatch = {text}\n")
    };
    assert!(parse(&deep(depth - 1)).is_ok());
    assert_eq!(parse(&deep(depth)).unwrap_err().len(), 1);
    let wide = "{ exists = \"request.uri\" }, ".repeat(condition::PARTS_MAX);
    let wide = format!("{LEAST}[sip]\nmatch = {{ any = [{wide}] }}\n");
    assert!(parse(&wide).is_err());
}

#[test]
fn variables_read_as_they_are_shown() {
    for text in [
        "request.method",
        "request.uri",
        "request.uri.host",
        "request.uri.param.user",
        "request.from",
        "request.from.display-name",
        "request.to.uri",
        "request.route.uri.tel",
        "request.header.X-Account",
    ] {
        assert_eq!(text.parse::<Variable>().unwrap().to_string(), text);
    }
    let expected = Variable::Address(AddressHeader::To, AddressPart::Uri(UriPart::Port));
    assert_eq!("request.to.uri.port".parse(), Ok(expected));
    for text in [
        "",
        "request",
        "request.",
        "request.method.x",
        "request.header.",
        "request.uri.param.",
        "uri.host",
    ] {
        assert!(text.parse::<Variable>().is_err(), "{text}");
    }
}

#[test]
fn what_a_choice_can_be_is_told() {
    check(
        &format!("{LEAST}[sip]\nregion = \"terminal\"\ncalls = true\n"),
        &[
            "outlast-app.toml:5 sip.region: \"terminal\" needs \"originating\", \"neutral\" or \"terminating\", for example \"terminating\"",
            "outlast-app.toml:6 sip.calls: true needs \"continue\" or \"new\", for example \"continue\"",
        ],
    );
}

#[test]
fn a_health_check_over_http_needs_http() {
    check(
        &format!("{LEAST}[health]\nhttp_path = \"/health\"\n"),
        &["outlast-app.toml:5 health.http_path: needs [http] with a path that it stands below"],
    );
}

#[test]
fn a_health_check_over_http_asks_the_application_itself() {
    let of = |root: &str, path: &str| {
        parse(&format!("{LEAST}[http]\npath = \"{root}\"\n[health]\nhttp_path = \"{path}\"\n"))
    };
    for (root, path) in [("/desk", "/desk"), ("/desk", "/desk/n"), ("/", "/health")] {
        assert!(of(root, path).is_ok(), "{root} {path}");
    }
    for path in ["/health", "/desktop", "/des"] {
        let problems = of("/desk", path).unwrap_err();
        let expected = format!(
            "outlast-app.toml:7 health.http_path: {path:?} stands not below http.path, which is \"/desk\": another application would be asked"
        );
        assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
    }
}

#[test]
fn a_watch_lasts_until_containers_have_told_what_they_count() {
    let of = |watch: &str| parse(&format!("{LEAST}[health]\nwatch = \"{watch}\"\n"));
    assert!(of("500ms").is_ok());
    let problems = of("499ms").unwrap_err();
    assert!(problems[0].to_string().contains("outlast-app.toml:5 health.watch"), "{problems:?}");
}

proptest! {
    #[test]
    fn any_condition_is_read_without_panic(text in "[a-z.=\\[\\]{}\", ]{0,64}") {
        let _ = parse(&format!("{LEAST}[sip]\nmatch = {text}\n"));
    }
}

#[test]
fn the_manifests_of_the_sample_applications_are_accepted() {
    let apps = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../apps");
    let files = std::fs::read_dir(apps).unwrap().map(|entry| entry.unwrap().path().join(FILE_NAME));
    let manifests: Vec<Manifest> = files
        .filter(|file| file.exists())
        .map(|file| load(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
        .collect();
    assert!(manifests.len() >= 8, "the samples are where this test looks for them");
    for manifest in manifests {
        assert!(manifest.sip.condition.is_some() || manifest.http.is_some(), "{}", manifest.name);
    }
}
