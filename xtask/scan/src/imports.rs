//! Names that a Python source may import, found without parsing it.
//!
//! Pure. Finds more than is imported: lines of a docstring count, since they look like code. Finds less only where a name is computed.

use std::collections::BTreeSet;

/// A source that looks up entry points, by `importlib.metadata` or `pkg_resources`, has this in its set. Not an identifier, so no module has this name.
pub const ENTRY_POINTS: &str = "entry points";

/// Adds the first parts of the absolute names that a source may import: `scipy` of `import scipy.stats`, `from scipy import stats` and
/// `import_module("scipy.stats")`.
pub fn add(source: &[u8], found: &mut BTreeSet<String>) {
    for line in source.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii_start();
        // Examples in a docstring.
        if line.starts_with(b"#") || line.starts_with(b">>>") || line.starts_with(b"... ") {
            continue;
        }
        let mut from = None;
        let mut at = 0;
        while let Some(next) = find(&line[at..], b"import") {
            let (begin, end) = (at + next, at + next + b"import".len());
            at = end;
            let whole = !line[..begin].last().is_some_and(|byte| is_word(*byte))
                && !line.get(end).is_some_and(|byte| is_word(*byte));
            if !whole {
                add_argument(&line[end..], found);
                continue;
            }
            match from.get_or_insert_with(|| module_before(&line[..begin])) {
                Some(module) => put(module, found),
                None => {
                    line[end..].split(|byte| *byte == b',').for_each(|name| put(word(name.trim_ascii_start()), found))
                }
            }
        }
        for called in [&b"find_spec"[..], b"entry_points"] {
            if let Some(at) = find(line, called) {
                match called {
                    b"find_spec" => add_argument(&line[at + called.len()..], found),
                    _ => drop(found.insert(ENTRY_POINTS.to_owned())),
                }
            }
        }
    }
}

/// The module of `from MODULE` at the end of a text.
fn module_before(text: &[u8]) -> Option<&[u8]> {
    let text = text.trim_ascii_end();
    let begin = text.iter().rposition(|byte| byte.is_ascii_whitespace())?;
    let (before, module) = (text[..begin].trim_ascii_end(), &text[begin + 1..]);
    let whole = before.strip_suffix(b"from").filter(|rest| !rest.last().is_some_and(|byte| is_word(*byte)));
    whole.map(|_| word(module))
}

/// The first argument of a call whose name is about imports, if it is text: what comes after `import` in `import_module("scipy")`.
fn add_argument(text: &[u8], found: &mut BTreeSet<String>) {
    let Some(open) = text.iter().position(|byte| !is_word(*byte)) else { return };
    let Some(argument) = text[open..].strip_prefix(b"(").map(<[u8]>::trim_ascii_start) else { return };
    let argument = argument.strip_prefix(b"name=").unwrap_or(argument);
    if let Some(name) = argument.strip_prefix(b"\"").or_else(|| argument.strip_prefix(b"'")) {
        put(word(name), found);
    }
}

fn put(name: &[u8], found: &mut BTreeSet<String>) {
    if let Ok(name) = std::str::from_utf8(name)
        && !name.is_empty()
        && !found.contains(name)
    {
        found.insert(name.to_owned());
    }
}

/// The identifier at the start of a text; empty for a relative name.
fn word(text: &[u8]) -> &[u8] {
    &text[..text.iter().position(|byte| !is_word(*byte)).unwrap_or(text.len())]
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    let (first, rest) = what.split_first()?;
    let mut at = 0;
    while let Some(next) = text.get(at..)?.iter().position(|byte| byte == first) {
        at += next + 1;
        if text[at..].starts_with(rest) {
            return Some(at - 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: &[&str]) {
        let mut found = BTreeSet::new();
        add(source.as_bytes(), &mut found);
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn every_form_of_an_import_is_found() {
        check("import a.b as c, d\nimport e; import f\n", &["a", "d", "e", "f"]);
        check("from a.b import c, d\n  from e import (\n    g,\n", &["a", "e"]);
        check("try: import a\nexcept ImportError: a = None\n", &["a"]);
        check("    if x: from a import b\n", &["a"]);
        check("from . import a\nfrom .b import c\n", &[]);
        check("m = importlib.import_module('a.b'); __import__(\"c\")\npytest.importorskip( \"d\")\n", &["a", "c", "d"]);
        check("n = import_optional_dependency(name=\"e\")\nif find_spec('f'):\n", &["e", "f"]);
        check("import_module(name)\nimport_module('.x', y)\nimportant = 1\n", &[]);
        check("for e in entry_points(group='x'):\n", &[ENTRY_POINTS]);
    }

    #[test]
    fn comments_and_examples_are_left_out() {
        check("# import a\n    >>> import b\n    ... import c\n", &[]);
        check("\"\"\"\n    import d\n", &["d"]);
        check("", &[]);
        check("import", &[]);
        check("from a import", &["a"]);
    }
}
