//! What a proxy says of a connection before its first byte: the PROXY protocol, versions 1 and 2 (haproxy, proxy-protocol.txt).
//!
//! Read only from those whom functions.toml trusts to say it, and there it must be said: whoever could leave it out could as
//! well invent it.

use super::connection::Ends;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncRead, AsyncReadExt as _};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const LINE_BEGINNING: &[u8] = b"PROXY ";
/// The longest line of version 1, its end included.
const LINE_BYTES_MAX: usize = 107;
/// The most bytes of version 2 behind its first sixteen: addresses, and what else a proxy may add, which is not looked at.
const PAYLOAD_BYTES_MAX: usize = 4 << 10;

/// Reads it, and not a byte more. Nothing, if the proxy speaks for itself.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Ends>> {
    // No header of either version is shorter.
    let mut beginning = [0; SIGNATURE.len()];
    stream.read_exact(&mut beginning).await?;
    if beginning == *SIGNATURE {
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        let [version_and_command, family, high, low] = head;
        let mut payload = vec![0; usize::from(u16::from_be_bytes([high, low]))];
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(malformed());
        }
        stream.read_exact(&mut payload).await?;
        return version_2(version_and_command, family, &payload).ok_or_else(malformed);
    }
    // What is no line of version 1 by then never will be, and who waits for its end may wait for long.
    if !beginning.starts_with(LINE_BEGINNING) || beginning.contains(&b'\n') {
        return Err(malformed());
    }
    let mut line = beginning.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == LINE_BYTES_MAX {
            return Err(malformed());
        }
        line.push(stream.read_u8().await?);
    }
    version_1(&line).ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what came first is no PROXY protocol")
}

/// Nothing, if it is malformed; nothing within, if it has no addresses.
#[expect(clippy::option_option, reason = "what is wrong, what is absent, and what is there")]
fn version_1(line: &[u8]) -> Option<Option<Ends>> {
    let line = std::str::from_utf8(line.strip_suffix(b"\r\n")?).ok()?;
    let mut words = line.strip_prefix("PROXY ")?.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let mut address = || words.next()?.parse::<IpAddr>().ok().filter(|address| address.is_ipv4() == (family == "TCP4"));
    let (source, destination) = (address()?, address()?);
    let mut port = || words.next().filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))?.parse::<u16>().ok();
    let (from, to) = (port()?, port()?);
    if words.next().is_some() || !matches!(family, "TCP4" | "TCP6") {
        return None;
    }
    Some(Some(Ends { peer: SocketAddr::new(source, from), local: SocketAddr::new(destination, to) }))
}

#[expect(clippy::option_option, reason = "what is wrong, what is absent, and what is there")]
fn version_2(version_and_command: u8, family: u8, payload: &[u8]) -> Option<Option<Ends>> {
    match version_and_command {
        // LOCAL: the proxy asks on its own behalf, to see whether anybody is there.
        0x20 => return Some(None),
        0x21 => {}
        _ => return None,
    }
    let port = |at: usize| Some(u16::from_be_bytes(payload.get(at..at + 2)?.try_into().ok()?));
    let (addresses, ports): ([IpAddr; 2], usize) = match family {
        // TCP over IPv4, and over IPv6.
        0x11 => {
            let address =
                |at: usize| Some(IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(payload.get(at..at + 4)?).ok()?)));
            ([address(0)?, address(4)?], 8)
        }
        0x21 => {
            let address =
                |at: usize| Some(IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(payload.get(at..at + 16)?).ok()?)));
            ([address(0)?, address(16)?], 32)
        }
        // Another family, or none.
        _ => return Some(None),
    };
    let [source, destination] = addresses;
    Some(Some(Ends {
        peer: SocketAddr::new(source, port(ports)?),
        local: SocketAddr::new(destination, port(ports + 2)?),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was said, and of that the two ends; `-` for none, and nothing for what is malformed.
    fn said(bytes: &[u8]) -> Option<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut bytes = bytes;
        let read = runtime.block_on(read(&mut bytes)).ok()?;
        assert_eq!(bytes, b"GET /", "no byte of what follows is taken");
        Some(read.map_or_else(|| "-".to_owned(), |ends| format!("{} {}", ends.peer, ends.local)))
    }

    #[test]
    fn version_1_is_a_line() {
        let line = |line: &str| said(format!("{line}GET /").as_bytes());
        assert_eq!(line("PROXY TCP4 1.2.3.4 5.6.7.8 99 80\r\n"), Some("1.2.3.4:99 5.6.7.8:80".to_owned()));
        assert_eq!(line("PROXY TCP6 2001:db8::1 ::1 99 80\r\n"), Some("[2001:db8::1]:99 [::1]:80".to_owned()));
        assert_eq!(line("PROXY UNKNOWN\r\n"), Some("-".to_owned()));
        assert_eq!(line("PROXY UNKNOWN 1.2.3.4 5.6.7.8 99 80\r\n"), Some("-".to_owned()));
        for bad in [
            "PROXY TCP4 1.2.3.4 5.6.7.8 99\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 99 80 1\r\n",
            "PROXY TCP4 ::1 ::1 99 80\r\n",
            "PROXY TCP6 1.2.3.4 5.6.7.8 99 80\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +99 80\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 65536 80\r\n",
            "PROXY UDP4 1.2.3.4 5.6.7.8 99 80\r\n",
            "PROXY  TCP4 1.2.3.4 5.6.7.8 99 80\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            &format!("PROXY UNKNOWN {}\r\n", "x".repeat(100)),
        ] {
            assert_eq!(line(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn version_2_is_binary() {
        let of = |head: [u8; 2], payload: &[u8]| {
            let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
            said(&[&SIGNATURE[..], &head, &length, payload, b"GET /"].concat())
        };
        let v4 = [1, 2, 3, 4, 5, 6, 7, 8, 0, 99, 0, 80];
        assert_eq!(of([0x21, 0x11], &v4), Some("1.2.3.4:99 5.6.7.8:80".to_owned()));
        assert_eq!(of([0x21, 0x11], &[&v4[..], b"\x03\x00\x01x"].concat()), Some("1.2.3.4:99 5.6.7.8:80".to_owned()));
        let mut v6 = [0; 36];
        (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 99, 80);
        assert_eq!(of([0x21, 0x21], &v6), Some("[::1]:99 [::2]:80".to_owned()));
        assert_eq!(of([0x20, 0x00], b""), Some("-".to_owned()));
        assert_eq!(of([0x21, 0x31], &[0; 216]), Some("-".to_owned()));
        assert_eq!(of([0x21, 0x11], &v4[..11]), None);
        assert_eq!(of([0x11, 0x11], &v4), None);
        assert_eq!(of([0x22, 0x11], &v4), None);
        assert_eq!(of([0x21, 0x11], &[0; PAYLOAD_BYTES_MAX + 1]), None);
    }
}
