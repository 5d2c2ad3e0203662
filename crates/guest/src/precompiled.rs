//! Compiled code on its way from the deployment to the containers.
//!
//! ```text
//! "outlast-code-1\n"  what it was made from (32)  of the code (32)  code
//! ```
//!
//! The first digest is over the component and over everything of the engine that shapes code (its version, its settings,
//! what it takes the processor to be); code that was made from something else is made again, not used. The second finds
//! damage.

#![allow(unsafe_code)]

use std::hash::{Hash, Hasher};

use wasmtime::component::Component;

use crate::engine::Engine;

const MAGIC: &[u8] = b"outlast-code-1\n";
const DIGEST_BYTES: usize = 32;
const HEAD_BYTES: usize = MAGIC.len() + 2 * DIGEST_BYTES;

/// Compiles a component; the code is to be kept with it.
pub(crate) fn compile(engine: &Engine, component: &[u8]) -> wasmtime::Result<(Component, Vec<u8>)> {
    let compiled = Component::from_binary(engine.wasm(), component)?;
    let code = compiled.serialize()?;
    let mut kept = Vec::with_capacity(HEAD_BYTES + code.len());
    kept.extend_from_slice(MAGIC);
    kept.extend_from_slice(&origin(engine, component));
    kept.extend_from_slice(blake3::hash(&code).as_bytes());
    kept.extend_from_slice(&code);
    Ok((compiled, kept))
}

/// The component that was compiled to this; None: by another release, for another processor, from another component, or it
/// is damaged. Then it is to be compiled again.
pub(crate) fn load(engine: &Engine, component: &[u8], kept: &[u8]) -> Option<Component> {
    let rest = kept.strip_prefix(MAGIC)?;
    let (made_from, rest) = rest.split_at_checked(DIGEST_BYTES)?;
    let (digest, code) = rest.split_at_checked(DIGEST_BYTES)?;
    if made_from != origin(engine, component) || digest != blake3::hash(code).as_bytes() {
        return None;
    }
    // SAFETY: this must be what `Component::serialize` gave, unchanged. The digests say that it is whole and belongs to this
    // component and this engine. They keep nobody out who forges it: it lies in the node's own directory, and who can
    // write there can as well replace the program that reads it.
    unsafe { Component::deserialize(engine.wasm(), code) }.ok()
}

/// What code of this component depends on.
fn origin(engine: &Engine, component: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut digest = Digest(blake3::Hasher::new());
    engine.wasm().precompile_compatibility_hash().hash(&mut digest);
    digest.0.update(component);
    *digest.0.finalize().as_bytes()
}

/// Feeds whatever can be hashed into a digest that is the same in all processes.
struct Digest(blake3::Hasher);

impl Hasher for Digest {
    fn write(&mut self, octets: &[u8]) {
        self.0.update(octets);
    }

    fn finish(&self) -> u64 {
        0 // nobody asks: the digest itself is taken
    }
}
