//! Paths in Rust's sources.
//!
//! Pure. Reads text, not types.

/// The text without comments and test modules; lines keep their numbers.
pub fn without_tests(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            match lines.next() {
                Some(item) if item.ends_with('{') => break,
                _ => code.push('\n'),
            }
        } else if !line.trim_start().starts_with("//") {
            code.push_str(line);
        }
        code.push('\n');
    }
    code
}

/// Paths that begin with one of these roots, such as `std::`, with their lines, sorted. Groups of `use` are spread out.
pub fn paths(code: &str, roots: &[&str]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let (mut line, mut counted) = (1, 0);
    let mut begins: Vec<usize> = roots.iter().flat_map(|root| code.match_indices(root).map(|(at, _)| at)).collect();
    begins.sort_unstable();
    for at in begins {
        let before = code[..at].chars().next_back();
        // The path of a visibility only says who may use the item.
        let visibility = code[..at].ends_with("pub(in ");
        if visibility || before.is_some_and(|c| c.is_alphanumeric() || "_:\"`".contains(c)) {
            continue;
        }
        line += code[counted..at].matches('\n').count();
        counted = at;
        spread(&mut code[at..].chars().peekable(), "", &mut |path| found.push((line, path)));
    }
    found.sort();
    found
}

/// Paths of `use` items that begin with a name of the module itself: `use child::{A, B};`.
pub fn own_uses(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut at = 0;
    for line in code.split_inclusive('\n') {
        let item = line.trim_start();
        let public = item.strip_prefix("pub(").and_then(|rest| rest.split_once(") ")).map(|(_, rest)| rest);
        let item = public.or_else(|| item.strip_prefix("pub ")).unwrap_or(item);
        if let Some(path) = item.strip_prefix("use ") {
            let begin = at + line.len() - path.len();
            spread(&mut code[begin..].chars().peekable(), "", &mut |path| found.push(path));
        }
        at += line.len();
    }
    found
}

/// Reads one path, or a group of paths, behind `prefix`.
fn spread(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, prefix: &str, each: &mut dyn FnMut(String)) {
    let mut path = prefix.to_owned();
    while let Some(&next) = rest.peek() {
        match next {
            '{' => {
                rest.next();
                loop {
                    while rest.peek().is_some_and(|c| c.is_whitespace() || *c == ',') {
                        rest.next();
                    }
                    match rest.peek() {
                        Some('}') | None => break,
                        Some(_) => spread(rest, &path, each),
                    }
                }
                rest.next();
                return;
            }
            c if c.is_alphanumeric() || c == '_' || c == ':' || c == '*' => {
                path.push(c);
                rest.next();
            }
            _ => break,
        }
    }
    // ` as name` does not change the path. Other text is passed over, so that this ends.
    while rest.peek().is_some_and(|c| !matches!(c, ',' | '}' | ';' | '\n')) && !prefix.is_empty() {
        rest.next();
    }
    each(path.trim_end_matches(':').trim_end_matches("::self").to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_spread_out_and_lines_are_counted() {
        let code =
            without_tests("// std::a\nuse std::{\n    fmt,\n    io::{self, Read as _},\n};\nfn a() { std::b::c(1) }\n");
        let found: Vec<(usize, String)> = paths(&code, &["std::"]);
        let expected = [(2, "std::fmt"), (2, "std::io"), (2, "std::io::Read"), (6, "std::b::c")];
        assert_eq!(found, expected.map(|(line, path)| (line, path.to_owned())));
    }

    #[test]
    fn uses_of_own_modules_are_found() {
        let code = "pub use child::{A, deep::B};\nuse std::fmt;\npub(crate) use other::C;\nlet use_it = 1;\n";
        assert_eq!(own_uses(code), ["child::A", "child::deep::B", "std::fmt", "other::C"]);
    }

    #[test]
    fn tests_and_comments_are_left_out() {
        assert_eq!(
            without_tests("a\n// b\n#[cfg(test)]\nmod tests;\nc\n#[cfg(test)]\nmod tests {\nd\n}\n"),
            "a\n\n\n\nc\n"
        );
    }
}
