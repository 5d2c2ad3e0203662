//! Changes to a message, collected first and rendered in one pass; what no change names is copied byte by byte.
//!
//! How a proxy forwards: RFC 3261 §16.6. All changes refer to the message as it was received, in whatever order they
//! are given; what is pushed to the front last comes out top-most. Of its own accord [`Edits::render`] changes three
//! things: the start line gets single spaces (RFC 4475 §3.1.2.9), octets behind Content-Length are left out (§3.1.1.8),
//! a missing empty line after the header is added.

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use crate::header_name::HeaderName;
use crate::message::Message;
use crate::structure::{Field, StartLine};
use crate::values::value_length;
use crate::write::{Digits, put_field, put_value};

/// A set of changes. Usual ones (eight changes, 512 bytes of values) need no heap.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    text: SmallVec<[u8; 512]>,
    request_uri: Option<Span>,
    operations: SmallVec<[Operation; 8]>,
    /// Names that some operation is about.
    touched: u128,
    body: Option<Bytes>,
    needs_content_length: bool,
}

/// Part of `Edits::text`.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    end: u32,
}

#[derive(Clone, Copy, Debug)]
struct Operation {
    name: HeaderName,
    kind: Kind,
    value: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    PushFront,
    PushBack,
    Set,
    RemoveFirstValue,
    ReplaceFirstValue,
    RemoveAll,
    /// A whole line, for a header that has no [`HeaderName`].
    PushLine,
}

/// What is to happen to the received fields of one name.
#[derive(Clone, Copy, Debug, Default)]
struct Plan {
    remove_all: bool,
    set: Option<Span>,
    /// How many list values go, from the top.
    remove: usize,
    /// What comes in place of the first value that stays.
    replace: Option<Span>,
}

impl Edits {
    /// No changes.
    pub fn new() -> Edits {
        Edits::default()
    }

    /// Replaces the Request-URI; without effect on a response.
    pub fn set_request_uri(&mut self, uri: &[u8]) {
        self.request_uri = Some(self.keep(uri));
    }

    /// Adds a field above the first one of that name; if there is none, directly below the start line.
    pub fn push_front(&mut self, name: HeaderName, value: &[u8]) {
        self.operate(name, Kind::PushFront, value);
    }

    /// Adds a field below the last one of that name; if there is none, at the end of the header.
    pub fn push_back(&mut self, name: HeaderName, value: &[u8]) {
        self.operate(name, Kind::PushBack, value);
    }

    /// Adds a field at the end of the header, of any name; fields of that name that are there stay.
    pub fn push_back_named(&mut self, name: &[u8], value: &[u8]) {
        let mut line = BytesMut::with_capacity(name.len() + value.len() + 4);
        put_field(&mut line, name, value);
        let span = self.keep(&line);
        self.operations.push(Operation {
            name: HeaderName::Other,
            kind: Kind::PushLine,
            value: span,
        });
    }

    /// Removes the top-most list value of that name that no earlier call removed.
    pub fn remove_first_value(&mut self, name: HeaderName) {
        self.operate(name, Kind::RemoveFirstValue, b"");
    }

    /// Replaces the top-most list value of that name that is not removed; without effect if there is none.
    pub fn replace_first_value(&mut self, name: HeaderName, value: &[u8]) {
        self.operate(name, Kind::ReplaceFirstValue, value);
    }

    /// Removes all received fields of that name; pushed ones stay.
    pub fn remove_all(&mut self, name: HeaderName) {
        self.operate(name, Kind::RemoveAll, b"");
    }

    /// Makes `value` the only received field of that name: in place of the first one, else at the end of the header.
    pub fn set(&mut self, name: HeaderName, value: &[u8]) {
        self.operate(name, Kind::Set, value);
    }

    /// Replaces the body, with Content-Type and Content-Length; an empty one has no Content-Type.
    pub fn set_body(&mut self, content_type: &[u8], body: impl Into<Bytes>) {
        let body = body.into();
        if body.is_empty() {
            self.remove_all(HeaderName::ContentType);
        } else {
            self.set(HeaderName::ContentType, content_type);
        }
        self.set(HeaderName::ContentLength, Digits::of(body.len() as u64).as_bytes());
        self.body = Some(body);
    }

    /// Adds Content-Length if the message has none, as a stream needs. Source: RFC 3261 §16.6(9).
    pub fn ensure_content_length(&mut self) {
        self.needs_content_length = true;
    }

    /// Appends `message` with all changes to `out`.
    pub fn render(&self, message: &Message, out: &mut BytesMut) {
        out.reserve(message.buffer().len() + self.text.len() + 32 * (self.operations.len() + 1));
        self.render_start_line(message, out);
        self.render_new_on_top(message, out);
        self.render_fields(message, out);
        self.render_new_at_end(message, out);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(self.body.as_deref().unwrap_or(message.body()));
    }

    fn render_start_line(&self, message: &Message, out: &mut BytesMut) {
        match message.structure().start_line {
            StartLine::Response { .. } => {
                out.extend_from_slice(message.slice((0, message.structure().fields_start)));
            }
            StartLine::Request { method_end, uri, version } => {
                out.extend_from_slice(message.slice((0, method_end)));
                out.extend_from_slice(b" ");
                match self.request_uri {
                    Some(span) => put_value(out, self.text_of(span)),
                    None => out.extend_from_slice(message.slice(uri)),
                }
                out.extend_from_slice(b" ");
                out.extend_from_slice(message.slice(version));
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Fields pushed to the front whose name the message does not have yet.
    fn render_new_on_top(&self, message: &Message, out: &mut BytesMut) {
        for operation in
            self.operations.iter().rev().filter(|operation| operation.kind == Kind::PushFront)
        {
            if message.field(operation.name).is_none() {
                self.render_operation(operation, out);
            }
        }
    }

    /// The received fields, and what is pushed next to them. Runs of untouched fields are copied at once.
    fn render_fields(&self, message: &Message, out: &mut BytesMut) {
        let fields = message.raw_fields();
        // Names already met, with how many of their list values were passed.
        let mut met: SmallVec<[(HeaderName, usize); 8]> = SmallVec::new();
        let mut copied = message.structure().fields_start;
        for (index, field) in fields.iter().enumerate() {
            if self.touched & field.name.bit() == 0 {
                continue;
            }
            out.extend_from_slice(message.slice((copied, field.start)));
            copied = field.end;
            let at = met.iter().position(|(name, _)| *name == field.name).unwrap_or_else(|| {
                self.render_pushed(field.name, Kind::PushFront, out);
                met.push((field.name, 0));
                met.len() - 1
            });
            self.render_touched(message, field, &mut met[at].1, out);
            if self.has(field.name, Kind::PushBack)
                && !fields[index + 1..].iter().any(|later| later.name == field.name)
            {
                self.render_pushed(field.name, Kind::PushBack, out);
            }
        }
        out.extend_from_slice(message.slice((copied, message.structure().fields_end)));
    }

    /// One received field that some operation is about; `passed` counts the list values of its name so far.
    fn render_touched(
        &self,
        message: &Message,
        field: &Field,
        passed: &mut usize,
        out: &mut BytesMut,
    ) {
        let plan = self.plan(field.name);
        let first = *passed == 0;
        let value = message.value(field);
        if plan.remove_all || (plan.set.is_some() && !first) {
            return;
        }
        if let Some(span) = plan.set {
            *passed = 1;
            return self.render_with_value(message, field, self.text_of(span), b"", out);
        }
        if value.is_empty() {
            // A field without values has none to remove or replace.
            return out.extend_from_slice(message.slice((field.start, field.end)));
        }
        if *passed > plan.remove || (*passed == plan.remove && plan.replace.is_none()) {
            // Everything that goes or changes lies in fields above.
            *passed += 1;
            return out.extend_from_slice(message.slice((field.start, field.end)));
        }
        let mut rest = value;
        while *passed < plan.remove {
            *passed += 1;
            match rest.get(value_length(rest) + 1..) {
                Some(after) => rest = after,
                None => return, // no value of this field is left, so neither is the field
            }
        }
        let Some(span) = plan.replace else {
            return self.render_with_value(
                message,
                field,
                b"",
                crate::grammar::trim_lws(rest),
                out,
            );
        };
        *passed += 1;
        self.render_with_value(
            message,
            field,
            self.text_of(span),
            &rest[value_length(rest)..],
            out,
        );
    }

    /// The field's name and colon as received, then `new` (ours), then `rest` (received).
    fn render_with_value(
        &self,
        message: &Message,
        field: &Field,
        new: &[u8],
        rest: &[u8],
        out: &mut BytesMut,
    ) {
        out.extend_from_slice(message.slice((field.start, field.value_start)));
        put_value(out, new);
        out.extend_from_slice(rest);
        out.extend_from_slice(b"\r\n");
    }

    /// What is pushed to the back or set without being there, then what has to be added.
    fn render_new_at_end(&self, message: &Message, out: &mut BytesMut) {
        for (index, operation) in self.operations.iter().enumerate() {
            let is_new = match operation.kind {
                Kind::PushLine => {
                    out.extend_from_slice(self.text_of(operation.value));
                    continue;
                }
                Kind::PushBack => message.field(operation.name).is_none(),
                // Only the last of several counts, as in `plan`.
                Kind::Set => {
                    message.field(operation.name).is_none()
                        && !self.operations[index + 1..]
                            .iter()
                            .any(|later| later.kind == Kind::Set && later.name == operation.name)
                }
                Kind::PushFront
                | Kind::RemoveFirstValue
                | Kind::ReplaceFirstValue
                | Kind::RemoveAll => false,
            };
            if is_new {
                self.render_operation(operation, out);
            }
        }
        let length_given = self.touched & HeaderName::ContentLength.bit() != 0;
        if self.needs_content_length
            && !length_given
            && message.field(HeaderName::ContentLength).is_none()
        {
            put_field(out, b"Content-Length", Digits::of(message.body().len() as u64).as_bytes());
        }
    }

    fn render_pushed(&self, name: HeaderName, kind: Kind, out: &mut BytesMut) {
        let matching = |operation: &&Operation| operation.name == name && operation.kind == kind;
        match kind {
            // The one pushed last comes out top-most.
            Kind::PushFront => self
                .operations
                .iter()
                .rev()
                .filter(matching)
                .for_each(|o| self.render_operation(o, out)),
            _ => {
                self.operations.iter().filter(matching).for_each(|o| self.render_operation(o, out))
            }
        }
    }

    fn render_operation(&self, operation: &Operation, out: &mut BytesMut) {
        put_field(out, operation.name.as_str().as_bytes(), self.text_of(operation.value));
    }

    fn plan(&self, name: HeaderName) -> Plan {
        let mut plan = Plan::default();
        for operation in self.operations.iter().filter(|operation| operation.name == name) {
            match operation.kind {
                Kind::RemoveAll => plan.remove_all = true,
                Kind::Set => plan.set = Some(operation.value),
                Kind::RemoveFirstValue => plan.remove += 1,
                Kind::ReplaceFirstValue => plan.replace = Some(operation.value),
                Kind::PushFront | Kind::PushBack | Kind::PushLine => {}
            }
        }
        plan
    }

    fn has(&self, name: HeaderName, kind: Kind) -> bool {
        self.operations.iter().any(|operation| operation.name == name && operation.kind == kind)
    }

    fn operate(&mut self, name: HeaderName, kind: Kind, value: &[u8]) {
        debug_assert!(name != HeaderName::Other, "Other is no header; use push_back_named");
        let value = self.keep(value);
        self.touched |= name.bit();
        self.operations.push(Operation { name, kind, value });
    }

    fn keep(&mut self, value: &[u8]) -> Span {
        let start = self.text.len();
        self.text.extend_from_slice(value);
        let offset = |at: usize| u32::try_from(at).expect("edits are far smaller than 4 GB");
        Span { start: offset(start), end: offset(self.text.len()) }
    }

    fn text_of(&self, span: Span) -> &[u8] {
        &self.text[span.start as usize..span.end as usize]
    }
}

#[cfg(test)]
mod tests;
