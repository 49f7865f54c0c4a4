//! `--chown` and `USER`: numbers, or names from the image's account files.
//!
//! Pure. BuildKit maps an unknown name to root; here it is an error.

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    user: Name,
    group: Option<Name>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Number(u32),
    Text(String),
}

/// Largest id that BuildKit accepts and that a runtime can start a program as.
const GREATEST: u32 = i32::MAX as u32;

impl Name {
    fn parse(text: &str) -> Result<Self, String> {
        // An empty half means root, as in `:staff`.
        if text.is_empty() || text == "root" {
            return Ok(Self::Number(0));
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Text(text.to_owned()));
        }
        match text.parse() {
            Ok(number) if number <= GREATEST => Ok(Self::Number(number)),
            _ => Err(format!("invalid owner `{text}`: the largest id is {GREATEST}")),
        }
    }
}

impl Owner {
    /// Parses `user`, `user:group` or `:group`; the error is one lowercase phrase.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Ok(match text.split_once(':') {
            Some((user, group)) => Self { user: Name::parse(user)?, group: Some(Name::parse(group)?) },
            None => Self { user: Name::parse(text)?, group: None },
        })
    }

    pub(crate) fn needs_passwd(&self) -> bool {
        matches!(self.user, Name::Text(_))
    }

    pub(crate) fn needs_group(&self) -> bool {
        matches!(self.group, Some(Name::Text(_)))
    }

    /// Numeric ids. Without a group, a named user gets the group of its entry, and a number gets itself as the group.
    /// The error is one lowercase phrase.
    pub(crate) fn numbers(&self, passwd: &[u8], group: &[u8]) -> Result<(u32, u32), String> {
        let (uid, own) = match &self.user {
            Name::Number(number) => (*number, *number),
            Name::Text(name) => entry(passwd, name, &[2, 3])
                .and_then(|ids| Some((*ids.first()?, *ids.get(1)?)))
                .ok_or_else(|| format!("user `{name}` is not in the image's `/etc/passwd`"))?,
        };
        let gid = match &self.group {
            None => own,
            Some(Name::Number(number)) => *number,
            Some(Name::Text(name)) => entry(group, name, &[2])
                .and_then(|ids| ids.first().copied())
                .ok_or_else(|| format!("group `{name}` is not in the image's `/etc/group`"))?,
        };
        Ok((uid, gid))
    }

    /// The ids, if no name has to be looked up.
    pub(crate) fn if_numbers(&self) -> Option<(u32, u32)> {
        (!self.needs_passwd() && !self.needs_group()).then(|| self.numbers(&[], &[]).ok()).flatten()
    }
}

fn entry(file: &[u8], name: &str, fields: &[usize]) -> Option<Vec<u32>> {
    let text = String::from_utf8_lossy(file);
    let line = text.lines().map(str::trim).find(|line| line.split(':').next() == Some(name))?;
    let values: Vec<&str> = line.split(':').collect();
    fields.iter().map(|field| values.get(*field)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\napp:x:10:20::/:\nbroken:x\n";
    const GROUP: &[u8] = b"root:x:0:\nstaff:x:30:app\n";

    #[track_caller]
    fn is(text: &str, expected: (u32, u32)) {
        assert_eq!(Owner::parse(text).and_then(|owner| owner.numbers(PASSWD, GROUP)), Ok(expected), "{text}");
    }

    #[track_caller]
    fn refuses(text: &str, expected: &str) {
        assert_eq!(
            Owner::parse(text).and_then(|owner| owner.numbers(PASSWD, GROUP)),
            Err(expected.to_owned()),
            "{text}"
        );
    }

    #[test]
    fn names_and_numbers() {
        is("5", (5, 5));
        is("5:6", (5, 6));
        is("app", (10, 20));
        is("app:staff", (10, 30));
        is("app:7", (10, 7));
        is("5:staff", (5, 30));
        is(":staff", (0, 30));
        is("10:", (10, 0));
        is("0010", (10, 10));
    }

    #[test]
    fn unknown_names_are_reported() {
        refuses("nobody", "user `nobody` is not in the image's `/etc/passwd`");
        refuses("broken", "user `broken` is not in the image's `/etc/passwd`");
        refuses("app:none", "group `none` is not in the image's `/etc/group`");
        refuses("-1", "user `-1` is not in the image's `/etc/passwd`");
    }

    #[test]
    fn numbers_need_no_account_files() {
        let numbers = |text: &str| Owner::parse(text).unwrap().if_numbers();
        assert_eq!(numbers("1:2"), Some((1, 2)));
        assert_eq!(numbers("root"), Some((0, 0)));
        assert_eq!(numbers("app:2"), None);
        assert_eq!(numbers("1:staff"), None);
    }

    #[test]
    fn a_number_that_is_too_large_is_not_a_name() {
        is("2147483647", (2_147_483_647, 2_147_483_647));
        for text in ["2147483648", "4294967295", "4294967296", "1:4294967296", "99999999999999999999"] {
            let number = text.rsplit(':').next().unwrap();
            refuses(text, &format!("invalid owner `{number}`: the largest id is 2147483647"));
        }
    }
}
