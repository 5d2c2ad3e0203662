//! The condition by which an application chooses initial requests: what the patterns of JSR 289 (§16) can say, as TOML.
//!
//! ```toml
//! [sip]
//! match = { all = [
//!     { equal = ["request.method", "INVITE"] },
//!     { any = [
//!         { equal = ["request.uri.user", "dial"] },
//!         { subdomain_of = ["request.uri.host", "pbx.example.com"] },
//!     ] },
//!     { not = { exists = "request.header.X-Bypass" } },
//! ] }
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How deep conditions may stand in one another.
pub const DEPTH_MAX: usize = 16;
/// How many conditions one may be made of.
pub const PARTS_MAX: usize = 256;

/// A condition on a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// All of them hold; of none: it holds.
    All(Vec<Condition>),
    /// At least one of them holds.
    Any(Vec<Condition>),
    /// It does not hold.
    Not(Box<Condition>),
    /// The request has the variable.
    Exists(Variable),
    /// The request has the variable, and it is the text.
    Equal(Comparison),
    /// The request has the variable, and the text is in it.
    Contains(Comparison),
    /// The request has the variable, and it is this domain or one below it; of a telephone number: begins with it
    /// (JSR 289 §16.2).
    SubdomainOf(Comparison),
}

/// What is compared with what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Of the request.
    pub variable: Variable,
    /// The text.
    pub text: String,
    /// Whether `A` and `a` are the same.
    pub ignore_case: bool,
}

/// Something that a request has, or has not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Variable {
    /// `request.method`.
    Method,
    /// `request.uri`, and what follows it.
    RequestUri(UriPart),
    /// `request.from`, `request.to`, `request.route` and `.uri` of it; the Route is the topmost that is not ours.
    Address(AddressHeader, AddressPart),
    /// `request.header.NAME`: the first field of that name.
    Header(String),
}

/// A header that holds an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressHeader {
    /// `request.from`.
    From,
    /// `request.to`.
    To,
    /// `request.route`.
    Route,
}

/// A part of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressPart {
    /// The field as it stands.
    Whole,
    /// `.display-name`.
    DisplayName,
    /// `.uri`, and what follows it.
    Uri(UriPart),
}

/// A part of a URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UriPart {
    /// The URI as it stands.
    Whole,
    /// `.scheme`.
    Scheme,
    /// `.user`.
    User,
    /// `.host`.
    Host,
    /// `.port`; what the scheme implies if the URI names none: 5060, 5061.
    Port,
    /// `.tel`: the telephone number of a `tel` URI or of a `sip` URI with `user=phone`, without visual separators.
    Tel,
    /// `.param.NAME`.
    Parameter(String),
}

/// It is none of the variables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no variable; needs {NEEDS}")]
pub struct VariableError;

/// What a variable is, for messages.
pub(super) const NEEDS: &str = "request.method, request.header.NAME, or request.uri, request.from.uri, request.to.uri, \
     request.route.uri with perhaps .scheme, .user, .host, .port, .tel or .param.NAME behind it";

impl FromStr for Variable {
    type Err = VariableError;

    fn from_str(text: &str) -> Result<Variable, VariableError> {
        let rest = text.strip_prefix("request.").ok_or(VariableError)?;
        if let Some(name) = rest.strip_prefix("header.") {
            return is_token(name).then(|| Variable::Header(name.to_owned())).ok_or(VariableError);
        }
        let (head, part) = match rest.split_once('.') {
            Some((head, part)) => (head, Some(part)),
            None => (rest, None),
        };
        let address = |header| Ok(Variable::Address(header, address_part(part)?));
        match head {
            "method" if part.is_none() => Ok(Variable::Method),
            "uri" => Ok(Variable::RequestUri(uri_part(part)?)),
            "from" => address(AddressHeader::From),
            "to" => address(AddressHeader::To),
            "route" => address(AddressHeader::Route),
            _ => Err(VariableError),
        }
    }
}

fn address_part(part: Option<&str>) -> Result<AddressPart, VariableError> {
    match part.map(|part| part.split_once('.').unwrap_or((part, ""))) {
        None => Ok(AddressPart::Whole),
        Some(("display-name", "")) => Ok(AddressPart::DisplayName),
        Some(("uri", "")) => Ok(AddressPart::Uri(UriPart::Whole)),
        Some(("uri", part)) => uri_part(Some(part)).map(AddressPart::Uri),
        Some(_) => Err(VariableError),
    }
}

fn uri_part(part: Option<&str>) -> Result<UriPart, VariableError> {
    match part {
        None => Ok(UriPart::Whole),
        Some("scheme") => Ok(UriPart::Scheme),
        Some("user") => Ok(UriPart::User),
        Some("host") => Ok(UriPart::Host),
        Some("port") => Ok(UriPart::Port),
        Some("tel") => Ok(UriPart::Tel),
        Some(part) => {
            let name = part.strip_prefix("param.").filter(|name| is_token(name));
            name.map(|name| UriPart::Parameter(name.to_owned())).ok_or(VariableError)
        }
    }
}

/// RFC 3261 §25.1.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte))
}

impl fmt::Display for Variable {
    /// As the manifest spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Variable::Method => f.write_str("request.method"),
            Variable::RequestUri(part) => write!(f, "request.uri{part}"),
            Variable::Address(header, part) => write!(f, "request.{header}{part}"),
            Variable::Header(name) => write!(f, "request.header.{name}"),
        }
    }
}

impl fmt::Display for AddressHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AddressHeader::From => "from",
            AddressHeader::To => "to",
            AddressHeader::Route => "route",
        })
    }
}

impl fmt::Display for AddressPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressPart::Whole => Ok(()),
            AddressPart::DisplayName => f.write_str(".display-name"),
            AddressPart::Uri(part) => write!(f, ".uri{part}"),
        }
    }
}

impl fmt::Display for UriPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UriPart::Whole => Ok(()),
            UriPart::Scheme => f.write_str(".scheme"),
            UriPart::User => f.write_str(".user"),
            UriPart::Host => f.write_str(".host"),
            UriPart::Port => f.write_str(".port"),
            UriPart::Tel => f.write_str(".tel"),
            UriPart::Parameter(name) => write!(f, ".param.{name}"),
        }
    }
}

impl From<Variable> for String {
    fn from(variable: Variable) -> String {
        variable.to_string()
    }
}

impl TryFrom<String> for Variable {
    type Error = VariableError;

    fn try_from(text: String) -> Result<Variable, VariableError> {
        text.parse()
    }
}
