//! HTTP/1.1 as far as the API needs it, on bytes: requests in, answers out.
//!
//! Strict, because a lenient parser is two parsers: a body has one length or is chunked, never both; a head has at most
//! [`MAX_HEAD`] bytes and [`MAX_HEADERS`] lines, a body [`MAX_BODY`]. Requests may be pipelined: [`parse`] says how many
//! bytes the first one took.

use std::borrow::Cow;

/// Longest request line and headers together, in bytes.
pub const MAX_HEAD: usize = 16 * 1024;
/// Most header lines.
pub const MAX_HEADERS: usize = 64;
/// Longest body, in bytes: what RootlessKit's own clients read.
pub const MAX_BODY: usize = 64 * 1024;
/// Longest body as it travels in chunks. A byte may have a chunk of its own.
const MAX_CHUNKED: usize = 8 * MAX_BODY;

/// A request, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// As in `GET`.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// What follows the question mark.
    pub query: String,
    /// May be empty.
    pub body: Vec<u8>,
    /// The client may send another one.
    pub keep_alive: bool,
}

impl Request {
    /// The value of a name in the query, as it stands there.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|p| p.split_once('=').filter(|(n, _)| *n == name).map(|(_, v)| v))
    }
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a request.
    Partial {
        /// The head is complete and asks for `100 Continue` before the body.
        expects: bool,
    },
    /// A request, and how many bytes it took.
    Complete(Request, usize),
}

/// Why a request is not answered otherwise. The connection ends after it: where the next request begins is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub u16, pub &'static str);

/// Reads the first request of `bytes`.
///
/// # Errors
/// [`Refused`] with status and text for the client.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Refused> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let at = match head.parse(bytes) {
        Ok(httparse::Status::Complete(at)) if at <= MAX_HEAD => at,
        Ok(httparse::Status::Partial) if bytes.len() <= MAX_HEAD => {
            return Ok(Parsed::Partial { expects: false });
        }
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Refused(431, "request head is too long")),
        Err(httparse::Error::Version) => {
            return Err(Refused(505, "only HTTP/1.1 and HTTP/1.0 are spoken here"));
        }
        Err(_) => return Err(Refused(400, "malformed request")),
    };
    let framing = Framing::of(head.headers)?;
    let (body, length) = match framing.body {
        Body::Length(n) if n > MAX_BODY => return Err(Refused(413, "request body is too long")),
        Body::Length(n) => match bytes.get(at..at + n) {
            Some(body) => (Cow::Borrowed(body), n),
            None => return Ok(Parsed::Partial { expects: framing.expects }),
        },
        Body::Chunked => match dechunk(&bytes[at..])? {
            Some((body, length)) => (Cow::Owned(body), length),
            None => return Ok(Parsed::Partial { expects: framing.expects && bytes.len() == at }),
        },
    };
    let target = head.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request = Request {
        method: head.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        body: body.into_owned(),
        keep_alive: framing.keep_alive.unwrap_or(head.version == Some(1)),
    };
    Ok(Parsed::Complete(request, at + length))
}

#[derive(Clone, Copy)]
enum Body {
    Length(usize),
    Chunked,
}

/// What the headers say about where the request ends and what follows.
struct Framing {
    body: Body,
    keep_alive: Option<bool>,
    expects: bool,
}

impl Framing {
    fn of(headers: &[httparse::Header<'_>]) -> Result<Self, Refused> {
        let (mut length, mut chunked, mut keep_alive, mut expects) = (None, false, None, false);
        for header in headers {
            let value = std::str::from_utf8(header.value).unwrap_or("?").trim();
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("content-length") {
                let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
                // More digits than fit are too long a body all the same.
                let n = value.parse().unwrap_or(usize::MAX);
                if !digits || length.is_some_and(|before| before != n) {
                    return Err(Refused(400, "malformed Content-Length"));
                }
                length = Some(n);
            } else if is("transfer-encoding") {
                if chunked || !value.eq_ignore_ascii_case("chunked") {
                    return Err(Refused(501, "the only transfer encoding here is chunked"));
                }
                chunked = true;
            } else if is("connection") {
                for word in value.split(',').map(str::trim) {
                    match word {
                        w if w.eq_ignore_ascii_case("close") => keep_alive = Some(false),
                        w if w.eq_ignore_ascii_case("keep-alive") => keep_alive = keep_alive.or(Some(true)),
                        _ => {}
                    }
                }
            } else if is("expect") {
                if !value.eq_ignore_ascii_case("100-continue") {
                    return Err(Refused(417, "that expectation is not met here"));
                }
                expects = true;
            }
        }
        let body = match (chunked, length) {
            (true, Some(_)) => return Err(Refused(400, "both Content-Length and Transfer-Encoding")),
            (true, None) => Body::Chunked,
            (false, length) => Body::Length(length.unwrap_or(0)),
        };
        Ok(Self { body, keep_alive, expects })
    }
}

/// The body in chunks at the start of `bytes`, and how long it is as it travels; `None` if there is more to come.
fn dechunk(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Refused> {
    let malformed = Refused(400, "malformed chunk");
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        if at > MAX_CHUNKED {
            return Err(Refused(413, "request body is too long"));
        }
        let rest = &bytes[at..];
        let Ok(status) = httparse::parse_chunk_size(rest) else { return Err(malformed) };
        let httparse::Status::Complete((line, size)) = status else {
            // A size and its extensions take no more than a head may.
            return if rest.len() > MAX_HEAD { Err(malformed) } else { Ok(None) };
        };
        if size == 0 {
            // Trailers, if any, are read like headers and mean nothing.
            let mut trailers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            return match httparse::parse_headers(&rest[line..], &mut trailers) {
                Ok(httparse::Status::Complete((end, _))) => Ok(Some((body, at + line + end))),
                Ok(httparse::Status::Partial) if rest.len() <= MAX_HEAD => Ok(None),
                _ => Err(malformed),
            };
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size > MAX_BODY - body.len() {
            return Err(Refused(413, "request body is too long"));
        }
        let Some(data) = rest.get(line..line + size + 2) else { return Ok(None) };
        let (data, end) = data.split_at(size);
        if end != b"\r\n" {
            return Err(malformed);
        }
        body.extend_from_slice(data);
        at += line + size + 2;
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// As in 200.
    pub status: u16,
    /// Empty: no body to speak of.
    pub content_type: &'static str,
    /// Sent whole.
    pub body: Vec<u8>,
    /// Methods that the path has, for 405.
    pub allow: Option<&'static str>,
}

impl Response {
    /// The connection has become something else: nothing is to be written to it any more.
    pub const SWITCHED: u16 = 101;

    /// No body.
    pub const fn empty(status: u16) -> Self {
        Self { status, content_type: "", body: Vec::new(), allow: None }
    }

    /// A value as JSON.
    pub fn json<T: serde::Serialize>(status: u16, value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self { status, content_type: "application/json", body, allow: None },
            Err(e) => Self::error(500, &e.to_string()),
        }
    }

    /// A text.
    pub fn text(status: u16, content_type: &'static str, text: String) -> Self {
        Self { status, content_type, body: text.into_bytes(), allow: None }
    }

    /// An error in RootlessKit's form.
    pub fn error(status: u16, message: &str) -> Self {
        let mut body = serde_json::json!({ "message": message }).to_string().into_bytes();
        body.push(b'\n');
        Self { status, content_type: "application/json", body, allow: None }
    }

    /// No such path, in the words of Go's library.
    pub fn not_found() -> Self {
        let body = b"404 page not found\n".to_vec();
        Self { status: 404, content_type: "text/plain; charset=utf-8", body, allow: None }
    }

    /// The path has other methods.
    pub fn not_allowed(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::empty(405) }
    }

    /// As it goes over the wire.
    pub fn to_bytes(&self, keep_alive: bool) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        if !self.content_type.is_empty() {
            head += &format!("Content-Type: {}\r\n", self.content_type);
        }
        if let Some(allow) = self.allow {
            head += &format!("Allow: {allow}\r\n");
        }
        if !keep_alive {
            head += "Connection: close\r\n";
        }
        head += &format!("Content-Length: {}\r\n\r\n", self.body.len());
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

const fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests;
