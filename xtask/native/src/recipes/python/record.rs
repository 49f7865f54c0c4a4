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

/// Parses a `RECORD`.
///
/// # Errors
/// The reason, in a few words.
pub(super) fn parse(text: &str) -> Result<Vec<Row>, String> {
    let mut rest = text;
    let mut rows = Vec::new();
    while !rest.is_empty() {
        let mut fields = Vec::new();
        loop {
            let (field, after) = field(rest)?;
            fields.push(field);
            match after.strip_prefix(',') {
                Some(after) => rest = after,
                None => {
                    rest = after.strip_prefix("\r\n").or_else(|| after.strip_prefix('\n')).unwrap_or(after);
                    break;
                }
            }
        }
        if fields.len() < 3 {
            fields.resize(3, String::new());
        }
        let [path, hash, size] =
            <[String; 3]>::try_from(fields).map_err(|_| "a line does not have three fields".to_owned())?;
        if !path.is_empty() {
            rows.push(Row { path, hash, size });
        }
    }
    Ok(rows)
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
            None => return Ok((value, rest)),
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
        check("a\n\nb\n", &["a", "b"]);
        assert!(parse("\"a").is_err());
        assert!(parse("a,b,c,d\n").is_err());
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
                .map(|path| Row { path, hash: "sha256=x".to_owned(), size: "1".to_owned() })
                .collect();
            prop_assert_eq!(parse(&print(&rows)).unwrap(), rows);
        }
    }
}
