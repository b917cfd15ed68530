//! functions.toml, as text.
//!
//! Held: reading it ends in an app, in how to host, or in a report; a report is bounded, is text that a terminal can show, and
//! each of its places is in the file: the line that it shows is the line that it names, with the mark under the column; what is
//! accepted is accepted again, and is the same; and its routes, as they are shown, are its routes.
//! (That spans lie within the file, and between characters, `manifest::diagnostic` itself asserts in such builds.)

#![no_main]

use fnhost::manifest::{Described, Diagnostic, Manifest, ManifestError, RoutePattern};
use fnhost_fuzz::number_of;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

const FILE: &str = "functions.toml";
/// The most that is said of one mistake besides what the file says; and so many mistakes are told at the most.
const OWN_BYTES_MAX: usize = 4096;
const MISTAKES_MAX: usize = 100;

fuzz_target!(|source: &str| {
    check_places(source);
    let described = Described::parse(Path::new(FILE), source.to_owned());
    let again = Described::parse(Path::new(FILE), source.to_owned());
    assert_eq!(format!("{described:?}"), format!("{again:?}"), "it is read in two ways");
    let manifest = match described {
        Ok(Described::App(manifest)) => manifest,
        Ok(Described::Host(_)) => return,
        Err(ManifestError::Invalid(report)) => return check_report(source, &report.to_string()),
        Err(ManifestError::Unreadable { .. }) => panic!("nothing was read: {described:?}"),
    };
    let upload = Manifest::of_upload(source.to_owned()).expect("another machine's is read the same");
    assert_eq!(upload.name, manifest.name);
    assert_eq!(manifest.source(), source);
    for route in manifest.functions.iter().flat_map(|function| &function.routes) {
        assert!(source.get(route.span.clone()).is_some(), "{route:?}");
        assert_eq!(RoutePattern::parse(&route.pattern.to_string()).as_ref(), Ok(&route.pattern));
    }
});

/// A place that the bytes themselves choose is shown where it is.
fn check_places(source: &str) {
    let places: Vec<usize> = source.char_indices().map(|(at, _)| at).chain([source.len()]).collect();
    let number = number_of(source.as_bytes());
    let choose = |number: u64| usize::try_from(number % places.len() as u64).unwrap_or(0);
    let (one, other) = (choose(number & 0xffff_ffff), choose(number >> 32));
    let (start, end) = (places[one.min(other)], places[one.max(other)]);
    let before = &source[..start];
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let shown = Diagnostic::new(start..end, "it is so").render(FILE, source);
    assert!(shown.starts_with(&format!("{FILE}:{line}:{column}: it is so\n")), "{start}..{end}: {shown}");
    check_report(source, &shown);
}

/// A report, line by line.
fn check_report(source: &str, report: &str) {
    let control = report.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
    assert_eq!(control, None, "{report:?}");
    let known: Vec<&str> = source.split('\n').collect();
    let lines: Vec<&str> = report.lines().collect();
    let mut mistakes = 0;
    for (at, line) in lines.iter().enumerate() {
        let Some(place) = line.strip_prefix(&format!("{FILE}:")) else { continue };
        mistakes += 1;
        let mut parts = place.splitn(3, ':');
        let number: usize = parts.next().and_then(|text| text.parse().ok()).expect("a line");
        let column: usize = parts.next().and_then(|text| text.parse().ok()).expect("a column");
        assert!(parts.next().is_some_and(|message| message.trim().len() > 1), "{line}");
        let named = known.get(number - 1).unwrap_or_else(|| panic!("there is no such line: {line}\n{source:?}"));
        // A CR ends a line only before LF, and the last one has none.
        let named = if number < known.len() { named.strip_suffix('\r').unwrap_or(named) } else { named };
        // The end of a line, and of the file, is a place as well.
        let width = named.chars().count();
        assert!(column <= width + 2, "there is no such column: {line}\n{named:?}");
        check_snippet(&lines[at + 1..], number, column, named, report);
    }
    assert!(mistakes > 0, "{report}");
    assert!(mistakes <= 2 * MISTAKES_MAX, "{mistakes} mistakes are told");
    assert!(report.len() <= (MISTAKES_MAX + 1) * (OWN_BYTES_MAX + 2 * source.len()), "{}", report.len());
}

/// The line itself, and a mark under its place.
fn check_snippet(lines: &[&str], number: usize, column: usize, named: &str, report: &str) {
    let begin = format!("{number} | ");
    let empty = format!("{number} |");
    let margin = " ".repeat(number.to_string().len());
    assert_eq!(lines[0], format!("{margin} |"), "{report}");
    let shown = lines[1].strip_prefix(&begin).or_else(|| (lines[1] == empty).then_some(""));
    let shown = shown.unwrap_or_else(|| panic!("{:?}\n{report}", lines[1]));
    let mark = lines[2].strip_prefix(&format!("{margin} | ")).unwrap_or_else(|| panic!("{:?}\n{report}", lines[2]));
    let indent = mark.chars().take_while(|c| *c != '^').count();
    let width = mark.chars().skip(indent).count();
    assert!(width > 0 && mark.chars().skip(indent).all(|c| c == '^'), "{mark:?}\n{report}");
    let tidy = |c: char| if c.is_control() && c != '\t' { '\u{fffd}' } else { c };
    let expected: Vec<char> = named.chars().map(tidy).collect();
    let shown: Vec<char> = shown.chars().collect();
    let is_part = |of: &[char], shown: &[char]| {
        of.starts_with(shown) || shown.strip_suffix(&['\u{2026}']).is_some_and(|most| of.starts_with(most))
    };
    // What ends a line has a column, or two with CR, and no character.
    let before = (column - 1).min(expected.len());
    let is_begun = is_part(&expected, &shown) && indent == before;
    // A long line is shown around its place, between marks of its own.
    let is_cut = shown.strip_prefix(&['\u{2026}']).is_some_and(|shown| {
        (before + 1).checked_sub(indent).and_then(|cut| expected.get(cut..)).is_some_and(|rest| is_part(rest, shown))
    });
    assert!(is_begun || is_cut, "{indent} for {column}\n{expected:?}\n{shown:?}\n{report}");
}
