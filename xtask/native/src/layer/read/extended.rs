//! Extended headers: POSIX records and GNU tar's long names.
//!
//! Pure. Unknown records that could change the meaning of an entry are errors; others are ignored.

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) time: Option<i64>,
}

impl Extended {
    pub(super) fn take(&mut self, flag: u8, text: Vec<u8>) -> Result<(), String> {
        if matches!(flag, b'L' | b'K') {
            let name = if flag == b'L' { &mut self.path } else { &mut self.link };
            // If a header has both, POSIX records override GNU names.
            name.get_or_insert_with(|| until_zero(text));
            return Ok(());
        }
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            let (key, value, after) = record(rest).ok_or("an extended header is malformed")?;
            if flag == b'g' {
                global(key)?;
            } else {
                self.set(key, value)?;
            }
            rest = after;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        // An empty value removes an earlier one.
        let given = (!value.is_empty()).then_some(value);
        match key {
            b"path" => self.path = given.map(<[u8]>::to_vec),
            b"linkpath" => self.link = given.map(<[u8]>::to_vec),
            b"size" => self.size = given.map(decimal).transpose()?,
            b"uid" => self.uid = given.map(decimal).transpose()?,
            b"gid" => self.gid = given.map(decimal).transpose()?,
            b"mtime" => {
                // Fractions are dropped; times before 1970 become 1970.
                let whole = |value: &[u8]| value.split(|byte| *byte == b'.').next().unwrap_or_default().to_vec();
                self.time =
                    given.map(|value| if value[0] == b'-' { Ok(0) } else { decimal(&whole(value)) }).transpose()?;
            }
            key if key.starts_with(b"GNU.sparse.") => return Err("sparse files are not supported in layers".to_owned()),
            _ => {}
        }
        Ok(())
    }
}

/// Rejects global records that readers interpret differently.
fn global(key: &[u8]) -> Result<(), String> {
    let matters = matches!(key, b"path" | b"linkpath" | b"size" | b"uid" | b"gid") || key.starts_with(b"GNU.sparse.");
    if !matters {
        return Ok(());
    }
    Err(format!("a global header sets `{}`, which readers interpret differently", key.escape_ascii()))
}

fn until_zero(mut text: Vec<u8>) -> Vec<u8> {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    text.truncate(end);
    text
}

fn decimal<T: std::str::FromStr>(value: &[u8]) -> Result<T, String> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("`{}` in an extended header is not a number, or is too large", value.escape_ascii()))
}

/// Key and value of `length key=value\n`, and the rest.
fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = text.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = decimal(&text[..blank]).ok()?;
    let (record, rest) = text.split_at_checked(length)?;
    let pair = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
    Some((&pair[..equals], &pair[equals + 1..], rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn taken(flag: u8, text: &str, expected: Option<Extended>) {
        let mut extended = Extended::default();
        let result = extended.take(flag, text.as_bytes().to_vec());
        assert_eq!(result.ok().map(|()| extended), expected, "{text}");
    }

    #[test]
    fn records() {
        let path = |path: &str| Extended { path: Some(path.as_bytes().to_vec()), ..Extended::default() };
        taken(b'x', "9 path=a\n", Some(path("a")));
        taken(b'x', "11 path=a\nb\n", None);
        taken(b'x', "12 path=a\nb\n", Some(path("a\nb")));
        taken(b'x', "9 path=a\n10 path=bb\n", None);
        taken(b'x', "9 path=a\n11 path=bb\n", Some(path("bb")));
        taken(b'x', "9 path=a\n8 path=\n", Some(Extended::default()));
        taken(b'x', "6 x=y\n", Some(Extended::default()));
        taken(b'x', "5 =y\n", None);
        taken(b'x', "99999999999999999999 path=a\n", None);
        taken(b'x', "0 path=a\n", None);
        taken(b'x', "9 path=a", None);
        taken(b'x', "12 size=1x2\n", None);
        taken(b'x', "13 size=1024\n", Some(Extended { size: Some(1024), ..Extended::default() }));
        taken(b'x', "18 uid=4294967296\n", None);
        taken(b'x', "22 mtime=1767225600.5\n", Some(Extended { time: Some(1_767_225_600), ..Extended::default() }));
        taken(b'x', "22 GNU.sparse.major=1\n", None);
    }

    #[test]
    fn global_records_do_not_affect_entries() {
        taken(b'g', "13 comment=x\n", Some(Extended::default()));
        taken(b'g', "9 path=a\n", None);
    }

    #[test]
    fn long_names() {
        taken(b'L', "name\0\0", Some(Extended { path: Some(b"name".to_vec()), ..Extended::default() }));
        taken(b'K', "name", Some(Extended { link: Some(b"name".to_vec()), ..Extended::default() }));
    }
}
