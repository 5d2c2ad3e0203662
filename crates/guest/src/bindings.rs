//! What `wit/` says, as Rust: made at compile time, one module an interface.
//!
//! The world `application` is everything that an application may import and export; which exports one has is found out
//! when it is loaded.

#![allow(missing_docs, unreachable_pub, clippy::all)]

wasmtime::component::bindgen!({
    path: "../../wit",
    inline: "
        package outlast:host;
        world application {
            include outlast:app/keyed-sip-application@0.1.0;
            export outlast:app/http-router@0.1.0;
        }
    ",
    world: "outlast:host/application",
    imports: {
        "outlast:app/message": trappable,
        "outlast:app/naming": async,
        "outlast:app/cache": async,
        "outlast:app/sessions.find": async,
        "outlast:app/sessions.exists": async,
        "outlast:app/sessions.attribute": async,
    },
    exports: { default: async },
    require_store_data_send: true,
    with: {
        "outlast:app/message.message": crate::host::message::Present,
    },
});
