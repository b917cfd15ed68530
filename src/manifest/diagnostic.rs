//! An error in functions.toml is a place in the file: path, line, column, the line itself, a caret, and the way out.

use std::fmt::Write as _;
use std::ops::Range;

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
        let _ = writeln!(text, "{path}:{}:{}: {}", place.line, place.column, self.message);
        text.push_str(&place.snippet());
        if let Some((span, says)) = &self.other {
            let place = Place::of(span, source);
            let _ = writeln!(text, "{path}:{}:{}: {says}", place.line, place.column);
            text.push_str(&place.snippet());
        }
        if let Some(help) = &self.help {
            let _ = writeln!(text, "{} = help: {help}", place.margin());
        }
        text
    }
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
        // A tab stays a tab, so that the caret stands under its character however wide the terminal shows it.
        let indent: String =
            self.text.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        format!("{margin} |\n{number} | {}\n{margin} | {indent}{}\n", self.text, "^".repeat(self.width))
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
