//! Environment markers of PEP 508: `python_version >= "3.12" and sys_platform == 'linux'`, as a tree.
//!
//! Pure. A marker is read and printed in one normal form; it is not evaluated here: the lock serves every platform.

use super::cursor::Cursor;
use super::lines::LineError;
use std::fmt;
use std::str::FromStr;

/// A condition over the installing environment. Printed, it is normalised: blanks, quotes, needless parentheses and the
/// order around `and` and `or` do not count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Marker {
    Compare(Operand, &'static str, Operand),
    /// All of these, sorted, none of them an `All`.
    All(Vec<Marker>),
    /// One of these, sorted, none of them an `Any`.
    Any(Vec<Marker>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operand {
    /// A variable of PEP 508.
    Variable(&'static str),
    Text(String),
}

const VARIABLES: [(&str, &str); 20] = [
    ("python_full_version", "python_full_version"),
    ("python_version", "python_version"),
    ("os_name", "os_name"),
    ("os.name", "os_name"),
    ("sys_platform", "sys_platform"),
    ("sys.platform", "sys_platform"),
    ("platform_release", "platform_release"),
    ("platform_system", "platform_system"),
    ("platform_version", "platform_version"),
    ("platform.version", "platform_version"),
    ("platform_machine", "platform_machine"),
    ("platform.machine", "platform_machine"),
    ("platform_python_implementation", "platform_python_implementation"),
    ("platform.python_implementation", "platform_python_implementation"),
    ("python_implementation", "platform_python_implementation"),
    ("implementation_name", "implementation_name"),
    ("implementation_version", "implementation_version"),
    ("extra", "extra"),
    ("extras", "extras"),
    ("dependency_groups", "dependency_groups"),
];

const OPERATORS: [&str; 9] = ["===", "~=", "==", "!=", "<=", ">=", "<", ">", "in"];

const DEPTH: usize = 64;

pub(crate) fn read(cursor: &mut Cursor<'_>) -> Result<Marker, LineError> {
    let marker = any(cursor, 0)?;
    cursor.blanks();
    if cursor.is_done() {
        return Ok(marker);
    }
    Err(cursor.expected("`and`, `or` or the end of the marker"))
}

fn any(cursor: &mut Cursor<'_>, depth: usize) -> Result<Marker, LineError> {
    let mut parts = vec![all(cursor, depth)?];
    while word(cursor, "or") {
        parts.push(all(cursor, depth)?);
    }
    Ok(joined(
        parts,
        |part| match part {
            Marker::Any(parts) => Ok(parts),
            other => Err(other),
        },
        Marker::Any,
    ))
}

fn all(cursor: &mut Cursor<'_>, depth: usize) -> Result<Marker, LineError> {
    let mut parts = vec![one(cursor, depth)?];
    while word(cursor, "and") {
        parts.push(one(cursor, depth)?);
    }
    Ok(joined(
        parts,
        |part| match part {
            Marker::All(parts) => Ok(parts),
            other => Err(other),
        },
        Marker::All,
    ))
}

/// Sorted, without doubles, parts of the same kind taken in; a single part is returned as it is.
fn joined(
    parts: Vec<Marker>,
    open: fn(Marker) -> Result<Vec<Marker>, Marker>,
    join: fn(Vec<Marker>) -> Marker,
) -> Marker {
    let mut flat: Vec<Marker> =
        parts.into_iter().flat_map(|part| open(part).unwrap_or_else(|part| vec![part])).collect();
    flat.sort();
    flat.dedup();
    match <[Marker; 1]>::try_from(flat) {
        Ok([only]) => only,
        Err(flat) => join(flat),
    }
}

fn one(cursor: &mut Cursor<'_>, depth: usize) -> Result<Marker, LineError> {
    cursor.blanks();
    if cursor.eat("(") {
        if depth == DEPTH {
            return Err(cursor.bad(format!("a marker cannot have more than {DEPTH} nested parentheses")));
        }
        let marker = any(cursor, depth + 1)?;
        cursor.blanks();
        return if cursor.eat(")") { Ok(marker) } else { Err(cursor.expected("`and`, `or` or `)`")) };
    }
    let left = operand(cursor)?;
    let operator = operator(cursor)?;
    let at = cursor.at();
    let right = operand(cursor)?;
    if matches!((&left, &right), (Operand::Text(_), Operand::Text(_))) {
        return Err(LineError::new(at, "expected a variable like `python_version` on one side of a comparison"));
    }
    Ok(Marker::Compare(left, operator, right))
}

fn operand(cursor: &mut Cursor<'_>) -> Result<Operand, LineError> {
    cursor.blanks();
    if let Some(quote) = cursor.peek().filter(|c| matches!(c, '\'' | '"')) {
        let at = cursor.at();
        cursor.eat(quote.encode_utf8(&mut [0; 4]));
        let text = cursor.take(|c| c != quote);
        let closed = cursor.eat(quote.encode_utf8(&mut [0; 4]));
        return if closed {
            Ok(Operand::Text(text.to_owned()))
        } else {
            Err(LineError::new(at, "expected a closing quote"))
        };
    }
    let at = cursor.at();
    let name = cursor.take(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
    if let Some((_, variable)) = VARIABLES.iter().find(|(known, _)| *known == name) {
        return Ok(Operand::Variable(variable));
    }
    let near = VARIABLES.iter().map(|(known, _)| *known).filter(|known| strsim::jaro(known, name) > 0.8);
    let near = near.max_by(|a, b| strsim::jaro(a, name).total_cmp(&strsim::jaro(b, name)));
    let also = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    Err(LineError::new(at, format!("expected a variable like `python_version` or a quoted text{also}")))
}

fn operator(cursor: &mut Cursor<'_>) -> Result<&'static str, LineError> {
    cursor.blanks();
    if word(cursor, "not") {
        return if word(cursor, "in") { Ok("not in") } else { Err(cursor.expected("`in` after `not`")) };
    }
    if word(cursor, "in") {
        return Ok("in");
    }
    let found = OPERATORS.into_iter().filter(|operator| *operator != "in").find(|operator| cursor.eat(operator));
    found.ok_or_else(|| cursor.expected("one of `==`, `!=`, `<`, `<=`, `>`, `>=`, `~=`, `===`, `in`, `not in`"))
}

/// Eats a word that ends where it should: `or`, but not the start of `order`.
fn word(cursor: &mut Cursor<'_>, word: &str) -> bool {
    cursor.blanks();
    let after = cursor.rest().strip_prefix(word);
    after.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')) && cursor.eat(word)
}

impl FromStr for Marker {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        read(&mut Cursor::new(text)).map_err(|bad| bad.why)
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => f.write_str(name),
            Self::Text(text) if text.contains('\'') => write!(f, "\"{text}\""),
            Self::Text(text) => write!(f, "'{text}'"),
        }
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parts, between) = match self {
            Self::Compare(left, operator, right) => return write!(f, "{left} {operator} {right}"),
            Self::All(parts) => (parts, " and "),
            Self::Any(parts) => (parts, " or "),
        };
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                f.write_str(between)?;
            }
            match part {
                Self::Compare(..) => write!(f, "{part}")?,
                _ => write!(f, "({part})")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn marker(text: &str) -> Result<Marker, LineError> {
        read(&mut Cursor::new(text))
    }

    #[track_caller]
    fn check(text: &str, normal: &str) {
        let read = marker(text).unwrap_or_else(|bad| panic!("{}", bad.why)).to_string();
        assert_eq!(read, normal);
        assert_eq!(marker(&read).unwrap().to_string(), normal);
    }

    #[test]
    fn markers_have_one_form() {
        check("python_version>='3.12'", "python_version >= '3.12'");
        check("  os.name  ==\"nt\"", "os_name == 'nt'");
        check("python_implementation == 'CPython'", "platform_python_implementation == 'CPython'");
        check("'linux' in sys_platform", "'linux' in sys_platform");
        check("sys_platform not  in 'a'", "sys_platform not in 'a'");
        check("os_name == \"it's\"", "os_name == \"it's\"");
        check("os_name=='y' and extra=='x'", "extra == 'x' and os_name == 'y'");
        check("((os_name == 'a'))", "os_name == 'a'");
        check("os_name == 'b' or os_name == 'a' or os_name == 'b'", "os_name == 'a' or os_name == 'b'");
        check(
            "(os_name == 'a' or os_name == 'b') and extra == 'c'",
            "extra == 'c' and (os_name == 'a' or os_name == 'b')",
        );
        check("os_name == 'a' and extra == 'b' or extra == 'c'", "extra == 'c' or (extra == 'b' and os_name == 'a')");
    }

    #[track_caller]
    fn refused(text: &str, at: usize, why: &str) {
        let bad = marker(text).unwrap_err();
        assert!(bad.why.contains(why), "{}", bad.why);
        assert_eq!(bad.at, at);
    }

    #[test]
    fn bad_markers_say_where_and_why() {
        refused("", 0, "a variable");
        refused("python_versoin > '3'", 0, "did you mean `python_version`");
        refused("python_version '3'", 15, "one of `==`");
        refused("python_version = '3'", 15, "one of `==`");
        refused("python_version > 3", 17, "a quoted text");
        refused("os_name == 'a", 11, "closing quote");
        refused("os_name == 'a' xor os_name == 'b'", 15, "`and`, `or`");
        refused("(os_name == 'a'", 15, "or `)`");
        refused("'a' == 'b'", 6, "on one side");
        refused("os_name not 'a'", 12, "`in` after `not`");
        refused(&"(".repeat(1000), 65, "more than 64");
    }

    proptest! {
        #[test]
        fn no_text_ends_the_reader(text in "[ a-z_()'\"<>=~!.]{0,60}") {
            let _ = marker(&text);
        }
    }
}
