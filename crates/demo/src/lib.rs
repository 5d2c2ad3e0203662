//! What `outlast demo` shows, and the application that it shows it with.
//!
//! | module | what it is |
//! |---|---|
//! | [`back_to_back`] | the back-to-back agent: a native application with sessions |

pub mod back_to_back;

pub use back_to_back::{BackToBack, Limits};
