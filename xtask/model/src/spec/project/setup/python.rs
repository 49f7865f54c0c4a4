//! The arguments of a call in a Python source, as far as they are written out.
//!
//! Pure. Nothing is evaluated but names of constants at the top of the file, and texts and lists that are added.

use std::collections::BTreeMap;

/// A value; `Unknown` where it is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    List(Vec<Value>),
    Table(Vec<(Value, Value)>),
    Unknown,
}

impl Value {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The texts of a list, or the lines of a text; `None` if one is unknown.
    pub(super) fn texts(&self) -> Option<Vec<String>> {
        match self {
            Self::Text(text) => {
                Some(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
            }
            Self::List(all) => all.iter().map(|one| one.text().map(str::to_owned)).collect(),
            Self::Table(_) | Self::Unknown => None,
        }
    }

    /// The entries of a table whose names are known.
    pub(super) fn entries(&self) -> Option<Vec<(String, Value)>> {
        let Self::Table(all) = self else { return None };
        Some(all.iter().filter_map(|(key, value)| Some((key.text()?.to_owned(), value.clone()))).collect())
    }

    fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Text(one), Self::Text(other)) => Self::Text(one + &other),
            (Self::List(one), Self::List(other)) => Self::List(one.into_iter().chain(other).collect()),
            _ => Self::Unknown,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PythonToken {
    /// A name, with its place in the line.
    Name(String, usize),
    Text(String),
    /// A text with values in it.
    Computed,
    Sign(char),
    /// The end of a statement.
    End,
}

/// The arguments that the first call of a function names.
#[derive(Default)]
pub(super) struct Arguments {
    pub named: BTreeMap<String, Value>,
    /// No call was found, or it has arguments without names.
    pub others: bool,
}

/// Reads the first call of a function. Names of constants count if nothing else changes them.
pub(super) fn arguments(source: &str, function: &str) -> Arguments {
    let tokens = tokens(source);
    let mut reader = SetupReader { tokens: &tokens, at: 0, constants: BTreeMap::new() };
    while let Some(token) = tokens.get(reader.at) {
        let next = tokens.get(reader.at + 1);
        match token {
            PythonToken::Name(name, _) if name == function && next == Some(&PythonToken::Sign('(')) => {
                reader.at += 2;
                return reader.named();
            }
            PythonToken::Name(name, 0) if next == Some(&PythonToken::Sign('=')) => {
                reader.at += 2;
                let value = reader.value();
                let value = if reader.changes(name) { Value::Unknown } else { value };
                reader.constants.insert(name.clone(), value);
            }
            _ => reader.at += 1,
        }
    }
    Arguments { others: true, ..Arguments::default() }
}

fn tokens(source: &str) -> Vec<PythonToken> {
    let (mut found, mut depth, mut column) = (Vec::new(), 0_usize, 0);
    let chars: Vec<char> = source.chars().collect();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let begin = at;
        at += 1;
        match c {
            '\n' => {
                if depth == 0 {
                    found.push(PythonToken::End);
                }
                column = at;
            }
            '\\' => at += 1,
            '#' => at = (at..chars.len()).find(|at| chars[*at] == '\n').unwrap_or(chars.len()),
            '"' | '\'' => found.push(text(&chars, &mut at, "")),
            c if c.is_alphabetic() || c == '_' => {
                at = (at..chars.len())
                    .find(|at| !chars[*at].is_alphanumeric() && chars[*at] != '_')
                    .unwrap_or(chars.len());
                let name: String = chars[begin..at].iter().collect();
                match chars.get(at) {
                    Some('"' | '\'') if name.len() <= 2 => {
                        at += 1;
                        found.push(text(&chars, &mut at, &name));
                    }
                    _ => found.push(PythonToken::Name(name, begin - column)),
                }
            }
            c if c.is_whitespace() => {}
            c => {
                match c {
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                found.push(PythonToken::Sign(c));
            }
        }
    }
    found.push(PythonToken::End);
    found
}

/// A text whose first quote was read.
fn text(chars: &[char], at: &mut usize, prefix: &str) -> PythonToken {
    let quote = chars[*at - 1];
    let triple = chars.get(*at) == Some(&quote) && chars.get(*at + 1) == Some(&quote);
    *at += if triple { 2 } else { 0 };
    let raw = prefix.contains(['r', 'R']);
    let mut found = String::new();
    while let Some(&c) = chars.get(*at) {
        *at += 1;
        let ends = c == quote && (!triple || chars.get(*at) == Some(&quote) && chars.get(*at + 1) == Some(&quote));
        match c {
            _ if ends => {
                *at += if triple { 2 } else { 0 };
                break;
            }
            '\\' if !raw => {
                match chars.get(*at) {
                    Some('n') => found.push('\n'),
                    Some('\n') | None => {}
                    Some(other) => found.push(*other),
                }
                *at += 1;
            }
            c => found.push(c),
        }
    }
    if prefix.contains(['f', 'F', 'b', 'B']) { PythonToken::Computed } else { PythonToken::Text(found) }
}

struct SetupReader<'a> {
    tokens: &'a [PythonToken],
    at: usize,
    constants: BTreeMap<String, Value>,
}

impl SetupReader<'_> {
    fn takes(&mut self, sign: char) -> bool {
        let found = self.tokens.get(self.at) == Some(&PythonToken::Sign(sign));
        self.at += usize::from(found);
        found
    }

    /// True if a name is more than set once and read.
    fn changes(&self, name: &str) -> bool {
        let (mut depth, mut found) = (0_usize, 0);
        for three in self.tokens.windows(3) {
            match &three[0] {
                PythonToken::Sign('(' | '[' | '{') => depth += 1,
                PythonToken::Sign(')' | ']' | '}') => depth = depth.saturating_sub(1),
                PythonToken::Name(other, _) if other == name => {
                    found += usize::from(match &three[1] {
                        // Within brackets it names an argument.
                        PythonToken::Sign('=') => depth == 0,
                        PythonToken::Sign('.' | '[') => true,
                        PythonToken::Sign('+') => three[2] == PythonToken::Sign('='),
                        _ => false,
                    });
                }
                _ => {}
            }
        }
        found > 1
    }

    /// `name=value` up to the end of the call.
    fn named(&mut self) -> Arguments {
        let mut found = Arguments::default();
        loop {
            match (self.tokens.get(self.at), self.tokens.get(self.at + 1)) {
                (Some(PythonToken::Sign(')')), _) => return found,
                (Some(PythonToken::Name(name, _)), Some(PythonToken::Sign('='))) => {
                    self.at += 2;
                    let value = self.value();
                    found.named.insert(name.clone(), value);
                }
                (None | Some(_), _) => {
                    found.others = true;
                    drop(self.value());
                }
            }
            if !self.takes(',') && self.tokens.get(self.at) != Some(&PythonToken::Sign(')')) {
                return Arguments { others: true, ..found };
            }
        }
    }

    /// A value, up to the sign that ends it.
    fn value(&mut self) -> Value {
        let mut value = self.one();
        loop {
            match self.tokens.get(self.at) {
                None | Some(PythonToken::End | PythonToken::Sign(',' | ')' | ']' | '}' | ':')) => return value,
                Some(PythonToken::Sign('+')) => {
                    self.at += 1;
                    value = value.plus(self.one());
                }
                Some(PythonToken::Text(more)) => {
                    self.at += 1;
                    value = value.plus(Value::Text(more.clone()));
                }
                Some(_) => {
                    self.skip();
                    value = Value::Unknown;
                }
            }
        }
    }

    /// Skips what belongs to a value that is computed.
    fn skip(&mut self) {
        let mut depth = 0_usize;
        while let Some(token) = self.tokens.get(self.at) {
            match token {
                PythonToken::Sign('(' | '[' | '{') => depth += 1,
                PythonToken::Sign(')' | ']' | '}') if depth > 0 => depth -= 1,
                PythonToken::End | PythonToken::Sign(')' | ']' | '}' | ',' | ':') if depth == 0 => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    fn one(&mut self) -> Value {
        let token = self.tokens.get(self.at).cloned();
        match token {
            Some(PythonToken::Text(text)) => {
                self.at += 1;
                Value::Text(text)
            }
            Some(PythonToken::Name(name, _)) => {
                self.at += 1;
                self.constants.get(&name).cloned().unwrap_or(Value::Unknown)
            }
            Some(PythonToken::Sign(open @ ('[' | '('))) => {
                self.at += 1;
                let end = if open == '[' { ']' } else { ')' };
                let (mut all, mut commas) = (Vec::new(), 0);
                while !self.takes(end) {
                    if matches!(self.tokens.get(self.at), None | Some(PythonToken::End)) {
                        return Value::Unknown;
                    }
                    let before = self.at;
                    all.push(self.value());
                    commas += usize::from(self.takes(','));
                    if self.at == before {
                        return Value::Unknown;
                    }
                }
                // Brackets around one value make no list.
                if open == '(' && commas == 0 && all.len() == 1 { all.swap_remove(0) } else { Value::List(all) }
            }
            Some(PythonToken::Sign('{')) => self.table(),
            Some(PythonToken::Computed) => {
                self.at += 1;
                Value::Unknown
            }
            _ => {
                self.skip();
                Value::Unknown
            }
        }
    }

    fn table(&mut self) -> Value {
        self.at += 1;
        let mut all = Vec::new();
        while !self.takes('}') {
            let before = self.at;
            let key = self.value();
            if !self.takes(':') {
                self.skip();
            } else {
                let value = self.value();
                all.push((key, value));
            }
            let _ = self.takes(',');
            if self.at == before || matches!(self.tokens.get(self.at), None | Some(PythonToken::End)) {
                return Value::Unknown;
            }
        }
        Value::Table(all)
    }
}
