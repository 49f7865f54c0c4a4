//! Locations of distributions as the files name them: with the credentials or variables in the URLs.
//!
//! Pure. A [`PackageLocation`] may hold a password: it is never printed, compared by a fingerprint or written into a lock.

use super::secret;
use std::collections::BTreeSet;
use std::fmt;

#[derive(Clone, PartialEq, Eq)]
pub struct PackageLocation {
    pub kind: LocationKind,
    url: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocationKind {
    Index,
    /// Before the default index.
    Extra,
    /// An index that a lock of another tool names.
    Locked,
    Links,
    /// A file of a direct reference that wants a user and password.
    File,
}

/// True if a word is a path rather than a name or URL.
pub(super) fn is_path(word: &str) -> bool {
    let head = word.split(['[', '@', ';', '=', '<', '>', '~', '!', '#']).next().unwrap_or_default();
    let archive = [".whl", ".tar.gz", ".zip", ".tar.bz2", ".tgz"].iter().any(|end| head.ends_with(end));
    let scheme = word.starts_with("file:");
    let url = word.contains("://") && !scheme;
    !url && (word.starts_with(['.', '/', '~', '\\']) || scheme || head.contains('/') || archive)
}

impl PackageLocation {
    pub(super) fn new(kind: LocationKind, url: &str) -> Self {
        Self { kind, url: url.to_owned() }
    }

    /// The file that a line refers to, where its URL has user information.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let from = line[..line.find("://")?].rfind(|c: char| c.is_whitespace() || c == '@').map_or(0, |at| at + 1);
        let url = line[from..].split_whitespace().next()?;
        (secret::without_user(url) != url).then(|| Self { kind: LocationKind::File, url: url.to_owned() })
    }

    /// The URL without user information, as it is in a lock.
    pub fn plain(&self) -> String {
        secret::without_user(&self.url)
    }

    pub fn written(&self) -> &str {
        &self.url
    }

    /// The URL with the values of its `${NAME}`.
    ///
    /// # Errors
    /// The names that have no value.
    pub fn expanded(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, BTreeSet<String>> {
        expanded(&self.url, variable)
    }
}

impl fmt::Debug for PackageLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, secret::redacted(&self.url))
    }
}

/// Parts of `git+URL@COMMIT#subdirectory=FOLDER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkout<'a> {
    /// URL for git: `https://…`.
    pub url: &'a str,
    /// 40 hexadecimal digits.
    pub commit: &'a str,
    /// Folder of the project, empty for the top.
    pub subdirectory: &'a str,
}

impl<'a> Checkout<'a> {
    /// Parses a URL; `None` without a commit.
    pub fn parse(url: &'a str) -> Option<Self> {
        let (address, fragment) = url.strip_prefix("git+")?.split_once('#').unwrap_or((url.strip_prefix("git+")?, ""));
        let (url, commit) = address.rsplit_once('@')?;
        let scheme = url.split_once("://")?.0;
        let known = matches!(scheme, "https" | "http" | "ssh" | "file");
        let whole = commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit());
        let subdirectory = fragment.split('&').find_map(|part| part.strip_prefix("subdirectory=")).unwrap_or_default();
        (known && whole).then_some(Self { url, commit, subdirectory })
    }
}

/// `${NAME}` of capital letters, digits and `_`, as pip and uv take it, replaced by its value.
fn expanded(url: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, BTreeSet<String>> {
    let (mut text, mut rest, mut unset) = (String::new(), url, BTreeSet::new());
    while let Some((before, after)) = rest.split_once("${") {
        text.push_str(before);
        let is_name = |name: &&str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        };
        match after.split_once('}').filter(|(name, _)| is_name(name)) {
            Some((name, tail)) => {
                match variable(name).filter(|value| !value.is_empty()) {
                    Some(value) => text.push_str(&value),
                    None => drop(unset.insert(name.to_owned())),
                }
                rest = tail;
            }
            None => {
                text.push_str("${");
                rest = after;
            }
        }
    }
    text.push_str(rest);
    if unset.is_empty() { Ok(text) } else { Err(unset) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_environment_are_put_in() {
        let variable = |name: &str| (name == "USER_1").then(|| "me".to_owned());
        assert_eq!(expanded("https://${USER_1}@h/${lower}/${", &variable).unwrap(), "https://me@h/${lower}/${");
        let unset = expanded("https://${USER_1}:${TOKEN}@h/", &variable).unwrap_err();
        assert_eq!(unset, BTreeSet::from(["TOKEN".to_owned()]));
    }

    #[test]
    fn files_that_want_a_password_are_places() {
        let of = |line: &str| PackageLocation::of_line(line).map(|place| place.url);
        assert_eq!(of("a @ https://${U}:${T}@h/a.whl ; os_name == 'x'").as_deref(), Some("https://${U}:${T}@h/a.whl"));
        assert_eq!(of("a[x]@https://${T}@h/a.whl").as_deref(), Some("https://${T}@h/a.whl"));
        assert_eq!(of("https://${T}@h/a-1.zip").as_deref(), Some("https://${T}@h/a-1.zip"));
        assert_eq!(of("a @ https://h/a.whl"), None);
        assert_eq!(of("a>=1"), None);
    }

    #[test]
    fn a_password_is_not_shown() {
        let place = PackageLocation { kind: LocationKind::Extra, url: "https://u:word@h/simple".to_owned() };
        assert_eq!(format!("{place:?}"), "Extra https://***@h/simple");
    }

    #[test]
    fn a_checkout_has_a_commit() {
        let commit = "0a".repeat(20);
        let url = format!("git+https://h/a.git@{commit}#egg=a&subdirectory=python");
        let found = Checkout::parse(&url).unwrap();
        assert_eq!(found, Checkout { url: "https://h/a.git", commit: &commit, subdirectory: "python" });
        let ssh = format!("git+ssh://git@h/a.git@{commit}");
        assert_eq!(Checkout::parse(&ssh).unwrap().url, "ssh://git@h/a.git");
        for bad in
            ["git+https://h/a.git", "git+https://h/a.git@main", "https://h/a@0a", &format!("git+ext::sh@{commit}")]
        {
            assert_eq!(Checkout::parse(bad), None, "{bad}");
        }
    }
}
