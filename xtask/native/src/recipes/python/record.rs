//! `RECORD` files of distributions.
//!
//! Pure. `RECORD` is the list of PEP 376: path from site-packages, `sha256=…`, size.

use sha2::{Digest as _, Sha256};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    /// From site-packages, with `/`; may start with `../`.
    pub(super) path: String,
    /// `sha256=` and URL-safe base64 without padding; empty for `RECORD` itself.
    pub(super) hash: String,
    /// Bytes, in digits.
    pub(super) size: String,
}

/// Parses a `RECORD`. A row ends as a line of any system does. Paths have the spelling of the text.
///
/// # Errors
/// The reason, in a few words.
pub(super) fn parse(text: &str) -> Result<Vec<Row>, String> {
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut rows = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(['\r', '\n']) {
            rest = after;
            continue;
        }
        let mut fields = Vec::new();
        loop {
            let (field, after) = field(rest)?;
            fields.push(field);
            match after.strip_prefix(',') {
                Some(after) => rest = after,
                None => {
                    rest = after;
                    break;
                }
            }
        }
        let wrong =
            |fields: Vec<String>| format!("the row `{}` does not have three fields", fields.join(",").escape_debug());
        let [path, hash, size] = <[String; 3]>::try_from(fields).map_err(wrong)?;
        let size =
            number(&size).ok_or_else(|| format!("`{}` has the size `{}`", path.escape_debug(), size.escape_debug()))?;
        // Some wheels have them from the folder of all packages.
        let path = path.trim_start_matches('/').to_owned();
        if !path.is_empty() {
            rows.push(Row { path, hash, size });
        }
    }
    Ok(rows)
}

/// A number as it is printed; empty if there is none.
fn number(text: &str) -> Option<String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    if text.is_empty() {
        Some(String::new())
    } else {
        text.parse().ok().filter(|_| is_number).map(|number: u64| number.to_string())
    }
}

/// A row's path without what does not count: `./a//b` is `a/b`. `None` for one that leads out.
pub(super) fn canonical(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn field(text: &str) -> Result<(String, &str), String> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find([',', '\n', '\r']).unwrap_or(text.len());
        return Ok((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    loop {
        let end = rest.find('"').ok_or("a quote is not closed")?;
        value.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                value.push('"');
                rest = after;
            }
            None if rest.is_empty() || rest.starts_with([',', '\n', '\r']) => return Ok((value, rest)),
            None => return Err(format!("characters follow the quoted field `{}`", value.escape_debug())),
        }
    }
}

pub(super) fn print(rows: &[Row]) -> String {
    let quoted = |field: &str| {
        if field.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", field.replace('"', "\"\""))
        } else {
            field.to_owned()
        }
    };
    rows.iter().map(|row| format!("{},{},{}\n", quoted(&row.path), row.hash, row.size)).collect()
}

pub(super) fn hash(bytes: &[u8]) -> String {
    use base64::Engine as _;
    format!("sha256={}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(Sha256::digest(bytes)))
}

/// Path of a source's byte code: `a/__pycache__/b.cpython-313.pyc`.
pub(super) fn byte_code(source: &str, tag: &str) -> Option<String> {
    let stem = source.strip_suffix(".py")?;
    let (folder, name) = stem.rsplit_once('/').map_or(("", stem), |(folder, name)| (folder, name));
    let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    Some(format!("{folder}__pycache__/{name}.{tag}.pyc"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, paths: &[&str]) {
        let rows = parse(text).unwrap();
        assert_eq!(rows.iter().map(|row| row.path.as_str()).collect::<Vec<_>>(), paths);
    }

    #[test]
    fn records_are_read() {
        check("a.py,sha256=x,1\nd/RECORD,,\n", &["a.py", "d/RECORD"]);
        check("\"a,\"\"b\"\".py\",sha256=x,1\r\n../../../bin/x,sha256=y,2", &["a,\"b\".py", "../../../bin/x"]);
        check("", &[]);
        check("\n\na,,\n\r\n\rb,,\n", &["a", "b"]);
        check("a,,\rb,,\r", &["a", "b"]);
        check("a,,\rb,,\n", &["a", "b"]);
        check("\u{feff}a,,\n", &["a"]);
        check("/a/b,,\n./c,,\n", &["a/b", "./c"]);
        check(",,\na,,", &["a"]);
        assert_eq!(parse("a,x,007\n").unwrap()[0].size, "7");
    }

    #[test]
    fn other_text_is_not_a_record() {
        for (text, why) in [
            ("\"a", "a quote is not closed"),
            ("\"a\"x,sha256=abc,4\n", "characters follow the quoted field `a`"),
            ("\"a\"\"\"b,,\n", "characters follow the quoted field `a\\\"`"),
            ("a,b,c,d\n", "the row `a,b,c,d` does not have three fields"),
            ("a,b\n", "the row `a,b` does not have three fields"),
            ("a,,\nb\n", "the row `b` does not have three fields"),
            ("a,,x\n", "`a` has the size `x`"),
            ("a,, 4\n", "`a` has the size ` 4`"),
            ("a,,+4\n", "`a` has the size `+4`"),
        ] {
            assert_eq!(parse(text).unwrap_err(), why, "{text}");
        }
    }

    #[test]
    fn a_path_has_one_canonical_form() {
        for (path, expected) in [
            ("a/b", Some("a/b")),
            ("./a//b/.", Some("a/b")),
            ("a/../b", Some("b")),
            ("../a", None),
            ("a/../../b", None),
        ] {
            assert_eq!(canonical(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn a_file_is_hashed_as_installers_do() {
        assert_eq!(hash(b""), "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU");
    }

    #[test]
    fn byte_code_is_next_to_its_source() {
        assert_eq!(byte_code("a/b.py", "cpython-313").unwrap(), "a/__pycache__/b.cpython-313.pyc");
        assert_eq!(byte_code("six.py", "cpython-313").unwrap(), "__pycache__/six.cpython-313.pyc");
        assert_eq!(byte_code("a/b.pyi", "cpython-313"), None);
    }

    proptest! {
        #[test]
        fn printed_records_parse_to_the_same_rows(paths in proptest::collection::vec("[a-z,\"/. ]{1,12}", 0..6)) {
            let rows: Vec<Row> = paths
                .into_iter()
                .map(|path| Row { path: path.trim_start_matches('/').to_owned(), hash: "sha256=x".to_owned(), size: "1".to_owned() })
                .collect();
            let rows: Vec<Row> = rows.into_iter().filter(|row| !row.path.is_empty()).collect();
            prop_assert_eq!(parse(&print(&rows)).unwrap(), rows);
        }

        #[test]
        fn any_text_ends_in_rows_or_an_error(text in "[a,\"\r\n/. 0-9é]{0,40}") {
            let rows = parse(&text);
            prop_assert!(rows.iter().flatten().all(|row| !row.path.is_empty()));
        }
    }
}
