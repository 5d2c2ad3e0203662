//! STUN Binding on the SIP port: how a phone behind a NAT learns its address and keeps its flow open.
//!
//! RFC 5389 §6, §7.3.1, §15.2; RFC 5626 §8 (no authentication, UDP only). Deliberately absent: everything else STUN
//! can do, and RFC 3489 clients without the magic cookie, whose messages cannot be told from noise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};

const MAGIC_COOKIE: u32 = 0x2112_A442;
const HEADER_LENGTH: usize = 20;

const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;

const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;

/// Attributes we need not act on, though a client may: USERNAME, MESSAGE-INTEGRITY, REALM, NONCE, PRIORITY, USE-CANDIDATE.
const IGNORED_ATTRIBUTES: [u16; 6] = [0x0006, 0x0008, 0x0014, 0x0015, 0x0024, 0x0025];

/// The most unknown attributes an error response lists; further ones are left out.
const UNKNOWN_LISTED_MAX: usize = 8;

/// Identifies a request and its response.
pub type TransactionId = [u8; 12];

/// Whether a datagram is STUN: two zero bits, a fitting length, the magic cookie. Source: RFC 5389 §6, RFC 5626 §8.
pub fn is_stun(datagram: &[u8]) -> bool {
    read_header(datagram).is_some()
}

fn read_header(datagram: &[u8]) -> Option<(u16, TransactionId, &[u8])> {
    let (header, attributes) = datagram.split_at_checked(HEADER_LENGTH)?;
    let kind = u16::from_be_bytes([header[0], header[1]]);
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let fits = kind & 0xC000 == 0 && length == attributes.len() && length.is_multiple_of(4);
    if !fits || header[4..8] != MAGIC_COOKIE.to_be_bytes() {
        return None;
    }
    Some((kind, header[8..20].try_into().expect("12 bytes"), attributes))
}

/// The answer to a Binding request that came from `remote`; `None` if `datagram` is none and gets no answer.
///
/// Attributes that must be understood and are not give error 420. Source: RFC 5389 §7.3.1.
pub fn answer(datagram: &[u8], remote: SocketAddr) -> Option<Bytes> {
    let (kind, transaction, attributes) = read_header(datagram)?;
    if kind != BINDING_REQUEST {
        return None;
    }
    let mut unknown = [0_u16; UNKNOWN_LISTED_MAX];
    let mut count = 0;
    for (attribute, _) in Attributes(attributes) {
        let must_understand = attribute < 0x8000 && !IGNORED_ATTRIBUTES.contains(&attribute);
        if must_understand && count < UNKNOWN_LISTED_MAX {
            unknown[count] = attribute;
            count += 1;
        }
    }
    Some(if count == 0 {
        success(transaction, remote)
    } else {
        unknown_attributes(transaction, &unknown[..count])
    })
}

/// A Binding request without attributes: what a phone sends.
pub fn binding_request(transaction: TransactionId) -> Bytes {
    message(BINDING_REQUEST, transaction, &[])
}

/// The transaction and mapped address of a Binding success response: what a phone reads.
pub fn mapped_address(datagram: &[u8]) -> Option<(TransactionId, SocketAddr)> {
    let (kind, transaction, attributes) = read_header(datagram)?;
    if kind != BINDING_SUCCESS {
        return None;
    }
    let (_, value) =
        Attributes(attributes).find(|(attribute, _)| *attribute == XOR_MAPPED_ADDRESS)?;
    let [_, family, port_high, port_low, address @ ..] = value else { return None };
    let port = u16::from_be_bytes([*port_high, *port_low]) ^ (MAGIC_COOKIE >> 16) as u16;
    let address = match family {
        1 => {
            IpAddr::V4(Ipv4Addr::from(u32::from_be_bytes(address.try_into().ok()?) ^ MAGIC_COOKIE))
        }
        2 => IpAddr::V6(Ipv6Addr::from(
            u128::from_be_bytes(address.try_into().ok()?) ^ ipv6_mask(transaction),
        )),
        _ => return None,
    };
    Some((transaction, SocketAddr::new(address, port)))
}

fn success(transaction: TransactionId, mapped: SocketAddr) -> Bytes {
    let mut value = BytesMut::with_capacity(20);
    value.put_u8(0);
    // RFC 5389 §15.2: port and address are XORed, so that no NAT rewrites them on the way.
    let port = mapped.port() ^ (MAGIC_COOKIE >> 16) as u16;
    match mapped.ip() {
        IpAddr::V4(address) => {
            value.put_u8(1);
            value.put_u16(port);
            value.put_u32(u32::from(address) ^ MAGIC_COOKIE);
        }
        IpAddr::V6(address) => {
            value.put_u8(2);
            value.put_u16(port);
            value.put_u128(u128::from(address) ^ ipv6_mask(transaction));
        }
    }
    message(BINDING_SUCCESS, transaction, &[(XOR_MAPPED_ADDRESS, &value)])
}

fn unknown_attributes(transaction: TransactionId, unknown: &[u16]) -> Bytes {
    let list: Vec<u8> = unknown.iter().flat_map(|attribute| attribute.to_be_bytes()).collect();
    message(
        BINDING_ERROR,
        transaction,
        &[(ERROR_CODE, b"\0\0\x04\x14Unknown Attribute"), (UNKNOWN_ATTRIBUTES, &list)],
    )
}

fn ipv6_mask(transaction: TransactionId) -> u128 {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(&transaction);
    u128::from_be_bytes(mask)
}

fn message(kind: u16, transaction: TransactionId, attributes: &[(u16, &[u8])]) -> Bytes {
    let mut body = BytesMut::new();
    for (attribute, value) in attributes {
        body.put_u16(*attribute);
        body.put_u16(u16::try_from(value.len()).expect("our attributes are short"));
        body.put_slice(value);
        body.put_bytes(0, value.len().next_multiple_of(4) - value.len());
    }
    let mut out = BytesMut::with_capacity(HEADER_LENGTH + body.len());
    out.put_u16(kind);
    out.put_u16(u16::try_from(body.len()).expect("our messages are short"));
    out.put_u32(MAGIC_COOKIE);
    out.put_slice(&transaction);
    out.put_slice(&body);
    out.freeze()
}

/// Walks over type and value of each attribute; ends at the first one that does not fit.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, rest) = self.0.split_at_checked(4)?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let value = rest.get(..length)?;
        self.0 = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_be_bytes([header[0], header[1]]), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phone_reads_its_address_from_our_answer() {
        for remote in ["192.0.2.1:32853", "[2001:db8:1234:5678:11:2233:4455:6677]:32853"] {
            let remote: SocketAddr = remote.parse().expect("address");
            let answer = answer(&binding_request([9; 12]), remote).expect("answer");
            assert_eq!(mapped_address(&answer), Some(([9; 12], remote)));
        }
    }

    #[test]
    fn xor_mapped_address_is_as_in_rfc_5769() {
        // RFC 5769 §2.2: 192.0.2.1:32853 under transaction b7e7a701bc34d686fa87dfae
        let answer = answer(&binding_request([0; 12]), "192.0.2.1:32853".parse().expect("address"))
            .expect("answer");
        assert_eq!(
            answer[20..],
            [0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]
        );
    }

    #[test]
    fn attributes_that_must_be_understood_give_420() {
        let request = message(
            BINDING_REQUEST,
            [1; 12],
            &[(0x0003, &[0, 0, 0, 4]), (0x8022, b"soft"), (0x0006, b"user")],
        );
        let answer = answer(&request, "192.0.2.1:1".parse().expect("address")).expect("answer");
        assert_eq!(answer[..2], BINDING_ERROR.to_be_bytes());
        let list =
            Attributes(&answer[20..]).find(|(attribute, _)| *attribute == UNKNOWN_ATTRIBUTES);
        assert_eq!(list, Some((UNKNOWN_ATTRIBUTES, &[0, 3][..])));
    }

    #[test]
    fn responses_and_noise_get_no_answer() {
        let remote = "192.0.2.1:1".parse().expect("address");
        let response = success([1; 12], remote);
        assert_eq!(answer(&response, remote), None);
        assert_eq!(answer(b"INVITE sip:a SIP/2.0\r\n\r\n", remote), None);
        assert_eq!(answer(&binding_request([1; 12])[..19], remote), None);
    }
}
