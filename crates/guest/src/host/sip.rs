//! The interface `sip`.

use std::time::Duration;

use bytes::Bytes;
use container::application::{QValue, RecordRoute, Response, Target};
use container::session::{LegDirection, LegState, LegView, ProxyOptions, RequestId, Supervised};

use super::message::Subject;
use super::{Host, wit};
use crate::overlay::{Beginning, Refusal};

type Outcome = Result<(), wit::types::Error>;

impl wit::sip::Host for Host {
    fn legs(&mut self) -> Vec<wit::sip::Leg> {
        let legs = self.overlay.as_ref().map(|overlay| &overlay.view().legs);
        legs.map(|legs| legs.iter().map(leg).collect()).unwrap_or_default()
    }

    fn find_leg(&mut self, name: String) -> Option<wit::sip::Leg> {
        self.overlay.as_ref()?.view().leg(&name).map(leg)
    }

    fn respond(
        &mut self,
        request: u64,
        status: u16,
        reason: String,
        headers: Vec<wit::types::Header>,
        body: Option<wit::types::Body>,
    ) -> Outcome {
        let response = Response {
            status,
            reason: Bytes::from(reason),
            headers: headers.into_iter().map(Into::into).collect(),
            body: body.map(Into::into),
        };
        Ok(self.session()?.respond(RequestId(request), response)?)
    }

    fn invite(&mut self, call: wit::sip::Call) -> Outcome {
        let beginning = Beginning {
            leg: call.leg,
            target: Bytes::from(call.target),
            from: Bytes::from(call.from),
            to: Bytes::from(call.to),
            headers: call.headers.into_iter().map(Into::into).collect(),
            body: call.body.map(Into::into),
        };
        Ok(self.session()?.call(beginning)?)
    }

    fn send_outside(&mut self, request: wit::sip::OutsideRequest) -> Outcome {
        let beginning = Beginning {
            leg: request.leg,
            target: Bytes::from(request.target),
            from: Bytes::from(request.from),
            to: Bytes::from(request.to),
            headers: request.headers.into_iter().map(Into::into).collect(),
            body: request.body.map(Into::into),
        };
        Ok(self.session()?.send_outside(Bytes::from(request.method), beginning)?)
    }

    fn send(
        &mut self,
        leg: String,
        method: String,
        headers: Vec<wit::types::Header>,
        body: Option<wit::types::Body>,
    ) -> Outcome {
        let headers = headers.into_iter().map(Into::into).collect();
        Ok(self.session()?.send(&leg, Bytes::from(method), headers, body.map(Into::into))?)
    }

    fn acknowledge(
        &mut self,
        leg: String,
        headers: Vec<wit::types::Header>,
        body: Option<wit::types::Body>,
    ) -> Outcome {
        let headers = headers.into_iter().map(Into::into).collect();
        Ok(self.session()?.acknowledge(&leg, headers, body.map(Into::into))?)
    }

    fn cancel(&mut self, leg: String) -> Outcome {
        Ok(self.session()?.cancel(&leg)?)
    }

    fn proxy(
        &mut self,
        request: u64,
        targets: Vec<wit::sip::Target>,
        options: wit::sip::ProxyOptions,
    ) -> Outcome {
        let event = self.subject.as_ref().and_then(Subject::event).cloned();
        let targets = targets.into_iter().map(target).collect::<Result<_, _>>()?;
        let options = ProxyOptions {
            record_route: if options.record_route { RecordRoute::Yes } else { RecordRoute::No },
            supervised: if options.supervised { Supervised::Yes } else { Supervised::No },
            timer_c: options.timer_c.map(Duration::from_millis),
            headers: options.headers.into_iter().map(Into::into).collect(),
        };
        Ok(self.session()?.proxy(event.as_ref(), RequestId(request), targets, options)?)
    }

    fn link(&mut self, a: String, b: String) -> Outcome {
        Ok(self.session()?.link(&a, &b)?)
    }

    fn unlink(&mut self, leg: String) {
        if let Some(overlay) = &mut self.overlay {
            overlay.unlink(&leg);
        }
    }

    fn relay(&mut self) -> Outcome {
        let event = self.subject.as_ref().and_then(Subject::event);
        match (&mut self.overlay, event) {
            (Some(overlay), Some(event)) => Ok(overlay.relay(event)?),
            (None, _) | (_, None) => {
                Err(Refusal::WrongState("there is no message here".to_owned()).into())
            }
        }
    }
}

fn target(target: wit::sip::Target) -> Result<Target, Refusal> {
    let wit::sip::Target { uri, route, q } = target;
    if q > 1_000 {
        return Err(Refusal::Invalid(format!("{q} is no q: it has 0 to 1000 thousandths")));
    }
    let route = route.into_iter().map(Bytes::from).collect();
    Ok(Target { route, q: QValue::from_thousandths(q), ..Target::new(uri) })
}

fn leg(view: &LegView) -> wit::sip::Leg {
    let text = |octets: &Bytes| String::from_utf8_lossy(octets).into_owned();
    wit::sip::Leg {
        name: view.name.as_str().to_owned(),
        direction: match view.direction {
            LegDirection::Incoming => wit::sip::Direction::Incoming,
            LegDirection::Outgoing => wit::sip::Direction::Outgoing,
        },
        state: match view.state {
            LegState::Early => wit::sip::LegState::Early,
            LegState::Confirmed => wit::sip::LegState::Confirmed,
            LegState::Ended => wit::sip::LegState::Ended,
        },
        call_id: text(&view.call_id),
        linked: view.linked.as_ref().map(|leg| leg.as_str().to_owned()),
        unanswered: view.unanswered.iter().map(|(id, method)| (id.0, text(method))).collect(),
        waiting: view.waiting.iter().map(text).collect(),
        wants_ack: view.wants_ack,
    }
}
