//! From what the host calls to an application's handlers.

use crate::{Application, Event, Outcome, log};

/// Exports the handlers of an [`Application`](crate::Application), whose name it is given.
#[macro_export]
macro_rules! export {
    ($application:ident) => {
        const _: () = {
            use $crate::bindings::handler;
            struct Exported;
            impl handler::exports::outlast::app::handler::Guest for Exported {
                fn handle(event: $crate::Event) {
                    $crate::dispatch::<$application>(event)
                }
            }
    handler::export!(Exported with_types_in $crate::bindings::handler);
        };
    };
}

/// Exports the key function of a [`Router`](crate::Router), whose name it is given.
#[macro_export]
macro_rules! export_router {
    ($router:ident) => {
        const _: () = {
            use $crate::bindings::router;
            struct Exported;
            impl router::exports::outlast::app::router::Guest for Exported {
                fn session_key(request: &$crate::Message) -> Option<String> {
                    <$router as $crate::Router>::session_key(request)
                }
            }
    router::export!(Exported with_types_in $crate::bindings::router);
        };
    };
}

/// Exports the key function of an [`HttpRouter`](crate::HttpRouter), whose name it is given.
#[macro_export]
macro_rules! export_http_router {
    ($router:ident) => {
        const _: () = {
            use $crate::bindings::http_router;
            struct Exported;
            impl http_router::exports::outlast::app::http_router::Guest for Exported {
                fn session_key(
                    method: String,
                    path_with_query: String,
                    headers: Vec<$crate::Header>,
                ) -> Option<String> {
                    <$router as $crate::HttpRouter>::session_key(
                        &method,
                        &path_with_query,
                        &headers,
                    )
                }
            }
    http_router::export!(Exported with_types_in $crate::bindings::http_router);
        };
    };
}

/// Runs the handler of an event.
///
/// # Panics
/// When the handler returns an error: the trap is what undoes the event.
pub fn dispatch<A: Application>(event: Event) {
    log::report_panics();
    if let Err(error) = handle::<A>(event) {
        panic!("the handler returned an error: {error:?}");
    }
}

fn handle<A: Application>(event: Event) -> Outcome {
    match event {
        Event::Created => A::on_created(),
        Event::Request(request) => A::on_request(request),
        Event::Cancelled(cancelled) => A::on_cancelled(cancelled),
        Event::Acknowledged(request) => A::on_acknowledged(request),
        Event::Provisional(response) => A::on_provisional(response),
        Event::Success(response) => A::on_success(response),
        Event::Failure(response) => A::on_failure(response),
        Event::Failed(failed) => A::on_failed(failed),
        Event::Timer(name) => A::on_timer(name),
        Event::Signal(signal) => A::on_signal(signal),
        Event::Ending => A::on_ending(),
        Event::Ended => A::on_ended(),
    }
}
