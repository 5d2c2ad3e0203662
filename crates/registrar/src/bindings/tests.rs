//! The rules of RFC 3261 §10.3 and RFC 5626 §6 as tables, and random REGISTERs against a model that is too simple to
//! be wrong.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use proptest::prelude::*;
use transport::Transport;

use super::*;
use crate::register::Register;
use crate::test_requests::{self, NOW};

const POLICY: Policy = Policy {
    expires_min: Duration::from_secs(60),
    expires_default: Duration::from_secs(3600),
    expires_max: Duration::from_secs(7200),
    contacts_max: 3,
};

fn register(call_id: &str, cseq: u32, fields: &str) -> Register {
    let message = test_requests::register(call_id, cseq, fields);
    Register::read(&message, &test_requests::flow(Transport::Udp)).unwrap()
}

fn after(seconds: u64) -> UnixMillis {
    NOW.saturating_add(Duration::from_secs(seconds))
}

/// The record after a REGISTER that must be taken.
fn take(record: &Bindings, register: &Register, now: UnixMillis) -> Bindings {
    match update(record, register, &POLICY, now).unwrap() {
        Updated::Changed(bindings) => bindings,
        Updated::Unchanged => record.clone(),
    }
}

fn one(call_id: &str, cseq: u32, fields: &str) -> Bindings {
    take(&Bindings::default(), &register(call_id, cseq, fields), NOW)
}

fn contacts(bindings: &Bindings, now: UnixMillis) -> Vec<(String, u64)> {
    let text = |binding: &Binding| String::from_utf8(binding.contact.to_vec()).unwrap();
    bindings.living(now).map(|binding| (text(binding), binding.expires_seconds(now))).collect()
}

// RFC 3261 §10.3(7)
#[test]
fn a_lifetime_comes_from_the_contact_then_expires_then_the_default() {
    for (fields, seconds) in [
        ("Contact: <sip:a@h>;expires=120\nExpires: 300\n", 120),
        ("Contact: <sip:a@h>\nExpires: 300\n", 300),
        ("Contact: <sip:a@h>\n", 3600),
        ("Contact: <sip:a@h>;expires=soon\nExpires: 300\n", 300),
        ("Contact: <sip:a@h>\nExpires: soon\n", 3600),
        ("Contact: <sip:a@h>;expires=99999999999\n", 7200),
        ("Contact: <sip:a@h>;expires=60\n", 60),
    ] {
        assert_eq!(contacts(&one("c", 1, fields), NOW), [("sip:a@h".into(), seconds)], "{fields}");
    }
}

// RFC 3261 §21.4.17; §10.3(7): an hour or more is never too brief
#[test]
fn a_lifetime_below_the_minimum_is_refused_with_the_minimum() {
    let brief = register("c", 1, "Contact: <sip:a@h>;expires=59\n");
    let refusal = Refusal::IntervalTooBrief { minimum: POLICY.expires_min };
    assert_eq!(update(&Bindings::default(), &brief, &POLICY, NOW), Err(refusal));
    let strict = Policy { expires_min: Duration::from_secs(5000), ..POLICY };
    let hour = register("c", 1, "Contact: <sip:a@h>;expires=3600\n");
    assert!(update(&Bindings::default(), &hour, &strict, NOW).is_ok());
}

// RFC 3261 §10.3(7): all or nothing
#[test]
fn one_bad_contact_leaves_all_as_they_were() {
    let fields = "Contact: <sip:a@h>, <sip:b@h>;expires=1\n";
    let refused = update(&Bindings::default(), &register("c", 1, fields), &POLICY, NOW);
    assert!(refused.is_err());
    let record = one("c", 5, "Contact: <sip:a@h>\n");
    let mixed = register("c", 5, "Contact: <sip:new@h>, <sip:a@h>;expires=0\n");
    assert_eq!(update(&record, &mixed, &POLICY, NOW), Err(Refusal::OutOfOrder));
}

// RFC 3261 §10.3(7)
#[test]
fn the_same_call_id_needs_a_higher_cseq_and_another_does_not() {
    let record = one("c", 5, "Contact: <sip:a@h>;expires=100\n");
    for (call_id, cseq, fields, taken) in [
        ("c", 6, "Contact: <sip:a@h>;expires=200\n", true),
        ("c", 5, "Contact: <sip:a@h>;expires=200\n", false),
        ("c", 4, "Contact: <sip:a@h>;expires=200\n", false),
        ("other", 1, "Contact: <sip:a@h>;expires=200\n", true),
        ("c", 1, "Contact: <sip:b@h>\n", true),
        ("c", 4, "Contact: <sip:a@h>;expires=0\n", false),
        ("c", 6, "Contact: *\nExpires: 0\n", true),
        ("c", 5, "Contact: *\nExpires: 0\n", false),
        ("other", 1, "Contact: *\nExpires: 0\n", true),
    ] {
        let result = update(&record, &register(call_id, cseq, fields), &POLICY, NOW);
        let expected = if taken { None } else { Some(Refusal::OutOfOrder) };
        assert_eq!(result.err(), expected, "{call_id} {cseq} {fields}");
    }
}

#[test]
fn the_retry_of_a_taken_request_changes_nothing_even_after_others_registered() {
    let first = register("c", 5, "Contact: <sip:a@h>;expires=100, <sip:b@h>\n");
    let record = take(&Bindings::default(), &first, NOW);
    let record = take(&record, &register("d", 1, "Contact: <sip:c@h>\n"), NOW);
    assert_eq!(update(&record, &first, &POLICY, after(1)), Ok(Updated::Unchanged));
}

// RFC 3261 §10.3(6)
#[test]
fn a_wildcard_removes_all_and_only_with_expires_zero() {
    let record = one("c", 1, "Contact: <sip:a@h>, <sip:b@h>\n");
    let all = register("c", 2, "Contact: *\nExpires: 0\n");
    assert_eq!(update(&record, &all, &POLICY, NOW), Ok(Updated::Changed(Bindings::default())));
    for fields in ["Contact: *\n", "Contact: *\nExpires: 1\n"] {
        let refused = update(&record, &register("c", 2, fields), &POLICY, NOW);
        assert_eq!(refused, Err(Refusal::WildcardWithLifetime), "{fields}");
    }
    let nothing = update(&Bindings::default(), &all, &POLICY, NOW);
    assert_eq!(nothing, Ok(Updated::Unchanged));
}

#[test]
fn forms_that_no_register_may_have_are_not_read() {
    for fields in [
        "Contact: *, <sip:a@h>\nExpires: 0\n",
        "Contact: *\nContact: <sip:a@h>\nExpires: 0\n",
        "Contact: sip:a@h?Route=x\n",
        "Contact: <tel:+1>\n",
        "Contact: <sip:a@h>;q=7\n",
        "Contact: <sip:a@h>\nPath: nonsense\n",
        "Supported: outbound\nContact: <sip:a@h>;+sip.instance=\"<i>\";reg-id=1, <sip:b@h>;+sip.instance=\"<i>\";reg-id=2\n",
    ] {
        let message = test_requests::register("c", 1, fields);
        let read = Register::read(&message, &test_requests::flow(Transport::Udp));
        assert!(read.is_err(), "{fields}");
    }
    let many = format!("Contact: <sip:a@{}>\n", "h".repeat(1100));
    let message = test_requests::register("c", 1, &many);
    assert!(Register::read(&message, &test_requests::flow(Transport::Udp)).is_err());
}

#[test]
fn the_limit_of_contacts_holds_for_what_would_be_left() {
    let record = one("c", 1, "Contact: <sip:a@h>, <sip:b@h>, <sip:c@h>\n");
    let fourth = register("c", 2, "Contact: <sip:d@h>\n");
    let refusal = Refusal::TooManyContacts { limit: 3 };
    assert_eq!(update(&record, &fourth, &POLICY, NOW), Err(refusal));
    let swap = register("c", 2, "Contact: <sip:d@h>, <sip:a@h>;expires=0\n");
    assert!(update(&record, &swap, &POLICY, NOW).is_ok());
    // Those that have ended do not count.
    assert!(update(&record, &fourth, &POLICY, after(3600)).is_ok());
}

// RFC 3261 §10.3(7), §19.1.4
#[test]
fn contacts_are_compared_as_uris() {
    let record = one("c", 1, "Contact: <sip:%61@H.example;transport=udp>;expires=100\n");
    let same = register("c", 2, "Contact: <sip:a@h.EXAMPLE;transport=UDP>;expires=200\n");
    assert_eq!(take(&record, &same, NOW).living(NOW).count(), 1);
    let other = register("c", 2, "Contact: <sip:a@h.example>;expires=200\n");
    assert_eq!(take(&record, &other, NOW).living(NOW).count(), 2);
}

// RFC 3327 §5.3
#[test]
fn each_binding_keeps_the_path_of_its_own_register() {
    let record = one("c", 1, "Contact: <sip:a@h>\nPath: <sip:p2;lr>, <sip:p1;lr>\n");
    let record = take(&record, &register("d", 1, "Contact: <sip:b@h>\nPath: <sip:q;lr>\n"), NOW);
    let paths: Vec<Vec<Bytes>> = record.living(NOW).map(|binding| binding.path.clone()).collect();
    assert_eq!(paths, [vec!["<sip:p2;lr>", "<sip:p1;lr>"], vec!["<sip:q;lr>"]]);
}

fn flow_fields(contact: &str, reg_id: u32, expires: u32, path: &str) -> String {
    format!(
        "Supported: path, outbound\nPath: {path}\n\
         Contact: <{contact}>;+sip.instance=\"<urn:uuid:1>\";reg-id={reg_id};expires={expires}\n"
    )
}

const OB: &str = "<sip:t@192.0.2.1;lr;ob>";

// RFC 5626 §6
#[test]
fn a_newer_flow_replaces_the_same_reg_id_and_no_other() {
    let record = one("c", 1, &flow_fields("sip:a@h:1", 1, 100, OB));
    let record = take(&record, &register("d", 1, &flow_fields("sip:a@h:2", 2, 100, OB)), NOW);
    assert_eq!(record.living(NOW).count(), 2);
    let record = take(&record, &register("e", 1, &flow_fields("sip:a@h:3", 1, 100, OB)), NOW);
    let left: Vec<String> = contacts(&record, NOW).into_iter().map(|(uri, _)| uri).collect();
    assert_eq!(left, ["sip:a@h:3", "sip:a@h:2"]);
    let record = take(&record, &register("e", 2, &flow_fields("sip:whatever@h", 1, 0, OB)), NOW);
    assert_eq!(contacts(&record, NOW), [("sip:a@h:2".into(), 100)]);
}

#[test]
fn the_same_reg_id_of_two_phones_is_two_flows() {
    let record = one("c", 1, &flow_fields("sip:a@h:1", 1, 100, OB));
    let other = flow_fields("sip:a@h:2", 1, 100, OB).replace("urn:uuid:1", "urn:uuid:2");
    assert_eq!(take(&record, &register("d", 1, &other), NOW).living(NOW).count(), 2);
}

// RFC 5626 §6
#[test]
fn outbound_over_a_first_hop_without_ob_is_refused() {
    let lacking = "<sip:t@192.0.2.1;lr>";
    let wanted = register("c", 1, &flow_fields("sip:a@h", 1, 100, lacking));
    let refused = update(&Bindings::default(), &wanted, &POLICY, NOW);
    assert_eq!(refused, Err(Refusal::FirstHopLacksOutbound));
    // The first hop is the lowest of the Path; hops above it need no outbound.
    let two = register("c", 1, &flow_fields("sip:a@h", 1, 100, &format!("{lacking}, {OB}")));
    assert!(update(&Bindings::default(), &two, &POLICY, NOW).is_ok());
    // Without `Supported: outbound` the reg-id means nothing.
    let plain = flow_fields("sip:a@h", 1, 100, lacking).replace(", outbound", "");
    assert!(update(&Bindings::default(), &register("c", 1, &plain), &POLICY, NOW).is_ok());
}

#[test]
fn only_natted_datagram_bindings_with_a_path_are_kept_alive() {
    let path = "Path: <sip:t@192.0.2.1;lr>\n";
    for (transport, fields, kept) in [
        (Transport::Udp, format!("{path}Contact: <sip:a@10.0.0.7:5060>\n"), true),
        (Transport::Tcp, format!("{path}Contact: <sip:a@10.0.0.7:5060>\n"), false),
        (Transport::Udp, "Contact: <sip:a@10.0.0.7:5060>\n".to_string(), false),
        (Transport::Udp, format!("{path}Contact: <sip:a@198.51.100.7:49152>\n"), false),
        (Transport::Udp, format!("{path}Contact: <sip:a@198.51.100.7>\n"), true),
        (Transport::Udp, format!("{path}Contact: <sip:a@pbx.example.org>\n"), false),
        (Transport::Udp, format!("{path}Contact: <sip:a@x.invalid>\n"), true),
        (Transport::Udp, flow_fields("sip:a@10.0.0.7", 1, 100, OB), false),
    ] {
        let message = test_requests::register("c", 1, &fields);
        let register = Register::read(&message, &test_requests::flow(transport)).unwrap();
        let record = take(&Bindings::default(), &register, NOW);
        assert_eq!(record.living(NOW).next().unwrap().keep_alive, kept, "{transport} {fields}");
    }
}

#[test]
fn a_contact_value_shows_what_the_phone_needs() {
    let record =
        one("c", 1, &flow_fields("sip:a@h;x?y=z", 1, 100, OB).replace(";reg-id", ";q=0.50;reg-id"));
    let value = record.living(NOW).next().unwrap().contact_value(after(1));
    let expected = r#"<sip:a@h;x?y=z>;expires=99;q=0.5;+sip.instance="<urn:uuid:1>";reg-id=1"#;
    assert_eq!(String::from_utf8(value).unwrap(), expected);
}

#[test]
fn a_typical_binding_takes_at_most_350_octets() {
    let token = "A".repeat(48);
    let path = format!("<sip:{token}@192.0.2.1:5060;lr;ob>");
    let fields = flow_fields("sip:bob@10.11.12.13:49152;transport=tcp", 1, 3600, &path)
        .replace("urn:uuid:1", "urn:uuid:00000000-0000-1000-8000-AABBCCDDEEFF")
        + "User-Agent: Linphone Desktop/4.2.5 (belle-sip/4.4.0)\n";
    let record = one("f81d4fae-7dec-11d0-a765-00a0c91e6bf6@10.11.12.13", 1, &fields);
    let octets = record.encode().len();
    assert!(octets <= 350, "{octets} octets");
}

#[test]
fn records_of_another_level_or_cut_short_are_refused() {
    let record = one("c", 1, &flow_fields("sip:a@h", 1, 100, OB)).encode();
    for length in 0..record.len() {
        assert!(Bindings::decode(&record.slice(..length)).is_err(), "{length} octets");
    }
    let mut later = record.to_vec();
    later[0] = 2;
    assert_eq!(Bindings::decode(&later.into()), Err(RecordError::FormatLevel(2)));
}

/// One random REGISTER: phone, whether its CSeq grows, contacts with lifetimes, or everything.
#[derive(Clone, Debug)]
struct Step {
    phone: u8,
    grows: bool,
    contacts: Vec<(u8, u32)>,
    pause_seconds: u64,
}

fn any_step() -> impl Strategy<Value = Step> {
    let expires = prop_oneof![Just(0_u32), Just(30), 60..400_u32];
    let contacts = proptest::collection::vec((0..4_u8, expires), 0..4);
    (0..3_u8, prop::bool::weighted(0.8), contacts, 0..120_u64).prop_map(
        |(phone, grows, contacts, pause_seconds)| Step { phone, grows, contacts, pause_seconds },
    )
}

/// The header fields of a step; the time is in them, so that only requests of the same second are the same.
fn fields_of(step: &Step, now: u64) -> String {
    let list: Vec<String> = step
        .contacts
        .iter()
        .map(|(contact, expires)| format!("<sip:c{contact}@h>;expires={expires}"))
        .collect();
    if list.is_empty() {
        return String::new();
    }
    format!("Contact: {}\nExpires: {}\n", list.join(", "), 5000 + now)
}

/// contact -> (phone, CSeq, end in seconds)
type Model = BTreeMap<u8, (u8, u32, u64)>;

/// What RFC 3261 §10.3 says, over plain numbers; `None`: refused.
fn model_after(model: &Model, step: &Step, cseq: u32, now: u64) -> Option<Model> {
    let mut next = model.clone();
    for &(contact, _) in &step.contacts {
        if model.get(&contact).is_some_and(|&(phone, old, _)| phone == step.phone && cseq <= old) {
            return None;
        }
    }
    for &(contact, expires) in &step.contacts {
        match expires {
            0 => drop(next.remove(&contact)),
            1..60 => return None,
            _ => drop(next.insert(contact, (step.phone, cseq, now + u64::from(expires)))),
        }
    }
    (next.len() <= POLICY.contacts_max).then_some(next)
}

proptest! {
    #[test]
    fn random_registers_do_what_the_model_does(steps in proptest::collection::vec(any_step(), 1..40)) {
        let (mut model, mut record) = (Model::new(), Bindings::default());
        let (mut now, mut cseqs, mut taken) = (0_u64, [1_u32; 3], HashSet::new());
        for step in &steps {
            now += step.pause_seconds;
            model.retain(|_, (_, _, end)| *end > now);
            let cseq = &mut cseqs[usize::from(step.phone)];
            *cseq += u32::from(step.grows);
            let fields = fields_of(step, now);
            let request = register(&format!("phone{}", step.phone), *cseq, &fields);
            let expected = model_after(&model, step, *cseq, now);
            match update(&record, &request, &POLICY, after(now)) {
                Ok(Updated::Changed(bindings)) => {
                    prop_assert!(expected.is_some(), "{:?} was taken", step);
                    model = expected.unwrap();
                    record = Bindings::decode(&bindings.encode()).unwrap();
                    prop_assert_eq!(&record, &bindings);
                    taken.insert((step.phone, *cseq, fields));
                }
                Ok(Updated::Unchanged) => {
                    let retried = taken.contains(&(step.phone, *cseq, fields));
                    prop_assert!(retried || expected.as_ref() == Some(&model), "{:?} was lost", step);
                }
                Err(refusal) => prop_assert_eq!(expected, None, "{:?} gave {:?}", step, refusal),
            }
            let mut living = contacts(&record, after(now));
            living.sort();
            let expected: Vec<(String, u64)> = model
                .iter()
                .map(|(contact, (_, _, end))| (format!("sip:c{contact}@h"), end - now))
                .collect();
            prop_assert_eq!(living, expected);
        }
    }

    #[test]
    fn decoding_arbitrary_records_never_panics(mut record: Vec<u8>) {
        if let Some(level) = record.first_mut() {
            *level = FORMAT_LEVEL;
        }
        let _ = Bindings::decode(&record.into());
    }
}
