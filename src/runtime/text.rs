//! Text that comes from guests, as it may be shown and kept.
//!
//! **Invariant:** wherever it is printed, it looks like nothing but itself: a guest that chooses a text, or a name in its own
//! component, writes no line of the log's, and steers no terminal.

use std::fmt::Write as _;

/// What a line begins with that goes on with the one before.
const CONTINUATION: &str = "    | ";

/// `bytes` as UTF-8, at most about `bytes_max` of it. Tabs stay, and so do line ends, with the lines behind them set in; other
/// characters that steer what shows them are escaped. What was cut is counted at its end.
pub(super) fn printable(bytes: &[u8], bytes_max: usize) -> String {
    let kept = bytes.get(..bytes_max).unwrap_or(bytes);
    let mut text = String::with_capacity(kept.len());
    let mut shown = 0;
    for character in String::from_utf8_lossy(kept).chars() {
        if text.len() >= bytes_max {
            break;
        }
        shown += character.len_utf8();
        match character {
            '\n' => text.extend(["\n", CONTINUATION]),
            '\t' => text.push('\t'),
            _ if steers(character) => text.extend(character.escape_default()),
            _ => text.push(character),
        }
    }
    let cut = bytes.len().saturating_sub(shown);
    if cut > 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, " [{cut} more bytes cut]");
    }
    text
}

/// Control characters, those by which text runs the other way, and the line ends of Unicode (UAX #9, 2; UAX #14, 5.1).
fn steers(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_steer_a_terminal_is_escaped() {
        assert_eq!(printable(b"\x1b[31mred\x07\ttab\n \xff", 100), "\\u{1b}[31mred\\u{7}\ttab\n    |  \u{fffd}");
        assert_eq!(
            printable("\u{202e}txt.\u{2066}\u{200f}\u{2028}".as_bytes(), 100),
            r"\u{202e}txt.\u{2066}\u{200f}\u{2028}"
        );
    }

    #[test]
    fn too_much_is_cut_and_counted() {
        assert_eq!(printable(&[b'x'; 10], 4), "xxxx [6 more bytes cut]");
        assert!(printable(&[0x1b; 1000], 100).len() < 150);
    }
}
