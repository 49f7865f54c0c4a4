//! The grammar of a shell, as far as Dockerfiles use it.
//!
//! Pure. Functions, subshells, `while` and `!` are not read: a text with them has no parts.

/// Commands in order, each with how it follows the one before.
pub(super) type Chain = Vec<(Join, Part)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    Then,
    And,
    Or,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The text of a command, or of several with pipes between them.
    Command(String),
    /// Conditions with what they run, and what runs if none is true.
    If(Vec<(Chain, Chain)>, Chain),
    /// A word; patterns with what they run.
    Case(String, Vec<(Vec<String>, Chain)>),
    /// A variable, the text of its values, and what runs for each.
    For(String, String, Chain),
    Group(Chain),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Operator(&'static str),
}

/// The commands of a text; `None` where it has something that is not read.
pub(super) fn parse(text: &str) -> Option<Chain> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0 };
    let chain = parser.chain(&[])?;
    (parser.at == parser.tokens.len()).then_some(chain)
}

/// Takes a quoted text or a substitution with everything in it.
fn take_until(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, word: &mut String, end: char) -> Option<()> {
    loop {
        let c = chars.next()?;
        word.push(c);
        match c {
            c if c == end => return Some(()),
            '\\' if end != '\'' => word.push(chars.next()?),
            '"' | '\'' if end == ')' => take_until(chars, word, c)?,
            '(' if end == ')' => take_until(chars, word, ')')?,
            '$' if end != '\'' && chars.peek() == Some(&'(') => {
                word.extend(chars.next());
                take_until(chars, word, ')')?;
            }
            _ => {}
        }
    }
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut found = Vec::new();
    let mut word = String::new();
    let mut chars = text.chars().peekable();
    let close = |found: &mut Vec<Token>, word: &mut String| {
        if !word.is_empty() {
            found.push(Token::Word(std::mem::take(word)));
        }
    };
    while let Some(c) = chars.next() {
        let twice = chars.peek() == Some(&c);
        let operator = match c {
            '\\' => {
                // A continued line.
                if chars.next_if_eq(&'\n').is_none() {
                    word.push(c);
                    word.extend(chars.next());
                }
                continue;
            }
            '"' | '\'' | '`' => {
                word.push(c);
                take_until(&mut chars, &mut word, c)?;
                continue;
            }
            '$' if matches!(chars.peek(), Some('(' | '{')) => {
                let open = chars.next()?;
                word.extend([c, open]);
                take_until(&mut chars, &mut word, if open == '(' { ')' } else { '}' })?;
                continue;
            }
            '#' if word.is_empty() => {
                while chars.next_if(|c| *c != '\n').is_some() {}
                continue;
            }
            '&' if twice => "&&",
            '|' if twice => "||",
            '|' => "|",
            ';' if twice => ";;",
            ';' => ";",
            '\n' => "\n",
            '(' => "(",
            ')' => ")",
            c if c.is_whitespace() => {
                close(&mut found, &mut word);
                continue;
            }
            c => {
                word.push(c);
                continue;
            }
        };
        if operator.len() == 2 {
            chars.next();
        }
        close(&mut found, &mut word);
        found.push(Token::Operator(operator));
    }
    close(&mut found, &mut word);
    Some(found)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn word(&self) -> Option<&str> {
        match self.tokens.get(self.at)? {
            Token::Word(word) => Some(word),
            Token::Operator(_) => None,
        }
    }

    fn takes_word(&mut self, word: &str) -> bool {
        let found = self.word() == Some(word);
        self.at += usize::from(found);
        found
    }

    fn takes(&mut self, operator: &'static str) -> bool {
        let found = self.tokens.get(self.at) == Some(&Token::Operator(operator));
        self.at += usize::from(found);
        found
    }

    /// Commands up to one of these words, which is not taken, or the end of a pattern's commands.
    fn chain(&mut self, ends: &[&str]) -> Option<Chain> {
        let mut chain = Chain::new();
        let mut join = Join::Then;
        loop {
            while self.takes("\n") || self.takes(";") {}
            let stops = match self.tokens.get(self.at) {
                None | Some(Token::Operator(";;")) => true,
                Some(Token::Word(word)) => ends.contains(&word.as_str()),
                Some(Token::Operator(_)) => false,
            };
            if stops {
                return (join == Join::Then).then_some(chain);
            }
            chain.push((join, self.part()?));
            join = if self.takes("&&") {
                Join::And
            } else if self.takes("||") {
                Join::Or
            } else {
                Join::Then
            };
        }
    }

    fn part(&mut self) -> Option<Part> {
        match self.word()? {
            "if" => self.condition(),
            "case" => self.case(),
            "for" => self.repeated(),
            "{" => {
                self.at += 1;
                let chain = self.chain(&["}"])?;
                self.takes_word("}").then_some(Part::Group(chain))
            }
            "while" | "until" | "function" | "select" | "!" | "then" | "else" | "elif" | "fi" | "do" | "done"
            | "esac" | "}" => None,
            _ => self.command().map(Part::Command),
        }
    }

    fn command(&mut self) -> Option<String> {
        let mut words: Vec<&str> = Vec::new();
        loop {
            match self.tokens.get(self.at) {
                Some(Token::Word(word)) => words.push(word),
                Some(Token::Operator("|")) => words.push("|"),
                Some(Token::Operator("(" | ")")) => return None,
                Some(Token::Operator(_)) | None => break,
            }
            self.at += 1;
        }
        Some(words.join(" "))
    }

    fn condition(&mut self) -> Option<Part> {
        let (mut cases, mut otherwise) = (Vec::new(), Chain::new());
        self.at += 1;
        loop {
            let condition = self.chain(&["then"])?;
            self.takes_word("then").then_some(())?;
            cases.push((condition, self.chain(&["elif", "else", "fi"])?));
            if self.takes_word("elif") {
                continue;
            }
            if self.takes_word("else") {
                otherwise = self.chain(&["fi"])?;
            }
            return self.takes_word("fi").then_some(Part::If(cases, otherwise));
        }
    }

    fn case(&mut self) -> Option<Part> {
        self.at += 1;
        let word = self.word()?.to_owned();
        self.at += 1;
        self.takes_word("in").then_some(())?;
        let mut cases = Vec::new();
        loop {
            while self.takes("\n") {}
            if self.takes_word("esac") {
                return Some(Part::Case(word, cases));
            }
            let _ = self.takes("(");
            let mut patterns = Vec::new();
            loop {
                patterns.push(self.word()?.to_owned());
                self.at += 1;
                if !self.takes("|") {
                    break;
                }
            }
            self.takes(")").then_some(())?;
            cases.push((patterns, self.chain(&["esac"])?));
            let _ = self.takes(";;");
        }
    }

    fn repeated(&mut self) -> Option<Part> {
        self.at += 1;
        let name = self.word()?.to_owned();
        self.at += 1;
        self.takes_word("in").then_some(())?;
        let mut values: Vec<&str> = Vec::new();
        while let Some(Token::Word(word)) = self.tokens.get(self.at) {
            values.push(word);
            self.at += 1;
        }
        let values = values.join(" ");
        while self.takes("\n") || self.takes(";") {}
        self.takes_word("do").then_some(())?;
        let body = self.chain(&["done"])?;
        self.takes_word("done").then_some(Part::For(name, values, body))
    }
}
