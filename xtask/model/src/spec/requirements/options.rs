//! The options that a requirement file may hold, as pip's own reader splits and spells them.
//!
//! Pure. URLs are kept without user information: a password does not change what is installed.

use super::lines::LineError;
use super::location::{LocationKind, PackageLocation};
use super::names::normalised;
use super::secret;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// The last `--index-url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index_url: Option<String>,
    /// Every `--extra-index-url`, in the order of the files: uv takes a distribution from the first index that has it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_index_urls: Vec<String>,
    /// Every `--find-links`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub find_links: BTreeSet<String>,
    /// `--no-index`.
    #[serde(skip_serializing_if = "is_false")]
    pub no_index: bool,
    /// Distributions, or `:all:`, that may not come as wheels.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub no_binary: BTreeSet<String>,
    /// Distributions, or `:all:`, that may only come as wheels.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub only_binary: BTreeSet<String>,
    /// `--prefer-binary`.
    #[serde(skip_serializing_if = "is_false")]
    pub prefer_binary: bool,
    /// `--pre`.
    #[serde(skip_serializing_if = "is_false")]
    pub pre: bool,
    /// Distributions, or `:all:`, of which pre-releases may be taken.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub all_releases: BTreeSet<String>,
    /// Distributions, or `:all:`, of which only final releases may be taken.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub only_final: BTreeSet<String>,
    /// `--require-hashes`.
    #[serde(skip_serializing_if = "is_false")]
    pub require_hashes: bool,
    /// Every `--trusted-host`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub trusted_hosts: BTreeSet<String>,
    /// Every `--use-feature`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub features: BTreeSet<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrittenOption {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    /// Position of the option, and of its value.
    pub(crate) at: usize,
    pub(crate) value_at: usize,
}

impl WrittenOption {
    /// The source of distributions that the option names, if it names one.
    pub(crate) fn location(&self) -> Option<PackageLocation> {
        let kind = match self.name {
            "--index-url" | "--pypi-url" => LocationKind::Index,
            "--extra-index-url" => LocationKind::Extra,
            "--find-links" => LocationKind::Links,
            _ => return None,
        };
        Some(PackageLocation::new(kind, &self.value))
    }
}

/// Short form, long form, whether a value follows.
const KNOWN: [(&str, &str, bool); 22] = [
    ("-i", "--index-url", true),
    ("", "--pypi-url", true),
    ("", "--extra-index-url", true),
    ("", "--no-index", false),
    ("-c", "--constraint", true),
    ("-r", "--requirement", true),
    ("-e", "--editable", true),
    ("-f", "--find-links", true),
    ("", "--no-binary", true),
    ("", "--only-binary", true),
    ("", "--prefer-binary", false),
    ("", "--require-hashes", false),
    ("", "--no-require-hashes", false),
    ("", "--pre", false),
    ("", "--all-releases", true),
    ("", "--only-final", true),
    ("", "--trusted-host", true),
    ("", "--use-feature", true),
    ("", "--hash", true),
    ("", "--global-option", true),
    ("-C", "--config-settings", true),
    ("-Z", "--always-unzip", false),
];

pub(crate) fn read(text: &str) -> Result<Vec<WrittenOption>, LineError> {
    let mut words = words(text)?.into_iter().peekable();
    let mut found = Vec::new();
    while let Some((at, word)) = words.next() {
        let (name, takes, attached) = known(&word).map_err(|why| LineError::new(at, why))?;
        let (value_at, value) = match attached {
            Some(value) if !takes => {
                return Err(LineError::new(
                    at,
                    format!("`{name}` takes no value, but was given `{}`", secret::redacted(value)),
                ));
            }
            Some(value) => (at + word.len() - value.len(), value.to_owned()),
            None if takes => words.next().unwrap_or((text.trim_end().len(), String::new())),
            None => (at, String::new()),
        };
        if takes && value.is_empty() {
            return Err(LineError::new(value_at, format!("expected a value after `{name}`")));
        }
        found.push(WrittenOption { name, value, at, value_at });
    }
    Ok(found)
}

fn known(word: &str) -> Result<(&'static str, bool, Option<&str>), String> {
    let (head, value) = word.split_once('=').map_or((word, None), |(head, value)| (head, Some(value)));
    if let Some((_, long, takes)) =
        KNOWN.iter().find(|(short, long, _)| *long == head || (*short == head && value.is_none()))
    {
        return Ok((long, *takes, value));
    }
    if let Some((short, long, takes)) =
        KNOWN.iter().find(|(short, _, takes)| *takes && !short.is_empty() && word.starts_with(short))
    {
        return Ok((long, *takes, Some(&word[short.len()..])));
    }
    // As in pip, the begin of a name is enough where it is that of one option alone.
    let mut begun =
        KNOWN.iter().filter(|(_, long, _)| head.len() > 2 && head.starts_with("--") && long.starts_with(head));
    if let (Some((_, long, takes)), None) = (begun.next(), begun.next()) {
        return Ok((long, *takes, value));
    }
    if word.starts_with(';') {
        return Err("an option cannot have a marker: write it at the requirements themselves".to_owned());
    }
    if !word.starts_with('-') {
        return Err("expected an option like `--hash=sha256:…`, or the end of the line".to_owned());
    }
    let score = |long: &str| strsim::jaro_winkler(long, head);
    let near = KNOWN.iter().map(|(_, long, _)| *long).filter(|long| score(long) > 0.85);
    let near = near.max_by(|a, b| score(a).total_cmp(&score(b)));
    let also = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    Err(format!("`{}` is not an option of requirement files{also}", secret::redacted(head)))
}

/// Words as a POSIX shell splits them (pip's reader does), with their offsets. Quotes and backslashes join.
fn words(text: &str) -> Result<Vec<(usize, String)>, LineError> {
    let mut words: Vec<(usize, String)> = Vec::new();
    let mut open: Option<(usize, String)> = None;
    let mut quote: Option<(usize, char)> = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            Some((_, end)) if c == end => quote = None,
            None if c.is_whitespace() => words.extend(open.take()),
            _ => {
                let word = &mut open.get_or_insert((at, String::new())).1;
                match c {
                    '\'' | '"' if quote.is_none() => quote = Some((at, c)),
                    '\\' if quote.is_none_or(|(_, end)| end == '"') => word.extend(chars.next().map(|(_, c)| c)),
                    _ => word.push(c),
                }
            }
        }
    }
    if let Some((at, _)) = quote {
        return Err(LineError::new(at, "expected a closing quote"));
    }
    words.extend(open);
    Ok(words)
}

impl Options {
    /// Takes in the options of another file.
    pub(crate) fn and(&mut self, other: Self) {
        self.index_url = other.index_url.or(self.index_url.take());
        for url in other.extra_index_urls {
            if !self.extra_index_urls.contains(&url) {
                self.extra_index_urls.push(url);
            }
        }
        for (own, other) in [
            (&mut self.find_links, other.find_links),
            (&mut self.no_binary, other.no_binary),
            (&mut self.only_binary, other.only_binary),
            (&mut self.all_releases, other.all_releases),
            (&mut self.only_final, other.only_final),
            (&mut self.trusted_hosts, other.trusted_hosts),
            (&mut self.features, other.features),
        ] {
            own.extend(other);
        }
        self.no_index |= other.no_index;
        self.prefer_binary |= other.prefer_binary;
        self.pre |= other.pre;
        self.require_hashes |= other.require_hashes;
    }

    /// Takes one option in; `false` for those that are not about the whole file.
    pub(crate) fn take(&mut self, option: &WrittenOption) -> bool {
        let url = || secret::without_user(option.value.trim_end_matches('/'));
        match option.name {
            "--index-url" | "--pypi-url" => self.index_url = Some(url()),
            "--extra-index-url" => {
                let url = url();
                if !self.extra_index_urls.contains(&url) {
                    self.extra_index_urls.push(url);
                }
            }
            "--find-links" => drop(self.find_links.insert(url())),
            "--no-index" => self.no_index = true,
            "--no-binary" => exclude(&option.value, &mut self.no_binary, &mut self.only_binary),
            "--only-binary" => exclude(&option.value, &mut self.only_binary, &mut self.no_binary),
            "--prefer-binary" => self.prefer_binary = true,
            "--pre" => self.pre = true,
            "--all-releases" => exclude(&option.value, &mut self.all_releases, &mut self.only_final),
            "--only-final" => exclude(&option.value, &mut self.only_final, &mut self.all_releases),
            "--require-hashes" => self.require_hashes = true,
            // A lock has hashes all the same.
            "--no-require-hashes" => self.require_hashes = false,
            "--trusted-host" => drop(self.trusted_hosts.insert(option.value.to_ascii_lowercase())),
            "--use-feature" => drop(self.features.insert(option.value.clone())),
            // Obsolete and without effect in pip.
            "--always-unzip" => {}
            _ => return false,
        }
        true
    }
}

/// `--no-binary` and `--only-binary`, and `--all-releases` and `--only-final`, take names from each other, as pip documents; `:all:` and `:none:` clear.
fn exclude(value: &str, into: &mut BTreeSet<String>, other: &mut BTreeSet<String>) {
    for name in value.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match name {
            ":all:" => {
                other.clear();
                *into = BTreeSet::from([name.to_owned()]);
            }
            ":none:" => into.clear(),
            _ => {
                let name = normalised(name);
                other.remove(&name);
                into.insert(name);
            }
        }
    }
}

/// A hash of pip's form in lowercase, or why it is none.
pub(crate) fn hash(value: &str) -> Result<String, String> {
    let value = value.to_ascii_lowercase();
    let (algorithm, hex) = value.split_once(':').unwrap_or((&value, ""));
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err("expected a hash like `sha256:` and 64 hex digits".to_owned()),
    };
    if hex.len() == length && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(value);
    }
    Err(format!("expected {length} hex digits after `{algorithm}:`, found {}", hex.chars().count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Options {
        let mut options = Options::default();
        for option in read(text).unwrap_or_else(|bad| panic!("{}: {}", bad.at, bad.why)) {
            assert!(options.take(&option), "{}", option.name);
        }
        options
    }

    #[test]
    fn options_are_split_as_pip_splits_them() {
        let split = |text: &str| -> Vec<(String, String)> {
            read(text).unwrap().into_iter().map(|o| (o.name.to_owned(), o.value)).collect()
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        for text in [
            "-r a.txt",
            "-ra.txt",
            "--requirement a.txt",
            "--requirement=a.txt",
            "-r 'a.txt'",
            "--requirement=\"a.txt\"",
        ] {
            assert_eq!(split(text), [pair("--requirement", "a.txt")], "{text}");
        }
        assert_eq!(split("-r 'a b.txt'"), split(r"-r a\ b.txt"));
        assert_eq!(split("--no-index --pre"), [pair("--no-index", ""), pair("--pre", "")]);
    }

    #[test]
    fn options_have_one_meaning() {
        assert_eq!(all("-i https://u:p@h/simple/"), all("--index-url=https://h/simple"));
        assert_eq!(all("--no-binary NumPy,scipy"), all("--no-binary scipy --no-binary numpy"));
        assert_eq!(all("--no-binary :all: --only-binary numpy").only_binary, BTreeSet::from(["numpy".to_owned()]));
        assert_eq!(all("--no-binary a --only-binary a").no_binary, BTreeSet::new());
        assert_eq!(all("--only-final a,b --all-releases A").only_final, BTreeSet::from(["b".to_owned()]));
        assert_eq!(all("--only-final :all: --all-releases :all:").only_final, BTreeSet::new());
        assert_eq!(all("--no-binary a --no-binary :none:"), Options::default());
        assert_ne!(
            all("--extra-index-url https://a --extra-index-url https://b"),
            all("--extra-index-url https://b --extra-index-url https://a")
        );
    }

    #[track_caller]
    fn refused(text: &str, at: usize, why: &str) {
        let bad = read(text).unwrap_err();
        assert!(bad.why.contains(why), "{}", bad.why);
        assert_eq!(bad.at, at);
    }

    #[test]
    fn bad_options_say_where_and_why() {
        refused("--index-ulr x", 0, "did you mean `--index-url`");
        refused("--pre --frobnicate", 6, "not an option");
        refused("-r", 2, "a value after `--requirement`");
        refused("--requirement=", 14, "a value after");
        refused("--pre=1", 0, "takes no value");
        refused("-r 'a", 3, "closing quote");
        refused("--pre numpy", 6, "expected an option");
    }

    #[test]
    fn hashes_are_whole() {
        assert!(hash(&format!("sha256:{}", "A".repeat(64))).unwrap().ends_with("aaa"));
        assert!(hash(&format!("sha512:{}", "0".repeat(128))).is_ok());
        for bad in ["md5:00", "sha256:00", "sha256", "", &format!("sha256:{}", "g".repeat(64))] {
            assert!(hash(bad).is_err(), "{bad}");
        }
    }
}
