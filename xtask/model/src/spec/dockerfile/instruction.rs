//! From one logical line to a typed instruction, with its flags checked against those BuildKit knows.
//!
//! Pure. Replaces no variable: values stay as they are written.

use super::ParseError;
use super::lines::{self, Heredoc, Logical, split_word};
use super::nearest;
use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// 1-based line on which it begins.
    pub line: usize,
    pub kind: Kind,
    /// Once expanded: variables that the paths it reads ask for and nothing in the file sets; a base image may set them.
    pub unset: Vec<String>,
}

/// A typed instruction. `FROM` is not one: it begins a [`Stage`](super::Stage).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Arg(Vec<(String, Option<String>)>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Copy(Transfer),
    /// The same with URLs, git repositories and unpacking.
    Add(Transfer),
    Run(Run),
    Workdir(String),
    User(String),
    Expose(Vec<String>),
    Volume(Vec<String>),
    Stopsignal(String),
    Shell(Vec<String>),
    /// A health check; `None` is `HEALTHCHECK NONE`.
    Healthcheck(Option<Healthcheck>),
    Entrypoint(Command),
    Cmd(Command),
    Onbuild(Box<Instruction>),
    Maintainer(String),
}

impl Kind {
    pub(super) fn words(&self) -> usize {
        match self {
            Kind::Arg(pairs) => pairs.len(),
            Kind::Env(pairs) | Kind::Label(pairs) => pairs.len(),
            Kind::Copy(transfer) | Kind::Add(transfer) => {
                transfer.sources.len() + transfer.heredocs.len() + transfer.excludes.len()
            }
            Kind::Run(run) => run.mounts.len() + run.heredocs.len(),
            Kind::Expose(texts) | Kind::Volume(texts) => texts.len(),
            Kind::Onbuild(inner) => inner.kind.words(),
            _ => 0,
        }
    }

    pub fn keyword(&self) -> &'static str {
        match self {
            Kind::Arg(_) => "ARG",
            Kind::Env(_) => "ENV",
            Kind::Label(_) => "LABEL",
            Kind::Copy(_) => "COPY",
            Kind::Add(_) => "ADD",
            Kind::Run(_) => "RUN",
            Kind::Workdir(_) => "WORKDIR",
            Kind::User(_) => "USER",
            Kind::Expose(_) => "EXPOSE",
            Kind::Volume(_) => "VOLUME",
            Kind::Stopsignal(_) => "STOPSIGNAL",
            Kind::Shell(_) => "SHELL",
            Kind::Healthcheck(_) => "HEALTHCHECK",
            Kind::Entrypoint(_) => "ENTRYPOINT",
            Kind::Cmd(_) => "CMD",
            Kind::Onbuild(_) => "ONBUILD",
            Kind::Maintainer(_) => "MAINTAINER",
        }
    }
}

/// A command in JSON form, or as text for the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `["program", "argument"]`.
    Exec(Vec<String>),
    /// `program argument`, for `SHELL`.
    Shell(String),
}

/// `COPY` or `ADD`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Paths, globs, URLs; not the here-documents.
    pub sources: Vec<String>,
    pub heredocs: Vec<Heredoc>,
    pub destination: String,
    /// `--from`: a stage's name or number, an image or a named context.
    pub from: Option<String>,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`, each.
    pub excludes: Vec<String>,
    /// `--checksum` of a URL.
    pub checksum: Option<String>,
    /// `--keep-git-dir`.
    pub keep_git_dir: bool,
    /// `--unpack`, where it is said.
    pub unpack: Option<bool>,
}

impl Transfer {
    /// `--chown`; an empty one says nothing.
    pub fn chown(&self) -> Option<&str> {
        self.chown.as_deref().filter(|text| !text.is_empty())
    }

    /// `--chmod`; an empty one says nothing.
    pub fn chmod(&self) -> Option<&str> {
        self.chmod.as_deref().filter(|text| !text.is_empty())
    }

    /// True if the layer depends on nothing below it. BuildKit links nothing where a mode is said.
    pub fn is_linked(&self) -> bool {
        self.link && self.chmod().is_none()
    }
}

/// `RUN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// `--mount`, each.
    pub mounts: Vec<Mount>,
    /// `--network`.
    pub network: Option<String>,
    /// `--security`.
    pub security: Option<String>,
    /// `--device`, each.
    pub devices: Vec<String>,
    pub command: Command,
    pub heredocs: Vec<Heredoc>,
}

/// `RUN --mount=…`. Values that a type does not know are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// `bind` (the default), `cache`, `tmpfs`, `secret` or `ssh`.
    pub kind: String,
    /// Source: a path in the context or in `from`.
    pub source: Option<String>,
    pub target: Option<String>,
    pub from: Option<String>,
    pub id: Option<String>,
    pub required: bool,
    /// Every other key as it is written (`sharing`, `mode`, `uid`, `gid`, `size`, `readonly`, `readwrite`, `env`).
    pub others: Vec<(String, String)>,
}

impl Mount {
    /// True if it is all of this stage or context, at this place, to be read.
    pub fn is_context(&self, name: &str, target: &str) -> bool {
        let whole = Self {
            kind: "bind".to_owned(),
            from: Some(name.to_owned()),
            target: Some(target.to_owned()),
            ..Self::default()
        };
        *self == whole
    }
}

/// `HEALTHCHECK CMD`. Times as they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healthcheck {
    /// `--interval`, `--timeout`, `--start-period`, `--start-interval`, `--retries`: those that are said.
    pub options: Vec<(String, String)>,
    pub command: Command,
}

/// `FROM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FromInstruction {
    pub(super) base: String,
    pub(super) platform: Option<String>,
    pub(super) name: Option<String>,
}

pub(super) enum Parsed {
    From(FromInstruction),
    Other(Kind),
}

const KEYWORDS: [&str; 18] = [
    "FROM",
    "ARG",
    "ENV",
    "COPY",
    "ADD",
    "RUN",
    "LABEL",
    "WORKDIR",
    "USER",
    "EXPOSE",
    "HEALTHCHECK",
    "ENTRYPOINT",
    "CMD",
    "STOPSIGNAL",
    "VOLUME",
    "SHELL",
    "ONBUILD",
    "MAINTAINER",
];

fn known_flags(keyword: &str) -> &'static [&'static str] {
    match keyword {
        "FROM" => &["platform"],
        "COPY" => &["from", "chown", "chmod", "link", "parents", "exclude"],
        "ADD" => &["chown", "chmod", "link", "exclude", "checksum", "keep-git-dir", "unpack"],
        "RUN" => &["mount", "network", "security", "device"],
        "HEALTHCHECK" => &["interval", "timeout", "start-period", "start-interval", "retries"],
        _ => &[],
    }
}

pub(super) fn parse(logical: &Logical, escape: char) -> Result<Parsed, ParseError> {
    let (word, rest) = split_word(&logical.text);
    let keyword = word.to_ascii_uppercase();
    let reader = InstructionReader { logical, escape, keyword: &keyword };
    if !KEYWORDS.contains(&keyword.as_str()) {
        let problem = reader.problem(format!("unknown instruction `{word}`"));
        return Err(match nearest(&keyword, KEYWORDS) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None => problem,
        });
    }
    let (flags, rest) = reader.flags(rest)?;
    if rest.is_empty() && !["CMD", "ENTRYPOINT"].contains(&keyword.as_str()) {
        return Err(reader.problem(format!("`{keyword}` needs an argument")));
    }
    match keyword.as_str() {
        "FROM" => reader.from(flags, rest).map(Parsed::From),
        _ => reader.kind(flags, rest).map(Parsed::Other),
    }
}

struct Flag {
    name: String,
    value: Option<String>,
}

struct InstructionReader<'a> {
    logical: &'a Logical,
    escape: char,
    keyword: &'a str,
}

impl InstructionReader<'_> {
    fn problem(&self, what: impl Into<String>) -> ParseError {
        ParseError::new(self.logical.line, self.logical.column, what)
    }

    /// A problem at a text of the instruction's first line, or else at its beginning.
    fn problem_at(&self, text: &str, what: impl Into<String>) -> ParseError {
        let mut problem = self.problem(what);
        if let Some(at) = self.logical.text.find(text) {
            problem.column += self.logical.text[..at].chars().count();
        }
        problem
    }

    fn flags<'t>(&self, text: &'t str) -> Result<(Vec<Flag>, &'t str), ParseError> {
        let (words, rest) = flag_words(text);
        let known = known_flags(self.keyword);
        let mut flags: Vec<Flag> = Vec::new();
        for word in words {
            let (name, value) = match word[2..].split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word[2..].to_owned(), None),
            };
            if !known.contains(&name.as_str()) {
                let problem =
                    self.problem_at(&format!("--{name}"), format!("unknown flag `--{name}` of `{}`", self.keyword));
                return Err(match nearest(&name, known.iter().copied()) {
                    Some(near) => problem.hint(format!("did you mean `--{near}`?")),
                    None if known.is_empty() => problem.hint(format!("`{}` takes no flags", self.keyword)),
                    None => problem.hint(format!("`{}` takes --{}", self.keyword, known.join(", --"))),
                });
            }
            let repeats = ["exclude", "mount", "device"].contains(&name.as_str());
            if !repeats && flags.iter().any(|flag| flag.name == name) {
                return Err(self.problem_at(&format!("--{name}"), format!("flag `--{name}` is set twice")));
            }
            let switch = ["link", "parents", "keep-git-dir", "unpack"].contains(&name.as_str());
            if value.is_none() && !switch {
                return Err(self.problem_at(&format!("--{name}"), format!("flag `--{name}` needs a value")));
            }
            flags.push(Flag { name, value });
        }
        Ok((flags, rest))
    }

    fn switch(&self, flag: &Flag) -> Result<bool, ParseError> {
        match flag.value.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("" | "true") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => Err(self.problem(format!("flag `--{}` is `true` or `false`, not `{other}`", flag.name))),
        }
    }

    fn from(&self, flags: Vec<Flag>, rest: &str) -> Result<FromInstruction, ParseError> {
        let words: Vec<&str> = blanks(rest).collect();
        let platform = flags.into_iter().find_map(|flag| flag.value);
        let name = match words.as_slice() {
            [_] => None,
            [_, r#as, name] if r#as.eq_ignore_ascii_case("as") => Some(self.stage_name(name)?),
            _ => return Err(self.problem("`FROM` takes an image, or an image, `AS` and a name")),
        };
        Ok(FromInstruction { base: words[0].to_owned(), platform, name })
    }

    fn stage_name(&self, name: &str) -> Result<String, ParseError> {
        let lower = name.to_ascii_lowercase();
        let good = lower.starts_with(|c: char| c.is_ascii_lowercase())
            && lower.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
        if good {
            return Ok(lower);
        }
        Err(self
            .problem_at(name, format!("`{name}` cannot name a stage"))
            .hint("a letter, then letters, digits, `-`, `_`, `.`"))
    }

    fn kind(&self, flags: Vec<Flag>, rest: &str) -> Result<Kind, ParseError> {
        let one = || rest.to_owned();
        Ok(match self.keyword {
            "ARG" => Kind::Arg(self.args(rest)?),
            "ENV" => Kind::Env(self.pairs(rest)?),
            "LABEL" => Kind::Label(self.pairs(rest)?),
            "COPY" => Kind::Copy(self.transfer(flags, rest)?),
            "ADD" => Kind::Add(self.transfer(flags, rest)?),
            "RUN" => Kind::Run(self.run(flags, rest)?),
            "WORKDIR" => Kind::Workdir(one()),
            "USER" => Kind::User(one()),
            "STOPSIGNAL" => Kind::Stopsignal(one()),
            "MAINTAINER" => Kind::Maintainer(one()),
            "EXPOSE" => Kind::Expose(blanks(rest).map(str::to_owned).collect()),
            "VOLUME" => Kind::Volume(self.list(rest)?),
            "SHELL" => match self.command(rest)? {
                Command::Exec(words) if !words.is_empty() => Kind::Shell(words),
                _ => return Err(self.problem("`SHELL` takes a JSON list").hint("SHELL [\"/bin/sh\", \"-c\"]")),
            },
            "HEALTHCHECK" => Kind::Healthcheck(self.healthcheck(flags, rest)?),
            "ENTRYPOINT" => Kind::Entrypoint(self.command(rest)?),
            "CMD" => Kind::Cmd(self.command(rest)?),
            _ => Kind::Onbuild(Box::new(self.onbuild(rest)?)),
        })
    }

    /// JSON where it is a list of strings, else the text for the shell.
    fn command(&self, rest: &str) -> Result<Command, ParseError> {
        Ok(self.json(rest)?.map_or_else(|| Command::Shell(rest.to_owned()), Command::Exec))
    }

    /// JSON where it is a list of strings, else split at blanks.
    fn list(&self, rest: &str) -> Result<Vec<String>, ParseError> {
        Ok(self.json(rest)?.unwrap_or_else(|| blanks(rest).map(str::to_owned).collect()))
    }

    /// A JSON list of strings. Other lists are an error; other texts give `None`.
    fn json(&self, rest: &str) -> Result<Option<Vec<String>>, ParseError> {
        let Some(values) = rest.starts_with('[').then(|| serde_json::from_str::<Vec<Value>>(rest).ok()).flatten()
        else {
            return Ok(None);
        };
        let text = |value: Value| match value {
            Value::String(text) => Ok(text),
            other => Err(self
                .problem_at(rest, format!("`{other}` in the list of `{}` is not a string", self.keyword))
                .hint(format!("quote it: `\"{}\"`", other.to_string().replace('"', "\\\"")))),
        };
        values.into_iter().map(text).collect::<Result<_, _>>().map(Some)
    }

    fn args(&self, rest: &str) -> Result<Vec<(String, Option<String>)>, ParseError> {
        let mut args = Vec::new();
        for word in quoted_words(rest, self.escape) {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            if name.is_empty() {
                return Err(self.problem("a build argument has no name"));
            }
            args.push((name.to_owned(), value));
        }
        Ok(args)
    }

    /// `name=value …`, or the old `name value`.
    fn pairs(&self, rest: &str) -> Result<Vec<(String, String)>, ParseError> {
        let words = quoted_words(rest, self.escape);
        if words.first().is_some_and(|word| !word.contains('=')) {
            let (name, value) = split_word(rest);
            if value.is_empty() {
                return Err(self.problem(format!("`{}` needs a name and a value", self.keyword)));
            }
            return Ok(vec![(name.to_owned(), value.to_owned())]);
        }
        let mut pairs = Vec::new();
        for word in words {
            let Some((name, value)) = word.split_once('=') else {
                let hint = format!("write `{word}=…`, or quote the value before it");
                return Err(self.problem_at(&word, format!("`{word}` has no `=`")).hint(hint));
            };
            if name.is_empty() {
                return Err(self.problem_at(&word, format!("`{word}` has no name")));
            }
            pairs.push((name.to_owned(), value.to_owned()));
        }
        Ok(pairs)
    }

    fn transfer(&self, flags: Vec<Flag>, rest: &str) -> Result<Transfer, ParseError> {
        let mut transfer = Transfer::default();
        for flag in flags {
            let switch = self.switch(&flag);
            let value = flag.value.unwrap_or_default();
            match flag.name.as_str() {
                "link" => transfer.link = switch?,
                "parents" => transfer.parents = switch?,
                "keep-git-dir" => transfer.keep_git_dir = switch?,
                "unpack" => transfer.unpack = Some(switch?),
                "exclude" => transfer.excludes.push(value),
                "chown" => transfer.chown = Some(value),
                "chmod" => transfer.chmod = Some(value),
                "checksum" => transfer.checksum = Some(value),
                _ => transfer.from = Some(value),
            }
        }
        let mut words = self.list(rest)?;
        transfer.destination = words.pop().unwrap_or_default();
        if lines::heredoc(&transfer.destination).is_some() {
            let what = format!("a here-document cannot be the destination of `{}`", self.keyword);
            return Err(self.problem_at(&transfer.destination, what).hint("write it in front of the destination"));
        }
        if words.is_empty() {
            return Err(self.problem(format!("`{}` needs a source and a destination", self.keyword)));
        }
        for word in words {
            let Some(announced) = lines::heredoc(&word) else {
                transfer.sources.push(word);
                continue;
            };
            // In a JSON list it is a here-document without contents.
            let read = self.logical.heredocs.iter().rfind(|doc| doc.name == announced.name);
            transfer.heredocs.push(read.cloned().unwrap_or(announced));
        }
        Ok(transfer)
    }

    fn run(&self, flags: Vec<Flag>, rest: &str) -> Result<Run, ParseError> {
        let heredocs = self.logical.heredocs.clone();
        let mut run = Run {
            mounts: vec![],
            network: None,
            security: None,
            devices: vec![],
            command: self.command(rest)?,
            heredocs,
        };
        for flag in flags {
            let value = flag.value.unwrap_or_default();
            match flag.name.as_str() {
                "mount" => run.mounts.push(self.mount(&value)?),
                "network" => run.network = Some(value),
                "security" => run.security = Some(value),
                _ => run.devices.push(value),
            }
        }
        Ok(run)
    }

    fn mount(&self, text: &str) -> Result<Mount, ParseError> {
        const KINDS: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
        const KEYS: [&str; 19] = [
            "type",
            "from",
            "source",
            "src",
            "target",
            "dst",
            "destination",
            "id",
            "required",
            "readonly",
            "ro",
            "readwrite",
            "rw",
            "sharing",
            "mode",
            "uid",
            "gid",
            "size",
            "env",
        ];
        let mut mount = Mount { kind: "bind".to_owned(), ..Mount::default() };
        for field in csv(text) {
            let (key, value) = field.split_once('=').unwrap_or((&field, ""));
            let (key, value) = (key.to_ascii_lowercase(), value.to_owned());
            match key.as_str() {
                "type" if KINDS.contains(&value.to_ascii_lowercase().as_str()) => {
                    mount.kind = value.to_ascii_lowercase()
                }
                "type" => {
                    let problem = self.problem_at(&field, format!("`{value}` is not a type of mount"));
                    return Err(problem.hint(format!("one of {}", KINDS.join(", "))));
                }
                "from" if value.contains('$') => {
                    return Err(self
                        .problem_at(&field, "`from` of a mount replaces no variables")
                        .hint("name a stage instead"));
                }
                "from" => mount.from = Some(value),
                "source" | "src" => mount.source = Some(value),
                "target" | "dst" | "destination" => mount.target = Some(value),
                "id" => mount.id = Some(value),
                "required" => mount.required = value.is_empty() || value == "true" || value == "1",
                known if KEYS.contains(&known) => mount.others.push((key, value)),
                _ => {
                    let problem = self.problem_at(&field, format!("`{key}` is not a key of a mount"));
                    return Err(match nearest(&key, KEYS) {
                        Some(near) => problem.hint(format!("did you mean `{near}`?")),
                        None => problem,
                    });
                }
            }
        }
        Ok(mount)
    }

    fn healthcheck(&self, flags: Vec<Flag>, rest: &str) -> Result<Option<Healthcheck>, ParseError> {
        let (word, rest) = split_word(rest);
        match word.to_ascii_uppercase().as_str() {
            "NONE" if rest.is_empty() => Ok(None),
            "NONE" => Err(self.problem("`HEALTHCHECK NONE` takes no arguments")),
            "CMD" if rest.is_empty() => Err(self.problem("`HEALTHCHECK CMD` needs a command")),
            "CMD" => {
                let options = flags.into_iter().map(|flag| (flag.name, flag.value.unwrap_or_default())).collect();
                Ok(Some(Healthcheck { options, command: self.command(rest)? }))
            }
            _ => Err(self.problem_at(word, format!("`{word}` is not a health check")).hint("write `CMD` or `NONE`")),
        }
    }

    fn onbuild(&self, rest: &str) -> Result<Instruction, ParseError> {
        let keyword = split_word(rest).0.to_ascii_uppercase();
        if ["ONBUILD", "FROM", "MAINTAINER"].contains(&keyword.as_str()) {
            return Err(self.problem(format!("`ONBUILD {keyword}` is not allowed")));
        }
        let inner = Logical { text: rest.to_owned(), ..self.logical.clone() };
        match parse(&inner, self.escape)? {
            Parsed::Other(kind) => Ok(Instruction { line: self.logical.line, kind, unset: Vec::new() }),
            Parsed::From(_) => Err(self.problem("`ONBUILD FROM` is not allowed")),
        }
    }
}

/// Splits at the blanks that BuildKit splits at; one that only Unicode knows is a part of a word.
fn blanks(text: &str) -> impl Iterator<Item = &str> {
    text.split(['\t', '\u{b}', '\u{c}', '\r', ' ']).filter(|word| !word.is_empty())
}

/// Words in front that begin with `--`, with quotes and backslashes taken away; `--` alone ends them.
fn flag_words(text: &str) -> (Vec<String>, &str) {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let (word, after) = flag_word(rest);
        rest = after.trim_start();
        if word == "--" {
            break;
        }
        words.push(word);
    }
    (words, rest.trim())
}

fn flag_word(text: &str) -> (String, &str) {
    let (mut word, mut quote) = (String::new(), None);
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (c, quote) {
            (c, None) if c.is_whitespace() => return (word, &text[at..]),
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('\\', _) => word.extend(chars.next().map(|(_, c)| c)),
            (c, _) => word.push(c),
        }
    }
    (word, "")
}

/// Splits at blanks outside quotes; quotes and escapes stay in the words.
fn quoted_words(text: &str, escape: char) -> Vec<String> {
    let (mut words, mut word, mut quote, mut open) = (Vec::new(), String::new(), None, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if open {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(q) if c == q => quote = None,
            _ => {}
        }
        open = true;
        if c == escape && quote != Some('\'') {
            match chars.next() {
                Some(escaped) => word.extend([c, escaped]),
                // An escape at the very end is dropped.
                None => break,
            }
            continue;
        }
        word.push(c);
    }
    if !word.is_empty() || quote.is_some() {
        words.push(word);
    }
    words
}

/// One record of comma-separated values, with `"…"` around fields that hold a comma.
fn csv(text: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    fields
}
