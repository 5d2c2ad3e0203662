//! Header parameters: `;name`, `;name=value`, `;name="quoted"`, with white space wherever RFC 3261 §25.1 lets it be.
//!
//! A [`Params`] has been walked once and is well-formed, so looking a name up cannot fail. Names are compared
//! without regard to case, values are returned as on the wire, quotes included ([`unquote`] strips them).

use std::borrow::Cow;

use crate::grammar::{Cursor, value_span};

/// The parameters of one header value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params<'a> {
    bytes: &'a [u8],
}

impl<'a> Params<'a> {
    /// Takes `bytes`, from the first `;` on, and shows each parameter, name and value, to `on_param`; `None` if one is
    /// empty, unclosed or malformed.
    pub(crate) fn parse(
        bytes: &'a [u8],
        mut on_param: impl FnMut(&'a [u8], Option<&'a [u8]>),
    ) -> Option<Params<'a>> {
        let mut cursor = Cursor::new(bytes);
        loop {
            cursor.skip_lws();
            if cursor.at_end() {
                return Some(Params { bytes });
            }
            let (name, value) = next_param(&mut cursor)?;
            on_param(name, value);
        }
    }

    /// The parameter of that name: `None` if absent, `Some(None)` if it has no value.
    pub fn get(&self, name: &[u8]) -> Option<Option<&'a [u8]>> {
        self.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The value of the parameter of that name; `None` if it is absent or has none.
    pub fn value(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.get(name).flatten()
    }

    /// All parameters in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let mut cursor = Cursor::new(self.bytes);
        std::iter::from_fn(move || next_param(&mut cursor))
    }

    /// The parameters as on the wire, from the first `;` on; empty if there are none.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// The first parameter of one name among those that [`Params::parse`] shows: what [`Params::get`] would find.
#[derive(Clone, Copy, Debug)]
pub(crate) struct First<'a> {
    wanted: &'static [u8],
    found: Option<Option<&'a [u8]>>,
}

impl<'a> First<'a> {
    pub(crate) fn of(wanted: &'static [u8]) -> First<'a> {
        First { wanted, found: None }
    }

    pub(crate) fn see(&mut self, name: &[u8], value: Option<&'a [u8]>) {
        if self.found.is_none() && name.eq_ignore_ascii_case(self.wanted) {
            self.found = Some(value);
        }
    }

    /// `None` if there was none, `Some(None)` if it has no value.
    pub(crate) fn found(self) -> Option<Option<&'a [u8]>> {
        self.found
    }
}

/// Reads one `;name[=value]`; `None` at the end or if malformed.
fn next_param<'a>(cursor: &mut Cursor<'a>) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    if !cursor.eat_separator(b';') {
        return None;
    }
    let name = cursor.token()?;
    if !cursor.eat_separator(b'=') {
        return Some((name, None));
    }
    let value = match cursor.peek() {
        Some(b'"') => cursor.quoted_string()?,
        _ => cursor.take(value_span(cursor.rest())),
    };
    (!value.is_empty()).then_some((name, Some(value)))
}

/// The content of a quoted string, escapes resolved; anything else is returned as it is.
pub fn unquote(value: &[u8]) -> Cow<'_, [u8]> {
    let [b'"', inner @ .., b'"'] = value else { return Cow::Borrowed(value) };
    if memchr::memchr(b'\\', inner).is_none() {
        return Cow::Borrowed(inner);
    }
    let mut plain = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => plain.extend(bytes.next()),
            byte => plain.push(byte),
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Option<Params<'_>> {
        Params::parse(bytes, |_, _| {})
    }

    #[test]
    fn white_space_may_stand_around_every_separator() {
        let params =
            parse(b"\r\n ; newparam =\r\n newvalue ;\r\n  secondparam ; q = 0.33").expect("wsinv");
        assert_eq!(params.get(b"NEWPARAM"), Some(Some(&b"newvalue"[..])));
        assert_eq!(params.get(b"secondparam"), Some(None));
        assert_eq!(params.value(b"q"), Some(&b"0.33"[..]));
        assert_eq!(params.get(b"tag"), None);
    }

    #[test]
    fn empty_and_unclosed_parameters_are_refused() {
        for bytes in [
            &b";;"[..],
            b";",
            b";a;;b",
            b";a=",
            b";a=\"x",
            b"a=b",
            b";a b",
            b";=b",
            b";,",
            b";a=b,c",
        ] {
            assert_eq!(parse(bytes), None, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn quoted_values_keep_separators_and_are_unquoted_on_demand() {
        let params = parse(br#";a="x;y=\"z\"";tag=1"#).expect("quoted");
        assert_eq!(unquote(params.value(b"a").expect("a")), &br#"x;y="z""#[..]);
        assert_eq!(params.value(b"tag"), Some(&b"1"[..]));
    }
}
