//! Messages rendered once but for the places that differ from one to the next.
//!
//! A [`Template`] is made at the start from text with `{names}`; rendering copies its pieces and asks for the value
//! of each place.

use bytes::{BufMut as _, Bytes, BytesMut};

/// Room for the values of a message's places, where they are of usual length.
const VALUES_BYTES: usize = 256;

#[derive(Debug)]
enum Piece<F> {
    Text(Box<[u8]>),
    Place(F),
}

/// A message with places of kind `F`.
#[derive(Debug)]
pub(crate) struct Template<F> {
    pieces: Vec<Piece<F>>,
    text_bytes: usize,
}

impl<F: Copy> Template<F> {
    /// Reads a template. `constant` gives the text of the names that stay the same for all messages, `place` the
    /// places. Line ends are LF here, in the text and in constants, and CRLF on the wire.
    ///
    /// # Panics
    /// When a name is neither: templates are ours.
    pub(crate) fn new(
        text: &str,
        constant: impl Fn(&str) -> Option<String>,
        place: impl Fn(&str) -> Option<F>,
    ) -> Template<F> {
        let piece = |text: String| Piece::Text(text.replace('\n', "\r\n").into_bytes().into());
        let (mut pieces, mut literal) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').expect("every place of a template is closed");
            literal += before;
            if let Some(value) = constant(name) {
                literal += &value;
            } else {
                let place = place(name).unwrap_or_else(|| panic!("a template has no {{{name}}}"));
                pieces.push(piece(std::mem::take(&mut literal)));
                pieces.push(Piece::Place(place));
            }
            rest = after;
        }
        literal += rest;
        pieces.push(piece(literal));
        let text_bytes = pieces.iter().map(Piece::text_bytes).sum();
        Template { pieces, text_bytes }
    }

    /// The message with `put` having written the value of each place.
    pub(crate) fn render(&self, mut put: impl FnMut(F, &mut BytesMut)) -> Bytes {
        let mut out = BytesMut::with_capacity(self.text_bytes + VALUES_BYTES);
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.put_slice(text),
                Piece::Place(place) => put(*place, &mut out),
            }
        }
        out.freeze()
    }
}

impl<F> Piece<F> {
    fn text_bytes(&self) -> usize {
        match self {
            Piece::Text(text) => text.len(),
            Piece::Place(_) => 0,
        }
    }
}

/// Writes a number in decimal.
pub(crate) fn put_decimal(out: &mut BytesMut, mut number: u64) {
    let (mut digits, mut first) = ([0; 20], 20);
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.put_slice(&digits[first..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_and_constants_are_text() {
        let constant = |name: &str| (name == "rest").then(|| "example.org>\n\n".to_owned());
        let place = |name: &str| (name == "user").then_some(7_u64);
        let template = Template::new("To: <sip:user{user}@{rest}", constant, place);
        assert_eq!(template.pieces.len(), 3);
        let message = template.render(|place, out| put_decimal(out, place * 100));
        assert_eq!(message, "To: <sip:user700@example.org>\r\n\r\n");
    }

    #[test]
    #[should_panic(expected = "a template has no {usr}")]
    fn a_name_that_nobody_knows_is_a_mistake_of_ours() {
        Template::new("{usr}", |_| None, |_| None::<u64>);
    }

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 9, 10, 1_234_567_890, u64::MAX] {
            let mut out = BytesMut::new();
            put_decimal(&mut out, number);
            assert_eq!(out, number.to_string());
        }
    }
}
