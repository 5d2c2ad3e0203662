//! One connection between two members: greetings, then whatever changes, pings, requests and their answers.
//!
//! Reading and writing wait for nothing but their own end of the stream, so that two members with much to say do not wait
//! for each other. Whoever is silent, or does not read, for as long as would make him lost, is given up.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, split};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use topology::protocol::{Answer, encode_line};
use topology::{Member, NodeNumber};

use super::lines::{PeerError, Reader, write};
use super::protocol::{LINE_BYTES_MAX, ToPeer};
use super::{HANDSHAKE_TIMEOUT, Port, Said};
use crate::cluster::{Greeting, Session};
use crate::server::Input;
use crate::server::manager::unix_micros;

/// Requests and answers that wait for one member to read. More are refused.
const OUTBOUND_MAX: usize = 64;

/// Requests of one member that are being carried out.
const REQUESTS_MAX: usize = 64;

/// Progress that waits to be passed on, and the outcome.
const ANSWERS_MAX: usize = 8;

/// What the manager's loop hears of connections.
pub(crate) enum PeerInput {
    /// Somebody greets. What is answered: his session, or why there is none.
    Greeted {
        greeting: Box<Greeting>,
        certified: String,
        is_dialled: bool,
        outbound: mpsc::Sender<ToPeer>,
        reply: oneshot::Sender<Result<Session, Refusal>>,
    },
    /// A member says something.
    Said { number: NodeNumber, session: Session, said: ToPeer },
    /// It answered at `answered_at` by its clock what was asked at `asked_at`, and came at `now`, by ours: Unix
    /// microseconds.
    Time { number: NodeNumber, session: Session, asked_at: u64, answered_at: u64, now: u64 },
    /// A member asks for something; the reply takes progress too.
    Asked { request: topology::protocol::Request, reply: mpsc::Sender<Answer> },
    /// The connection is over.
    Gone { number: NodeNumber, session: Session },
    /// What gossip knows of the others now.
    Gossiped(Arc<topology::Picture>),
    /// A member did not let this node in, and knows that list.
    Refused { by: String, reason: String, membership: topology::Membership },
}

/// Why somebody does not come in, and the list that says so.
pub(crate) struct Refusal {
    pub(crate) reason: String,
    pub(crate) membership: topology::Membership,
}

/// A connection that came in, of whom its certificate calls `certified`.
pub(super) async fn accepted(
    port: &Arc<Port>,
    stream: impl AsyncRead + AsyncWrite,
    certified: &str,
) -> Result<(), PeerError> {
    let (read, write_half) = split(stream);
    let mut reader = Reader::new(Box::pin(read), LINE_BYTES_MAX);
    let ToPeer::Greeting(greeting) = reader.next(HANDSHAKE_TIMEOUT).await? else {
        return Err(PeerError::Refused("no greeting came first".to_owned()));
    };
    let number = greeting.number;
    match introduce(port, greeting, certified.to_owned(), false).await? {
        Ok((session, outbound)) => {
            let talk = Talk { port, number, session };
            talk.go_on(reader, Box::pin(write_half), outbound, true).await
        }
        Err(Refusal { reason, membership }) => {
            let refused = ToPeer::Refused { reason: reason.clone(), membership };
            let mut stream = std::pin::pin!(write_half);
            write(&mut stream, &encode_line(&refused), HANDSHAKE_TIMEOUT).await?;
            Err(PeerError::Refused(reason))
        }
    }
}

/// A connection that this node opened.
pub(super) struct Dialled<'a> {
    pub(super) port: &'a Arc<Port>,
    pub(super) member: &'a Member,
}

impl Dialled<'_> {
    pub(super) async fn talk(&self, stream: impl AsyncRead + AsyncWrite) -> Result<(), PeerError> {
        let (read, write_half) = split(stream);
        let mut writer = Box::pin(write_half);
        let greeting = Arc::clone(&self.port.said.greeting.borrow());
        write(&mut writer, &greeting, HANDSHAKE_TIMEOUT).await?;
        let mut reader = Reader::new(Box::pin(read), LINE_BYTES_MAX);
        let greeting = match reader.next(HANDSHAKE_TIMEOUT).await? {
            ToPeer::Greeting(greeting) => greeting,
            ToPeer::Refused { reason, membership } => {
                let by = self.member.name.clone();
                let refused = PeerInput::Refused { by, reason: reason.clone(), membership };
                send(self.port, refused).await?;
                return Err(PeerError::Refused(reason));
            }
            _ => return Err(PeerError::Refused("no greeting came first".to_owned())),
        };
        let number = greeting.number;
        // The handshake asked for a certificate of that name.
        let certified = self.member.name.clone();
        match introduce(self.port, greeting, certified, true).await? {
            Ok((session, outbound)) => {
                let talk = Talk { port: self.port, number, session };
                talk.go_on(reader, writer, outbound, false).await
            }
            Err(refusal) => Err(PeerError::Refused(refusal.reason)),
        }
    }
}

type Introduced = Result<(Session, mpsc::Receiver<ToPeer>), Refusal>;

async fn introduce(
    port: &Port,
    greeting: Box<Greeting>,
    certified: String,
    is_dialled: bool,
) -> Result<Introduced, PeerError> {
    let (reply, answer) = oneshot::channel();
    let (outbound, received) = mpsc::channel(OUTBOUND_MAX);
    send(port, PeerInput::Greeted { greeting, certified, is_dialled, outbound, reply }).await?;
    let greeted = answer.await.map_err(|_| PeerError::ManagerGone)?;
    Ok(greeted.map(|session| (session, received)))
}

/// A connection whose ends know each other.
struct Talk<'a> {
    port: &'a Arc<Port>,
    number: NodeNumber,
    session: Session,
}

impl Talk<'_> {
    async fn go_on<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &self,
        mut reader: Reader<R>,
        mut writer: W,
        outbound: mpsc::Receiver<ToPeer>,
        greets: bool,
    ) -> Result<(), PeerError> {
        let (answers, answered) = mpsc::channel(OUTBOUND_MAX);
        let ended = tokio::select! {
            ended = self.read(&mut reader, answers) => ended,
            ended = self.write(&mut writer, outbound, answered, greets) => ended,
        };
        let Talk { number, session, .. } = *self;
        send(self.port, PeerInput::Gone { number, session }).await?;
        ended
    }

    async fn read<R: AsyncRead + Unpin>(
        &self,
        reader: &mut Reader<R>,
        answers: mpsc::Sender<ToPeer>,
    ) -> Result<(), PeerError> {
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        loop {
            match reader.next(self.port.silence_max()).await? {
                ToPeer::Request { id, request } => {
                    let Ok(place) = Arc::clone(&requests).try_acquire_owned() else {
                        let reason = "too many requests at one time; try again".to_owned();
                        let answer = Answer::Refused { reason };
                        // Who does not read his answers either has given up on them.
                        let _ = answers.try_send(ToPeer::Answer { id, answer });
                        continue;
                    };
                    let (reply, mut received) = mpsc::channel(ANSWERS_MAX);
                    send(self.port, PeerInput::Asked { request, reply }).await?;
                    let answers = answers.clone();
                    tokio::spawn(async move {
                        while let Some(answer) = received.recv().await {
                            let is_last = !answer.is_progress();
                            if answers.send(ToPeer::Answer { id, answer }).await.is_err() || is_last
                            {
                                break;
                            }
                        }
                        drop(place);
                    });
                }
                ToPeer::Time { asked_at, answered_at } => {
                    let Talk { number, session, .. } = *self;
                    let now = unix_micros();
                    let time = PeerInput::Time { number, session, asked_at, answered_at, now };
                    send(self.port, time).await?;
                }
                said => {
                    if let ToPeer::Ping { asked_at } = said {
                        let answered_at = unix_micros();
                        // Who does not read has no use for it.
                        let _ = answers.try_send(ToPeer::Time { asked_at, answered_at });
                    }
                    let Talk { number, session, .. } = *self;
                    send(self.port, PeerInput::Said { number, session, said }).await?;
                }
            }
        }
    }

    /// Everything once, then what changes; a ping where nothing did.
    async fn write<W: AsyncWrite + Unpin>(
        &self,
        writer: &mut W,
        mut outbound: mpsc::Receiver<ToPeer>,
        mut answered: mpsc::Receiver<ToPeer>,
        greets: bool,
    ) -> Result<(), PeerError> {
        let Said { greeting, mut snapshot, mut membership, mut keys } = self.port.said.clone();
        let within = self.port.silence_max();
        if greets {
            let greeting = Arc::clone(&greeting.borrow());
            write(writer, &greeting, within).await?;
        }
        for changing in [&mut snapshot, &mut membership, &mut keys] {
            changing.mark_changed();
        }
        let mut pings = tokio::time::interval(self.port.heartbeat.interval);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let line = tokio::select! {
                // A death goes before all else.
                biased;
                changed = snapshot.changed() => {
                    changed.map_err(|_| PeerError::ManagerGone)?;
                    Arc::clone(&snapshot.borrow_and_update())
                }
                changed = membership.changed() => {
                    changed.map_err(|_| PeerError::ManagerGone)?;
                    Arc::clone(&membership.borrow_and_update())
                }
                changed = keys.changed() => {
                    changed.map_err(|_| PeerError::ManagerGone)?;
                    Arc::clone(&keys.borrow_and_update())
                }
                message = outbound.recv() => match message {
                    Some(message) => Arc::new(encode_line(&message)),
                    // Another connection took this one's place, or the member was removed.
                    None => return Ok(()),
                },
                Some(answer) = answered.recv() => Arc::new(encode_line(&answer)),
                _ = pings.tick() => {
                    Arc::new(encode_line(&ToPeer::Ping { asked_at: unix_micros() }))
                }
            };
            write(writer, &line, within).await?;
        }
    }
}

async fn send(port: &Port, input: PeerInput) -> Result<(), PeerError> {
    port.inputs.send(Input::Peer(input)).await.map_err(|_| PeerError::ManagerGone)
}
