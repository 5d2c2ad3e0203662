//! REGISTER: at the beginning, and again when half of the lifetime is over (RFC 3261 §10.2).

use std::net::SocketAddr;
use std::time::Duration;

use sip::Message;

use super::requests::Purpose;
use super::{Observation, Phone, text};
use crate::random::Random;
use crate::schedule::Moment;

/// How long it waits after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(3));

/// What the phone knows of its registration.
#[derive(Debug)]
pub(super) struct Registration {
    call_id: String,
    cseq: u32,
    lifetime: Duration,
    /// Place of the edge it registers by.
    edge: usize,
    /// None while a REGISTER is under way.
    next: Option<Moment>,
}

impl Registration {
    pub(super) fn new(name: &str, first: Moment, random: &mut Random, edges: usize) -> Self {
        Registration {
            call_id: format!("register-{name}"),
            cseq: 0,
            lifetime: Duration::from_secs(60 + random.below(60)),
            edge: random.place(edges),
            next: Some(first),
        }
    }

    pub(super) fn next_wake(&self) -> Option<Moment> {
        self.next
    }
}

impl Phone {
    /// Registers now, whenever it was to be; not if it is about it.
    pub fn register_now(&mut self, now: Moment) {
        if self.registration.next.is_some() {
            self.registration.next = Some(now);
        }
    }

    /// The edge by which it registers now.
    pub fn registers_by(&self) -> SocketAddr {
        self.edges[self.registration.edge]
    }

    pub(super) fn wake_registration(&mut self, now: Moment) {
        if self.registration.next.is_none_or(|at| at > now) {
            return;
        }
        self.registration.next = None;
        self.registration.cseq += 1;
        let branch = self.branch();
        let (contact, user, address) = (self.contact(), &self.user, self.address);
        let Registration { call_id, cseq, lifetime, edge, .. } = &self.registration;
        let request = format!(
            "REGISTER sip:example.com SIP/2.0\r\n\
             Via: SIP/2.0/UDP {address};branch={branch};rport\r\n\
             Max-Forwards: 70\r\n\
             From: <sip:{user}@example.com>;tag=r{cseq}\r\n\
             To: <sip:{user}@example.com>\r\n\
             Call-ID: {call_id}\r\n\
             CSeq: {cseq} REGISTER\r\n\
             Contact: <{contact}>\r\n\
             Expires: {}\r\n\
             Content-Length: 0\r\n\r\n",
            lifetime.as_secs()
        );
        let purpose = Purpose::Register { lifetime: *lifetime };
        let way = (address, self.edges[*edge]);
        self.requests.begin(purpose, request.into(), way, now, &mut self.sent);
    }

    /// The REGISTER sent at `began` has ended.
    pub(super) fn registered(
        &mut self,
        began: Moment,
        lifetime: Duration,
        response: Option<&Message>,
        now: Moment,
    ) {
        match response {
            Some(response) if response.status() == Some(200) => {
                let contact = self.contact();
                let has_own = response.contacts().is_ok_and(|contacts| match contacts {
                    sip::Contacts::List(list) => {
                        list.iter().any(|listed| text(listed.uri()) == contact)
                    }
                    sip::Contacts::Star => false,
                });
                // The registrar counted from when it came, which was not before it was sent.
                self.observations.push(if has_own {
                    Observation::Registered { until: began + lifetime }
                } else {
                    Observation::BindingMissing
                });
                self.registration.next = Some(now + lifetime / 2);
            }
            Some(_) | None => {
                // RFC 5626 §4.5: another way, after a while that differs from phone to phone.
                self.registration.edge = self.random.place(self.edges.len());
                self.registration.next = Some(now + self.random.between(RETRY.0, RETRY.1));
            }
        }
    }
}
