//! Where connections are kept and found: by id, and by remote address.
//!
//! A place in the slab is used again, an id never: it holds the place's generation, so an event
//! that the kernel reported for a connection that has since been closed meets no other one.

use std::collections::HashMap;
use std::net::SocketAddr;

use mio::Token;
use smallvec::SmallVec;

use super::connection::Connection;

/// One connection, for as long as it lives; never another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    index: u32,
    generation: u32,
}

/// Set in every token of a connection; the tokens below are the owner's.
const TOKEN_MARK: usize = 1 << 63;

/// Generations count modulo this, so that they fit beside mark and index.
const GENERATIONS: u32 = 1 << 31;

impl ConnectionId {
    /// The token that the connection is registered with; always `1 << 63` or above.
    pub fn token(self) -> Token {
        Token(TOKEN_MARK | (self.generation as usize) << 32 | self.index as usize)
    }

    /// The connection of a token, or `None` for a token of the owner's.
    pub fn from_token(token: Token) -> Option<ConnectionId> {
        if token.0 & TOKEN_MARK == 0 {
            return None;
        }
        let generation =
            u32::try_from((token.0 >> 32) & (GENERATIONS as usize - 1)).expect("masked to 31 bits");
        let index = u32::try_from(token.0 & u32::MAX as usize).expect("masked to 32 bits");
        Some(ConnectionId { index, generation })
    }
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

/// The connections and their index. It grows to the most connections there ever were, and admission
/// limits those.
#[derive(Debug, Default)]
pub(super) struct Slab {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_remote: HashMap<SocketAddr, SmallVec<[ConnectionId; 1]>>,
}

impl Slab {
    /// The id that the next insertion gets.
    pub(super) fn next_id(&self) -> ConnectionId {
        match self.free.last() {
            Some(index) => {
                ConnectionId { index: *index, generation: self.slots[*index as usize].generation }
            }
            None => {
                let index = u32::try_from(self.slots.len())
                    .expect("admission keeps the slab far below 2^32");
                ConnectionId { index, generation: 0 }
            }
        }
    }

    /// Keeps a connection under [`next_id`](Self::next_id).
    pub(super) fn insert(&mut self, connection: Connection) -> ConnectionId {
        let id = self.next_id();
        if self.free.pop().is_none() {
            self.slots.push(Slot::default());
        }
        self.by_remote.entry(connection.flow.remote).or_default().push(id);
        self.slots[id.index as usize].connection = Some(connection);
        id
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        let slot =
            self.slots.get(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        slot.connection.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let slot = self
            .slots
            .get_mut(id.index as usize)
            .filter(|slot| slot.generation == id.generation)?;
        slot.connection.as_mut()
    }

    /// Takes a connection out; its id names nothing from now on.
    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let slot = self
            .slots
            .get_mut(id.index as usize)
            .filter(|slot| slot.generation == id.generation)?;
        let connection = slot.connection.take()?;
        slot.generation = (slot.generation + 1) % GENERATIONS;
        self.free.push(id.index);
        if let Some(ids) = self.by_remote.get_mut(&connection.flow.remote) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_remote.remove(&connection.flow.remote);
            }
        }
        Some(connection)
    }

    /// The connections to a remote address, oldest first.
    pub(super) fn to(
        &self,
        remote: SocketAddr,
    ) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        let ids = self.by_remote.get(&remote).map_or(&[][..], |ids| &ids[..]);
        ids.iter().filter_map(|id| Some((*id, self.get(*id)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_costs_less_than_a_kilobyte() {
        // Its buffers are given back while it idles; deadline and index entries come on top.
        assert!(size_of::<Slot>() < 768, "{}", size_of::<Slot>());
    }

    #[test]
    fn tokens_name_connections_and_leave_the_lower_half_to_the_owner() {
        for (index, generation) in [(0, 0), (7, 3), (u32::MAX, GENERATIONS - 1)] {
            let id = ConnectionId { index, generation };
            assert_eq!(ConnectionId::from_token(id.token()), Some(id));
        }
        assert_eq!(ConnectionId::from_token(Token(0)), None);
        assert_eq!(ConnectionId::from_token(Token(TOKEN_MARK - 1)), None);
    }
}
