//! The response of a request: the one computation that client and server must do alike.
//!
//! Source: RFC 7616 §3.4.1 (`KD(H(A1), nonce:nc:cnonce:qop:H(A2))`), §3.4.3 (A2 for `qop=auth`).

use super::algorithm::Hex;
use super::{Credentials, Ha1};

/// The response that whoever holds `ha1` sends with these credentials and this method.
///
/// Only `nonce`, `nc`, `cnonce` and `uri` of the credentials enter; `ha1` stands for the rest.
pub fn expected_response(ha1: &Ha1, method: &[u8], credentials: &Credentials<'_>) -> Hex {
    let algorithm = ha1.algorithm();
    let ha2 = algorithm.hash_joined(&[method, &credentials.uri]).to_hex();
    algorithm
        .hash_joined(&[
            ha1.to_hex().as_bytes(),
            &credentials.nonce,
            &credentials.nonce_count_digits,
            &credentials.cnonce,
            b"auth",
            ha2.as_bytes(),
        ])
        .to_hex()
}

/// Whether the credentials were made with this `ha1` and for this method.
///
/// Takes the same time for every wrong response of the right length, so that it cannot be guessed digit by digit.
pub fn matches(ha1: &Ha1, method: &[u8], credentials: &Credentials<'_>) -> bool {
    let expected = expected_response(ha1, method, credentials);
    let sent = credentials.response.as_ref();
    if credentials.algorithm != ha1.algorithm() || sent.len() != expected.as_bytes().len() {
        return false;
    }
    let difference = expected.as_bytes().iter().zip(sent).fold(0, |difference, (ours, theirs)| {
        // Some phones send upper-case digits although RFC 7616 §3.1 says lower.
        difference | (ours ^ theirs.to_ascii_lowercase())
    });
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Algorithm;
    use super::*;

    fn rfc_7616_example(algorithm: Algorithm, response: &str) -> Vec<u8> {
        format!(
            "Digest username=\"Mufasa\", realm=\"http-auth@example.org\", uri=\"/dir/index.html\", \
             algorithm={algorithm}, nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", \
             nc=00000001, cnonce=\"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ\", qop=auth, \
             response=\"{response}\", opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
        )
        .into_bytes()
    }

    /// The first two are RFC 7616 §3.9.1; the third is the same request hashed by OpenSSL's SHA512-256, because
    /// the RFC's own example (§3.9.2) was made with another hash.
    const VECTORS: [(Algorithm, &str); 3] = [
        (Algorithm::Md5, "8ca523f5e9506fed4657c9700eebdbec"),
        (Algorithm::Sha256, "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        (Algorithm::Sha512_256, "430d05014cecc49cab6fbe03176d41a1da86cbfe24a16580e22aaad928d960d0"),
    ];

    #[test]
    fn responses_are_those_of_rfc_7616() {
        for (algorithm, response) in VECTORS {
            let value = rfc_7616_example(algorithm, response);
            let credentials = Credentials::parse(&value).unwrap();
            let ha1 = Ha1::new(algorithm, b"Mufasa", b"http-auth@example.org", b"Circle of Life");
            assert_eq!(expected_response(&ha1, b"GET", &credentials).as_str(), response);
            assert!(matches(&ha1, b"GET", &credentials), "{algorithm}");
        }
    }

    #[test]
    fn another_password_method_or_algorithm_does_not_match() {
        let value = rfc_7616_example(VECTORS[1].0, VECTORS[1].1);
        let credentials = Credentials::parse(&value).unwrap();
        let ha1 = |algorithm, password: &str| {
            Ha1::new(algorithm, b"Mufasa", b"http-auth@example.org", password.as_bytes())
        };
        assert!(!matches(&ha1(Algorithm::Sha256, "circle of life"), b"GET", &credentials));
        assert!(!matches(&ha1(Algorithm::Sha256, "Circle of Life"), b"PUT", &credentials));
        assert!(!matches(&ha1(Algorithm::Sha512_256, "Circle of Life"), b"GET", &credentials));
        assert!(!matches(&ha1(Algorithm::Md5, "Circle of Life"), b"GET", &credentials));
    }

    #[test]
    fn upper_case_digits_match() {
        let value = rfc_7616_example(Algorithm::Md5, &VECTORS[0].1.to_uppercase());
        let credentials = Credentials::parse(&value).unwrap();
        let ha1 = Ha1::new(Algorithm::Md5, b"Mufasa", b"http-auth@example.org", b"Circle of Life");
        assert!(matches(&ha1, b"GET", &credentials));
    }
}
