//! Answers as a strict reader has them in what the host wrote on a connection of HTTP/1.1 (RFC 9112, 6).
//!
//! Heads are read by httparse, and nothing that a client may read in two ways is let pass: one framing, one length, chunks
//! without extensions.

/// An answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub fields: Vec<(String, Vec<u8>)>,
    /// As far as it came.
    pub body: Vec<u8>,
    /// Nothing follows on the connection.
    pub closes: bool,
    /// The end of its body came.
    pub is_whole: bool,
}

impl Answer {
    /// The values of a field, in their order.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    /// The one value of a field.
    ///
    /// # Panics
    /// If it has several.
    #[must_use]
    pub fn value<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        let mut values = self.values(name);
        let first = values.next();
        assert!(values.next().is_none(), "`{name}` is said twice: {self:?}");
        first
    }

    /// Its body ends with its connection.
    #[must_use]
    pub fn is_to_the_end(&self) -> bool {
        self.value("transfer-encoding").is_none() && self.value("content-length").is_none()
    }
}

/// What was read.
#[derive(Debug, Default)]
pub struct Read {
    /// Those that are for a request; the last may not be whole.
    pub answers: Vec<Answer>,
    /// How many `100 Continue` came before each of them, and behind the last.
    pub interim: Vec<usize>,
    /// Bytes of a head that is not whole.
    pub rest: usize,
}

/// Reads `bytes`; `is_head` says whether the request of an answer asked for no body.
///
/// # Panics
/// If they are not what a client can read in one way only.
#[must_use]
pub fn read(bytes: &[u8], is_head: impl Fn(usize) -> bool) -> Read {
    let mut read = Read { interim: vec![0], ..Read::default() };
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut lines = [httparse::EMPTY_HEADER; 128];
        let mut response = httparse::Response::new(&mut lines);
        let length = match response.parse(rest) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => {
                read.rest = rest.len();
                break;
            }
            Err(error) => panic!("no head ({error}): {}", rest.escape_ascii()),
        };
        let head = &rest[..length];
        assert!(head.starts_with(b"HTTP/1.1 ") || head.starts_with(b"HTTP/1.0 "), "{}", head.escape_ascii());
        let ends_well = head.iter().zip(std::iter::once(&0).chain(head)).all(|(byte, before)| {
            // Lines end with both, and neither stands for itself.
            (*byte == b'\n') == (*before == b'\r')
        });
        assert!(ends_well, "{}", head.escape_ascii());
        let is_http_11 = response.version == Some(1);
        let status = response.code.expect("httparse gives one with a head that is whole");
        let fields =
            response.headers.iter().map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec())).collect();
        let mut answer = Answer { status, fields, ..Answer::default() };
        rest = &rest[length..];
        assert!((100..600).contains(&status), "{answer:?}");
        if status < 200 {
            assert_eq!(status, 100, "{answer:?}");
            assert!(answer.fields.is_empty(), "{answer:?}");
            *read.interim.last_mut().expect("there is one") += 1;
            continue;
        }
        let said = answer.value("connection").map(<[u8]>::to_ascii_lowercase);
        answer.closes = match said.as_deref() {
            Some(b"close") => true,
            Some(b"keep-alive") => false,
            None => !is_http_11,
            Some(_) => panic!("{answer:?}"),
        };
        let length = body(&mut answer, rest, is_head(read.answers.len()));
        rest = &rest[length..];
        assert!(!answer.closes || rest.is_empty(), "something follows the last answer: {}", rest.escape_ascii());
        assert!(answer.is_whole || rest.is_empty(), "{answer:?}");
        read.answers.push(answer);
        read.interim.push(0);
    }
    read
}

/// Takes the body from `rest`, and says how many bytes it is there.
fn body(answer: &mut Answer, rest: &[u8], is_head: bool) -> usize {
    let coding = answer.value("transfer-encoding").map(<[u8]>::to_vec);
    let length = answer.value("content-length").map(|digits| {
        assert!(!digits.is_empty() && digits.iter().all(u8::is_ascii_digit), "{answer:?}");
        std::str::from_utf8(digits).expect("digits").parse::<usize>().expect("no body is longer")
    });
    assert!(coding.is_none() || length.is_none(), "two framings: {answer:?}");
    if is_head || matches!(answer.status, 204 | 304) {
        assert!(answer.status != 204 || (coding.is_none() && length.is_none()), "{answer:?}");
        answer.is_whole = true;
        return 0;
    }
    match (coding, length) {
        (Some(coding), _) => {
            assert_eq!(coding, b"chunked", "{answer:?}");
            chunks(answer, rest)
        }
        (None, Some(length)) => {
            let taken = length.min(rest.len());
            answer.body = rest[..taken].to_vec();
            answer.is_whole = taken == length;
            taken
        }
        // To the end of the connection, whatever that is.
        (None, None) => {
            assert!(answer.closes, "a body without an end: {answer:?}");
            answer.body = rest.to_vec();
            answer.is_whole = true;
            rest.len()
        }
    }
}

fn chunks(answer: &mut Answer, bytes: &[u8]) -> usize {
    let mut rest = bytes;
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { return bytes.len() };
        let digits = &rest[..end];
        assert!(!digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit), "{}", rest.escape_ascii());
        let size = usize::from_str_radix(std::str::from_utf8(digits).expect("digits"), 16).expect("no chunk is longer");
        rest = &rest[end + 2..];
        if size == 0 {
            break;
        }
        let taken = size.min(rest.len());
        answer.body.extend_from_slice(&rest[..taken]);
        rest = &rest[taken..];
        match rest {
            [b'\r', b'\n', ..] => rest = &rest[2..],
            [] | [b'\r'] => return bytes.len(),
            _ => panic!("a chunk that does not end: {}", rest.escape_ascii()),
        }
    }
    // None of the guests here has trailers.
    match rest {
        [b'\r', b'\n', ..] => {
            answer.is_whole = true;
            bytes.len() - rest.len() + 2
        }
        [] | [b'\r'] => bytes.len(),
        _ => panic!("trailers: {}", rest.escape_ascii()),
    }
}
