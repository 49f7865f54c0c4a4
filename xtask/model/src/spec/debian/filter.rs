//! `path-exclude` and `path-include` of dpkg's configuration: which files of a package are installed.
//!
//! Pure. Slim images leave out documentation this way; dpkg(1) and fnmatch(3) say what a pattern matches.

/// The rules of a root, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(Vec<(bool, String)>);

impl Filters {
    /// Adds the rules of one file of `/etc/dpkg`.
    pub fn read(&mut self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            let (key, value) = line.split_once(['=', ' ', '\t']).unwrap_or((line, ""));
            let include = match key.trim_start_matches('-').trim() {
                "path-include" => true,
                "path-exclude" => false,
                _ => continue,
            };
            let pattern = value.trim_start_matches(['=', ' ', '\t']).trim_matches(['"', '\'']);
            self.0.push((include, pattern.to_owned()));
        }
    }

    /// True if an entry at `path`, `/usr/share/doc/x`, is not installed. A folder or link that a rule includes something
    /// below is.
    pub fn leaves_out(&self, path: &str, is_file: bool) -> bool {
        let last = self.0.iter().rfind(|(_, pattern)| matches(pattern.as_bytes(), path.as_bytes()));
        let leaves_out = last.is_some_and(|(include, _)| !include);
        let above = |pattern: &str| {
            let fixed = pattern.split(['*', '?', '[', '\\']).next().unwrap_or_default();
            path.starts_with(fixed.trim_end_matches('/'))
                || fixed.trim_end_matches('/').starts_with(&format!("{path}/"))
        };
        leaves_out && (is_file || !self.0.iter().any(|(include, pattern)| *include && above(pattern)))
    }
}

/// fnmatch(3) without flags: `*` matches `/` too.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|at| matches(rest, &text[at..])),
        Some((b'?', rest)) => !text.is_empty() && matches(rest, &text[1..]),
        Some((b'[', rest)) => match (set(rest), text.split_first()) {
            (Some((items, negated, after)), Some((first, others))) => {
                let is_in = items.iter().any(|(low, high)| (low..=high).contains(&first));
                is_in != negated && matches(after, others)
            }
            (Some(_), None) => false,
            (None, _) => text.first() == Some(&b'[') && matches(rest, &text[1..]),
        },
        Some((b'\\', rest)) if !rest.is_empty() => text.first() == rest.first() && matches(&rest[1..], &text[1..]),
        Some((first, rest)) => text.first() == Some(first) && matches(rest, &text[1..]),
    }
}

/// Ranges of a bracket expression, whether it is negated, and the pattern after it.
type Set<'p> = (Vec<(u8, u8)>, bool, &'p [u8]);

fn set(pattern: &[u8]) -> Option<Set<'_>> {
    let negated = matches!(pattern.first(), Some(b'!' | b'^'));
    let body = &pattern[usize::from(negated)..];
    // A bracket that comes first is a member.
    let end = 1 + body.get(1..)?.iter().position(|byte| *byte == b']')?;
    let (items, mut at) = (&body[..end], 0);
    let mut ranges = Vec::new();
    while at < items.len() {
        let is_range = items.get(at + 1) == Some(&b'-') && at + 2 < items.len();
        ranges.push((items[at], if is_range { items[at + 2] } else { items[at] }));
        at += if is_range { 3 } else { 1 };
    }
    Some((ranges, negated, &body[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_that_matches_decides() {
        let mut filters = Filters::default();
        filters.read(
            "# slim\npath-exclude /usr/share/doc/*\npath-include=/usr/share/doc/*/copyright\nforce-unsafe-io\npath-exclude=/usr/share/locale/[!e]*\n",
        );
        for (path, file, expected) in [
            ("/usr/share/doc/x/changelog.gz", true, true),
            ("/usr/share/doc/x/copyright", true, false),
            ("/usr/share/doc/x", false, false),
            ("/usr/share/doc/link", false, false),
            ("/usr/share/locale/de", false, true),
            ("/usr/share/locale/en", false, false),
            ("/usr/bin/x", true, false),
        ] {
            assert_eq!(filters.leaves_out(path, file), expected, "{path}");
        }
    }

    #[test]
    fn patterns_are_those_of_fnmatch() {
        for (pattern, text, expected) in [
            ("/a/*.so", "/a/b/c.so", true),
            ("/a?c", "/abc", true),
            ("[a-c]x", "bx", true),
            ("[]x]", "]", true),
            ("[!a]", "a", false),
            ("\\*", "*", true),
            ("[a", "[a", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}
