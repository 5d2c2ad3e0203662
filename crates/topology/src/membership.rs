//! Who belongs to a cluster: names, numbers, addresses, and which list is the latest.
//!
//! Every member keeps the whole list (`DIR/cluster/cluster.json`, [`MemberFile`]) and tells it to whom it meets. One
//! living member changes it, the one with the lowest number; each change is a version. Two that changed it apart from
//! each other (both took the other for lost) made the same version twice: the list of the lower number holds then.
//! A number is never given twice: `numbers_given` only grows. Pure but for reading and writing the file.

use std::cmp::Reverse;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::credentials::{CredentialError, read_json, write_json};
use crate::node::NodeNumber;

/// Members of a cluster. Every two of them have a connection; more are refused.
pub const MEMBERS_MAX: usize = 64;

/// A longer file is none.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Unique among the members, a DNS label.
    pub name: String,
    /// Unique among all members that there ever were.
    pub number: NodeNumber,
    /// Where it speaks with other members, by UDP and TCP.
    pub address: SocketAddr,
}

/// The members as of one change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Grows with each change.
    pub version: u64,
    /// Who made that change.
    pub by: NodeNumber,
    /// How many numbers were given so far.
    pub numbers_given: u16,
    /// In the order of their numbers.
    pub members: Vec<Member>,
}

/// Why a list is not changed as somebody wished.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Two members of one name could not be told apart.
    #[error(
        "the cluster has a node \"{0}\" already; give this one another name ([node] name in outlast.toml), or \
         remove the other first: outlast cluster remove {0}"
    )]
    NameTaken(String),
    /// Two members of one address could not be told apart.
    #[error("{address} is the address of the member {name} already; choose another with --address")]
    AddressTaken {
        /// Which.
        address: SocketAddr,
        /// Whose.
        name: String,
    },
    /// All places are taken.
    #[error("the cluster has {MEMBERS_MAX} members, and no room for more; remove one first")]
    Full,
    /// All numbers were given.
    #[error("the cluster has given all its numbers (4095 nodes joined it); make a new one")]
    NumbersUsedUp,
    /// There is none of that name.
    #[error("no member is named {name}; the cluster has {members}")]
    Unknown {
        /// Who was asked for.
        name: String,
        /// Who there is.
        members: String,
    },
}

impl Membership {
    /// The list of a cluster with its creator only.
    pub fn created(name: &str, address: SocketAddr) -> Membership {
        let creator = Member { name: name.to_owned(), number: NodeNumber::FIRST, address };
        Membership { version: 1, by: NodeNumber::FIRST, numbers_given: 1, members: vec![creator] }
    }

    /// The member of that number.
    pub fn member(&self, number: NodeNumber) -> Option<&Member> {
        self.members.iter().find(|member| member.number == number)
    }

    /// The member of that name.
    pub fn named(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Whether this list replaces `other`.
    pub fn is_later_than(&self, other: &Membership) -> bool {
        let order = |list: &Membership| (list.version, Reverse(list.by));
        order(self) > order(other)
    }

    /// The list with a further member, whose number is the next one, under `name` or, if that is not said, a free one.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub fn with(
        &self,
        name: Option<&str>,
        address: SocketAddr,
        by: NodeNumber,
    ) -> Result<(Membership, Member), MembershipError> {
        if let Some(name) = name.filter(|name| self.named(name).is_some()) {
            return Err(MembershipError::NameTaken(name.to_owned()));
        }
        if let Some(other) = self.members.iter().find(|member| member.address == address) {
            return Err(MembershipError::AddressTaken { address, name: other.name.clone() });
        }
        if self.members.len() >= MEMBERS_MAX {
            return Err(MembershipError::Full);
        }
        let number = NodeNumber::new(self.numbers_given).ok_or(MembershipError::NumbersUsedUp)?;
        let name = name.map_or_else(|| self.free_name(), str::to_owned);
        let member = Member { name, number, address };
        let mut members = self.members.clone();
        members.push(member.clone());
        let changed = Membership {
            version: self.version + 1,
            by,
            numbers_given: self.numbers_given + 1,
            members,
        };
        Ok((changed, member))
    }

    /// `node2`, `node3`, …: what a node is called that has not been given a name.
    fn free_name(&self) -> String {
        (usize::from(self.numbers_given) + 1..)
            .map(|number| format!("node{number}"))
            .find(|name| self.named(name).is_none())
            .expect("there are more names than members")
    }

    /// The list without a member; its number does not come back.
    ///
    /// # Errors
    /// [`MembershipError::Unknown`].
    pub fn without(&self, name: &str, by: NodeNumber) -> Result<Membership, MembershipError> {
        if self.named(name).is_none() {
            let names: Vec<&str> = self.members.iter().map(|member| member.name.as_str()).collect();
            let (name, members) = (name.to_owned(), names.join(", "));
            return Err(MembershipError::Unknown { name, members });
        }
        let members = self.members.iter().filter(|member| member.name != name).cloned().collect();
        Ok(Membership { version: self.version + 1, by, members, ..self.clone() })
    }

    /// The list with a member at another address; `None` if it is there already, or another member is.
    pub fn moved(
        &self,
        number: NodeNumber,
        address: SocketAddr,
        by: NodeNumber,
    ) -> Option<Membership> {
        let is_taken = self.members.iter().any(|member| member.address == address);
        let at = self.members.iter().position(|member| member.number == number)?;
        let mut changed = Membership { version: self.version + 1, by, ..self.clone() };
        changed.members[at].address = address;
        (!is_taken).then_some(changed)
    }
}

/// `DIR/cluster/cluster.json`: which cluster, as whom, with whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberFile {
    /// Which cluster: random, made with it.
    pub cluster: String,
    /// This node's name.
    pub name: String,
    /// This node's number.
    pub number: NodeNumber,
    /// Everybody, as last known.
    #[serde(flatten)]
    pub membership: Membership,
}

impl MemberFile {
    /// Reads it.
    ///
    /// # Errors
    /// [`CredentialError`] when it cannot be read or is damaged.
    pub fn load(path: &Path) -> Result<MemberFile, CredentialError> {
        let missing = || CredentialError::Io {
            path: path.to_owned(),
            source: io::ErrorKind::NotFound.into(),
        };
        read_json(path, FILE_BYTES_MAX)?.ok_or_else(missing)
    }

    /// Replaces it.
    ///
    /// # Errors
    /// [`CredentialError::Io`]; the file is then as it was.
    pub fn write(&self, path: &Path) -> Result<(), CredentialError> {
        write_json(path, self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(host: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], 6200))
    }

    const BY: NodeNumber = NodeNumber::FIRST;

    #[test]
    fn numbers_are_given_in_order_and_never_again() {
        let one = Membership::created("node1", address(1));
        let (two, second) = one.with(None, address(2), BY).unwrap();
        assert_eq!((second.name.as_str(), second.number.get()), ("node2", 1));
        let left = two.without("node2", BY).unwrap();
        let (again, third) = left.with(Some("node2"), address(2), BY).unwrap();
        assert_eq!((third.number.get(), again.version, again.numbers_given), (2, 4, 3));
        let (_, fourth) = again.with(None, address(4), BY).unwrap();
        assert_eq!(fourth.name, "node4");
    }

    #[test]
    fn names_and_addresses_are_one_members_each() {
        let one = Membership::created("node1", address(1));
        for (name, host, told) in
            [(Some("node1"), 2, "node \"node1\" already"), (Some("b"), 1, "of the member node1")]
        {
            let error = one.with(name, address(host), BY).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        let error = one.without("node7", BY).unwrap_err().to_string();
        assert_eq!(error, "no member is named node7; the cluster has node1");
    }

    #[test]
    fn a_cluster_is_bounded() {
        let mut list = Membership::created("node1", address(0));
        for host in 1..MEMBERS_MAX {
            list = list.with(None, address(u8::try_from(host).unwrap()), BY).unwrap().0;
        }
        assert_eq!(list.with(None, address(200), BY).unwrap_err(), MembershipError::Full);
        let list = Membership { numbers_given: 4095, ..Membership::created("a", address(1)) };
        assert_eq!(list.with(None, address(2), BY).unwrap_err(), MembershipError::NumbersUsedUp);
    }

    #[test]
    fn the_later_list_holds_and_of_two_alike_the_lower_numbers() {
        let one = Membership::created("node1", address(1));
        let (two, _) = one.with(None, address(2), NodeNumber::FIRST).unwrap();
        let (other, _) = one.with(None, address(3), NodeNumber::new(1).unwrap()).unwrap();
        assert!(two.is_later_than(&one) && !one.is_later_than(&two));
        assert!(two.is_later_than(&other) && !other.is_later_than(&two));
        assert!(!two.is_later_than(&two));
    }

    #[test]
    fn the_file_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.json");
        let file = MemberFile {
            cluster: "c".to_owned(),
            name: "node1".to_owned(),
            number: NodeNumber::FIRST,
            membership: Membership::created("node1", address(1)),
        };
        file.write(&path).unwrap();
        assert_eq!(MemberFile::load(&path).unwrap(), file);
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(MemberFile::load(&path), Err(CredentialError::Damaged { .. })));
    }
}
