//! Turns what the machines ask for into effects: which bytes they mean, who has to know.

use bytes::Bytes;
use sip::transaction::{ClientAction, ResponseClass, ServerAction};
use sip::{Message, ack};
use transport::link::SendError;

use super::client_side::{ClientActions, Role};
use super::server_side::ServerActions;
use super::{ClientId, ServerId, TransactionEffect, TransactionId, Transactions};
use crate::proxy::TransportFailure;
use crate::responder::Responder;

/// What a server machine was given with its event.
pub(super) enum Input<'a> {
    Nothing,
    Request(&'a Message),
    Response(ResponseClass, Bytes),
}

impl Transactions {
    pub(super) fn carry_out_server(
        &mut self,
        server: ServerId,
        actions: ServerActions,
        input: Input<'_>,
        effects: &mut Vec<TransactionEffect>,
    ) {
        let transaction = self.servers.get_mut(&server).expect("callers hold a living id");
        let mut is_over = false;
        for action in actions {
            match action {
                ServerAction::SendResponse => {
                    if let Input::Response(class, bytes) = &input {
                        transaction.response = Some(bytes.clone());
                        if *class != ResponseClass::Provisional {
                            // Not needed any more, and it keeps the link's read buffer alive.
                            let request = transaction.request.take();
                            self.unanswered -= usize::from(request.is_some());
                        }
                    }
                }
                ServerAction::SendTrying => {
                    transaction.response = transaction.request.as_deref().map(Responder::trying);
                }
                ServerAction::ResendResponse => {}
                ServerAction::DeliverAck => {
                    if let Input::Request(request) = input {
                        effects.push(TransactionEffect::Acknowledged {
                            request: request.clone(),
                            origin: transaction.origin,
                        });
                    }
                    continue;
                }
                // Nobody to be told: the caller is gone, and the answer with it (§17.2.1, §17.2.4).
                ServerAction::TimedOut | ServerAction::TransportFailed => continue,
                ServerAction::Terminated => {
                    is_over = true;
                    continue;
                }
            }
            if let Some(bytes) = transaction.response.clone() {
                effects.push(TransactionEffect::SendResponse {
                    server: Some(server),
                    origin: transaction.origin,
                    bytes,
                });
            }
        }
        if is_over {
            if transaction.is_invite() {
                effects.push(TransactionEffect::ServerEnded { server });
            }
            return self.end_server(server);
        }
        if transaction.only_repeats() {
            return self.remember_answered(server);
        }
        let deadline = transaction.next_timeout();
        self.deadlines.arm(TransactionId::Server(server), &mut transaction.armed, deadline);
    }

    pub(super) fn carry_out_client(
        &mut self,
        client: ClientId,
        actions: ClientActions,
        response: Option<(ResponseClass, Message)>,
        error: Option<SendError>,
        effects: &mut Vec<TransactionEffect>,
    ) {
        let transaction = self.clients.get_mut(&client).expect("callers hold a living id");
        let is_for_user = transaction.role == Role::User;
        let mut is_over = false;
        for action in actions {
            match action {
                ClientAction::SendRequest => effects.push(TransactionEffect::SendRequest {
                    client,
                    bytes: transaction.request.clone(),
                }),
                ClientAction::SendAck => {
                    if transaction.ack.is_none() {
                        let response = response.as_ref().map(|(_, response)| response);
                        transaction.ack = response
                            .and_then(|response| acknowledgement(&transaction.request, response));
                    }
                    if let Some(bytes) = transaction.ack.clone() {
                        effects.push(TransactionEffect::SendRequest { client, bytes });
                    }
                }
                ClientAction::Deliver => {
                    if let Some((class, response)) = &response {
                        if *class != ResponseClass::Provisional {
                            transaction.request = Bytes::new();
                        }
                        if is_for_user {
                            effects.push(TransactionEffect::Delivered {
                                client,
                                response: response.clone(),
                            });
                        } else if let Some(status) = response.status() {
                            effects.push(TransactionEffect::CancelAnswered { client, status });
                        }
                    }
                }
                ClientAction::TimedOut if is_for_user => {
                    effects.push(TransactionEffect::Failed {
                        client,
                        failure: TransportFailure::TimedOut,
                    });
                }
                ClientAction::TransportFailed if is_for_user => {
                    effects.push(TransactionEffect::Failed { client, failure: failure_of(error) });
                }
                ClientAction::TimedOut | ClientAction::TransportFailed => {}
                ClientAction::Terminated => is_over = true,
            }
        }
        if is_over {
            return self.end_client(client, effects);
        }
        let deadline = transaction.next_timeout();
        self.deadlines.arm(TransactionId::Client(client), &mut transaction.armed, deadline);
    }
}

/// The ACK to a failure (§17.1.1.3).
fn acknowledgement(invite: &Bytes, response: &Message) -> Option<Bytes> {
    let invite = Message::parse(invite.clone()).ok()?;
    Some(ack::ack(&invite, response))
}

fn failure_of(error: Option<SendError>) -> TransportFailure {
    match error {
        Some(SendError::FlowGone) => TransportFailure::FlowGone,
        Some(SendError::Unreachable | SendError::Full | SendError::Refused) | None => {
            TransportFailure::Unreachable
        }
    }
}
