//! The built-in application: registrar, proxy to bindings, accounts.
//!
//! A request comes from the container as an `IncomingRequest` and goes back as effects ([`application`]):
//! a REGISTER is read ([`register`]), its sender known ([`authentication`], [`accounts`], [`nonce`]), and the
//! record of its address-of-record changed ([`bindings`]); everything else for a local address is proxied to what is
//! registered there ([`lookup`]). [`keep_alive`] holds NATs open, [`mod@registrations`] lists what is there.
//!
//! Everything but [`application`], [`accounts`] and [`mod@registrations`] is pure: time, random octets and records are
//! arguments. An application like any other: it knows of the container its application trait only.
//!
//! Source: RFC 3261 §10, §22; RFC 3327, 3608, 5626, 7616, 8760. Deliberately absent: GRUU (RFC 5627), reg-event
//! (RFC 3680), TLS client identities.

pub mod accounts;
pub mod application;
pub mod authentication;
pub mod bindings;
mod date;
pub mod domains;
pub mod keep_alive;
pub mod lookup;
pub mod nonce;
pub mod register;
pub mod registrations;
pub mod settings;
#[cfg(test)]
mod test_requests;

pub use accounts::{Account, AccountError, AccountStore};
pub use application::Registrar;
pub use registrations::{Registration, RegistrationsError, registrations};
pub use settings::{Settings, SettingsError};
pub use state::codec::RecordError;
