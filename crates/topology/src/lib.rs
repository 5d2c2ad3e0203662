//! Who is alive and where: heartbeats, routing choice, notifications, keys.
//!
//! The manager writes the [`view::TopologyView`] and pushes it over its socket ([`protocol`],
//! [`server`]). An edge feeds it, together with the heartbeats that containers send over their
//! links, into a [`routing_table::RoutingTable`]; that precomputes a [`choice::BucketTable`], and
//! each message is then one table look-up away from its container. Messages that belong to a
//! transaction or session already name their owner by a [`mod@token`].
//!
//! In a cluster every manager merges what the members say of themselves ([`node`]) into one view ([`mod@cluster_view`]);
//! they know each other by [`credentials`] and tell each other by [`mod@gossip`].
//!
//! Pure: everything but [`server`], [`credentials`], [`mod@gossip`] and [`mod@keys::file`].

pub mod choice;
pub mod cluster_view;
pub mod credentials;
pub mod format_level;
pub mod gossip;
pub mod keys;
pub mod membership;
pub mod node;
pub mod protocol;
pub mod repository_list;
pub mod routing_table;
pub mod server;
mod store_list;
pub mod token;
pub mod view;

pub use choice::{BucketTable, Candidate, Candidates, ChoiceHash, ChoiceKey};
pub use cluster_view::{Cluster, cluster_view};
pub use format_level::{FormatLevel, FormatsApart, ReleaseFormats};
pub use gossip::{
    ClockOffset, ClockOffsets, Discovery, Gossip, GossipCounters, GossipSettings, Picture,
};
pub use keys::{Key, KeyRing};
pub use membership::{MEMBERS_MAX, Member, MemberFile, Membership, MembershipError};
pub use node::{NodeEntry, NodeNumber, NodeSnapshot, NodeState, RunsWith};
pub use repository_list::{RepositoryList, RepositoryMember, RunBy};
pub use routing_table::{
    Accepting, HeartbeatSettings, Route, RouteState, RoutingChange, RoutingTable,
};
pub use store_list::{StoreList, StorePlace, StoresOfNode};
pub use token::{OwnerToken, SessionToken, TokenError};
pub use view::{
    EdgeAddress, Incarnation, ListenerTransport, ProcessEntry, ProcessName, ProcessState,
    ProcessType, TopologyView,
};
