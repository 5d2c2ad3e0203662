//! The WebAssembly application of the demo: a back-to-back agent in three versions, as an operator would get them: a
//! manifest and a module each. Pure.
//!
//! The agent is written in WebAssembly's text format (`agent.wat`) and assembled here, so neither a compiler for WebAssembly
//! nor a binary file in the repository is needed. What is deliberately absent from it stands at its head.

use std::fmt;

use wit_component::StringEncoding;
use wit_parser::{Resolve, SourceMap};

use crate::story::DOMAIN;

/// First label of the domain whose calls it takes.
pub const LABEL: &str = "wasm";
/// File name of the module, as the manifest has it.
pub const COMPONENT: &str = "agent.wasm";

const AGENT: &str = include_str!("webassembly/agent.wat");
const BROKEN: &str = include_str!("webassembly/broken.wat");
/// What stands in the agent's text for its version.
const ANY_VERSION: &str = "0.0.0";

/// The interface that it is written against.
const WIT: &[(&str, &str)] = &[
    ("handler.wit", include_str!("../../../wit/handler.wit")),
    ("message.wit", include_str!("../../../wit/message.wit")),
    ("services.wit", include_str!("../../../wit/services.wit")),
    ("session.wit", include_str!("../../../wit/session.wit")),
    ("sip.wit", include_str!("../../../wit/sip.wit")),
    ("types.wit", include_str!("../../../wit/types.wit")),
    ("world.wit", include_str!("../../../wit/world.wit")),
];
const WORLD: &str = "sip-application";

/// Which agent it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// With which the story begins.
    First,
    /// Another one that is well.
    Second,
    /// One that falls over with its first call.
    Broken,
}

impl Version {
    /// Its number.
    pub fn number(self) -> &'static str {
        match self {
            Version::First => "1.0.0",
            Version::Second => "1.1.0",
            Version::Broken => "1.2.0",
        }
    }

    /// What the agent says in Server.
    pub fn server(self) -> String {
        format!("demo-agent/{self}")
    }

    /// `outlast-app.toml`.
    pub fn manifest(self) -> String {
        format!(
            "# Written by `outlast demo`.\n\
             name = \"demo-agent\"\nversion = \"{self}\"\ncomponent = \"{COMPONENT}\"\n\n\
             [sip]\nmatch = {{ all = [\n    \
             {{ equal = [\"request.method\", \"INVITE\"] }},\n    \
             {{ equal = [\"request.uri.host\", \"{LABEL}.{DOMAIN}\"] }},\n] }}\n\n\
             # Short, because somebody is watching.\n[health]\nwatch = \"500ms\"\n"
        )
    }

    /// The module, with the section that says which world it was written for.
    pub fn module(self) -> Vec<u8> {
        let text = match self {
            Version::First | Version::Second => AGENT.replace(ANY_VERSION, self.number()),
            Version::Broken => BROKEN.to_owned(),
        };
        let mut module = wat::parse_str(text).expect("our own text is a module");
        let mut files = SourceMap::default();
        for (name, text) in WIT {
            files.push_str(name, *text);
        }
        let mut resolve = Resolve::default();
        let group = files.parse().map_err(|(_, error)| error).expect("our own files are WIT");
        let package = resolve.push_group(group).expect("our own interface is whole");
        let world = resolve.select_world(&[package], Some(WORLD)).expect("it has this world");
        let encoding = StringEncoding::UTF8;
        wit_component::embed_component_metadata(&mut module, &resolve, world, encoding)
            .expect("a module takes a section");
        module
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_a_module_that_says_which_one_it_is() {
        let modules = [Version::First, Version::Second].map(|version| (version, version.module()));
        for (version, module) in modules {
            let server = version.server();
            assert!(module.windows(server.len()).any(|octets| octets == server.as_bytes()));
        }
        assert_eq!(AGENT.matches(ANY_VERSION).count(), 2, "in the comment and where it is said");
        assert_eq!(Version::First.number().len(), ANY_VERSION.len(), "lengths stand in the text");
        assert!(Version::Broken.module().starts_with(b"\0asm"));
    }
}
