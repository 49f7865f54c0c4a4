//! The lines of a requirement file as pip joins them, each character knowing where it was written.
//!
//! Pure: a text goes in, logical lines come out. What a line means is never decided here.

use std::path::{Path, PathBuf};

/// An error in a logical line, at a byte offset of its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LineError {
    pub(crate) at: usize,
    pub(crate) why: String,
}

impl LineError {
    pub(crate) fn new(at: usize, why: impl Into<String>) -> Self {
        Self { at, why: why.into() }
    }

    /// The same complaint in a text of which this one was the part from `offset` on.
    pub(crate) fn within(mut self, offset: usize) -> Self {
        self.at += offset;
        self
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) text: String,
    /// The offset of a comment that ends in a backslash: pip and uv read the next line differently.
    pub(crate) continues_comment: Option<usize>,
    marks: Vec<LinePart>,
}

/// From byte `at` of the logical text on, characters come from this line (from 0) and column (from 0).
#[derive(Clone, Debug, PartialEq, Eq)]
struct LinePart {
    at: usize,
    line: usize,
    column: usize,
}

impl Line {
    /// Line and column of a byte of the text, both from 1; columns count characters.
    pub(crate) fn position(&self, at: usize) -> (usize, usize) {
        let at = at.min(self.text.len());
        let mark = self.marks.iter().rev().find(|mark| mark.at <= at).unwrap_or(&self.marks[0]);
        (mark.line + 1, mark.column + self.text[mark.at..at].chars().count() + 1)
    }
}

/// A file's text without the byte order mark, line by line, whatever ends a line.
pub(crate) fn physical(source: &str) -> Vec<&str> {
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    // Searches for one letter at a time, which is several times as fast.
    let lines = source.split_inclusive('\n').flat_map(|line| {
        let line = line.strip_suffix('\n').unwrap_or(line);
        line.strip_suffix('\r').unwrap_or(line).split('\r')
    });
    lines.collect()
}

pub(crate) fn logical(source: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut open: Option<Line> = None;
    for (number, text) in physical(source).into_iter().enumerate() {
        let mut line = open.take().unwrap_or(Line { text: String::new(), continues_comment: None, marks: Vec::new() });
        let comment = text.trim_start().starts_with('#');
        if comment && !line.text.is_empty() {
            // pip ends a continued line at a comment line.
            lines.push(line);
            continue;
        }
        line.marks.push(LinePart { at: line.text.len(), line: number, column: 0 });
        let goes_on = text.ends_with('\\') && !comment;
        line.text.push_str(if goes_on { text.trim_end_matches('\\') } else { text });
        if goes_on { open = Some(line) } else { lines.push(line) }
    }
    lines.extend(open);
    lines
        .into_iter()
        .map(without_comment)
        .filter(|line| !line.text.trim().is_empty() || line.continues_comment.is_some())
        .collect()
}

fn without_comment(mut line: Line) -> Line {
    let Some(at) = comment(&line.text) else { return line };
    let last = line.marks.last().map_or(0, |mark| mark.at);
    if at < last {
        line.continues_comment = Some(at);
        return line;
    }
    line.text.truncate(at);
    line
}

/// Position of a comment: a `#` at the start or after white space, so that a URL keeps its fragment.
fn comment(text: &str) -> Option<usize> {
    text.char_indices()
        .filter(|(_, c)| *c == '#')
        .map(|(at, _)| at)
        .find(|at| text[..*at].chars().next_back().is_none_or(char::is_whitespace))
}

/// A complaint with its file, ready to be shown: `file:line:column`, the line, a caret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocatedError {
    file: PathBuf,
    line: usize,
    column: usize,
    text: String,
    why: String,
}

impl LocatedError {
    /// The problem of a logical line of `source`.
    pub(crate) fn new(file: &Path, source: &str, line: &Line, bad: LineError) -> Self {
        let (number, column) = line.position(bad.at);
        let text = physical(source).get(number - 1).copied().unwrap_or_default().to_owned();
        Self { file: file.to_owned(), line: number, column, text, why: bad.why }
    }
}

impl std::fmt::Display for LocatedError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let before: String = self.text.chars().take(self.column - 1).collect();
        let (shown, caret) = super::secret::redacted_at(&self.text, before.len());
        // A tab before the caret stays a tab, so that both lines have the same width on every terminal.
        let pad: String = shown[..caret].chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        write!(f, "{}:{}:{}: {}\n    {shown}\n    {pad}^", self.file.display(), self.line, self.column, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, texts: &[&str]) {
        let lines: Vec<String> = logical(source).into_iter().map(|line| line.text).collect();
        assert_eq!(lines, texts);
    }

    #[test]
    fn lines_end_as_any_system_ends_them() {
        check("a\nb\r\nc\rd", &["a", "b", "c", "d"]);
        check("\u{feff}a\n\n \n", &["a"]);
        check("", &[]);
        for (text, lines) in
            [("a\r", "a"), ("a\r\r\nb", "a||b"), ("\r", ""), ("\n\r\n", "|"), ("a\r\r", "a|"), ("a\n\rb\n", "a||b")]
        {
            assert_eq!(physical(text), lines.split('|').collect::<Vec<_>>(), "{text:?}");
        }
    }

    #[test]
    fn comments_begin_a_line_or_follow_space() {
        check("# x\n  # y\na # b\nc#d\n", &["a ", "c#d"]);
        check("a @ https://h/a.whl#sha256=1 # x", &["a @ https://h/a.whl#sha256=1 "]);
        check("# ends in a backslash \\\na", &["a"]);
    }

    #[test]
    fn a_backslash_joins_without_a_space() {
        check("num\\\npy\\\n>=2\nx", &["numpy>=2", "x"]);
        check("a \\\n  # comment\n--hash=x", &["a ", "--hash=x"]);
        check("a \\", &["a "]);
    }

    #[test]
    fn a_comment_that_swallows_a_line_is_noticed() {
        assert_eq!(logical("a # b \\\nc")[0].continues_comment, Some(2));
        assert_eq!(logical("a \\\n c # b")[0].continues_comment, None);
    }

    #[test]
    fn positions_are_those_of_the_file() {
        let line = &logical("# x\né \\\n  bc")[0];
        assert_eq!(line.text, "é   bc");
        let at = line.text.find('c').unwrap();
        assert_eq!((line.position(0), line.position(at), line.position(99)), ((2, 1), (3, 4), (3, 5)));
    }
}
