//! The commands in a `RUN`, as far as they can be separated without a shell.
//!
//! Pure. A text with control flow is not split: it is one command that nothing here understands.

/// A command between `&&`, `;` or line ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Simple {
    /// As it is written, on one line.
    pub text: String,
    /// Its words without quotes; assignments before the program are left out.
    pub words: Vec<String>,
    /// It is only words: no pipe, redirection, substitution or variable.
    pub plain: bool,
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

const CONTROL: [&str; 14] =
    ["if", "then", "else", "fi", "for", "while", "until", "do", "done", "case", "esac", "{", "}", "cd"];

/// The commands of a shell text; `None` where control flow, a subshell, `||` or `cd` gives their order another meaning.
pub(super) fn commands(text: &str) -> Option<Vec<Simple>> {
    let parts = split(&without_comments(text))?;
    let found: Vec<Simple> = parts.iter().map(|part| simple(part)).filter(|one| !one.text.is_empty()).collect();
    let controls = |one: &Simple| one.words.first().is_some_and(|word| CONTROL.contains(&word.as_str()));
    (!found.iter().any(controls)).then_some(found)
}

/// The text without comments in backquotes, which stand between the words of a long command.
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

fn split(text: &str) -> Option<Vec<String>> {
    let mut parts = vec![String::new()];
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let part = parts.last_mut()?;
        match (c, quote) {
            ('\\', Some('"') | None) => {
                // A continued line.
                if chars.peek() == Some(&'\n') {
                    chars.next();
                    part.push(' ');
                } else {
                    part.push(c);
                    part.extend(chars.next());
                }
            }
            ('"' | '\'', None) => {
                quote = Some(c);
                part.push(c);
            }
            (c, Some(open)) => {
                if c == open {
                    quote = None;
                }
                part.push(c);
            }
            ('&', None) if chars.peek() == Some(&'&') => {
                chars.next();
                parts.push(String::new());
            }
            ('|', None) if chars.peek() == Some(&'|') => {
                // `|| true` and `|| :` only forgive a failure.
                chars.next();
                let rest: String = chars.clone().take_while(|c| !matches!(c, '&' | ';' | '\n' | '|')).collect();
                if !matches!(rest.trim(), "true" | ":") {
                    return None;
                }
                chars.by_ref().nth(rest.chars().count().checked_sub(1)?)?;
            }
            ('(' | ')', None) if !part.ends_with('$') && !part.contains("$(") => return None,
            (';' | '\n', None) => parts.push(String::new()),
            ('#', None) if part.trim().is_empty() => while chars.next_if(|c| *c != '\n').is_some() {},
            (c, None) => part.push(c),
        }
    }
    quote.is_none().then_some(parts)
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
    let is_assignment = |word: &String| {
        word.split_once('=').is_some_and(|(name, _)| {
            name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        })
    };
    let assigned = words.iter().take_while(|word| is_assignment(word)).count();
    let alone = assigned == words.len() && assigned > 0;
    if !alone {
        words.drain(..assigned);
    }
    while words.first().is_some_and(|word| word == "sudo" || word == "env") && words.len() > 1 {
        words.remove(0);
    }
    // A variable that later commands read.
    Simple { text, words, plain: plain && !alone }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn splits(text: &str, expected: &[&[&str]]) {
        let found = commands(text).unwrap_or_else(|| panic!("`{text}` was not split"));
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
    }

    #[test]
    fn control_flow_is_not_split() {
        for text in ["if true; then ls; fi", "cd /x && make", "(ls)", "a || b", "echo 'open", "for a in b; do c; done"]
        {
            assert_eq!(commands(text), None, "{text}");
        }
    }

    #[test]
    fn a_command_with_more_than_words_is_not_plain() {
        let plain = |text: &str| commands(text).unwrap()[0].plain;
        assert!(plain("mkdir '/a b' \"c\""));
        assert!(plain("echo '$HOME'"));
        for text in ["curl x | sh", "echo a > /b", "mkdir $A", "mkdir \"${A}\"", "A=1", "echo `date`", "x $(y)"] {
            assert!(!plain(text), "{text}");
        }
    }
}
