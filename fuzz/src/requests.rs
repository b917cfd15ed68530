//! Requests as a strict reader has them in the bytes of a connection (RFC 9112), and where it stops.
//!
//! Where the RFC lets a reader choose, and no two choices end a request at different bytes (a line that ends without CR, empty
//! lines before a request), this takes both.

/// A request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub is_http_11: bool,
    /// Names in lower case.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// As far as it came.
    pub body: Vec<u8>,
    /// Another request may follow.
    pub persists: bool,
    /// It is one that nobody may answer but with an error.
    pub is_refused: bool,
}

impl Asked {
    /// The values of a field, in their order.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |(known, _)| known == name.as_bytes()).map(|(_, value)| value.as_slice())
    }

    /// It waits to be told to go on with its upload.
    #[must_use]
    pub fn expects_continue(&self) -> bool {
        self.is_http_11 && self.values("expect").any(|value| value.eq_ignore_ascii_case(b"100-continue"))
    }
}

/// Where a reader stops, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Every byte belongs to a request.
    Whole,
    /// The last request was the last of its connection, whatever follows.
    Closed,
    /// The last request came with trailers. There are those who see the end of some at another place than hyper does, so nothing
    /// behind them is answered.
    Trailers,
    /// A head that is not whole.
    InHead,
    /// An upload that is not whole.
    InBody(Asked),
    /// What is no head.
    BadHead {
        /// It asks for an answer without a body, as far as can be seen.
        is_head: bool,
    },
    /// A request whose upload is broken.
    BadBody(Asked),
    /// A request whose trailers are broken, behind an upload that is whole.
    BadTrailers {
        asked: Asked,
        /// Behind an empty line, which ends them for who does not mind, is something that asks for an answer without a body.
        next_is_head: bool,
    },
}

enum Head {
    Whole(Asked, usize),
    Partial,
    Bad,
}

enum Body {
    Whole(Vec<u8>, usize),
    WithTrailers(Vec<u8>),
    Partial(Vec<u8>),
    Bad(Vec<u8>),
    BadTrailers { body: Vec<u8>, next_is_head: bool },
}

/// The requests in `bytes` that are whole.
#[must_use]
pub fn read(mut bytes: &[u8]) -> (Vec<Asked>, Stop) {
    let mut requests = Vec::new();
    loop {
        while let Some(rest) = bytes.strip_prefix(b"\r\n").or_else(|| bytes.strip_prefix(b"\n")) {
            bytes = rest;
        }
        if bytes.is_empty() {
            return (requests, Stop::Whole);
        }
        let (mut asked, length) = match head(bytes) {
            Head::Whole(asked, length) => (asked, length),
            Head::Partial => return (requests, Stop::InHead),
            Head::Bad => return (requests, Stop::BadHead { is_head: bytes.starts_with(b"HEAD ") }),
        };
        bytes = &bytes[length..];
        settle(&mut asked);
        let Some(framing) = framing(&asked) else {
            let is_head = asked.method == b"HEAD";
            return (requests, Stop::BadHead { is_head });
        };
        let body = match framing {
            Framing::Length(length) => match usize::try_from(length).ok().and_then(|length| bytes.get(..length)) {
                Some(body) => Body::Whole(body.to_vec(), body.len()),
                None => Body::Partial(bytes.to_vec()),
            },
            Framing::Chunked => chunks(bytes),
        };
        match body {
            Body::Whole(body, length) => {
                asked.body = body;
                bytes = &bytes[length..];
                let persists = asked.persists;
                requests.push(asked);
                if !persists {
                    return (requests, Stop::Closed);
                }
            }
            Body::WithTrailers(body) => {
                requests.push(Asked { body, ..asked });
                return (requests, Stop::Trailers);
            }
            Body::Partial(body) => return (requests, Stop::InBody(Asked { body, ..asked })),
            Body::Bad(body) => return (requests, Stop::BadBody(Asked { body, ..asked })),
            Body::BadTrailers { body, next_is_head } => {
                return (requests, Stop::BadTrailers { asked: Asked { body, ..asked }, next_is_head });
            }
        }
    }
}

/// A line without its end, and what follows. Nothing, if it has no end.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = &bytes[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), &bytes[end + 1..]))
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// What no field may have in its value (RFC 9110, 5.5).
fn is_control(byte: &u8) -> bool {
    (*byte < b' ' && *byte != b'\t') || *byte == 0x7f
}

fn trimmed(text: &[u8]) -> &[u8] {
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let begin = text.iter().position(|byte| !blank(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !blank(byte)).map_or(begin, |last| last + 1);
    &text[begin..end]
}

/// Whether the empty line that ends a head is there. What is wrong before that, a reader may say at once, or then.
fn ends(mut bytes: &[u8]) -> bool {
    while let Some((line, behind)) = line(bytes) {
        if line.is_empty() {
            return true;
        }
        bytes = behind;
    }
    false
}

fn head(bytes: &[u8]) -> Head {
    if !ends(bytes) {
        return Head::Partial;
    }
    let Some((first, mut rest)) = line(bytes) else { return Head::Partial };
    let mut words = first.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Head::Bad;
    };
    let is_http_11 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return Head::Bad,
    };
    // What of it is a URI is for others to say; a control character ends it.
    if !is_token(method) || target.is_empty() || target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        return Head::Bad;
    }
    let mut asked = Asked {
        method: method.to_vec(),
        target: target.to_vec(),
        is_http_11,
        persists: is_http_11,
        ..Asked::default()
    };
    loop {
        let Some((field, behind)) = line(rest) else { return Head::Partial };
        rest = behind;
        if field.is_empty() {
            break;
        }
        let Some(colon) = field.iter().position(|byte| *byte == b':') else { return Head::Bad };
        let (name, value) = (&field[..colon], trimmed(&field[colon + 1..]));
        if !is_token(name) || value.iter().any(is_control) {
            return Head::Bad;
        }
        asked.fields.push((name.to_ascii_lowercase(), value.to_vec()));
    }
    Head::Whole(asked, bytes.len() - rest.len())
}

enum Framing {
    Length(u64),
    Chunked,
}

/// Where the upload of a request ends; nothing, where that cannot be said.
fn framing(asked: &Asked) -> Option<Framing> {
    let codings: Vec<&[u8]> = asked.values("transfer-encoding").collect();
    let lengths: Vec<&[u8]> = asked.values("content-length").collect();
    if let Some(coding) = codings.first() {
        // Other codings there are, and this host has none of them.
        let is_chunked = codings.len() == 1 && coding.eq_ignore_ascii_case(b"chunked");
        return (is_chunked && asked.is_http_11).then_some(Framing::Chunked);
    }
    let number = |digits: &[u8]| {
        let text = std::str::from_utf8(digits).ok()?;
        if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse::<u64>().ok() } else { None }
    };
    let mut length = 0;
    for (at, digits) in lengths.iter().enumerate() {
        let this = number(digits)?;
        if at > 0 && this != length {
            return None;
        }
        length = this;
    }
    Some(Framing::Length(length))
}

/// An upload in chunks (RFC 9112, 7.1), whose lines end with CR and LF: those who take less disagree where one ends.
fn chunks(bytes: &[u8]) -> Body {
    let mut body = Vec::new();
    let mut rest = bytes;
    loop {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return Body::Partial(body);
        };
        let Some(size) = rest[..end].strip_suffix(b"\r") else { return Body::Bad(body) };
        rest = &rest[end + 1..];
        let digits = size.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (digits, extension) = size.split_at(digits);
        let begins_well = matches!(trimmed(extension).first(), None | Some(b';'));
        if digits.is_empty() || !begins_well || extension.contains(&b'\r') {
            return Body::Bad(body);
        }
        let text = String::from_utf8_lossy(digits);
        let Ok(size) = u64::from_str_radix(&text, 16) else { return Body::Bad(body) };
        if size == 0 {
            break;
        }
        let Some(data) = usize::try_from(size).ok().and_then(|size| rest.get(..size)) else {
            body.extend_from_slice(rest);
            return Body::Partial(body);
        };
        body.extend_from_slice(data);
        rest = &rest[data.len()..];
        match rest {
            [b'\r', b'\n', ..] => rest = &rest[2..],
            [] | [b'\r'] => return Body::Partial(body),
            _ => return Body::Bad(body),
        }
    }
    let trailers = rest;
    let bad = |body| Body::BadTrailers { body, next_is_head: is_head_behind(trailers) };
    let mut has_trailers = false;
    loop {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return Body::Partial(body) };
        let Some(trailer) = rest[..end].strip_suffix(b"\r") else { return bad(body) };
        rest = &rest[end + 1..];
        if trailer.is_empty() {
            let length = bytes.len() - rest.len();
            return if has_trailers { Body::WithTrailers(body) } else { Body::Whole(body, length) };
        }
        has_trailers = true;
        let name = trailer.iter().position(|byte| *byte == b':').map(|colon| &trailer[..colon]);
        if !name.is_some_and(is_token) || trailer.iter().any(is_control) {
            return bad(body);
        }
    }
}

fn is_head_behind(trailers: &[u8]) -> bool {
    let Some(end) = trailers.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let next = &trailers[end + 4..];
    let begin = next.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(next.len());
    next[begin..].starts_with(b"HEAD ")
}

/// What follows for the connection from the fields of a request, and whether it is to be refused.
fn settle(asked: &mut Asked) {
    let says = |asked: &Asked, option: &[u8]| {
        asked
            .values("connection")
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|said| trimmed(said).eq_ignore_ascii_case(option))
    };
    let closes = says(asked, b"close");
    asked.persists = !closes && (asked.is_http_11 || says(asked, b"keep-alive"));
    let (has_length, has_coding) =
        (asked.values("content-length").next().is_some(), asked.values("transfer-encoding").next().is_some());
    // What follows could be read in another way, or is meant for a tunnel.
    if (has_length && has_coding) || asked.method == b"CONNECT" {
        asked.persists = false;
    }
    let hosts = asked.values("host").count();
    asked.is_refused = hosts > 1 || (hosts == 0 && asked.is_http_11);
    if asked.is_refused {
        asked.persists = false;
    }
}
