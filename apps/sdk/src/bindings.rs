//! What `wit/` says, as Rust. The crate's root has the parts that an application needs under shorter names.

#![allow(missing_docs)]

pub mod handler {
    wit_bindgen::generate!({
        path: "wit",
        world: "sip-application",
        pub_export_macro: true,
        default_bindings_module: "outlast_app::bindings::handler",
        additional_derives: [PartialEq, Eq],
        additional_derives_ignore: ["incoming", "heard", "event"],
        generate_all,
    });
}

pub mod router {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package outlast:router-only;
            world routed { export outlast:app/router@0.1.0; }
        ",
        world: "outlast:router-only/routed",
        pub_export_macro: true,
        default_bindings_module: "outlast_app::bindings::router",
        with: {
            "outlast:app/types@0.1.0": super::handler::outlast::app::types,
            "outlast:app/message@0.1.0": super::handler::outlast::app::message,
        },
    });
}

pub mod http_router {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package outlast:http-router-only;
            world http-routed { export outlast:app/http-router@0.1.0; }
        ",
        world: "outlast:http-router-only/http-routed",
        pub_export_macro: true,
        default_bindings_module: "outlast_app::bindings::http_router",
        with: { "outlast:app/types@0.1.0": super::handler::outlast::app::types },
    });
}
