//! `numeric` on the wire: digits in base 10,000, and where the point is among them.

use super::decode::Bytes;
use std::fmt::Write as _;

const NEGATIVE: u16 = 0x4000;
const NOT_A_NUMBER: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;
/// The most digits behind the point that PostgreSQL has.
const SCALE_MAX: usize = 16_383;

/// The number as PostgreSQL writes it, with as many digits behind the point as it has.
pub(super) fn text_of(wire: &[u8]) -> Option<String> {
    let mut bytes = Bytes(wire);
    let count = usize::from(bytes.u16()?);
    let weight = i32::from(bytes.i16()?);
    let sign = bytes.u16()?;
    let scale = usize::from(bytes.u16()?);
    match sign {
        NOT_A_NUMBER => return Some("NaN".to_owned()),
        INFINITY => return Some("Infinity".to_owned()),
        NEGATIVE_INFINITY => return Some("-Infinity".to_owned()),
        0 | NEGATIVE => {}
        _ => return None,
    }
    let digits: Vec<u16> = (0..count).map(|_| bytes.u16()).collect::<Option<_>>()?;
    if !bytes.0.is_empty() || scale > SCALE_MAX || digits.iter().any(|digit| *digit > 9999) {
        return None;
    }
    // The digit of 10,000 to the power of `place`.
    let digit = |place: i32| {
        let at = usize::try_from(weight - place).ok();
        at.and_then(|at| digits.get(at)).copied().unwrap_or(0)
    };
    let mut text = String::new();
    if sign == NEGATIVE {
        text.push('-');
    }
    let first = digit(weight.max(0));
    let _ = write!(text, "{first}");
    for place in (0..weight).rev() {
        let _ = write!(text, "{:04}", digit(place));
    }
    if scale > 0 {
        let groups = i32::try_from(scale.div_ceil(4)).ok()?;
        let fraction = (1..=groups).fold(String::new(), |mut fraction, place| {
            let _ = write!(fraction, "{:04}", digit(-place));
            fraction
        });
        text.push('.');
        text.push_str(fraction.get(..scale)?);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(weight: i16, sign: u16, scale: u16, digits: &[u16]) -> Option<String> {
        let count = u16::try_from(digits.len()).unwrap();
        let mut wire = count.to_be_bytes().to_vec();
        wire.extend(weight.to_be_bytes());
        wire.extend(sign.to_be_bytes());
        wire.extend(scale.to_be_bytes());
        wire.extend(digits.iter().flat_map(|digit| digit.to_be_bytes()));
        text_of(&wire)
    }

    #[test]
    fn digits_stand_where_they_belong() {
        for (made, text) in [
            (numeric(0, 0, 0, &[]), "0"),
            (numeric(0, 0, 2, &[]), "0.00"),
            (numeric(0, 0, 2, &[12, 3400]), "12.34"),
            (numeric(1, NEGATIVE, 3, &[1, 2345, 6780]), "-12345.678"),
            (numeric(-1, 0, 4, &[1]), "0.0001"),
            (numeric(-2, 0, 8, &[12]), "0.00000012"),
            (numeric(2, 0, 0, &[1]), "100000000"),
            (numeric(0, 0, 5, &[1, 5000]), "1.50000"),
            (numeric(0, NOT_A_NUMBER, 0, &[]), "NaN"),
            (numeric(0, NEGATIVE_INFINITY, 0, &[]), "-Infinity"),
        ] {
            assert_eq!(made.as_deref(), Some(text));
        }
        assert_eq!(numeric(0, 0, 0, &[10_000]), None);
        assert_eq!(text_of(&[0, 1, 0, 0, 0, 0, 0, 0]), None);
    }
}
