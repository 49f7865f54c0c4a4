//! Effects of a maintainer script where a package is installed for the first time, found without running it.
//!
//! Pure. A script is followed with the arguments that dpkg gives it, deb-postinst(5): what it would do on an upgrade does not count.
//! Commands that change the image are either known, and become an [`Effect`], or the script is refused with its line. Commands
//! that only concern running services, or that make caches which are made again on demand, are passed over and named.

use super::filter;
use super::shell::{self, ScriptCommand};
use crate::spec::versions::Ecosystem;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// Effect of a script on the image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// `update-alternatives --install`, with its arguments.
    Alternative(Vec<String>),
    /// An empty file, `/var/lib/x`.
    File(String),
    /// A folder, `/var/cache/x`.
    Folder(String),
    /// A symbolic link: path and target.
    Link(String, String),
    /// The cache of the dynamic linker.
    LinkerCache,
    /// A command that is left out, with the reason.
    PassedOver(String, &'static str),
}

/// Reason why a script cannot be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub line: usize,
    pub why: String,
}

/// State of a path in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Folder,
    File { executable: bool },
}

/// Facts that a script may look at.
pub struct World<'a> {
    /// The path, links followed; absent paths are `None`.
    pub seen: &'a dyn Fn(&str) -> Option<Seen>,
    /// True for a symbolic link.
    pub is_link: &'a dyn Fn(&str) -> bool,
    /// True for a folder with something in it.
    pub has_files: &'a dyn Fn(&str) -> bool,
    /// True for a package that the image has.
    pub is_installed: &'a dyn Fn(&str) -> bool,
    pub package: &'a str,
}

const SERVICES: &str = "it concerns running services";
const DESKTOP: &str = "it makes a cache of menus and icons";
const BYTE_CODE: &str = "it makes byte code, which Python makes on demand";
const FONTS: &str = "it makes a cache of fonts, which is made on demand";

/// Programs that may be left out.
const PASSED_OVER: [(&str, &str); 17] = [
    ("invoke-rc.d", SERVICES),
    ("update-rc.d", SERVICES),
    ("service", SERVICES),
    ("systemctl", SERVICES),
    ("deb-systemd-helper", SERVICES),
    ("deb-systemd-invoke", SERVICES),
    ("update-menus", DESKTOP),
    ("update-desktop-database", DESKTOP),
    ("update-icon-caches", DESKTOP),
    ("gtk-update-icon-cache", DESKTOP),
    ("py3compile", BYTE_CODE),
    ("pycompile", BYTE_CODE),
    ("pypy3compile", BYTE_CODE),
    ("py3clean", BYTE_CODE),
    ("py3versions", BYTE_CODE),
    ("fc-cache", FONTS),
    ("catman", "it makes a cache of manual pages"),
];

/// The effects of a script with these arguments.
///
/// # Errors
/// A command whose effect is unknown, with its line.
pub fn effects(text: &str, args: &[&str], world: &World<'_>) -> Result<BTreeSet<Effect>, Refused> {
    let first = text.lines().next().unwrap_or_default();
    let is_shell = first.strip_prefix("#!").is_some_and(|program| {
        let program = program.split_whitespace().next().unwrap_or_default();
        ["/bin/sh", "/bin/bash", "/bin/dash", "/usr/bin/sh", "/usr/bin/bash"].contains(&program)
    });
    if !is_shell {
        return Err(Refused { line: 1, why: format!("it is not a shell script: `{first}`") });
    }
    let commands =
        shell::parse(text).map_err(|line| Refused { line, why: "its syntax is not understood".to_owned() })?;
    let mut run = ScriptRun {
        world,
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        variables: BTreeMap::new(),
        functions: BTreeMap::new(),
        effects: BTreeSet::new(),
        line: 1,
        depth: 0,
    };
    run.all(&commands)?;
    Ok(run.effects)
}

struct ScriptRun<'a> {
    world: &'a World<'a>,
    args: Vec<String>,
    /// Variables; `None` if the value is unknown.
    variables: BTreeMap<String, Option<String>>,
    functions: BTreeMap<String, Vec<ScriptCommand>>,
    effects: BTreeSet<Effect>,
    line: usize,
    depth: usize,
}

/// End of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Status(bool),
    Return(bool),
    Exit,
}

type Followed = Result<Flow, Refused>;

const DEEPEST: usize = 20;

impl ScriptRun<'_> {
    fn refuse<T>(&self, why: impl Into<String>) -> Result<T, Refused> {
        Err(Refused { line: self.line, why: why.into() })
    }

    fn all(&mut self, commands: &[ScriptCommand]) -> Followed {
        let mut last = Flow::Status(true);
        for command in commands {
            last = self.one(command)?;
            if !matches!(last, Flow::Status(_)) {
                break;
            }
        }
        Ok(last)
    }

    fn one(&mut self, command: &ScriptCommand) -> Followed {
        match command {
            ScriptCommand::Simple { line, words, writes } => {
                self.line = *line;
                self.simple(words, writes.as_deref())
            }
            ScriptCommand::If(arms, otherwise) => {
                for (condition, body) in arms {
                    match self.all(condition)? {
                        Flow::Status(true) => return self.all(body),
                        Flow::Status(false) => {}
                        other => return Ok(other),
                    }
                }
                self.all(otherwise)
            }
            ScriptCommand::Case(word, arms) => {
                let Some(value) = self.text(word) else {
                    return self.refuse(format!("the value of `{word}` is unknown"));
                };
                for (patterns, body) in arms {
                    for pattern in patterns {
                        let Some(pattern) = self.text(pattern) else {
                            return self.refuse(format!("the pattern `{pattern}` is unknown"));
                        };
                        if filter::matches(pattern.as_bytes(), value.as_bytes()) {
                            return self.all(body);
                        }
                    }
                }
                Ok(Flow::Status(true))
            }
            ScriptCommand::Function(name, body) => {
                self.functions.insert(name.clone(), body.clone());
                Ok(Flow::Status(true))
            }
            ScriptCommand::Group(body) => self.all(body),
            ScriptCommand::And(left, right) => match self.one(left)? {
                Flow::Status(true) => self.one(right),
                other => Ok(other),
            },
            ScriptCommand::Or(left, right) => match self.one(left)? {
                Flow::Status(false) => self.one(right),
                other => Ok(other),
            },
            ScriptCommand::Not(inner) => match self.one(inner)? {
                Flow::Status(status) => Ok(Flow::Status(!status)),
                other => Ok(other),
            },
            ScriptCommand::For(line, name, words, body) => {
                self.line = *line;
                let values: Option<Vec<Vec<String>>> = words.iter().map(|word| self.fields(word)).collect();
                let Some(values) = values else {
                    return self.refuse(format!("the values of `{}` are unknown", words.join(" ")));
                };
                for value in values.into_iter().flatten() {
                    self.variables.insert(name.clone(), Some(value));
                    let flow = self.all(body)?;
                    if !matches!(flow, Flow::Status(_)) {
                        return Ok(flow);
                    }
                }
                Ok(Flow::Status(true))
            }
            ScriptCommand::Other(line, what) => {
                self.line = *line;
                self.refuse(format!("it has {what} there"))
            }
        }
    }

    fn simple(&mut self, words: &[String], writes: Option<&str>) -> Followed {
        if !words.is_empty() && words.iter().all(|word| assignment(word).is_some()) {
            for (name, value) in words.iter().filter_map(|word| assignment(word)) {
                let value = self.text(value);
                self.variables.insert(name.to_owned(), value);
            }
            return Ok(Flow::Status(true));
        }
        let words = &words[words.iter().take_while(|word| assignment(word).is_some()).count()..];
        let shown = words.join(" ");
        let mut fields = Vec::new();
        for word in words {
            match self.fields(word) {
                Some(found) => fields.extend(found),
                None => fields.push("\0".to_owned()),
            }
        }
        let Some((program, args)) = fields.split_first() else { return Ok(Flow::Status(true)) };
        if let Some(target) = writes {
            return match PASSED_OVER.iter().any(|(name, _)| *name == program.rsplit('/').next().unwrap_or(program)) {
                true => self.passed(program),
                false => self.refuse(format!("`{shown}` writes `{target}`")),
            };
        }
        self.command(program, args, &shown)
    }

    fn passed(&mut self, program: &str) -> Followed {
        let base = program.rsplit('/').next().unwrap_or(program);
        if let Some((name, why)) = PASSED_OVER.iter().find(|(name, _)| *name == base) {
            self.effects.insert(Effect::PassedOver((*name).to_owned(), why));
        }
        Ok(Flow::Status(true))
    }

    fn command(&mut self, program: &str, args: &[String], shown: &str) -> Followed {
        let status = |status| Ok(Flow::Status(status));
        let known = |args: &[String]| !args.iter().any(|arg| arg.contains('\0'));
        if let Some(body) = self.functions.get(program).cloned() {
            return self.call(&body, args);
        }
        let base = program.rsplit('/').next().unwrap_or(program);
        if PASSED_OVER.iter().any(|(name, _)| *name == base) {
            return self.passed(program);
        }
        match base {
            ":" | "true" | "echo" | "printf" | "set" | "umask" | "unset" => status(true),
            "false" => status(false),
            "export" | "local" | "readonly" => {
                for (name, value) in args.iter().filter_map(|word| assignment(word)) {
                    self.variables
                        .insert(name.to_owned(), Some(value.to_owned()).filter(|value| !value.contains('\0')));
                }
                status(true)
            }
            "shift" => {
                let count = args.first().map_or(Ok(1), |count| count.parse::<usize>()).unwrap_or(1);
                self.args.drain(..count.min(self.args.len()));
                status(true)
            }
            "exit" => Ok(Flow::Exit),
            "return" => Ok(Flow::Return(args.first().is_none_or(|code| code == "0"))),
            "[" | "test" => match self.test(args) {
                Some(result) => status(result),
                None => self.refuse(format!("the result of `{shown}` is unknown")),
            },
            "command" | "which" | "type" if known(args) => {
                let name = args.iter().find(|arg| !arg.starts_with('-'));
                status(name.is_some_and(|name| self.program(name).is_some()))
            }
            "dpkg" if args.first().is_some_and(|first| first == "--compare-versions") && known(args) => {
                match args.get(1..4).and_then(|args| compare(&args[0], &args[1], &args[2])) {
                    Some(result) => status(result),
                    None => self.refuse(format!("the result of `{shown}` is unknown")),
                }
            }
            // They act on what an older version left: there is none.
            "dpkg-maintscript-helper" => status(true),
            // Without an override of the root, which has no reason to name files that it does not have.
            "dpkg-statoverride" if args.first().is_some_and(|first| first == "--list") => status(false),
            "ischroot" => status(true),
            "ldconfig" => {
                self.effects.insert(Effect::LinkerCache);
                status(true)
            }
            "update-alternatives" if known(args) && args.iter().any(|arg| arg == "--install") => {
                let args = args.iter().skip_while(|arg| *arg != "--install").skip(1).cloned().collect();
                self.effects.insert(Effect::Alternative(args));
                status(true)
            }
            "glib-compile-schemas" | "gio-querymodules" if known(args) => {
                match !args.iter().any(|folder| (self.world.has_files)(folder)) {
                    true => status(true),
                    false => self.refuse(format!("`{shown}` reads files that the image has")),
                }
            }
            "mkdir" if known(args) && args.first().is_some_and(|first| first == "-p") => self.mkdir(&args[1..], shown),
            "touch" if known(args) && args.iter().all(|path| path.starts_with('/') && !path.contains("..")) => {
                let absent = args.iter().filter(|path| (self.world.seen)(path).is_none());
                self.effects.extend(absent.cloned().map(Effect::File));
                status(true)
            }
            "rm" if known(args) && args.first().is_some_and(|first| first.starts_with('-') && first.contains('f')) => {
                match args[1..].iter().all(|path| (self.world.seen)(path).is_none() && !(self.world.is_link)(path)) {
                    true => status(true),
                    false => self.refuse(format!("`{shown}` removes files")),
                }
            }
            "ln" if known(args) => match args {
                [flags, target, path] if flags.starts_with('-') && flags.contains('s') && path.starts_with('/') => {
                    self.effects.insert(Effect::Link(path.clone(), target.clone()));
                    status(true)
                }
                _ => self.refuse(format!("the effect of `{shown}` is unknown")),
            },
            _ => self.refuse(format!("the effect of `{shown}` is unknown")),
        }
    }

    fn mkdir(&mut self, paths: &[String], shown: &str) -> Followed {
        if paths.iter().any(|path| !path.starts_with('/') || path.contains("..")) {
            return self.refuse(format!("the effect of `{shown}` is unknown"));
        }
        let absent = paths.iter().filter(|path| (self.world.seen)(path).is_none());
        self.effects.extend(absent.map(|path| Effect::Folder(path.trim_end_matches('/').to_owned())));
        Ok(Flow::Status(true))
    }

    fn call(&mut self, body: &[ScriptCommand], args: &[String]) -> Followed {
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.refuse("its functions call each other");
        }
        let kept = std::mem::replace(&mut self.args, args.to_vec());
        let flow = self.all(body)?;
        self.args = kept;
        self.depth -= 1;
        Ok(match flow {
            Flow::Return(status) => Flow::Status(status),
            other => other,
        })
    }

    /// The path of a program of the image.
    fn program(&self, name: &str) -> Option<String> {
        let runs = |path: &String| matches!((self.world.seen)(path), Some(Seen::File { executable: true }));
        if name.starts_with('/') {
            return Some(name.to_owned()).filter(runs);
        }
        let folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        folders.into_iter().map(|folder| format!("{folder}/{name}")).find(runs)
    }

    /// `test`; `None` if its result is unknown.
    fn test(&self, args: &[String]) -> Option<bool> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let args = args.strip_suffix(&["]"]).unwrap_or(&args);
        for (operator, stops) in [("-o", true), ("-a", false)] {
            if let Some(at) = args.iter().skip(1).position(|arg| *arg == operator).map(|at| at + 1) {
                let (left, right) = (self.simple_test(&args[..at])?, self.all_tests(&args[at + 1..])?);
                return Some(if stops { left || right } else { left && right });
            }
        }
        self.simple_test(args)
    }

    fn all_tests(&self, args: &[&str]) -> Option<bool> {
        self.test(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    fn simple_test(&self, args: &[&str]) -> Option<bool> {
        if args.iter().any(|arg| arg.contains('\0')) {
            return None;
        }
        let seen = |path: &str| (self.world.seen)(path);
        match args {
            [] => Some(false),
            ["!", rest @ ..] => self.simple_test(rest).map(|result| !result),
            [one] => Some(!one.is_empty()),
            ["-n", text] => Some(!text.is_empty()),
            ["-z", text] => Some(text.is_empty()),
            ["-e", path] => Some(seen(path).is_some()),
            ["-d", path] => Some(seen(path) == Some(Seen::Folder)),
            ["-f" | "-r" | "-s", path] => Some(matches!(seen(path), Some(Seen::File { .. }))),
            ["-x", path] => Some(matches!(seen(path), Some(Seen::Folder | Seen::File { executable: true }))),
            ["-L" | "-h", path] => Some((self.world.is_link)(path)),
            [left, "=" | "==", right] => Some(left == right),
            [left, "!=", right] => Some(left != right),
            [left, operator, right] => {
                let order = left.parse::<i64>().ok()?.cmp(&right.parse::<i64>().ok()?);
                match *operator {
                    "-eq" => Some(order.is_eq()),
                    "-ne" => Some(order.is_ne()),
                    "-lt" => Some(order.is_lt()),
                    "-le" => Some(order.is_le()),
                    "-gt" => Some(order.is_gt()),
                    "-ge" => Some(order.is_ge()),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn text(&self, word: &str) -> Option<String> {
        self.expand(word).map(|parts| parts.into_iter().map(|(text, _)| text).collect())
    }

    /// The words that a word becomes; none where it is unknown.
    fn fields(&self, word: &str) -> Option<Vec<String>> {
        if word == "\"$@\"" || word == "$@" {
            return Some(self.args.clone());
        }
        let (mut fields, mut open): (Vec<String>, Option<String>) = (Vec::new(), None);
        for (text, splits) in self.expand(word)? {
            if !splits {
                open.get_or_insert_with(String::new).push_str(&text);
                continue;
            }
            for (number, piece) in text.split(char::is_whitespace).enumerate() {
                if number > 0 {
                    fields.extend(open.take());
                }
                if !piece.is_empty() {
                    open.get_or_insert_with(String::new).push_str(piece);
                }
            }
        }
        fields.extend(open);
        Some(fields)
    }

    /// The parts of a word, each with whether it is split at blanks.
    fn expand(&self, word: &str) -> Option<Vec<(String, bool)>> {
        let mut parts = Vec::new();
        let mut rest = word;
        let mut quoted = false;
        while let Some(first) = rest.chars().next() {
            let (text, splits, length) = match first {
                '\'' if !quoted => {
                    let end = rest[1..].find('\'')?;
                    (rest[1..=end].to_owned(), false, end + 2)
                }
                '"' => {
                    quoted = !quoted;
                    (String::new(), false, 1)
                }
                '\\' => {
                    let next = rest[1..].chars().next()?;
                    let keeps = quoted && !"$`\"\\\n".contains(next);
                    let text = match next {
                        '\n' => String::new(),
                        next if keeps => format!("\\{next}"),
                        next => next.to_string(),
                    };
                    (text, false, 1 + next.len_utf8())
                }
                '`' => {
                    let end = rest[1..].find('`')?;
                    (self.output(&rest[1..=end])?, !quoted, end + 2)
                }
                '$' => {
                    let (text, length) = self.variable(rest)?;
                    (text, !quoted, length)
                }
                other => (other.to_string(), false, other.len_utf8()),
            };
            parts.push((text, splits));
            rest = &rest[length..];
        }
        Some(parts)
    }

    /// The value of the variable or command at the begin of a text, and its length there.
    fn variable(&self, text: &str) -> Option<(String, usize)> {
        let after = &text[1..];
        if let Some(inner) = after.strip_prefix('(') {
            let end = inner.rfind(')')?;
            return Some((self.output(&inner[..end])?, end + 3));
        }
        if let Some(inner) = after.strip_prefix('{') {
            let end = inner.find('}')?;
            let body = &inner[..end];
            let name = body.trim_end_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let (name, operation) = body.split_at(body.find([':', '-', '+', '#', '%']).unwrap_or(name.len()));
            let value = self.value(name)?;
            let text = match operation {
                "" => value,
                _ => {
                    let (kind, other) = operation.split_at(operation.find(['-', '+'])? + 1);
                    match (kind, value.is_empty()) {
                        (":-" | "-", true) | (":+" | "+", false) => self.text(other)?,
                        (":-" | "-", false) => value,
                        (":+" | "+", true) => String::new(),
                        _ => return None,
                    }
                }
            };
            return Some((text, end + 3));
        }
        let length = match after.chars().next() {
            Some(first) if first.is_ascii_digit() || "#@*?!$".contains(first) => 1,
            _ => after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len()),
        };
        if length == 0 {
            return Some(("$".to_owned(), 1));
        }
        Some((self.value(&after[..length])?, length + 1))
    }

    /// A variable's value, empty if it was never set; `None` if it is unknown.
    fn value(&self, name: &str) -> Option<String> {
        if let Ok(number) = name.parse::<usize>() {
            return (number > 0).then(|| self.args.get(number - 1).cloned().unwrap_or_default());
        }
        match name {
            "#" => Some(self.args.len().to_string()),
            "@" | "*" => Some(self.args.join(" ")),
            "DPKG_MAINTSCRIPT_PACKAGE" => Some(self.world.package.to_owned()),
            "DPKG_ROOT" | "DEBCONF_RECONFIGURE" => Some(String::new()),
            _ => self
                .variables
                .get(name)
                .cloned()
                .unwrap_or_else(|| name.chars().any(char::is_lowercase).then(String::new)),
        }
    }

    /// Output of a command that looks for a program or a package, and of `seq`.
    fn output(&self, command: &str) -> Option<String> {
        let command = command.trim().trim_end_matches("|| true");
        let words: Vec<&str> = command.split_whitespace().filter(|word| *word != "2>/dev/null").collect();
        match words.as_slice() {
            ["dpkg-query", .., package] if !(self.world.is_installed)(package) => Some(String::new()),
            ["seq", first, step, last] => {
                let [first, step, last]: [i64; 3] = [first.parse().ok()?, step.parse().ok()?, last.parse().ok()?];
                let count = (last - first).checked_div(step).filter(|count| (0..1000).contains(count))?;
                let numbers: Vec<String> = (0..=count).map(|number| (first + number * step).to_string()).collect();
                Some(numbers.join("\n"))
            }
            ["command", "-v", name] | ["which", name] => Some(self.program(&self.text(name)?).unwrap_or_default()),
            _ => None,
        }
    }
}

/// The parts of `NAME=value`.
fn assignment(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    (starts && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')).then_some((name, value))
}

/// `dpkg --compare-versions`: an empty version is lower than any other, and higher with `-nl`.
fn compare(one: &str, operator: &str, other: &str) -> Option<bool> {
    let (operator, empty_is_high) = match operator.strip_suffix("-nl") {
        Some(operator) => (operator, true),
        None => (operator, false),
    };
    let order = match (one.is_empty(), other.is_empty()) {
        (true, true) => Ordering::Equal,
        (true, false) if empty_is_high => Ordering::Greater,
        (true, false) => Ordering::Less,
        (false, true) if empty_is_high => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => Ecosystem::Debian(String::new()).compare(one, other)?,
    };
    Some(match operator {
        "lt" | "<<" => order.is_lt(),
        "le" | "<=" | "<" => order.is_le(),
        "eq" | "=" => order.is_eq(),
        "ne" => order.is_ne(),
        "ge" | ">=" | ">" => order.is_ge(),
        "gt" | ">>" => order.is_gt(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, args: &[&str]) -> Result<BTreeSet<Effect>, Refused> {
        let seen = |path: &str| match path {
            "/usr/bin/tool" => Some(Seen::File { executable: true }),
            "/etc" | "/usr/share/there" => Some(Seen::Folder),
            _ => None,
        };
        let world = World {
            seen: &seen,
            is_link: &|path| path == "/etc/link",
            has_files: &|path| path == "/usr/share/there",
            is_installed: &|_| false,
            package: "pkg",
        };
        effects(&format!("#!/bin/sh\n{text}"), args, &world)
    }

    #[track_caller]
    fn harmless(text: &str) {
        assert_eq!(found(text, &["configure", ""]), Ok(BTreeSet::new()), "{text}");
    }

    #[track_caller]
    fn refused(text: &str, line: usize, why: &str) {
        assert_eq!(found(text, &["configure", ""]), Err(Refused { line, why: why.to_owned() }), "{text}");
    }

    #[test]
    fn what_only_an_upgrade_does_does_not_count() {
        harmless("set -e\nif [ \"configure\" = \"$1\" -a \"x$2\" != \"x\" ]; then\n  cp /a /b\nfi\nexit 0\nrm -rf /\n");
        harmless(
            "if test \"$1\" = upgrade &&\n   dpkg --compare-versions \"$2\" lt-nl '1:1.8'; then\n\t( cd / && ln x y )\nfi\n",
        );
        harmless("case \"$1\" in\n  (install|upgrade)\n  rm /etc ;;\n  *) ;;\nesac\n# end\n");
        harmless("dpkg-maintscript-helper rm_conffile /etc/x 1:1.8.0-1\\~ -- \"$@\"\n");
        harmless(
            "handle () {\n for x in \"$@\"; do rm $x; done\n}\nif [ \"$1\" = triggered ]; then handle $2; exit 0; fi\n",
        );
        harmless(
            "if [ -x \"`command -v update-x`\" ] && [ -x \"$DPKG_ROOT`command -v update-x`\" ]; then update-x; fi\n",
        );
        harmless(
            "glib-compile-schemas /usr/share/absent || true\ncat <<EOF >/dev/null || :\n$(rm x)\nEOF\n"
                .split_once("cat")
                .unwrap()
                .0,
        );
        harmless("for x in $(dpkg-query -W -f '${Architecture}\\n' old 2>/dev/null || true)\ndo\n rm /$x\ndone\n");
        harmless("for i in $(seq 6 -1 0); do\n if [ -e \"/var/x.${i}\" ]; then cp a \"b.$(($i+1))\"; fi\ndone\n");
        harmless("if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi\n");
    }

    #[test]
    fn known_commands_become_effects() {
        let text = "if [ \"$1\" = \"configure\" ]; then\n update-alternatives --quiet \\\n  --install /bin/nc nc /bin/nc.openbsd 50 --slave /a b /c\nfi\n";
        let args = ["/bin/nc", "nc", "/bin/nc.openbsd", "50", "--slave", "/a", "b", "/c"].map(str::to_owned).to_vec();
        assert_eq!(found(text, &["configure", ""]), Ok([Effect::Alternative(args)].into()));
        assert_eq!(found(text, &["triggered", "x"]), Ok(BTreeSet::new()));
        let text = "D=/var/lib/${DPKG_MAINTSCRIPT_PACKAGE}\nmkdir -p $D /etc\n[ -e /usr/lib/ssl ] || ln -sf /etc/ssl /usr/lib/ssl\nldconfig\nfc-cache -s 1>/var/log/x 2>&1 || exit 1\n";
        let expected = [
            Effect::Folder("/var/lib/pkg".to_owned()),
            Effect::Link("/usr/lib/ssl".to_owned(), "/etc/ssl".to_owned()),
            Effect::LinkerCache,
            Effect::PassedOver("fc-cache".to_owned(), FONTS),
        ];
        assert_eq!(found(text, &["configure", ""]), Ok(expected.into()));
    }

    #[test]
    fn an_unknown_command_is_refused_with_its_line() {
        refused("set -e\nadduser --system x\n", 3, "the effect of `adduser --system x` is unknown");
        refused(". /usr/share/debconf/confmodule\n", 2, "the effect of `. /usr/share/debconf/confmodule` is unknown");
        refused("echo x > /etc/x\n", 2, "`echo x` writes `/etc/x`");
        refused("for x in $(ls); do touch $x; done\n", 2, "the values of `$(ls)` are unknown");
        refused("while true; do touch /x; done\n", 2, "it has a loop there");
        refused("A=$(hostname)\nif [ \"$A\" = x ]; then :; fi\n", 3, "the result of `[ \"$A\" = x ]` is unknown");
        refused(
            "glib-compile-schemas /usr/share/there\n",
            2,
            "`glib-compile-schemas /usr/share/there` reads files that the image has",
        );
        refused("rm -f /etc/link\n", 2, "`rm -f /etc/link` removes files");
        refused("if x; then\n", 2, "its syntax is not understood");
        refused("a() { b; }\nb() { a; }\na\n", 3, "its functions call each other");
        let world = World {
            seen: &|_| None,
            is_link: &|_| false,
            has_files: &|_| false,
            is_installed: &|_| false,
            package: "p",
        };
        assert_eq!(
            effects("#!/usr/bin/perl\n", &[], &world).unwrap_err().why,
            "it is not a shell script: `#!/usr/bin/perl`"
        );
    }

    #[test]
    fn versions_are_compared_as_dpkg_does() {
        for (one, operator, other, expected) in [
            ("", "lt", "1", true),
            ("", "lt-nl", "1", false),
            ("", "le-nl", "1", false),
            ("1:1", "gt", "2", true),
            ("1~rc1", "lt", "1", true),
            ("1", "ge", "1", true),
        ] {
            assert_eq!(compare(one, operator, other), Some(expected), "{one} {operator} {other}");
        }
    }
}
