//! `.dockerignore` as BuildKit reads it: which paths of the context it never sees.
//!
//! Pure. Patterns are anchored at the context's root, `**` crosses folders, `!` takes back, and a folder's verdict is carried
//! down to what is in it exactly as BuildKit's walker carries it (its `patternmatcher`), which is not always "the last line
//! that matches wins". Paths are bytes, so that names which are not UTF-8 have a verdict too.
//! Reference: <https://docs.docker.com/build/concepts/context/#dockerignore-files>.

pub mod glob;
mod pattern;
#[cfg(test)]
mod tests;

use crate::fault::Fault;
pub use pattern::NameRule;
use pattern::Pattern;

/// Patterns that one file may have. Each is compared with each path.
const MOST_PATTERNS: usize = 5000;

/// Bytes of one pattern: no path of the system is longer.
const LONGEST_PATTERN: usize = 4096;

#[derive(Clone, Debug, Default)]
pub struct Ignore {
    name: Option<String>,
    rules: Vec<IgnoreRule>,
}

#[derive(Clone, Debug)]
struct IgnoreRule {
    pattern: Pattern,
    /// `!`: takes back what earlier lines took away.
    negated: bool,
}

/// Result of matching one path, with the state that paths below it need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MatchState {
    /// True if a pattern matches, and no later one takes it back.
    pub matched: bool,
    rules: Vec<bool>,
}

impl Ignore {
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads an ignore file; `path` is how messages name it.
    pub fn parse(path: &str, text: &[u8]) -> Result<Self, Fault> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let text = String::from_utf8_lossy(text);
        let mut rules = Vec::new();
        for (index, line) in text.lines().enumerate() {
            // Only a `#` in the first column is a comment.
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            if rules.len() == MOST_PATTERNS {
                return Err(Fault::usage(format!("`{path}` has more than {MOST_PATTERNS} patterns"))
                    .cause(format!("the limit is {MOST_PATTERNS}: each pattern is compared with each file"))
                    .hint("ignore whole folders, or let in only what is copied: `*`, then `!FOLDER`"));
            }
            if line.len() > LONGEST_PATTERN {
                let what = format!("{path}:{}:1: the pattern has {} bytes", index + 1, line.len());
                return Err(Fault::usage(what)
                    .cause(format!("the limit is {LONGEST_PATTERN} bytes"))
                    .hint("shorten it"));
            }
            let line_text = line.trim();
            let (negated, rest) = line_text.strip_prefix('!').map_or((false, line_text), |rest| (true, rest.trim()));
            let cleaned = rooted(rest);
            let rule = rule(&format!("{}{cleaned}", if negated { "!" } else { "" }));
            rules.push(rule.map_err(|why| {
                Fault::usage(format!("{path}:{}:1: {why}\n  | {line}", index + 1))
                    .hint("escape a literal character with `\\`")
            })?);
        }
        Ok(Self { name: Some(path.to_owned()), rules })
    }

    /// The file that the patterns come from, where they come from one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Patterns from another place (`--exclude`, `--parents`); the error is one lowercase phrase.
    pub fn from_patterns<'p>(patterns: impl IntoIterator<Item = &'p str>) -> Result<Self, String> {
        let rules = patterns.into_iter().filter(|p| !p.trim().is_empty()).map(rule).collect::<Result<_, _>>()?;
        Ok(Self { name: None, rules })
    }

    /// The verdict on `path`, given that on the folder it is in (`None` at the root).
    pub fn evaluate(&self, path: &[u8], folder: Option<&MatchState>) -> MatchState {
        let mut verdict = MatchState { matched: false, rules: vec![false; self.rules.len()] };
        for (index, rule) in self.rules.iter().enumerate() {
            let mut hit = folder.is_some_and(|folder| folder.rules[index]);
            if !hit {
                // BuildKit does not ask a line that could change nothing here, and so does not learn that it matches:
                // what is below then asks again, with its own path only.
                if rule.negated != verdict.matched {
                    continue;
                }
                hit = rule.pattern.matches(path);
            }
            verdict.rules[index] = hit;
            if hit {
                verdict.matched = !rule.negated;
            }
        }
        verdict
    }

    /// The verdict on a path, folder by folder from the root.
    pub fn verdict(&self, path: &[u8]) -> MatchState {
        let mut folder: Option<MatchState> = None;
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            folder = Some(self.evaluate(&path[..end], folder.as_ref()));
        }
        folder.unwrap_or_default()
    }

    /// True if BuildKit leaves this path out (as a folder it may still come along for something below it).
    pub fn ignores(&self, path: &[u8]) -> bool {
        self.verdict(path).matched
    }

    /// True if something below an ignored folder could be taken back, so that it must be looked into.
    pub fn may_reinclude_below(&self, folder: &[u8]) -> bool {
        self.rules.iter().any(|rule| rule.negated && rule.pattern.may_match_below(folder))
    }

    /// Rules for the names that this file ignores below `folder`. `None` where that cannot be said, or where the folder itself is ignored.
    /// May name too much, never too little.
    pub fn names_below(&self, folder: &[u8]) -> Option<Vec<NameRule>> {
        let verdict = self.verdict(folder);
        if verdict.matched {
            return None;
        }
        // A line that matches the folder matches all that is below it. The last such line takes the folder back here, as
        // `!folder` does after `*`, so only lines after it can take something away.
        let decided = verdict.rules.iter().rposition(|hit| *hit).map_or(0, |last| last + 1);
        let rules = self.rules[decided..].iter();
        let rules = rules.filter(|rule| !rule.negated && rule.pattern.may_match_below(folder));
        rules.map(|rule| rule.pattern.name_rule()).collect()
    }

    /// True if something below a folder could match (for patterns that select).
    pub fn may_match_below(&self, folder: &[u8]) -> bool {
        self.rules.iter().any(|rule| !rule.negated && rule.pattern.may_match_below(folder))
    }
}

/// One pattern with its `!`.
fn rule(text: &str) -> Result<IgnoreRule, String> {
    let cleaned = clean(text.trim());
    match cleaned.strip_prefix('!') {
        Some("") => Err("`!` needs a pattern".to_owned()),
        Some(rest) => Ok(IgnoreRule { pattern: Pattern::new(rest)?, negated: true }),
        None => Ok(IgnoreRule { pattern: Pattern::new(&cleaned)?, negated: false }),
    }
}

/// A line's pattern, clean and without the slash that anchors it anyway.
fn rooted(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let cleaned = clean(text);
    match cleaned.strip_prefix('/') {
        Some(rest) if !rest.is_empty() => rest.to_owned(),
        _ => cleaned,
    }
}

/// The shortest path that means the same: no `.`, no `x/..`, no double or trailing slash; `.` where nothing is left.
fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}
