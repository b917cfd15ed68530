//! Text that comes from guests, as it may be shown and kept.

use std::fmt::Write as _;

/// `bytes` as UTF-8, without control characters that could steer a terminal (line ends and tabs may stay), at most about
/// `bytes_max` of it. What was cut is counted at its end.
pub(super) fn printable(bytes: &[u8], bytes_max: usize) -> String {
    let kept = bytes.get(..bytes_max).unwrap_or(bytes);
    let mut text = String::with_capacity(kept.len());
    let mut shown = 0;
    for character in String::from_utf8_lossy(kept).chars() {
        if text.len() >= bytes_max {
            break;
        }
        shown += character.len_utf8();
        if character.is_control() && !matches!(character, '\t' | '\n') {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    let cut = bytes.len().saturating_sub(shown);
    if cut > 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, " [{cut} more bytes cut]");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_steer_a_terminal_is_escaped() {
        assert_eq!(printable(b"\x1b[31mred\x07\ttab\n \xff", 100), "\\u{1b}[31mred\\u{7}\ttab\n \u{fffd}");
    }

    #[test]
    fn too_much_is_cut_and_counted() {
        assert_eq!(printable(&[b'x'; 10], 4), "xxxx [6 more bytes cut]");
        assert!(printable(&[0x1b; 1000], 100).len() < 150);
    }
}
