//! Our parser against `sipx-sip`; the known differences stand in `properties`.

use proptest::prelude::*;

use crate::{generate, properties};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lawful_messages_are_read_alike(octets in generate::message()) {
        properties::differential(&octets);
    }

    #[test]
    fn damaged_messages_are_accepted_and_refused_alike(octets in generate::damaged_message()) {
        properties::differential(&octets);
    }
}
