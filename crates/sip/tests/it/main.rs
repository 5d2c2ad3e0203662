//! Integration tests of the message parser: the torture messages, properties, an oracle, the fuzzing corpora.

mod allocation;
mod corpus;
mod differential;
mod generate;
mod properties;
mod random;
mod rfc4475;
