//! Globs as the sources of `COPY` and `ADD` have them: wildcards stay within a folder, and `**` is nothing special.
//!
//! Pure. A path in front of the first wildcard is taken as it is, with its backslashes.

use super::pattern::Pattern;

pub type Glob = Pattern;

/// The folder in front of the first part with a wildcard, and the rest; `None` where there is no wildcard.
pub fn split(text: &str) -> Option<(&str, &str)> {
    let mut start = 0;
    for part in text.split('/') {
        if has_wildcard(part) {
            return Some((text[..start].trim_end_matches('/'), &text[start..]));
        }
        start += part.len() + 1;
    }
    None
}

/// Reads the part behind [`split`].
pub fn parse(pattern: &str) -> Result<Glob, String> {
    Pattern::glob(pattern)
}

pub fn parts(pattern: &str) -> Result<Vec<Glob>, String> {
    pattern.split('/').map(Pattern::glob).collect()
}

fn has_wildcard(part: &str) -> bool {
    let mut chars = part.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}
