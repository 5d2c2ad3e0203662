//! The call of these tests, the agent that takes it, and the container that both are in.

use std::time::Duration;

use futures_util::future::BoxFuture;
use sip::transaction::Timers;
use sip::{Message, Method};
use topology::{Incarnation, KeyRing, ProcessName};

use crate::application::Response;
use crate::session::{
    CALLER, LegName, LegState, Replication, SessionApplication, SessionEffect, SessionEvent,
    SessionView,
};
use crate::shard::ShardSettings;
use crate::shard::tests::ways::route_of_dialog;
use crate::transactions::TransactionSettings;

/// Of the container with this number.
pub(super) fn settings(number: u64) -> ShardSettings {
    ShardSettings {
        name: ProcessName::new(format!("c{number}")),
        incarnation: Incarnation(number),
        node: "n1".to_owned(),
        keys: KeyRing::new([1; 32]),
        // Large messages count as several.
        transactions: TransactionSettings { timers: Timers::default(), transactions_max: 1_000 },
        commit_conflicts_max: 3,
    }
}

pub(super) fn invite() -> Message {
    invite_to("sip:bob@b2b.example.com")
}

pub(super) fn invite_to(uri: &str) -> Message {
    let recorded = edge_route(1, "c1");
    let text = format!(
        "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKcaller\r\n\
         Record-Route: {recorded}\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@example.com>;tag=caller\r\nTo: <{uri}>\r\nCall-ID: c1\r\n\
         CSeq: 7 INVITE\r\nContact: <sip:alice@198.51.100.7>\r\nContent-Length: 0\r\n\r\n"
    );
    Message::parse(text.into_bytes().into()).unwrap()
}

/// What the edge writes into Record-Route of a dialog toward a phone, of which `number` tells which it is.
pub(super) fn edge_route(number: u8, call_id: &str) -> String {
    route_of_dialog("192.0.2.1", &format!("198.51.100.{number}:5060"), call_id)
}

/// Calls bob, passes on what one side does, and asks the callee something when a timer fires.
pub(super) struct Agent {
    pub(super) name: &'static str,
    pub(super) timer_after: Duration,
    /// Whom it calls.
    pub(super) callee: &'static str,
    pub(super) replication: Replication,
}

impl SessionApplication for Agent {
    fn name(&self) -> &str {
        self.name
    }

    fn accepts(&self, request: &Message) -> bool {
        request.method() == Some(Method::Invite)
    }

    fn replication(&self) -> Replication {
        self.replication
    }

    fn on_event<'a>(
        &'a self,
        session: &'a SessionView,
        event: &'a SessionEvent,
    ) -> BoxFuture<'a, Vec<SessionEffect>> {
        Box::pin(async move { self.decide(session, event) })
    }
}

impl Agent {
    fn decide(&self, session: &SessionView, event: &SessionEvent) -> Vec<SessionEffect> {
        let callee = || LegName::new("callee");
        let send = |leg: &LegName, method: &'static str| SessionEffect::Send {
            leg: leg.clone(),
            method: method.into(),
            headers: Vec::new(),
            body: None,
        };
        match event {
            SessionEvent::Request { leg, request, message } => match message.method().unwrap() {
                Method::Invite => vec![
                    SessionEffect::Call {
                        leg: callee(),
                        target: self.callee.into(),
                        from: "<sip:alice@example.com>".into(),
                        to: "<sip:bob@example.com>".into(),
                        headers: Vec::new(),
                        body: None,
                    },
                    SessionEffect::StartTimer {
                        name: "ask".to_owned(),
                        after: self.timer_after,
                        every: None,
                    },
                    SessionEffect::Set {
                        name: "first".to_owned(),
                        value: request.0.to_string().into(),
                    },
                ],
                Method::Bye => {
                    let other = session.legs.iter().find(|other| other.name != *leg);
                    other.map(|other| send(&other.name, "BYE")).into_iter().collect()
                }
                _ => Vec::new(),
            },
            SessionEvent::Response { message, leg } if leg.as_str() == "callee" => {
                let status = message.status().unwrap();
                let unanswered =
                    session.leg(CALLER).and_then(|leg| leg.unanswered.first().cloned());
                let is_invite = message.cseq().unwrap().method == Method::Invite;
                let Some((request, _)) = unanswered.filter(|_| is_invite) else {
                    return Vec::new();
                };
                let mut effects =
                    vec![SessionEffect::Respond { request, response: Response::new(status) }];
                if status == 200 {
                    let (headers, body) = (Vec::new(), None);
                    effects.push(SessionEffect::Acknowledge { leg: callee(), headers, body });
                }
                effects
            }
            SessionEvent::Failed { leg, method, status: 487 } if *method == "BYE" => {
                let other = session.legs.iter().find(|other| other.name != *leg);
                other.map(|other| send(&other.name, "BYE")).into_iter().collect()
            }
            SessionEvent::Failed { leg, method, status: 487 }
                if *method == "INVITE" && leg.as_str() == CALLER =>
            {
                vec![SessionEffect::Cancel { leg: callee() }]
            }
            SessionEvent::Timer { .. } => {
                let stands =
                    session.leg("callee").is_some_and(|leg| leg.state == LegState::Confirmed);
                if stands { vec![send(&callee(), "INFO")] } else { Vec::new() }
            }
            _ => Vec::new(),
        }
    }
}
