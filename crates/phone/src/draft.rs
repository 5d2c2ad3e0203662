//! A request that is being written.

use bytes::Bytes;
use sip::{HeaderName, Method, RequestBuilder};

use crate::session_description::CONTENT_TYPE;
use crate::{Exchange, Phone, PhoneError};

/// Content-Type of what is said by MESSAGE.
pub(crate) const TEXT: &str = "text/plain";

/// A request that is being written.
#[derive(Debug, Clone)]
pub struct Draft {
    phone: Phone,
    line: usize,
    method: Vec<u8>,
    pub(crate) request_uri: String,
    from: String,
    to: String,
    pub(crate) call_id: String,
    cseq: u32,
    pub(crate) branch: String,
    headers: Vec<(String, String)>,
    /// Content-Type and content.
    body: Option<(String, String)>,
}

impl Draft {
    /// A request with a branch, a From tag and a Call-ID of its own.
    pub(crate) fn new(phone: &Phone, line: usize, method: Method<'_>, request_uri: &str) -> Draft {
        let number = phone.next_number();
        let local = phone.lines()[line].local();
        let user = phone.user();
        Draft {
            phone: phone.clone(),
            line,
            method: method.as_bytes().to_vec(),
            request_uri: request_uri.to_owned(),
            from: format!("<{}>;tag=f{number}-{}", phone.uri(), local.port()),
            to: format!("<{request_uri}>"),
            call_id: format!("call-{number}-{user}-{local}"),
            cseq: 1,
            branch: format!("z9hG4bK-{}-{user}-{number}", local.port()),
            headers: Vec::new(),
            body: None,
        }
    }

    /// With this To value.
    pub fn to(mut self, to: &str) -> Self {
        to.clone_into(&mut self.to);
        self
    }

    /// With this From value.
    pub fn from(mut self, from: &str) -> Self {
        from.clone_into(&mut self.from);
        self
    }

    /// With this Call-ID.
    pub fn call_id(mut self, call_id: &str) -> Self {
        call_id.clone_into(&mut self.call_id);
        self
    }

    /// With this CSeq number.
    pub fn cseq(mut self, cseq: u32) -> Self {
        self.cseq = cseq;
        self
    }

    /// With this Via branch: a CANCEL has its INVITE's.
    pub fn branch(mut self, branch: &str) -> Self {
        branch.clone_into(&mut self.branch);
        self
    }

    /// By another line than the one it was begun for.
    pub fn by_line(mut self, line: usize) -> Self {
        self.line = line;
        self
    }

    /// With one more header field.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this session description as its body.
    pub fn session_description(self, description: String) -> Self {
        self.body(CONTENT_TYPE, description)
    }

    /// With this body.
    pub fn body(mut self, content_type: &str, content: String) -> Self {
        self.body = Some((content_type.to_owned(), content));
        self
    }

    /// The octets.
    pub fn build(&self) -> Bytes {
        let line = &self.phone.lines()[self.line];
        let via = format!(
            "SIP/2.0/{} {};branch={};rport",
            line.transport().name(),
            line.local(),
            self.branch
        );
        let method = Method::parse(&self.method).expect("a draft begins with a method");
        let mut builder = RequestBuilder::new(method, self.request_uri.as_bytes())
            .header(HeaderName::Via, via.as_bytes())
            .header(HeaderName::From, self.from.as_bytes())
            .header(HeaderName::To, self.to.as_bytes())
            .header(HeaderName::CallId, self.call_id.as_bytes());
        let method = String::from_utf8_lossy(&self.method);
        builder = builder.header(HeaderName::CSeq, format!("{} {method}", self.cseq).as_bytes());
        for (name, value) in &self.headers {
            builder = builder.header_named(name.as_bytes(), value.as_bytes());
        }
        if let Some((content_type, content)) = &self.body {
            builder = builder.body(content_type.as_bytes(), content.clone());
        }
        builder.build()
    }

    /// Sends it and waits for responses on the returned exchange.
    ///
    /// # Errors
    /// When the line is closed.
    pub async fn send(self) -> Result<Exchange, PhoneError> {
        let request = self.build();
        Exchange::start(&self.phone.lines()[self.line], request).await
    }
}
