//! What a developer hands in becomes a component that can be run, or a refusal that says what to do about it.
//!
//! In comes a component, or a core module that says in a section of its own which world it was built for (as wit-bindgen
//! writes it); out comes the component with its compiled code. All that can be found out beforehand is found out here: what
//! it imports and exports, and whether an instance begins at all.

use std::sync::Arc;

use bytes::Bytes;
use config::nearest;
use wasmtime::component::Linker;
use wasmtime::component::types::ComponentItem;

use crate::application::Identity;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::host::{Host, link};
use crate::instance::{Exports, Loaded};
use crate::limits::{COMPONENT_BYTES_MAX, Limits};
use crate::precompiled;

/// An application that is fit to be deployed.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The component.
    pub component: Bytes,
    /// Its compiled code, for [`Guest::load`](crate::Guest::load) on this machine.
    pub code: Bytes,
    /// What it has to offer.
    pub handlers: Handlers,
    /// The interfaces that it imports, in its order.
    pub imports: Vec<String>,
}

/// What a component has to offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handlers {
    /// `outlast:app/handler`.
    pub sip: bool,
    /// `outlast:app/router`.
    pub session_key: bool,
    /// `wasi:http/incoming-handler`.
    pub http: bool,
    /// `outlast:app/http-router`.
    pub http_session_key: bool,
}

/// Why a component cannot be deployed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Over the limit.
    #[error(
        "the component has {0} octets; at most {COMPONENT_BYTES_MAX} are taken. Build it for release, without debug information"
    )]
    TooLarge(u64),
    /// Neither component nor module.
    #[error(
        "this is no WebAssembly (it does not begin with \\0asm); give the .wasm file that the build has written"
    )]
    NotWebAssembly,
    /// A module that does not say which interface it was built for.
    #[error(
        "this is a core module, and it does not say which interface it was built for (it has no section component-type). \
         Build for wasm32-wasip2, which makes a component; or let wit-bindgen write that section, from the files in wit/"
    )]
    NoWorld,
    /// A module that is no component and cannot be made one.
    #[error(
        "this is a core module, and no component could be made of it: {0}. Build for wasm32-wasip2, or with wit-bindgen and the world outlast:app/sip-application"
    )]
    NotComponent(String),
    /// It does not compile.
    #[error("it does not compile: {0}")]
    Compile(String),
    /// Nobody has what it imports.
    #[error(
        "it imports what there is not:{}\nAn application can import {}",
        lines(.imports, IMPORTS),
        IMPORTABLE.join(", ")
    )]
    UnknownImports {
        /// All of them.
        imports: Vec<String>,
    },
    /// The interface is known, but not so.
    #[error(
        "what it imports is not what there is: {0}. Build it against the files in wit/ of this release"
    )]
    OtherInterface(String),
    /// It has no handler.
    #[error(
        "it exports neither outlast:app/handler@0.1.0 nor wasi:http/incoming-handler@0.2, so nothing could ever reach it. It \
         exports{}",
        if exports.is_empty() { " nothing".to_owned() } else { lines(.exports, EXPORTS) }
    )]
    NoHandler {
        /// What it exports.
        exports: Vec<String>,
    },
    /// An instance does not begin.
    #[error("a trial instance did not begin: {0}")]
    Trial(Failure),
    /// It cannot be tried.
    #[error("it could not be tried: {0}")]
    NotTried(std::io::Error),
}

/// Packages and interfaces that an application can import.
pub const IMPORTABLE: &[&str] = &[
    "outlast:app/{types,message,session,sessions,sip,config,log,naming,cache}@0.1",
    "wasi:cli@0.2",
    "wasi:clocks@0.2",
    "wasi:filesystem@0.2 (empty)",
    "wasi:http/{types,outgoing-handler}@0.2 (requests are refused)",
    "wasi:io@0.2",
    "wasi:random@0.2",
    "wasi:sockets@0.2 (refused)",
];

/// What somebody may have meant with an import.
const IMPORTS: &[&str] = &[
    "outlast:app/types@0.1.0",
    "outlast:app/message@0.1.0",
    "outlast:app/session@0.1.0",
    "outlast:app/sessions@0.1.0",
    "outlast:app/sip@0.1.0",
    "outlast:app/config@0.1.0",
    "outlast:app/log@0.1.0",
    "outlast:app/naming@0.1.0",
    "outlast:app/cache@0.1.0",
    "wasi:http/types@0.2.0",
    "wasi:http/outgoing-handler@0.2.0",
];

/// What somebody may have meant with an export.
const EXPORTS: &[&str] = &["outlast:app/handler@0.1.0", "wasi:http/incoming-handler@0.2.0"];

/// Each name on a line of its own, with what may have been meant.
fn lines(names: &[String], known: &[&str]) -> String {
    let line = |name: &String| {
        let hint = match name.as_str() {
            // What every program for WASI exports.
            name if name.starts_with("wasi:cli/run@") => {
                " (a program with a main function; build a library, crate-type = [\"cdylib\"])"
                    .to_owned()
            }
            name => nearest(name, known)
                .map(|near| format!(" (did you mean {near}?)"))
                .unwrap_or_default(),
        };
        format!("\n  {name}{hint}")
    };
    names.iter().map(line).collect()
}

/// Checks and compiles what a developer hands in, and tries whether an instance begins. It takes as long as it takes to
/// compile: 40 ms to 12 s; call it from a thread that may wait. `limits` are those that it will run within.
///
/// # Errors
/// [`Refused`]
pub fn prepare(engine: &Engine, wasm: &[u8], limits: Limits) -> Result<Prepared, Refused> {
    let component = componentised(wasm)?;
    let compiled = precompiled::compile(engine, &component);
    let (compiled, code) = compiled.map_err(|error| Refused::Compile(format!("{error:#}")))?;
    let loaded = link_component(engine, &compiled)?;
    let handlers = loaded.exports.handlers();
    try_instance(&loaded, limits)?;
    let types = compiled.component_type();
    let imports = types.imports(engine.wasm()).map(|(name, _)| name.to_owned()).collect();
    Ok(Prepared { component, code: code.into(), handlers, imports })
}

/// A component that was prepared before, ready to run. Compiles it again if `code` does not fit; what is returned beside
/// it then is to be kept in its place.
///
/// # Errors
/// [`Refused`]
pub(crate) fn load(
    engine: &Engine,
    component: &[u8],
    code: Option<&[u8]>,
) -> Result<(Loaded, Option<Vec<u8>>), Refused> {
    if let Some(compiled) = code.and_then(|code| precompiled::load(engine, component, code)) {
        return Ok((link_component(engine, &compiled)?, None));
    }
    let compiled = precompiled::compile(engine, component);
    let (compiled, code) = compiled.map_err(|error| Refused::Compile(format!("{error:#}")))?;
    Ok((link_component(engine, &compiled)?, Some(code)))
}

/// A component, whichever of both it was.
fn componentised(wasm: &[u8]) -> Result<Bytes, Refused> {
    if wasm.len() > COMPONENT_BYTES_MAX {
        return Err(Refused::TooLarge(wasm.len() as u64));
    }
    // The binary format: magic, version, layer (0 module, 1 component).
    let layer = match wasm {
        [0, b'a', b's', b'm', _, _, layer, 0, ..] => *layer,
        _ => return Err(Refused::NotWebAssembly),
    };
    if layer == 1 {
        return Ok(Bytes::copy_from_slice(wasm));
    }
    if names_its_world(wasm) == Some(false) {
        return Err(Refused::NoWorld);
    }
    let encoder = wit_component::ComponentEncoder::default().validate(true).module(wasm);
    let component = encoder.and_then(|mut encoder| encoder.encode());
    component.map(Bytes::from).map_err(|error| Refused::NotComponent(format!("{error:#}")))
}

/// Whether a module has a custom section by which a component can be made of it; `None`: it is cut or malformed.
fn names_its_world(module: &[u8]) -> Option<bool> {
    const CUSTOM: u8 = 0;
    let mut rest = module.get(8..)?;
    while let Some((id, behind)) = rest.split_first() {
        let (length, behind) = leb128(behind)?;
        let (section, others) = behind.split_at_checked(length)?;
        if *id == CUSTOM {
            let (length, name) = leb128(section)?;
            if name.get(..length)?.starts_with(b"component-type") {
                return Some(true);
            }
        }
        rest = others;
    }
    Some(false)
}

/// A length as WebAssembly writes it, and what stands behind it.
fn leb128(octets: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    for (place, octet) in octets.iter().enumerate().take(5) {
        value |= usize::from(octet & 0x7f) << (7 * place);
        if octet & 0x80 == 0 {
            return Some((value, &octets[place + 1..]));
        }
    }
    None
}

fn link_component(
    engine: &Engine,
    compiled: &wasmtime::component::Component,
) -> Result<Loaded, Refused> {
    let types = compiled.component_type();
    let unknown = types
        .imports(engine.wasm())
        .filter(|(name, item)| !is_importable(name) && !matches!(item.ty, ComponentItem::Type(_)));
    let imports: Vec<String> = unknown.map(|(name, _)| name.to_owned()).collect();
    if !imports.is_empty() {
        return Err(Refused::UnknownImports { imports });
    }
    let other = |error: wasmtime::Error| Refused::OtherInterface(format!("{error:#}"));
    let mut linker = Linker::<Host>::new(engine.wasm());
    link(&mut linker).expect("each interface is linked once");
    let component = linker.instantiate_pre(compiled).map_err(other)?;
    let names: Vec<String> =
        types.exports(engine.wasm()).map(|(name, _)| name.to_owned()).collect();
    let asks_for_sessions = types.imports(engine.wasm()).any(|(name, _)| is_sessions(name));
    let exports = Exports::of(&component, &names, asks_for_sessions).map_err(other)?;
    if exports.handler.is_none() && exports.http_handler.is_none() {
        return Err(Refused::NoHandler { exports: names });
    }
    Ok(Loaded { engine: engine.clone(), component, exports })
}

/// Whether an interface of that name can be imported: whether it has the type that we have, the linker finds out.
fn is_importable(import: &str) -> bool {
    let (path, version) = import.split_once('@').unwrap_or((import, ""));
    let Some((package, interface)) = path.split_once('/') else { return false };
    let is_ours = || {
        const OURS: [&str; 9] =
            ["types", "message", "session", "sessions", "sip", "config", "log", "naming", "cache"];
        version.starts_with("0.1.") && OURS.contains(&interface)
    };
    match package {
        "outlast:app" => is_ours(),
        "wasi:cli" | "wasi:clocks" | "wasi:filesystem" | "wasi:io" | "wasi:random"
        | "wasi:sockets" => version.starts_with("0.2."),
        "wasi:http" => {
            version.starts_with("0.2.") && matches!(interface, "types" | "outgoing-handler")
        }
        _ => false,
    }
}

/// Whether the import means that the component does something with sessions.
fn is_sessions(import: &str) -> bool {
    let (path, _) = import.split_once('@').unwrap_or((import, ""));
    matches!(path, "outlast:app/session" | "outlast:app/sessions" | "outlast:app/sip")
}

impl Exports {
    /// Those of `component` that we know; one that has another type than ours is an error.
    fn of(
        component: &wasmtime::component::InstancePre<Host>,
        names: &[String],
        asks_for_sessions: bool,
    ) -> wasmtime::Result<Exports> {
        use wasmtime_wasi_http::p2::bindings::exports::wasi::http::incoming_handler;

        use crate::bindings::exports::outlast::app::{handler, http_router, router};
        let has = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
        Ok(Exports {
            handler: has("outlast:app/handler@0.1.")
                .then(|| handler::GuestIndices::new(component))
                .transpose()?,
            router: has("outlast:app/router@0.1.")
                .then(|| router::GuestIndices::new(component))
                .transpose()?,
            http_router: has("outlast:app/http-router@0.1.")
                .then(|| http_router::GuestIndices::new(component))
                .transpose()?,
            http_handler: has("wasi:http/incoming-handler@0.2.")
                .then(|| incoming_handler::GuestIndices::new(component))
                .transpose()?,
            asks_for_sessions,
        })
    }

    /// Whether its HTTP requests belong to sessions.
    pub(crate) fn has_sessions(&self) -> bool {
        self.asks_for_sessions || self.handler.is_some() || self.http_router.is_some()
    }

    pub(crate) fn handlers(&self) -> Handlers {
        Handlers {
            sip: self.handler.is_some(),
            session_key: self.router.is_some(),
            http: self.http_handler.is_some(),
            http_session_key: self.http_router.is_some(),
        }
    }
}

/// Begins an instance, as a container will for each event, and throws it away.
fn try_instance(loaded: &Loaded, limits: Limits) -> Result<(), Refused> {
    let begin = async {
        let identity = Arc::new(Identity::on_trial(limits));
        let wall_time = limits.wall_time;
        let mut room = loaded.room(Host::new(identity));
        let _time = loaded.engine.keep_time();
        room.begin(None);
        let begun = tokio::time::timeout(wall_time, loaded.furnish(&mut room)).await;
        match begun {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Refused::Trial(room.failure(&error))),
            Err(_) => Err(Refused::Trial(Failure::late(wall_time))),
        }
    };
    // A thread of its own: the caller's may belong to a runtime, where no other one can be run.
    std::thread::scope(|scope| {
        let run = || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().build().map_err(Refused::NotTried)?;
            runtime.block_on(begin)
        };
        scope.spawn(run).join().expect("a trial ends with a value")
    })
}
