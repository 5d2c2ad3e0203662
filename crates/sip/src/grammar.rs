//! Character classes and a cursor over a header value: what every typed parser of this crate stands on.
//!
//! RFC 3261 §25.1. The structural pass has already refused bare CR, bare LF and unquoted NUL, so inside a field
//! value CR and LF only ever belong to a fold (`CRLF` followed by white space). That is why [`is_lws`] may treat
//! the four bytes alike. Deliberately absent: comments, which no header parsed here has.

const TOKEN: u8 = 1;
const LWS: u8 = 2;
const WORD: u8 = 4;
const HOST: u8 = 8;
const URI: u8 = 16;
const VALUE: u8 = 32;
/// What may stand in a URI without being an escape.
const PLAIN_URI: u8 = 64;

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0_u8; 256];
    let mut byte = 0_usize;
    while byte < 256 {
        let b = byte as u8;
        if b.is_ascii_alphanumeric() {
            table[byte] |= TOKEN | WORD | HOST;
        }
        // Everything visible except what delimits a URI from its surroundings. Wider than RFC 3261 `uric`: real
        // phones send `#` and raw UTF-8, and a proxy forwards what it need not understand.
        if b > 0x20 && b != 0x7f && !matches!(b, b'<' | b'>' | b'"') {
            table[byte] |= if b == b'%' { URI } else { URI | PLAIN_URI };
        }
        if b > 0x20 && b != 0x7f && !matches!(b, b';' | b',' | b'"' | b'<' | b'>' | b'=') {
            table[byte] |= VALUE;
        }
        byte += 1;
    }
    table = mark(table, b"-.!%*_+`'~", TOKEN | WORD);
    table = mark(table, b"()<>:\\\"/[]?{}", WORD);
    // Underscores are met in the field and tolerated.
    table = mark(table, b"-._", HOST);
    mark(table, b" \t\r\n", LWS)
}

const fn mark(mut table: [u8; 256], bytes: &[u8], class: u8) -> [u8; 256] {
    let mut index = 0;
    while index < bytes.len() {
        table[bytes[index] as usize] |= class;
        index += 1;
    }
    table
}

/// Whether `byte` may stand in a `token`.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    CLASSES[byte as usize] & TOKEN != 0
}

/// Whether `byte` belongs to linear white space, folds included.
pub(crate) fn is_lws(byte: u8) -> bool {
    CLASSES[byte as usize] & LWS != 0
}

/// Whether `byte` may stand in a URI between `<` and `>`.
pub(crate) fn is_uri_byte(byte: u8) -> bool {
    CLASSES[byte as usize] & URI != 0
}

/// How many bytes at the start of `bytes` may stand in a parameter's value without quotes. Wider than `token / host`:
/// `received=::1` and `branch=a/b` are met in the field.
pub(crate) fn value_span(bytes: &[u8]) -> usize {
    span(bytes, VALUE)
}

/// How many bytes at the start of `bytes` are of `class`. Eight at a time: the values that are looked through are longer
/// than a word, and nearly always of one class to their end.
fn span(bytes: &[u8], class: u8) -> usize {
    let mut length = 0;
    for eight in bytes.chunks_exact(8) {
        if eight.iter().fold(class, |common, &b| common & CLASSES[b as usize]) == 0 {
            break;
        }
        length += 8;
    }
    let rest = &bytes[length..];
    length + rest.iter().position(|&b| CLASSES[b as usize] & class == 0).unwrap_or(rest.len())
}

/// How many bytes at the start of `bytes` may stand in a host name.
pub(crate) fn host_span(bytes: &[u8]) -> usize {
    span(bytes, HOST)
}

/// How many bytes at the start of `bytes` may stand in a URI between `<` and `>`.
pub(crate) fn uri_span(bytes: &[u8]) -> usize {
    span(bytes, URI)
}

/// Whether all of `bytes` may stand in a URI, and none of them begins an escape.
pub(crate) fn is_plain_uri(bytes: &[u8]) -> bool {
    span(bytes, PLAIN_URI) == bytes.len()
}

/// Whether `bytes` is a non-empty `token`: what a method and the name of a header or parameter are.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| is_token_byte(b))
}

/// Whether `bytes` is a `callid`: a word, or two around one `@`. Source: RFC 3261 §25.1.
pub(crate) fn is_call_id(bytes: &[u8]) -> bool {
    let is_word = |part: &[u8]| !part.is_empty() && span(part, WORD) == part.len();
    match memchr::memchr(b'@', bytes) {
        None => is_word(bytes),
        Some(at) => is_word(&bytes[..at]) && is_word(&bytes[at + 1..]),
    }
}

/// `bytes` without linear white space at either end.
pub(crate) fn trim_lws(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_lws(*first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && is_lws(*last)
    {
        bytes = rest;
    }
    bytes
}

/// A decimal number, or `None` if `bytes` is empty, has a non-digit, or does not fit.
pub(crate) fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0_u64, |sum, &b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// A decimal number that saturates: for lifetimes, where "too long" means "as long as possible".
pub(crate) fn decimal_saturating(bytes: &[u8]) -> Option<u32> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(decimal(bytes).and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX))
}

/// A position in a header value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub(crate) fn at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// What has not been read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    pub(crate) fn skip_lws(&mut self) {
        self.take_while(is_lws);
    }

    /// Reads `byte` if it comes next.
    pub(crate) fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Reads `byte` with white space allowed on both sides (`SEMI`, `EQUAL`, `SLASH`, ... of RFC 3261 §25.1).
    pub(crate) fn eat_separator(&mut self, byte: u8) -> bool {
        // Nearly nobody writes white space there.
        match *self.rest() {
            [] => return false,
            [first, next, ..] if first == byte && !is_lws(next) => {
                self.at += 1;
                return true;
            }
            [first, ..] if first != byte && !is_lws(first) => return false,
            [_, ..] => {}
        }
        let before = self.at;
        self.skip_lws();
        if self.eat(byte) {
            self.skip_lws();
            return true;
        }
        self.at = before;
        false
    }

    pub(crate) fn take_while(&mut self, accept: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.rest();
        let length = rest.iter().position(|&b| !accept(b)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// Reads `length` bytes, which must be there.
    pub(crate) fn take(&mut self, length: usize) -> &'a [u8] {
        let taken = &self.rest()[..length];
        self.at += length;
        taken
    }

    /// Reads a `token`; `None` if there is none here.
    pub(crate) fn token(&mut self) -> Option<&'a [u8]> {
        let token = self.take_while(is_token_byte);
        (!token.is_empty()).then_some(token)
    }

    /// Reads a quoted string, quotes included; `None` if there is none here or it does not end.
    pub(crate) fn quoted_string(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest();
        let length = quoted_string_length(rest)?;
        self.at += length;
        Some(&rest[..length])
    }
}

/// How many bytes the quoted string at the start of `bytes` has, quotes included.
pub(crate) fn quoted_string_length(bytes: &[u8]) -> Option<usize> {
    if bytes.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2; // a backslash takes the next byte with it
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_string_ends_at_the_first_unescaped_quote() {
        assert_eq!(quoted_string_length(br#""a\"b" <x>"#), Some(6));
        assert_eq!(quoted_string_length(br#""a\\" <x>"#), Some(5));
        assert_eq!(quoted_string_length(br#""open"#), None);
        assert_eq!(quoted_string_length(br#""open\"#), None);
    }

    #[test]
    fn decimal_refuses_signs_blanks_and_overflow() {
        assert_eq!(decimal(b"0068"), Some(68));
        assert_eq!(decimal(b"-1"), None);
        assert_eq!(decimal(b"1 "), None);
        assert_eq!(decimal(b""), None);
        assert_eq!(decimal(b"36893488147419103232"), None);
        assert_eq!(decimal_saturating(b"36893488147419103232"), Some(u32::MAX));
    }

    #[test]
    fn a_span_ends_at_the_first_byte_of_another_class_wherever_it_stands() {
        for class in [TOKEN, WORD, HOST, URI, VALUE, PLAIN_URI] {
            for length in 0..=40 {
                let whole = vec![b'a'; length];
                assert_eq!(span(&whole, class), length);
                for at in 0..length {
                    for other in (0..=255).filter(|&b: &u8| CLASSES[usize::from(b)] & class == 0) {
                        let mut bytes = whole.clone();
                        bytes[at] = other;
                        assert_eq!(span(&bytes, class), at, "{other:#04x} of {length}");
                    }
                }
            }
        }
    }

    #[test]
    fn call_id_is_one_word_or_two_around_an_at_sign() {
        assert!(is_call_id(br#"intmeth.word%ZK-!.*_+'@word`~)(><:\/"][?}{"#));
        assert!(!is_call_id(b"a@b@c"));
        assert!(!is_call_id(b"a b"));
        assert!(!is_call_id(b"@b"));
        assert!(!is_call_id(b""));
    }
}
