//! The shell of maintainer scripts, read into commands: the part of POSIX that they use.
//!
//! Pure, and runs nothing. What is not understood is an error at its line.

/// A command of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ScriptCommand {
    Simple {
        line: usize,
        /// Words as they are written, with quotes.
        words: Vec<String>,
        /// File that its output goes to.
        writes: Option<String>,
    },
    /// Conditions with what follows, then what follows otherwise.
    If(Vec<(Vec<ScriptCommand>, Vec<ScriptCommand>)>, Vec<ScriptCommand>),
    Case(String, Vec<(Vec<String>, Vec<ScriptCommand>)>),
    Function(String, Vec<ScriptCommand>),
    Group(Vec<ScriptCommand>),
    And(Box<ScriptCommand>, Box<ScriptCommand>),
    Or(Box<ScriptCommand>, Box<ScriptCommand>),
    Not(Box<ScriptCommand>),
    /// A loop over words: its line, variable, words and body.
    For(usize, String, Vec<String>, Vec<ScriptCommand>),
    /// Another loop, a pipeline or a subshell, at this line.
    Other(usize, &'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ScriptToken {
    Word(String),
    Operator(&'static str),
    Writes(String),
}

const OPERATORS: [&str; 9] = [";;", "&&", "||", ";", "|", "&", "(", ")", "\n"];

/// The commands of a script.
///
/// # Errors
/// The line that is not understood.
pub(super) fn parse(text: &str) -> Result<Vec<ScriptCommand>, usize> {
    let tokens = Lexer { text: text.as_bytes(), at: 0, line: 1, pending: Vec::new() }.tokens()?;
    let mut parser = ScriptParser { tokens, at: 0, depth: 0 };
    let commands = parser.list(&[])?;
    match parser.peek() {
        None => Ok(commands),
        Some(_) => Err(parser.line()),
    }
}

struct Lexer<'t> {
    text: &'t [u8],
    at: usize,
    line: usize,
    /// Delimiters of here-documents that begin on the next line, and whether tabs before them count.
    pending: Vec<(String, bool)>,
}

impl Lexer<'_> {
    fn rest(&self) -> &[u8] {
        &self.text[self.at..]
    }

    fn step(&mut self, bytes: usize) {
        let skipped = &self.text[self.at..(self.at + bytes).min(self.text.len())];
        self.line += skipped.iter().filter(|byte| **byte == b'\n').count();
        self.at = (self.at + bytes).min(self.text.len());
    }

    fn tokens(mut self) -> Result<Vec<(usize, ScriptToken)>, usize> {
        let mut tokens = Vec::new();
        while let Some(first) = self.rest().first().copied() {
            let line = self.line;
            if self.rest().starts_with(b"\\\n") {
                self.step(2);
            } else if matches!(first, b' ' | b'\t' | b'\r') {
                self.step(1);
            } else if first == b'#' {
                let length = self.rest().iter().position(|byte| *byte == b'\n').unwrap_or(self.rest().len());
                self.step(length);
            } else if let Some(target) = self.redirection()? {
                tokens.extend(target.map(|target| (line, ScriptToken::Writes(target))));
            } else if let Some(operator) = OPERATORS.into_iter().find(|o| self.rest().starts_with(o.as_bytes())) {
                self.step(operator.len());
                tokens.push((line, ScriptToken::Operator(operator)));
                if operator == "\n" {
                    self.skip_documents();
                }
            } else {
                tokens.push((line, ScriptToken::Word(self.word()?)));
            }
        }
        Ok(tokens)
    }

    /// A redirection, with the file that it writes.
    fn redirection(&mut self) -> Result<Option<Option<String>>, usize> {
        let digits = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        let after = &self.rest()[digits..];
        let found = [&b"<<-"[..], b"<<", b">>", b">&", b"<&", b">|", b"<>", b">", b"<"];
        let Some(operator) = found.into_iter().find(|operator| after.starts_with(operator)) else { return Ok(None) };
        let operator = operator.to_vec();
        self.step(digits + operator.len());
        while self.rest().first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
            self.step(1);
        }
        let target = self.word()?;
        let bare = target.trim_matches(['"', '\'']).to_owned();
        match operator.as_slice() {
            b"<<" | b"<<-" => {
                self.pending.push((bare.trim_start_matches('\\').to_owned(), operator.len() == 3));
                Ok(Some(None))
            }
            b">" | b">>" | b">|" | b"<>" if bare != "/dev/null" => Ok(Some(Some(target))),
            _ => Ok(Some(None)),
        }
    }

    fn skip_documents(&mut self) {
        for (delimiter, tabs) in std::mem::take(&mut self.pending) {
            while !self.rest().is_empty() {
                let length = self.rest().iter().position(|byte| *byte == b'\n').map_or(self.rest().len(), |at| at + 1);
                let line = String::from_utf8_lossy(&self.rest()[..length]).into_owned();
                self.step(length);
                let line = line.trim_end_matches('\n');
                if (if tabs { line.trim_start_matches('\t') } else { line }) == delimiter {
                    break;
                }
            }
        }
    }

    fn word(&mut self) -> Result<String, usize> {
        let (begin, line) = (self.at, self.line);
        while let Some(first) = self.rest().first().copied() {
            match first {
                b'\\' => self.step(2),
                b'\'' => self.until(1, b'\'', line)?,
                b'"' => self.double(line)?,
                b'`' => self.until(1, b'`', line)?,
                b'$' if self.rest().starts_with(b"$(") => self.nested(2, b'(', b')', line)?,
                b'$' if self.rest().starts_with(b"${") => self.nested(2, b'{', b'}', line)?,
                b' ' | b'\t' | b'\r' | b'\n' | b';' | b'&' | b'|' | b'(' | b')' | b'<' | b'>' => break,
                _ => self.step(1),
            }
        }
        if begin == self.at {
            return Err(line);
        }
        Ok(String::from_utf8_lossy(&self.text[begin..self.at]).into_owned())
    }

    fn until(&mut self, skip: usize, end: u8, line: usize) -> Result<(), usize> {
        self.step(skip);
        let length = self.rest().iter().position(|byte| *byte == end).ok_or(line)?;
        self.step(length + 1);
        Ok(())
    }

    fn double(&mut self, line: usize) -> Result<(), usize> {
        self.step(1);
        loop {
            match self.rest().first().copied().ok_or(line)? {
                b'"' => break,
                b'\\' => self.step(2),
                b'$' if self.rest().starts_with(b"$(") => self.nested(2, b'(', b')', line)?,
                _ => self.step(1),
            }
        }
        self.step(1);
        Ok(())
    }

    fn nested(&mut self, skip: usize, open: u8, close: u8, line: usize) -> Result<(), usize> {
        self.step(skip);
        let mut depth = 1;
        while depth > 0 {
            match self.rest().first().copied().ok_or(line)? {
                b'\\' => self.step(2),
                b'\'' => self.until(1, b'\'', line)?,
                b'"' => self.double(line)?,
                byte => {
                    depth += i32::from(byte == open) - i32::from(byte == close);
                    self.step(1);
                }
            }
        }
        Ok(())
    }
}

struct ScriptParser {
    tokens: Vec<(usize, ScriptToken)>,
    at: usize,
    depth: usize,
}

/// Words that end a list of commands.
const ENDS: [&str; 8] = ["then", "elif", "else", "fi", "do", "done", "esac", "}"];
const DEEPEST: usize = 60;

impl ScriptParser {
    fn peek(&self) -> Option<&ScriptToken> {
        self.tokens.get(self.at).map(|(_, token)| token)
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(line, _)| *line)
    }

    fn is_word(&self, word: &str) -> bool {
        self.peek() == Some(&ScriptToken::Word(word.to_owned()))
    }

    fn is(&self, operator: &'static str) -> bool {
        self.peek() == Some(&ScriptToken::Operator(operator))
    }

    fn take(&mut self, operator: &'static str) -> bool {
        let found = self.is(operator);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, word: &str) -> Result<(), usize> {
        if self.is_word(word) {
            self.at += 1;
            return Ok(());
        }
        Err(self.line())
    }

    fn blank(&mut self) {
        while self.take("\n") || self.take(";") {}
    }

    /// Commands up to one of the words that end a list, to `;;` or to `)`.
    fn list(&mut self, ends: &[&str]) -> Result<Vec<ScriptCommand>, usize> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.line());
        }
        let mut commands = Vec::new();
        loop {
            self.blank();
            let ended = match self.peek() {
                None => true,
                Some(ScriptToken::Word(word)) => ENDS.contains(&word.as_str()),
                Some(ScriptToken::Operator(operator)) => matches!(*operator, ";;" | ")"),
                Some(ScriptToken::Writes(_)) => false,
            };
            if ended {
                break;
            }
            commands.push(self.and_or()?);
        }
        self.depth -= 1;
        let is_end = ends.is_empty() || ends.iter().any(|end| self.is_word(end));
        if is_end { Ok(commands) } else { Err(self.line()) }
    }

    fn and_or(&mut self) -> Result<ScriptCommand, usize> {
        let mut left = self.pipeline()?;
        loop {
            let and = self.is("&&");
            if !and && !self.is("||") {
                break;
            }
            self.at += 1;
            while self.take("\n") {}
            let right = Box::new(self.pipeline()?);
            left =
                if and { ScriptCommand::And(Box::new(left), right) } else { ScriptCommand::Or(Box::new(left), right) };
        }
        Ok(left)
    }

    fn pipeline(&mut self) -> Result<ScriptCommand, usize> {
        let line = self.line();
        if self.is_word("!") {
            self.at += 1;
            return Ok(ScriptCommand::Not(Box::new(self.pipeline()?)));
        }
        let first = self.command()?;
        if !self.is("|") && !self.is("&") {
            return Ok(first);
        }
        while self.take("|") {
            while self.take("\n") {}
            self.command()?;
        }
        let what = if self.take("&") { "a command in the background" } else { "a pipeline" };
        Ok(ScriptCommand::Other(line, what))
    }

    fn command(&mut self) -> Result<ScriptCommand, usize> {
        let line = self.line();
        let command = match self.peek() {
            Some(ScriptToken::Word(word)) => match word.as_str() {
                "if" => self.if_command()?,
                "case" => self.case_command()?,
                "for" => self.for_command(line)?,
                "while" | "until" => {
                    while !self.is_word("do") {
                        if self.peek().is_none() {
                            return Err(line);
                        }
                        self.at += 1;
                    }
                    self.at += 1;
                    self.list(&["done"])?;
                    self.at += 1;
                    ScriptCommand::Other(line, "a loop")
                }
                "{" => self.group()?,
                _ => return self.simple(),
            },
            Some(ScriptToken::Operator("(")) => {
                self.at += 1;
                self.list(&[])?;
                if !self.take(")") {
                    return Err(self.line());
                }
                ScriptCommand::Other(line, "a subshell")
            }
            _ => return self.simple(),
        };
        let mut writes = false;
        while let Some(ScriptToken::Writes(_)) = self.peek() {
            self.at += 1;
            writes = true;
        }
        Ok(if writes { ScriptCommand::Other(line, "a redirection") } else { command })
    }

    fn for_command(&mut self, line: usize) -> Result<ScriptCommand, usize> {
        self.at += 1;
        let Some(ScriptToken::Word(name)) = self.peek().cloned() else { return Err(line) };
        self.at += 1;
        self.expect("in")?;
        let mut words = Vec::new();
        while let Some(ScriptToken::Word(word)) = self.peek().cloned() {
            words.push(word);
            self.at += 1;
        }
        self.blank();
        self.expect("do")?;
        let body = self.list(&["done"])?;
        self.at += 1;
        Ok(ScriptCommand::For(line, name, words, body))
    }

    fn group(&mut self) -> Result<ScriptCommand, usize> {
        self.expect("{")?;
        let body = self.list(&["}"])?;
        self.at += 1;
        Ok(ScriptCommand::Group(body))
    }

    fn if_command(&mut self) -> Result<ScriptCommand, usize> {
        let (mut arms, mut otherwise) = (Vec::new(), Vec::new());
        self.at += 1;
        loop {
            let condition = self.list(&["then"])?;
            self.at += 1;
            let body = self.list(&["elif", "else", "fi"])?;
            arms.push((condition, body));
            if self.is_word("else") {
                self.at += 1;
                otherwise = self.list(&["fi"])?;
            }
            let ended = self.is_word("fi");
            self.at += 1;
            if ended {
                return Ok(ScriptCommand::If(arms, otherwise));
            }
        }
    }

    fn case_command(&mut self) -> Result<ScriptCommand, usize> {
        self.at += 1;
        let Some(ScriptToken::Word(word)) = self.peek().cloned() else { return Err(self.line()) };
        self.at += 1;
        while self.take("\n") {}
        self.expect("in")?;
        let mut arms = Vec::new();
        loop {
            self.blank();
            if self.is_word("esac") {
                self.at += 1;
                return Ok(ScriptCommand::Case(word, arms));
            }
            self.take("(");
            let mut patterns = Vec::new();
            loop {
                let Some(ScriptToken::Word(pattern)) = self.peek().cloned() else { return Err(self.line()) };
                patterns.push(pattern);
                self.at += 1;
                if !self.take("|") {
                    break;
                }
            }
            if !self.take(")") {
                return Err(self.line());
            }
            let body = self.list(&[])?;
            arms.push((patterns, body));
            if !self.take(";;") && !self.is_word("esac") {
                return Err(self.line());
            }
        }
    }

    fn simple(&mut self) -> Result<ScriptCommand, usize> {
        let line = self.line();
        let (mut words, mut writes) = (Vec::new(), None);
        loop {
            match self.peek().cloned() {
                Some(ScriptToken::Word(word)) => words.push(word),
                Some(ScriptToken::Writes(target)) => writes = Some(target),
                Some(ScriptToken::Operator("(")) if words.len() == 1 => {
                    self.at += 1;
                    if !self.take(")") {
                        return Err(self.line());
                    }
                    while self.take("\n") {}
                    return Ok(ScriptCommand::Function(words.remove(0), vec![self.group()?]));
                }
                _ => break,
            }
            self.at += 1;
        }
        if words.is_empty() && writes.is_none() {
            return Err(line);
        }
        Ok(ScriptCommand::Simple { line, words, writes })
    }
}
