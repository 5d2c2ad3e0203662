//! What containers pass on to each other.

use super::*;

#[test]
fn a_message_goes_to_the_life_that_owns_it_or_waits_for_it_twice_and_not_a_third_time() {
    let rig = Rig::new();
    for (to, hops, expected) in [
        (12, 0, Ok(Some("container2"))),
        (12, 1, Ok(Some("container2"))),
        (12, 2, Err(DropReason::TooManyHandOns)),
        (13, 0, Ok(None)),
        (13, 2, Err(DropReason::TooManyHandOns)),
    ] {
        let name = hand_on(Incarnation(to), hops, &rig.view()).map(|hand_on| match hand_on {
            HandOn::To(place) => Some(rig.routing.routes()[place].name.as_str()),
            HandOn::Wait => None,
        });
        assert_eq!(name, expected, "to {to}, {hops} hops");
    }
}

#[test]
fn an_owner_that_serves_no_more_gets_what_is_its_own_as_long_as_it_is_linked() {
    let is_offered =
        |rig: &Rig| matches!(hand_on(Incarnation(12), 0, &rig.view()), Ok(HandOn::To(_)));
    let mut rig = Rig::new();
    let name = ProcessName::new("container2");
    let now = Instant::now();
    rig.routing.heartbeat(&name, Incarnation(12), Accepting::Draining, 0, now, &mut Vec::new());
    assert!(is_offered(&rig), "draining");
    rig.routing.tick(now + Duration::from_millis(1_500), &mut Vec::new());
    assert_eq!(rig.routing.owner(Incarnation(12)), None);
    assert!(is_offered(&rig), "it is silent and may live");
    rig.close("container2", 12);
    assert!(!is_offered(&rig));
}
