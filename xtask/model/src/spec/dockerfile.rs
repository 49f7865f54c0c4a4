//! A parsed Dockerfile: stages and typed instructions with their lines.
//!
//! Pure: text in, values out. Where it disagrees with BuildKit it is wrong, whatever the documentation says.
//! Reference: <https://docs.docker.com/reference/dockerfile/>.

mod expansion;
mod instruction;
mod limits;
mod lines;
mod lint;
mod sources;
#[cfg(test)]
mod tests;
mod words;

pub use expansion::{DEFAULT_PATH, Expanded, Inherited, StageBase};
pub use instruction::{Command, Healthcheck, Instruction, Kind, Mount, Run, Transfer};
pub use lines::Heredoc;
pub use lint::{Finding, LintRule};
pub use sources::remote;
pub use sources::{Reads, Source};

use crate::fault::Fault;
use instruction::{Parsed, parse};

/// A problem at a place in the file: 1-based line, 1-based column in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ParseError {
    line: usize,
    column: usize,
    what: String,
    hint: Option<String>,
}

impl ParseError {
    fn new(line: usize, column: usize, what: impl Into<String>) -> Self {
        Self { line, column, what: what.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A `FROM` and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// 1-based line of its `FROM`.
    pub line: usize,
    /// Its number, from 0.
    pub index: usize,
    /// Its name in lower case.
    pub name: Option<String>,
    /// Its base, unexpanded: a stage, an image or `scratch`.
    pub base: String,
    /// `--platform`, as it is written.
    pub platform: Option<String>,
    pub instructions: Vec<Instruction>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    path: String,
    lines: Vec<String>,
    escape: char,
    syntax: Option<(usize, String)>,
    globals: Vec<Instruction>,
    stages: Vec<Stage>,
    target: usize,
    meaning: Vec<(usize, String)>,
}

impl Dockerfile {
    /// Reads a Dockerfile; `path` is how messages name it.
    pub fn parse(path: &str, text: &str) -> Result<Self, Fault> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut file = Self {
            path: path.to_owned(),
            // No more of a file that is too large than a message shows.
            lines: text.lines().take_while(|_| text.len() <= limits::BYTES).map(str::to_owned).collect(),
            escape: '\\',
            syntax: None,
            globals: Vec::new(),
            stages: Vec::new(),
            target: 0,
            meaning: Vec::new(),
        };
        match file.fill(text) {
            Ok(()) => Ok(file),
            Err(problem) => Err(file.fault(&problem)),
        }
    }

    fn fill(&mut self, text: &str) -> Result<(), ParseError> {
        limits::bytes(text)?;
        let mut counts = limits::Counts::default();
        let (directives, logical) = lines::split(text, &mut counts)?;
        self.escape = directives.escape;
        self.syntax = directives.syntax;
        for line in logical {
            self.meaning.push((line.line, normal(&line)));
            match parse(&line, self.escape)? {
                Parsed::From(from) => {
                    counts.stage(line.line)?;
                    self.begin_stage(&line, from)?;
                }
                Parsed::Other(kind) => {
                    counts.words(line.line, kind.words())?;
                    let instruction = Instruction { line: line.line, kind, unset: Vec::new() };
                    match (self.stages.last_mut(), &instruction.kind) {
                        (Some(stage), _) => stage.instructions.push(instruction),
                        (None, Kind::Arg(_)) => self.globals.push(instruction),
                        (None, kind) => {
                            let what = format!("`{}` is before the first `FROM`", kind.keyword());
                            return Err(ParseError::new(line.line, line.column, what));
                        }
                    }
                }
            }
        }
        if self.stages.is_empty() {
            return Err(ParseError::new(1, 1, "the file has no `FROM`").hint("start with `FROM image`"));
        }
        self.target = self.stages.len() - 1;
        Ok(())
    }

    fn begin_stage(&mut self, line: &lines::Logical, from: instruction::FromInstruction) -> Result<(), ParseError> {
        let twin = self.stages.iter().find(|stage| from.name.is_some() && stage.name == from.name);
        if let (Some(twin), Some(name)) = (twin, &from.name) {
            let what = format!("two stages are named `{name}` (the other is on line {})", twin.line);
            return Err(ParseError::new(line.line, line.column, what));
        }
        self.stages.push(Stage {
            line: line.line,
            index: self.stages.len(),
            name: from.name,
            base: from.base,
            platform: from.platform,
            instructions: Vec::new(),
        });
        Ok(())
    }

    /// The same file with another stage as its target (`--target`), by name or number; the default is the last.
    pub fn with_target(mut self, stage: &str) -> Result<Self, Fault> {
        let Some(found) = self.find_stage(stage, self.stages.len()) else {
            let names: Vec<&str> = self.stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
            let fault = Fault::usage(format!("`{}` has no stage `{stage}`", self.path));
            return Err(match nearest(stage, names.iter().copied()) {
                Some(near) => fault.hint(format!("did you mean `{near}`?")),
                None => fault.hint(format!("its stages are: {}", names.join(", "))),
            });
        };
        self.target = found;
        Ok(self)
    }

    /// True if a step mounts the empty stage of this name here: the caller of a build may give it contents.
    pub fn takes_context(&self, name: &str, target: &str) -> bool {
        let is_empty = |stage: &Stage| {
            stage.name.as_deref() == Some(name) && stage.base == "scratch" && stage.instructions.is_empty()
        };
        let mounts = |instruction: &Instruction| match &instruction.kind {
            Kind::Run(run) => run.mounts.iter().any(|mount| mount.is_context(name, target)),
            _ => false,
        };
        self.stages.iter().any(is_empty) && self.stages.iter().any(|stage| stage.instructions.iter().any(mounts))
    }

    /// A stage before `before`, by name or number.
    pub fn find_stage(&self, name: &str, before: usize) -> Option<usize> {
        let named = self.stages.iter().position(|stage| stage.name.as_deref() == Some(&name.to_ascii_lowercase()));
        named.or_else(|| name.parse().ok()).filter(|&index| index < before)
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// The frontend image that a `# syntax=` line asks for, with its line.
    pub fn syntax(&self) -> Option<(usize, &str)> {
        self.syntax.as_ref().map(|(line, image)| (*line, image.as_str()))
    }

    /// `ARG`s before the first `FROM`.
    pub fn globals(&self) -> &[Instruction] {
        &self.globals
    }

    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    pub fn target(&self) -> &Stage {
        &self.stages[self.target]
    }

    /// Everything that can change the result: directives that matter and each instruction on one line, in order, without
    /// comments, blank lines and continuations. Goes into keys: a comment or a moved line changes nothing in it.
    pub fn meaning(&self) -> Vec<String> {
        self.directives().into_iter().chain(self.meaning.iter().cloned()).map(|(_, text)| text).collect()
    }

    /// The instruction that begins on a 1-based line, on one line.
    pub fn instruction_text(&self, line: usize) -> Option<&str> {
        let at = self.meaning.binary_search_by_key(&line, |(begin, _)| *begin).ok()?;
        Some(self.meaning[at].1.as_str())
    }

    /// The 1-based lines of [`Self::meaning`], apart from it, for `explain`.
    pub fn meaning_lines(&self) -> Vec<usize> {
        self.directives().into_iter().chain(self.meaning.iter().cloned()).map(|(line, _)| line).collect()
    }

    fn directives(&self) -> Vec<(usize, String)> {
        let syntax = self.syntax.iter().map(|(line, image)| (*line, format!("# syntax={image}")));
        let escape = (self.escape != '\\').then(|| (1, format!("# escape={}", self.escape)));
        syntax.chain(escape).collect()
    }

    /// A problem as a person reads it: place, line, caret, hint.
    fn fault(&self, problem: &ParseError) -> Fault {
        let ParseError { line, column, what, hint } = problem;
        let gutter = " ".repeat(line.to_string().len());
        let text = self.lines.get(line - 1).map_or("", |text| text.trim_end());
        // Tabs stay, so that the caret is under its column at any tab width.
        let indent: String = text.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let fault = Fault::usage(format!(
            "{}:{line}:{column}: {what}\n{gutter} |\n{line} | {text}\n{gutter} | {indent}^",
            self.path
        ));
        hint.iter().fold(fault, |fault, hint| fault.hint(hint.clone()))
    }
}

/// The keyword in upper case, the rest as it is joined, here-documents with their delimiter's meaning.
fn normal(line: &lines::Logical) -> String {
    let (keyword, rest) = lines::split_word(&line.text);
    let mut text = keyword.to_ascii_uppercase();
    if !rest.is_empty() {
        text.push(' ');
        text.push_str(rest);
    }
    for heredoc in &line.heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    text
}

/// The nearest of the known words, if it is near enough to be meant.
fn nearest<'w>(word: &str, known: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let best = known.into_iter().map(|known| (strsim::damerau_levenshtein(word, known), known)).min()?;
    (best.0 <= 2.max(word.len() / 3) && best.0 < word.len()).then_some(best.1)
}
