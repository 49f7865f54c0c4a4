//! The commands that a `RUN` runs, as far as that is known without a shell.
//!
//! Pure. Variables with a known value are replaced; `if`, `case`, `for` and tests of them are followed. Where it is unknown which
//! commands run, a text has none: it is one command that nothing here understands.

mod parse;

use parse::{Chain, Join, Part};
use std::collections::{BTreeMap, BTreeSet};

/// A command between `&&`, `;` or line ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Simple {
    /// As it is written, on one line, with the values of variables.
    pub text: String,
    /// Its words without quotes; assignments before the program are left out.
    pub words: Vec<String>,
    /// It is only words: no pipe, redirection, substitution or variable.
    pub plain: bool,
    /// The build continues if it fails.
    pub forgiven: bool,
}

impl Simple {
    /// The program's name without its folder.
    pub(super) fn program(&self) -> &str {
        let word = self.words.first().map_or("", String::as_str);
        word.rsplit('/').next().unwrap_or(word)
    }

    /// Words after the program.
    pub(super) fn args(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

/// The commands of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Commands {
    pub all: Vec<Simple>,
    /// Variables whose values decide which commands run.
    pub decided: BTreeSet<String>,
}

/// Values of a loop beyond which it is not followed.
const MOST: usize = 100;

/// The commands that run where the variables have these values; `None` where that is unknown.
pub(super) fn commands(text: &str, variables: &BTreeMap<String, String>) -> Option<Commands> {
    let chain = parse::parse(&without_comments(text))?;
    let mut shell = Shell { given: variables, known: variables.clone(), found: Commands::default() };
    shell.chain(&chain)?;
    Some(shell.found)
}

/// True if a text names a variable.
pub(super) fn mentions(text: &str, name: &str) -> bool {
    text.match_indices('$').any(|(at, _)| {
        let rest = text[at + 1..].trim_start_matches('{');
        rest.strip_prefix(name).is_some_and(|after| !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
    })
}

/// The text without comments in backquotes, which are between the words of a long command.
fn without_comments(text: &str) -> String {
    let mut done = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("`#") {
        let Some(end) = rest[at + 2..].find('`').filter(|end| !rest[at + 2..at + 2 + end].contains('\n')) else {
            break;
        };
        done += &rest[..at];
        rest = &rest[at + 2 + end + 1..];
    }
    done + rest
}

/// The end of a command, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    True,
    False,
    /// A program ran, and may have failed.
    Ran,
}

struct Shell<'a> {
    /// Variables that the text begins with.
    given: &'a BTreeMap<String, String>,
    known: BTreeMap<String, String>,
    found: Commands,
}

impl Shell<'_> {
    fn chain(&mut self, chain: &Chain) -> Option<Outcome> {
        let mut last = Outcome::True;
        for (at, (join, part)) in chain.iter().enumerate() {
            let runs = match (join, last) {
                (Join::And, Outcome::False) | (Join::Or, Outcome::True) => false,
                (Join::Or, Outcome::Ran) => {
                    self.forgive(part)?;
                    false
                }
                _ => true,
            };
            if runs {
                last = match makes_a_folder(part, chain.get(at + 1)) {
                    Some(outcome) => outcome,
                    None => self.part(part)?,
                };
            }
        }
        Some(last)
    }

    /// Accepts the part after `||`: it may only report that the program failed, or end the build.
    fn forgive(&mut self, part: &Part) -> Option<()> {
        let parts: Vec<&Part> = match part {
            Part::Group(chain) => chain.iter().map(|(_, part)| part).collect(),
            part => vec![part],
        };
        let mut ends = false;
        for part in parts {
            let Part::Command(text) = part else { return None };
            match simple(text).program() {
                "true" | ":" | "echo" | "printf" => {}
                "exit" => ends = true,
                _ => return None,
            }
        }
        if let Some(last) = self.found.all.last_mut().filter(|_| !ends) {
            last.forgiven = true;
        }
        Some(())
    }

    fn part(&mut self, part: &Part) -> Option<Outcome> {
        match part {
            Part::Command(text) => self.command(text),
            Part::Group(chain) => self.chain(chain),
            Part::If(cases, otherwise) => {
                for (condition, then) in cases {
                    if self.decides(condition)? {
                        return self.chain(then);
                    }
                }
                self.chain(otherwise)
            }
            Part::Case(word, cases) => {
                self.decide(word);
                let word = self.words(word)?.join(" ");
                for (patterns, then) in cases {
                    let mut patterns = patterns.iter().map(|pattern| self.words(pattern).map(|words| words.join(" ")));
                    if patterns.try_fold(false, |any, pattern| Some(any | matches(&word, &pattern?)?))? {
                        return self.chain(then);
                    }
                }
                Some(Outcome::True)
            }
            Part::For(name, values, body) => {
                self.decide(values);
                let values = self.words(values)?;
                if values.len() > MOST || values.iter().any(|value| value.contains(['*', '?', '['])) {
                    return None;
                }
                let mut last = Outcome::True;
                for value in values {
                    self.known.insert(name.clone(), value);
                    last = self.chain(body)?;
                }
                Some(last)
            }
        }
    }

    /// Notes the variables that a text names.
    fn decide(&mut self, text: &str) {
        let names: Vec<String> = self.given.keys().filter(|name| mentions(text, name)).cloned().collect();
        self.found.decided.extend(names);
    }

    fn decides(&mut self, condition: &Chain) -> Option<bool> {
        for (_, part) in condition {
            if let Part::Command(text) = part {
                self.decide(text);
            }
        }
        let before = self.found.all.len();
        let outcome = self.chain(condition)?;
        match outcome {
            Outcome::Ran => None,
            _ if self.found.all.len() != before => None,
            outcome => Some(outcome == Outcome::True),
        }
    }

    fn command(&mut self, written: &str) -> Option<Outcome> {
        let text = self.expanded(written);
        let one = simple(&text);
        if one.text.is_empty() {
            return Some(Outcome::True);
        }
        match one.program() {
            "[" | "test" | "[[" if one.plain => {
                if let Some(known) = tested(&one.words) {
                    self.decide(written);
                    return Some(if known { Outcome::True } else { Outcome::False });
                }
            }
            "true" | ":" => return Some(Outcome::True),
            "false" => return Some(Outcome::False),
            "exit" | "return" | "break" | "continue" => return None,
            "cd" if !one.plain || one.args().len() != 1 || one.args()[0] == "-" => return None,
            _ => {}
        }
        let (assigned, exports) = match one.words.split_first() {
            Some((word, rest)) if word == "export" || word == "readonly" => (rest, true),
            _ => (one.words.as_slice(), false),
        };
        let all = !assigned.is_empty() && assigned.iter().all(|word| is_assignment(word));
        if all {
            for (name, value) in assigned.iter().filter_map(|word| word.split_once('=')) {
                if value.contains(['$', '`']) {
                    self.known.remove(name);
                } else {
                    self.known.insert(name.to_owned(), value.to_owned());
                }
            }
            if !exports && assigned.iter().all(|word| !word.contains(['$', '`'])) {
                return Some(Outcome::True);
            }
        }
        self.found.all.push(one);
        Some(Outcome::Ran)
    }

    /// The words of a text; `None` with a variable or substitution whose value is unknown.
    fn words(&self, text: &str) -> Option<Vec<String>> {
        let one = simple(&self.expanded(text));
        (!one.words.iter().any(|word| word.contains(['$', '`']))).then_some(one.words)
    }

    /// A text with the values of known variables and substitutions, outside single quotes.
    fn expanded(&self, text: &str) -> String {
        let mut done = String::new();
        let mut rest = text;
        let mut double = false;
        while let Some(c) = rest.chars().next() {
            let taken = match c {
                '\\' => rest.chars().take(2).map(char::len_utf8).sum(),
                '\'' if !double => rest[1..].find('\'').map_or(rest.len(), |end| end + 2),
                '"' => {
                    double = !double;
                    1
                }
                '$' => {
                    if let Some((value, length)) = self.value(rest) {
                        done += &value;
                        rest = &rest[length..];
                        continue;
                    }
                    1
                }
                c => c.len_utf8(),
            };
            done += &rest[..taken];
            rest = &rest[taken..];
        }
        done
    }

    /// The value of the variable or substitution that a text begins with, and how much of the text names it.
    fn value(&self, text: &str) -> Option<(String, usize)> {
        // The shell has the last word on `PATH`, and quotes in a value would be taken for those of the text.
        let known = |name: &str| {
            let plain = |value: &&String| name != "PATH" && !value.contains(['$', '`', '\'', '"', '\\']);
            self.known.get(name).filter(plain).cloned()
        };
        if let Some(inner) = text.strip_prefix("$(") {
            let end = inner.find(')')?;
            return Some((self.substituted(&inner[..end])?, end + 3));
        }
        if let Some(inner) = text.strip_prefix("${") {
            let end = inner.find('}')?;
            let value = match inner[..end].split_once(":-") {
                Some((name, default)) => {
                    known(name).map(|value| if value.is_empty() { default.to_owned() } else { value })
                }
                None => known(&inner[..end]),
            };
            return Some((value?, end + 3));
        }
        let name = &text[1..];
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
        Some((known(&name[..end])?, end + 1))
    }

    /// Output of `echo WORDS` and `echo WORDS | tr A B`.
    fn substituted(&self, text: &str) -> Option<String> {
        let (echo, filter) = text.split_once('|').map_or((text, None), |(echo, filter)| (echo, Some(filter)));
        let words = self.words(echo)?;
        let (program, words) = words.split_first()?;
        if program != "echo" || words.first().is_some_and(|word| word.starts_with('-')) {
            return None;
        }
        let said = words.join(" ");
        let Some(filter) = filter else { return Some(said) };
        match self.words(filter)?.as_slice() {
            [tr, from, to] if tr == "tr" && from.chars().count() == 1 && to.chars().count() == 1 => {
                Some(said.replace(from.as_str(), to))
            }
            _ => None,
        }
    }
}

/// A test for a folder that only its `mkdir` follows: the folder exists afterwards.
fn makes_a_folder(part: &Part, next: Option<&(Join, Part)>) -> Option<Outcome> {
    let (Part::Command(test), Some((join, Part::Command(then)))) = (part, next) else { return None };
    let (test, then) = (simple(test), simple(then));
    let negated = test.words.get(1).is_some_and(|word| word == "!");
    let path = match test.words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["[", "!", "-d" | "-e", path, "]"] | ["[", "-d" | "-e", path, "]"] => (*path).to_owned(),
        _ => return None,
    };
    let makes = then.program() == "mkdir" && then.plain && then.words.last() == Some(&path);
    match (makes, negated, join) {
        (true, true, Join::And) => Some(Outcome::True),
        (true, false, Join::Or) => Some(Outcome::False),
        _ => None,
    }
}

/// The result of a test of texts; `None` for one of files.
fn tested(words: &[String]) -> Option<bool> {
    let mut words: Vec<&str> = words[1..].iter().map(String::as_str).collect();
    if words.last().is_some_and(|word| ["]", "]]"].contains(word)) {
        words.pop();
    }
    let negated = words.first() == Some(&"!") && words.len() > 1;
    let found = match &words[usize::from(negated)..] {
        [] => false,
        [text] => !text.is_empty(),
        ["-n", text] => !text.is_empty(),
        ["-z", text] => text.is_empty(),
        [one, "=" | "==", other] => one == other,
        [one, "!=", other] => one != other,
        [one, comparison @ ("-eq" | "-ne"), other] => {
            let equal = one.parse::<i64>().ok()? == other.parse::<i64>().ok()?;
            equal == (*comparison == "-eq")
        }
        _ => return None,
    };
    Some(found != negated)
}

/// True if a pattern of `case` is that of the word; `None` for one with a set of characters.
fn matches(word: &str, pattern: &str) -> Option<bool> {
    if pattern.contains('[') {
        return None;
    }
    let Some((begin, rest)) = pattern.split_once('*') else {
        let same = |(one, other): (char, char)| other == '?' || one == other;
        return Some(word.chars().count() == pattern.chars().count() && word.chars().zip(pattern.chars()).all(same));
    };
    if begin.contains('?') || rest.contains('?') {
        return None;
    }
    let Some(mut text) = word.strip_prefix(begin) else { return Some(false) };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else { return Some(false) };
        text = &text[at + part.len()..];
    }
    Some(text.ends_with(end))
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

fn simple(part: &str) -> Simple {
    let text = part.split_whitespace().collect::<Vec<_>>().join(" ");
    let (mut words, mut word, mut quote, mut plain) = (Vec::new(), String::new(), None, true);
    let mut quoted = false;
    let mut chars = part.trim().chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', Some('"') | None) => word.extend(chars.next()),
            ('"' | '\'', None) => {
                quote = Some(c);
                quoted = true;
            }
            (c, Some(open)) if c == open => quote = None,
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() || quoted {
                    words.push(std::mem::take(&mut word));
                }
                quoted = false;
            }
            (c, open) => {
                let special = "|<>&".contains(c) && open.is_none() || "$`".contains(c) && open != Some('\'');
                plain &= !special;
                word.push(c);
            }
        }
    }
    if !word.is_empty() || quoted {
        words.push(word);
    }
    let assigned = words.iter().take_while(|word| is_assignment(word)).count();
    let alone = assigned == words.len() && assigned > 0;
    if !alone {
        words.drain(..assigned);
    }
    while words.first().is_some_and(|word| word == "sudo" || word == "env") && words.len() > 1 {
        words.remove(0);
    }
    // A variable that later commands read.
    Simple { text, words, plain: plain && !alone, forgiven: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Vec<Simple>> {
        commands(text, &BTreeMap::new()).map(|found| found.all)
    }

    #[track_caller]
    fn splits(text: &str, expected: &[&[&str]]) {
        let found = of(text).unwrap_or_else(|| panic!("`{text}` was not split"));
        let words: Vec<Vec<&str>> = found.iter().map(|one| one.words.iter().map(String::as_str).collect()).collect();
        assert_eq!(words, expected, "{text}");
    }

    #[test]
    fn commands_are_split_where_the_shell_would() {
        splits(
            "apt-get update && apt-get install -y curl",
            &[&["apt-get", "update"], &["apt-get", "install", "-y", "curl"]],
        );
        splits("set -eux; \\\n  mkdir -p /data ;", &[&["set", "-eux"], &["mkdir", "-p", "/data"]]);
        splits("# a comment\npip install 'flask>=3' \"x;y\"\n", &[&["pip", "install", "flask>=3", "x;y"]]);
        splits("DEBIAN_FRONTEND=noninteractive sudo apt-get update", &[&["apt-get", "update"]]);
        splits("rm -rf /x || true\nls", &[&["rm", "-rf", "/x"], &["ls"]]);
        splits("apt-get install -y a `# why` \\\n  b `#x`", &[&["apt-get", "install", "-y", "a", "b"]]);
        splits("rm a || :", &[&["rm", "a"]]);
        splits("cd /x && make 2>&1", &[&["cd", "/x"], &["make", "2>&1"]]);
        splits("{ a; b; } && curl x | sh", &[&["a"], &["b"], &["curl", "x", "|", "sh"]]);
        splits("[ ! -d /data ] && mkdir /data; [ -d /a ] || mkdir /a", &[&["mkdir", "/data"], &["mkdir", "/a"]]);
    }

    #[test]
    fn commands_that_run_only_sometimes_are_not_split() {
        for text in [
            "if [ -f x ]; then ls; fi",
            "if make; then ls; fi",
            "(ls)",
            "a || b",
            "echo 'open",
            "for a in *; do c; done",
            "for a in $LIST; do c; done",
            "while true; do ls; done",
            "case $X in a) b;; esac",
            "cd && make",
            "exit 1",
            "if true; then ls",
            "a &&",
            "f() { ls; }",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn known_values_decide_which_commands_run() {
        let variables = [("MODE", "web"), ("GROUPS", "main,all"), ("EMPTY", ""), ("ODD", "a$b")];
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let given = |text: &str| {
            let found = commands(text, &variables).unwrap_or_else(|| panic!("`{text}` was not followed"));
            let texts: Vec<String> = found.all.into_iter().map(|one| one.text).collect();
            (texts.join("; "), found.decided.into_iter().collect::<Vec<_>>().join(" "))
        };
        for (text, expected, decided) in [
            ("if [ \"$MODE\" = web ]; then a; else b; fi; c", "a; c", "MODE"),
            ("if [ \"$MODE\" != web ]\nthen a\nelif [ -z \"$EMPTY\" ]\nthen b\nfi", "b", "EMPTY MODE"),
            ("[ -n \"${EMPTY}\" ] && a; b", "b", "EMPTY"),
            ("test \"x$MODE\" == x || a", "a", "MODE"),
            ("case \"$MODE\" in db|cache) a;; w*) b $MODE ;; *) c;; esac", "b web", "MODE"),
            ("case $MODE in\n  x)\n    a\n    ;;\nesac\nd", "d", "MODE"),
            ("for one in x y; do a $one; done", "a x; a y", ""),
            (
                "f=\"\"; for g in $(echo \"$GROUPS\" | tr ',' ' '); do if [ \"$g\" != main ]; then f=\"$f --group $g\"; fi; done; uv sync $f",
                "uv sync --group all",
                "GROUPS",
            ),
            ("P=\" a b \" && apt-get install $P", "apt-get install a b", ""),
            ("export A=1 && b ${A} '$MODE' \\$MODE", "export A=1; b 1 '$MODE' \\$MODE", ""),
            ("a ${MODE:-x} ${EMPTY:-y} ${NONE:-z} $ODD", "a web y ${NONE:-z} $ODD", ""),
            ("V=$(date); a $V", "V=$(date); a $V", ""),
        ] {
            assert_eq!(given(text), (expected.to_owned(), decided.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_failure_that_is_only_reported_is_forgiven() {
        let forgiven = |text: &str| of(text).unwrap()[0].forgiven;
        assert!(forgiven("pip install a || echo 'it failed'"));
        assert!(forgiven("pip install a || true"));
        assert!(!forgiven("pip install a || exit 1"));
        assert!(!forgiven("pip install a || { echo failed; exit 1; }"));
    }

    #[test]
    fn a_command_with_more_than_words_is_not_plain() {
        let plain = |text: &str| of(text).unwrap()[0].plain;
        assert!(plain("mkdir '/a b' \"c\""));
        assert!(plain("echo '$HOME'"));
        for text in ["curl x | sh", "echo a > /b", "mkdir $A", "mkdir \"${A}\"", "A=$B", "echo `date`", "x $(y)", "a &"]
        {
            assert!(!plain(text), "{text}");
        }
    }
}
