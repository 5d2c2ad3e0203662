//! What ends branches before they answer: CANCEL and Timer C.

use super::*;

// CANCEL (§9.1, §16.10)

#[test]
fn cancel_goes_only_where_a_provisional_response_came_and_elsewhere_after_the_first() {
    check_invite(
        "a b c | d",
        "begin  => start 0 a, start 1 b, start 2 c
         0: 180 => reply 180
         1: 100 =>
         cancel => cancel 0, cancel 1
         cancel =>
         2: 180 => cancel 2, reply 180
         2: 183 => reply 183
         2: 487 =>
         0: 487 =>
         1: 487 => reply 487, finished
         cancel =>",
    );
}

#[test]
fn cancelled_branch_that_never_answers_is_given_up_after_64_t1() {
    check_invite(
        "a",
        "begin  => start 0 a
         0: 180 => reply 180
         cancel => cancel 0
         +31.9  =>
         +0.1   => abandon 0, own 487, finished",
    );
}

#[test]
fn branch_that_never_answered_ends_with_487_when_cancelled() {
    check_invite(
        "a>b | c",
        "begin      => start 0 a
         cancel     =>
         0: timeout => own 487, finished",
    );
}

#[test]
fn answer_that_crosses_a_cancel_is_relayed() {
    check_invite(
        "a",
        "begin  => start 0 a
         0: 180 => reply 180
         cancel => cancel 0
         0: 200 => reply 200
         +32    => finished",
    );
}

#[test]
fn cancel_of_anything_but_invite_has_no_effect() {
    check_message(
        "a | b",
        "begin  => start 0 a
         0: 100 =>
         cancel =>
         0: 404 => start 1 b
         1: 200 => reply 200, finished",
    );
}

// Timer C (§16.6(11), §16.7(2), §16.8)

#[test]
fn timer_c_cancels_a_ringing_branch_and_the_search_goes_on() {
    check_invite(
        "a | b",
        "begin  => start 0 a
         0: 180 => reply 180
         +180.9 =>
         +0.1   => cancel 0
         0: 487 => start 1 b
         1: 404 => reply 404, finished",
    );
}

#[test]
fn timer_c_is_set_anew_by_101_to_199_but_not_by_100() {
    check_invite(
        "a",
        "begin  => start 0 a
         +100   =>
         0: 183 => reply 183
         +100   =>
         0: 100 =>
         +80    =>
         +1     => cancel 0",
    );
}

#[test]
fn timer_c_without_a_provisional_response_is_408() {
    check_invite(
        "a",
        "begin => start 0 a
         +181  => abandon 0, own 408, finished",
    );
}
