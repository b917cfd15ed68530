//! An error in functions.toml is a place in the file: path, line, column, the line itself, a caret, and the way out.
//!
//! **Invariant:** what is shown of a file is text, on one line, and bounded, whatever is in it: a message repeats what stands there,
//! and the file may be somebody else's.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;

/// The most characters of a line that are shown, and of those that stand before the place: a file may be one line.
const LINE_CHARS_MAX: usize = 240;
const LEAD_CHARS_MAX: usize = 80;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Bytes of the file that it is about.
    pub span: Range<usize>,
    /// What is wrong, in one line.
    pub message: String,
    /// The other place, if two places disagree, with what stands there.
    pub other: Option<(Range<usize>, String)>,
    /// The way out.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), other: None, help: None }
    }

    /// Adds the way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the other place.
    #[must_use]
    pub fn other(mut self, span: Range<usize>, says: impl Into<String>) -> Self {
        self.other = Some((span, says.into()));
        self
    }

    /// The error as people read it. `path` is the file as the user named it, `source` its text.
    pub fn render(&self, path: &str, source: &str) -> String {
        let mut text = String::new();
        let place = Place::of(&self.span, source);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{path}:{}:{}: {}", place.line, place.column, on_one_line(&self.message));
        text.push_str(&place.snippet());
        if let Some((span, says)) = &self.other {
            let place = Place::of(span, source);
            let _ = writeln!(text, "{path}:{}:{}: {}", place.line, place.column, on_one_line(says));
            text.push_str(&place.snippet());
        }
        if let Some(help) = &self.help {
            let _ = writeln!(text, "{} = help: {}", place.margin(), on_one_line(help));
        }
        text
    }
}

/// What a message repeats of a file may be anything that a string can hold, such as what a terminal takes for a command.
fn on_one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    text.chars().map(escaped).collect()
}

/// Where a span begins, counted from 1, and what to underline.
struct Place<'a> {
    line: usize,
    column: usize,
    text: &'a str,
    /// Characters to underline: at least one, none past the end of the line.
    width: usize,
}

impl<'a> Place<'a> {
    fn of(span: &Range<usize>, source: &'a str) -> Self {
        debug_assert!(source.get(span.clone()).is_some(), "{span:?} is no part of the file");
        let start = span.start.min(source.len());
        let before = source.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let text = source.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
        let underlined = source.get(start..span.end.min(line_start + text.len()).max(start)).unwrap_or_default();
        Self {
            line: before.matches('\n').count() + 1,
            column: source.get(line_start..start).unwrap_or_default().chars().count() + 1,
            text,
            width: underlined.chars().count().max(1),
        }
    }

    fn margin(&self) -> String {
        " ".repeat(self.line.to_string().len())
    }

    fn snippet(&self) -> String {
        let (number, margin) = (self.line, self.margin());
        let is_long = self.text.chars().nth(LINE_CHARS_MAX).is_some();
        let cut = if is_long { (self.column - 1).saturating_sub(LEAD_CHARS_MAX) } else { 0 };
        let mut rest = self.text.chars().skip(cut);
        let mut shown: String = if cut > 0 { "\u{2026}".into() } else { String::new() };
        shown.extend(
            rest.by_ref().take(LINE_CHARS_MAX).map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }),
        );
        // A tab stays a tab, so that the caret stands under its character however wide the terminal shows it.
        let before = self.column - 1 - cut + usize::from(cut > 0);
        let indent: String = shown.chars().take(before).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let width = self.width.min(shown.chars().count().saturating_sub(before).max(1));
        if rest.next().is_some() {
            shown.push('\u{2026}');
        }
        format!("{margin} |\n{number} | {shown}\n{margin} | {indent}{}\n", "^".repeat(width))
    }
}

/// The known word that `written` was probably meant to be, as a hint.
pub(super) fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    known
        .into_iter()
        .map(|word| (strsim::jaro_winkler(written, word), word))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, word)| format!("did you mean `{word}`?"))
}
