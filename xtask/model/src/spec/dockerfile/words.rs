//! Quotes, escapes and variables in one word, as BuildKit's shell lexer reads them.
//!
//! Pure. Knows nothing of instructions or scopes: the caller says what a variable holds.
//! Reference: <https://docs.docker.com/reference/dockerfile/#environment-replacement>.

use super::limits::Budget;
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Quoting {
    pub(super) raw_quotes: bool,
    pub(super) raw_escapes: bool,
    pub(super) no_quotes: bool,
    /// A variable that is not set stays as it is written.
    pub(super) keep_unset: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ExpandedWord {
    pub(super) text: String,
    /// The same, split at blanks outside quotes, after the replacement.
    pub(super) words: Vec<String>,
    pub(super) unset: BTreeSet<String>,
}

/// Nesting of `${a:-${b:-…}}` beyond which a word is refused; keeps the recursion off the stack's end.
const DEEPEST: usize = 100;

/// Replaces the variables of `word`; the error is one lowercase phrase.
pub(super) fn expand(
    word: &str,
    escape: char,
    quoting: Quoting,
    budget: &Budget,
    value: &dyn Fn(&str) -> Option<String>,
) -> Result<ExpandedWord, String> {
    let chars = word.chars().collect();
    let mut lexer = WordLexer { chars, at: 0, depth: 0, escape, quoting, budget, value, unset: BTreeSet::new() };
    let (text, words) = lexer.until(None)?;
    Ok(ExpandedWord { text, words, unset: lexer.unset })
}

struct WordLexer<'a> {
    chars: Vec<char>,
    at: usize,
    depth: usize,
    escape: char,
    quoting: Quoting,
    budget: &'a Budget,
    value: &'a dyn Fn(&str) -> Option<String>,
    unset: BTreeSet<String>,
}

/// Words as they grow: blanks that are not quoted end one.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    word: String,
}

impl Words {
    fn soft(&mut self, c: char) {
        if !c.is_whitespace() {
            self.word.push(c);
        } else if !self.word.is_empty() {
            self.done.push(std::mem::take(&mut self.word));
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        self.done
    }
}

impl WordLexer<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    /// Reads up to `stop` (and over it), or to the end.
    fn until(&mut self, stop: Option<char>) -> Result<(String, Vec<String>), String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("substitutions are nested too deeply".to_owned());
        }
        let (mut text, mut words) = (String::new(), Words::default());
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.at += 1;
                self.depth -= 1;
                return Ok((text, words.finish()));
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|c| words.soft(c));
                    text.push_str(&value);
                }
                '\'' | '"' if !self.quoting.no_quotes => {
                    let value = if c == '"' { self.double_quoted()? } else { self.single_quoted()? };
                    words.word.push_str(&value);
                    text.push_str(&value);
                }
                '<' => {
                    let value = self.perhaps_heredoc();
                    words.word.push_str(&value);
                    text.push_str(&value);
                }
                _ => self.plain(&mut text, &mut words),
            }
        }
        self.depth -= 1;
        match stop {
            None => Ok((text, words.finish())),
            Some(stop) => Err(format!("`{stop}` is missing at the end of a substitution")),
        }
    }

    /// `<`, or `<<` with the blanks behind it, which belong to the word: `<< EOF` is one.
    fn perhaps_heredoc(&mut self) -> String {
        let mut value = String::new();
        value.extend(self.next());
        if self.peek() == Some('<') {
            value.extend(self.next());
            while self.peek().is_some_and(|c| [' ', '\t', '\r'].contains(&c)) {
                value.extend(self.next());
            }
        }
        value
    }

    fn plain(&mut self, text: &mut String, words: &mut Words) {
        let Some(c) = self.next() else { return };
        if c != self.escape {
            words.soft(c);
            text.push(c);
            return;
        }
        if self.quoting.raw_escapes {
            words.word.push(c);
            text.push(c);
        }
        if let Some(escaped) = self.next() {
            words.word.push(escaped);
            text.push(escaped);
        }
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        let mut text = String::new();
        let quote = self.next();
        text.extend(quote.filter(|_| self.quoting.raw_quotes));
        loop {
            match self.next() {
                None => return Err("a single quote has no end".to_owned()),
                Some('\'') => {
                    text.extend(quote.filter(|_| self.quoting.raw_quotes));
                    return Ok(text);
                }
                Some(c) => text.push(c),
            }
        }
    }

    fn double_quoted(&mut self) -> Result<String, String> {
        let mut text = String::new();
        let quote = self.next();
        text.extend(quote.filter(|_| self.quoting.raw_quotes));
        loop {
            match self.peek() {
                None => return Err("a double quote has no end".to_owned()),
                Some('"') => {
                    self.at += 1;
                    text.extend(quote.filter(|_| self.quoting.raw_quotes));
                    return Ok(text);
                }
                Some('$') => text.push_str(&self.dollar()?),
                Some(c) => {
                    self.at += 1;
                    text.extend(self.in_double_quotes(c));
                }
            }
        }
    }

    /// A character within double quotes: the escape holds only before `"`, `$` and itself.
    fn in_double_quotes(&mut self, c: char) -> Vec<char> {
        if c != self.escape {
            return vec![c];
        }
        let mut out = Vec::new();
        if self.quoting.raw_escapes {
            out.push(c);
        }
        match self.peek() {
            None => {}
            Some(next) if next == '"' || next == '$' || next == self.escape => {
                self.at += 1;
                out.push(next);
            }
            Some(_) => out.push(c),
        }
        out
    }

    fn get(&mut self, name: &str) -> Result<Option<String>, String> {
        let value = (self.value)(name);
        match &value {
            Some(value) => self.budget.spend(value.len())?,
            None => drop(self.unset.insert(name.to_owned())),
        }
        Ok(value)
    }

    fn dollar(&mut self) -> Result<String, String> {
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.get(&name)? {
                None if self.quoting.keep_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.at += 1;
        match self.peek() {
            None => return Err("`}` is missing at the end of a substitution".to_owned()),
            Some('{' | '}' | ':') => return Err("a substitution has no name".to_owned()),
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            Some('}') => Ok(match self.get(&name)? {
                None if self.quoting.keep_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            Some(':') => match self.next() {
                Some(operator @ ('-' | '+' | '?')) => self.choice(&name, operator, true),
                // BuildKit refuses `:#` and `:%` since 0.16; before, it read them as `#` and `%`.
                other => Err(unsupported(':', other)),
            },
            Some(operator @ ('-' | '+' | '?')) => self.choice(&name, operator, false),
            Some(operator @ ('#' | '%')) => self.trimmed(&name, operator),
            Some('/') => self.replaced(&name),
            other => Err(unsupported(' ', other)),
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.peek() {
            Some(c) if c.is_numeric() => {
                while let Some(c) = self.peek().filter(|c| c.is_numeric()) {
                    name.push(c);
                    self.at += 1;
                }
            }
            Some(c @ ('@' | '*' | '#' | '?' | '-' | '$' | '!')) => {
                name.push(c);
                self.at += 1;
            }
            _ => {
                while let Some(c) = self.peek().filter(|c| c.is_alphanumeric() || *c == '_') {
                    name.push(c);
                    self.at += 1;
                }
            }
        }
        name
    }

    /// The word of a substitution up to `stop`, with escapes kept or not.
    fn operand(&mut self, stop: char, raw_escapes: bool) -> Result<String, String> {
        let kept = std::mem::replace(&mut self.quoting.raw_escapes, raw_escapes);
        let word = self.until(Some(stop));
        self.quoting.raw_escapes = kept;
        Ok(word?.0)
    }

    fn choice(&mut self, name: &str, operator: char, empty_is_unset: bool) -> Result<String, String> {
        let word = self.operand('}', false)?;
        let value = self.get(name)?;
        if value.is_none() && self.quoting.keep_unset {
            let colon = if empty_is_unset { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let set = value.filter(|value| !(empty_is_unset && value.is_empty()));
        match (operator, set) {
            ('+', set) => Ok(set.map_or_else(String::new, |_| word)),
            (_, Some(value)) => Ok(value),
            ('-', None) => Ok(word),
            (_, None) if word.is_empty() => Err(format!("`{name}` must be set")),
            (_, None) => Err(format!("`{name}`: {word}")),
        }
    }

    fn trimmed(&mut self, name: &str, operator: char) -> Result<String, String> {
        let word = self.operand('}', true)?;
        let Some(value) = self.get(name)? else {
            return Ok(if self.quoting.keep_unset { format!("${{{name}{operator}{word}}}") } else { String::new() });
        };
        let (longest, pattern) = word.strip_prefix(operator).map_or((false, word.as_str()), |rest| (true, rest));
        let mut pattern = glob(pattern)?;
        let mut chars: Vec<char> = value.chars().collect();
        self.budget.steps(pattern.len(), chars.len())?;
        if operator == '%' {
            pattern.reverse();
            chars.reverse();
        }
        let ends = ends(&pattern, &chars);
        let end = if longest { ends.last() } else { ends.first() };
        let mut rest = chars.split_off(end.copied().unwrap_or(0));
        if operator == '%' {
            rest.reverse();
        }
        Ok(rest.into_iter().collect())
    }

    fn replaced(&mut self, name: &str) -> Result<String, String> {
        let all = self.peek() == Some('/');
        self.at += usize::from(all);
        let pattern = self.operand('/', true)?;
        let with = self.operand('}', true)?;
        let Some(value) = self.get(name)? else {
            let slash = if all { "/" } else { "" };
            return Ok(if self.quoting.keep_unset {
                format!("${{{name}/{slash}{pattern}/{with}}}")
            } else {
                String::new()
            });
        };
        let pattern = glob(&pattern)?;
        let chars: Vec<char> = value.chars().collect();
        self.budget.steps(pattern.len(), chars.len())?;
        replace(&chars, &pattern, &with, all, self.budget)
    }
}

fn unsupported(first: char, second: Option<char>) -> String {
    match second {
        None => "`}` is missing at the end of a substitution".to_owned(),
        Some(c) => format!("`{}` is not a modifier of a substitution", format!("{first}{c}").trim()),
    }
}

/// One piece of a shell pattern; bracket expressions are not part of BuildKit's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ShellPiece {
    One(char),
    Any,
    Many,
}

fn glob(pattern: &str) -> Result<Vec<ShellPiece>, String> {
    let mut pieces = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        pieces.push(match c {
            '*' => ShellPiece::Many,
            '?' => ShellPiece::Any,
            // `}` and `/` are escaped for the substitution's sake; the escape is not part of the pattern.
            '\\' if matches!(chars.peek(), Some('}' | '/')) => continue,
            '\\' => match chars.next() {
                Some(c @ ('*' | '?' | '\\')) => ShellPiece::One(c),
                Some(c) => return Err(format!("`\\{c}` cannot be escaped in a pattern")),
                None => return Err("a pattern ends with an escape".to_owned()),
            },
            c => ShellPiece::One(c),
        });
    }
    Ok(pieces)
}

/// Every length of a prefix of `text` that the pattern matches, ascending.
fn ends(pattern: &[ShellPiece], text: &[char]) -> Vec<usize> {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for piece in pattern {
        let mut after = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            let here = text.get(at).filter(|_| reached[at]);
            match piece {
                ShellPiece::One(c) if here == Some(c) => after[at + 1] = true,
                ShellPiece::Any if here.is_some_and(|c| *c != '\n') => after[at + 1] = true,
                ShellPiece::Many => {
                    after[at] |= reached[at] || (at > 0 && after[at - 1] && text[at - 1] != '\n');
                }
                _ => {}
            }
        }
        reached = after;
    }
    (0..=text.len()).filter(|&at| reached[at]).collect()
}

/// For every place of `text`, where the longest match that begins there ends. Its cost is that of one match.
fn longest(pattern: &[ShellPiece], text: &[char]) -> Vec<Option<usize>> {
    let mut ends: Vec<Option<usize>> = (0..=text.len()).map(Some).collect();
    for piece in pattern.iter().rev() {
        let mut before = vec![None; text.len() + 1];
        for at in (0..=text.len()).rev() {
            let (here, next) = (text.get(at), ends.get(at + 1).copied().flatten());
            before[at] = match piece {
                ShellPiece::One(c) if here == Some(c) => next,
                ShellPiece::Any if here.is_some_and(|c| *c != '\n') => next,
                ShellPiece::Many => {
                    let more = here.filter(|c| **c != '\n').and_then(|_| before[at + 1]);
                    more.max(ends[at])
                }
                _ => None,
            };
        }
        ends = before;
    }
    ends
}

/// Leftmost, longest; an empty match directly behind a match does not count.
fn replace(text: &[char], pattern: &[ShellPiece], with: &str, all: bool, budget: &Budget) -> Result<String, String> {
    let ends = longest(pattern, text);
    let mut out = String::new();
    let (mut at, mut matched_to) = (0, None);
    while at <= text.len() {
        if let Some(end) = ends[at].filter(|&end| end > at || matched_to != Some(at)) {
            budget.spend(with.len())?;
            out.push_str(with);
            if !all {
                out.extend(&text[end..]);
                return Ok(out);
            }
            matched_to = Some(end);
            if end > at {
                at = end;
                continue;
            }
        }
        out.extend(text.get(at));
        at += 1;
    }
    Ok(out)
}
