//! `--chown` and `USER`: numbers, or names that the image's own files answer.
//!
//! Pure. BuildKit gives what belongs to an unknown name to root; here that is an error.

/// A user and perhaps a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    user: Name,
    group: Option<Name>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Number(u32),
    Text(String),
}

impl Name {
    fn parse(text: &str) -> Self {
        // An empty half is root, as in `:staff`.
        match text.parse() {
            Ok(number) => Self::Number(number),
            Err(_) if text.is_empty() => Self::Number(0),
            Err(_) => Self::Text(text.to_owned()),
        }
    }
}

impl Owner {
    /// Reads `user`, `user:group`, `:group`.
    pub(super) fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((user, group)) => Self { user: Name::parse(user), group: Some(Name::parse(group)) },
            None => Self { user: Name::parse(text), group: None },
        }
    }

    /// Whether `/etc/passwd` has to be asked.
    pub(super) fn needs_passwd(&self) -> bool {
        matches!(self.user, Name::Text(_))
    }

    /// Whether `/etc/group` has to be asked.
    pub(super) fn needs_group(&self) -> bool {
        matches!(self.group, Some(Name::Text(_)))
    }

    /// The numbers. A user without a group has the group of the user's own entry; a number has itself. The error is one
    /// lowercase phrase.
    pub(super) fn numbers(&self, passwd: &[u8], group: &[u8]) -> Result<(u32, u32), String> {
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

    /// The same where every name is a number.
    pub(super) fn if_numbers(&self) -> Option<(u32, u32)> {
        (!self.needs_passwd() && !self.needs_group()).then(|| self.numbers(&[], &[]).ok()).flatten()
    }
}

/// Numbers of the first entry with a name.
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
        assert_eq!(Owner::parse(text).numbers(PASSWD, GROUP), Ok(expected), "{text}");
    }

    #[track_caller]
    fn refuses(text: &str, expected: &str) {
        assert_eq!(Owner::parse(text).numbers(PASSWD, GROUP), Err(expected.to_owned()), "{text}");
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
    fn unknown_names_are_told() {
        refuses("nobody", "user `nobody` is not in the image's `/etc/passwd`");
        refuses("broken", "user `broken` is not in the image's `/etc/passwd`");
        refuses("app:none", "group `none` is not in the image's `/etc/group`");
        refuses("-1", "user `-1` is not in the image's `/etc/passwd`");
    }

    #[test]
    fn numbers_ask_nobody() {
        assert_eq!(Owner::parse("1:2").if_numbers(), Some((1, 2)));
        assert_eq!(Owner::parse("app:2").if_numbers(), None);
        assert_eq!(Owner::parse("1:staff").if_numbers(), None);
    }
}
