//! `images.lock`: the digests under which the root image was last seen, platform by platform, the Debian packages on it, a base pinned by
//! hand, and what packages without a wheel are built with.
//!
//! Pure: read and printed here, asked for and written elsewhere.

use super::sources::SourcePin;
use crate::fault::Fault;
use crate::spec::debian::status;
use crate::spec::reference::{Digest, Malformed, Platform, Reference};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub const PATH: &str = "images.lock";

/// Digests of the root image, of bases, packages and sources. A file that pins nothing is not written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImagesLock {
    /// The root image: `cargo xtask lock`.
    pub root: Option<RootPin>,
    /// A base that is to be used whatever the fingerprint says: `cargo xtask base pin`.
    pub base: Option<Digest>,
    /// The same for the bases of a policy that names several.
    pub bases: BTreeMap<String, Digest>,
    /// Packages without a wheel, sorted: `cargo xtask lock`.
    pub sources: Vec<SourcePin>,
    /// Debian packages on the root: `cargo xtask lock`.
    pub system: Vec<SystemPin>,
}

/// The packages that `SYSTEM_PACKAGES` adds to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemPin {
    /// Name of the root that they were resolved for.
    pub root: String,
    /// The root's release of Debian.
    pub suite: String,
    /// Packages that the policy named.
    pub packages: Vec<String>,
    pub platforms: BTreeMap<Platform, SystemPackages>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemPackages {
    /// Digest of the root's own packages with their versions, see [`installed`].
    pub installed: Digest,
    /// Sorted by name.
    pub packages: Vec<DebianPin>,
}

/// A package by version and digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebianPin {
    pub name: String,
    pub version: String,
    pub digest: Digest,
    /// Bytes of the file.
    pub size: u64,
    /// Path below a mirror, percent-encoded.
    pub path: String,
}

impl DebianPin {
    /// Name of its file on this machine.
    pub fn file(&self) -> String {
        let file = self.path.rsplit('/').next().unwrap_or_default();
        // Versions may differ in the epoch alone, which is not part of a file's name.
        format!("{}-{file}", &self.digest.hex()[..12])
    }

    /// True if it is in the archive of security fixes.
    pub fn is_security(&self) -> bool {
        self.path.starts_with("pool/updates/")
    }
}

impl fmt::Display for DebianPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, version, digest, size, path } = self;
        write!(f, "{name} {version} {digest} {size} {path}")
    }
}

impl std::str::FromStr for DebianPin {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed = || Malformed(format!("`{text}` is not a name, version, digest, size and path"));
        let words: Vec<&str> = text.split(' ').collect();
        let [name, version, digest, size, path] = words[..] else { return Err(malformed()) };
        let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:~_%/".contains(c));
        let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && is_plain(name) && is_plain(version);
        let is_path = path.starts_with("pool/") && path.ends_with(".deb") && is_plain(path) && !path.contains("..");
        let size = size.parse().ok().filter(|_| is_name && is_path).ok_or_else(malformed)?;
        Ok(Self {
            name: name.to_owned(),
            version: version.to_owned(),
            digest: digest.parse()?,
            size,
            path: path.to_owned(),
        })
    }
}

/// Digest of the packages that a dpkg status lists, with their versions: pins hold for a root with just these.
pub fn installed(status: &str) -> Digest {
    let mut lines: Vec<String> = status::installed(status)
        .iter()
        .map(|package| format!("{}:{} {}\n", package.name, package.architecture, package.version))
        .collect();
    lines.sort();
    Digest::of(lines.concat().as_bytes())
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootPin {
    pub image: Reference,
    pub platforms: BTreeMap<Platform, Digest>,
}

impl ImagesLock {
    /// The pin of a base, by its name where the policy names several.
    pub fn pinned(&self, base: Option<&str>) -> Option<Digest> {
        base.map_or(self.base, |name| self.bases.get(name).copied())
    }

    /// The same file with another pin of a base.
    pub fn with_pin(mut self, base: Option<&str>, digest: Option<Digest>) -> Self {
        match (base, digest) {
            (None, digest) => self.base = digest,
            (Some(name), Some(digest)) => drop(self.bases.insert(name.to_owned(), digest)),
            (Some(name), None) => drop(self.bases.remove(name)),
        }
        self
    }

    /// Reads the file; `path` is only for messages.
    ///
    /// # Errors
    /// Every wrong key and value together, each as `file:line:column` with the line and a caret.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Fault> {
        let document = DeTable::parse(text).map_err(|error| {
            let what = error.message().lines().next().unwrap_or("this is not TOML").to_owned();
            fault(path, text, &[(error.span().unwrap_or(0..0), what)])
        })?;
        let mut reader = ImagesLockReader { problems: Vec::new() };
        let found = reader.whole(document.get_ref(), text.len());
        match (found, reader.problems.is_empty()) {
            (Some(lock), true) => Ok(lock),
            _ => Err(fault(path, text, &reader.problems)),
        }
    }
}

/// The file's one form: reading and printing it again changes no byte.
impl fmt::Display for ImagesLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Written by `cargo xtask lock`; do not edit.")?;
        if let Some(RootPin { image, platforms }) = &self.root {
            writeln!(f, "\n[root]\nimage = \"{image}\"\n\n[root.platforms]")?;
            for (platform, digest) in platforms {
                writeln!(f, "\"{platform}\" = \"{digest}\"")?;
            }
        }
        if let Some(digest) = &self.base {
            writeln!(f, "\n[base]\ndigest = \"{digest}\"")?;
        }
        if !self.bases.is_empty() {
            writeln!(f, "\n[bases]")?;
        }
        self.bases.iter().try_for_each(|(name, digest)| writeln!(f, "\"{name}\" = \"{digest}\""))?;
        self.write_system(f)?;
        for pin in &self.sources {
            let SourcePin { name, version, from, .. } = pin;
            let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
            writeln!(f, "\n[[source]]\nname = {}\nversion = {}\nfrom = {}", text(name), text(version), text(from))?;
            writeln!(f, "build = [")?;
            pin.build_lines().iter().try_for_each(|line| writeln!(f, "    {},", text(line)))?;
            writeln!(f, "]")?;
        }
        Ok(())
    }
}

impl ImagesLock {
    fn write_system(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for SystemPin { root, suite, packages, platforms } in &self.system {
            let names: Vec<String> = packages.iter().map(|name| format!("\"{name}\"")).collect();
            write!(f, "\n# Debian packages on the root: name, version, digest, size, path on a mirror.\n[[system]]\n")?;
            writeln!(f, "root = \"{root}\"\nsuite = \"{suite}\"\npackages = [{}]", names.join(", "))?;
            for (platform, SystemPackages { installed, packages }) in platforms {
                writeln!(f, "\n[system.platforms.\"{platform}\"]\ninstalled = \"{installed}\"\npackages = [")?;
                packages.iter().try_for_each(|pin| writeln!(f, "    \"{pin}\","))?;
                writeln!(f, "]")?;
            }
        }
        Ok(())
    }
}

type TomlError = (Range<usize>, String);

struct ImagesLockReader {
    problems: Vec<TomlError>,
}

impl ImagesLockReader {
    fn bad(&mut self, at: Range<usize>, why: impl Into<String>) {
        self.problems.push((at, why.into()));
    }

    fn whole(&mut self, table: &DeTable<'_>, end: usize) -> Option<ImagesLock> {
        self.only(table, &["root", "base", "bases", "system", "source"]);
        let base = table.get("base").and_then(|_| self.table(table, "base", end));
        let base = base.and_then(|base| {
            self.only(base, &["digest"]);
            self.text(base, "digest", "a digest, `sha256:` and 64 hex digits", end)
        });
        let named = table.get("bases").and_then(|_| self.table(table, "bases", end));
        let mut bases = BTreeMap::new();
        for (name, item) in named.into_iter().flat_map(DeTable::iter) {
            let digest = self.value(item, "a digest, `sha256:` and 64 hex digits");
            bases.extend(digest.map(|digest| (name.get_ref().to_string(), digest)));
        }
        let system = self.tables(table, "system")?.into_iter().filter_map(|one| self.system(one, end)).collect();
        let root = match table.get("root") {
            // A base may be pinned where the root cannot be: it comes from Debian's packages.
            None if ["base", "bases", "system", "source"].iter().any(|key| table.contains_key(*key)) => None,
            _ => Some(self.root(table, end)?),
        };
        let sources = self.sources(table)?;
        Some(ImagesLock { root, base, bases, sources, system })
    }

    fn sources(&mut self, table: &DeTable<'_>) -> Option<Vec<SourcePin>> {
        let mut found = Vec::new();
        for one in self.tables(table, "source")? {
            found.push(self.source(one)?);
        }
        found.sort();
        Some(found)
    }

    /// The entries of a list of tables, which may be absent.
    fn tables<'t, 'i>(&mut self, table: &'t DeTable<'i>, name: &str) -> Option<Vec<&'t Spanned<DeValue<'i>>>> {
        let Some(item) = table.get(name) else { return Some(Vec::new()) };
        let list = item.get_ref().as_array();
        if list.is_none() {
            self.bad(item.span(), format!("expected tables `[[{name}]]`"));
        }
        list.map(|list| list.iter().collect())
    }

    fn source(&mut self, item: &Spanned<DeValue<'_>>) -> Option<SourcePin> {
        let Some(table) = item.get_ref().as_table() else {
            self.bad(item.span(), "expected a table `[[source]]`");
            return None;
        };
        self.only(table, &["name", "version", "from", "build"]);
        let mut text = |name: &str| {
            let value = table.get(name).and_then(|value| value.get_ref().as_str()).map(str::to_owned);
            if value.is_none() {
                self.bad(item.span(), format!("expected a text `{name}`"));
            }
            value
        };
        let (name, version, from) = (text("name"), text("version"), text("from"));
        let lines = table.get("build").and_then(|value| value.get_ref().as_array());
        let lines: Option<Vec<String>> =
            lines.and_then(|list| list.iter().map(|one| one.get_ref().as_str().map(str::to_owned)).collect());
        let build = lines.ok_or_else(|| "expected a list of texts `build`".to_owned());
        match build.and_then(|lines| SourcePin::parse_build(&lines)) {
            Ok(build) => Some(SourcePin { name: name?, version: version?, from: from?, build }),
            Err(why) => {
                self.bad(item.span(), why);
                None
            }
        }
    }

    fn system(&mut self, item: &Spanned<DeValue<'_>>, end: usize) -> Option<SystemPin> {
        let Some(system) = item.get_ref().as_table() else {
            self.bad(item.span(), "expected a table `[[system]]`");
            return None;
        };
        self.only(system, &["root", "suite", "packages", "platforms"]);
        let root = self.text::<Plain>(system, "root", "the name of an image", end);
        let suite = self.text::<Plain>(system, "suite", "a release of Debian", end);
        let packages = self.list::<Plain>(system, "packages", "a list of names", end);
        let mut platforms = BTreeMap::new();
        for (name, item) in self.table(system, "platforms", end)?.iter() {
            match (name.get_ref().parse::<Platform>(), item.get_ref().as_table()) {
                (Ok(platform), Some(one)) => {
                    self.only(one, &["installed", "packages"]);
                    let installed = self.text(one, "installed", "a digest", end);
                    let packages = self.list(one, "packages", "a list of packages", end);
                    platforms.extend(
                        installed
                            .zip(packages)
                            .map(|(installed, packages)| (platform, SystemPackages { installed, packages })),
                    );
                }
                (Err(why), _) => self.bad(name.span(), why.to_string()),
                (_, None) => self.bad(item.span(), "expected a table"),
            }
        }
        let packages = packages?.into_iter().map(|name| name.0).collect();
        Some(SystemPin { root: root?.0, suite: suite?.0, packages, platforms })
    }

    fn list<T: std::str::FromStr<Err = Malformed>>(
        &mut self,
        table: &DeTable<'_>,
        name: &str,
        what: &str,
        end: usize,
    ) -> Option<Vec<T>> {
        let Some(items) = table.get(name).and_then(|item| item.get_ref().as_array()) else {
            self.bad(table.get(name).map_or(end..end, Spanned::span), format!("expected `{name}`, {what}"));
            return None;
        };
        items.iter().map(|item| self.value(item, what)).collect()
    }

    fn root(&mut self, table: &DeTable<'_>, end: usize) -> Option<RootPin> {
        let root = self.table(table, "root", end)?;
        self.only(root, &["image", "platforms"]);
        let image = self.text(root, "image", "the name of an image", end);
        let platforms = self.table(root, "platforms", end).map(|platforms| self.platforms(platforms));
        Some(RootPin { image: image?, platforms: platforms? })
    }

    fn platforms(&mut self, table: &DeTable<'_>) -> BTreeMap<Platform, Digest> {
        let mut found = BTreeMap::new();
        for (name, item) in table.iter() {
            let platform: Result<Platform, _> = name.get_ref().parse();
            let digest = self.value(item, "a digest, `sha256:` and 64 hex digits");
            match platform {
                Ok(platform) => found.extend(digest.map(|digest| (platform, digest))),
                Err(why) => self.bad(name.span(), why.to_string()),
            }
        }
        if table.is_empty() {
            self.problems.push((0..0, "`root.platforms` is empty: nothing is pinned".to_owned()));
        }
        found
    }

    fn only(&mut self, table: &DeTable<'_>, known: &[&str]) {
        for name in table.keys().filter(|name| !known.contains(&name.get_ref().as_ref())) {
            let known: Vec<String> = known.iter().map(|key| format!("`{key}`")).collect();
            self.bad(name.span(), format!("`{}` is not known here; expected {}", name.get_ref(), known.join(" or ")));
        }
    }

    fn table<'a>(&mut self, table: &'a DeTable<'a>, name: &str, end: usize) -> Option<&'a DeTable<'a>> {
        let item = table.get(name);
        let found = item.and_then(|item| item.get_ref().as_table());
        if found.is_none() {
            self.bad(item.map_or(end..end, Spanned::span), format!("expected a table `{name}`"));
        }
        found
    }

    fn text<T: std::str::FromStr<Err = Malformed>>(
        &mut self,
        table: &DeTable<'_>,
        name: &str,
        what: &str,
        end: usize,
    ) -> Option<T> {
        let Some(item) = table.get(name) else {
            self.bad(end..end, format!("expected `{name}`, {what}"));
            return None;
        };
        self.value(item, what)
    }

    fn value<T: std::str::FromStr<Err = Malformed>>(&mut self, item: &Spanned<DeValue<'_>>, what: &str) -> Option<T> {
        match item.get_ref().as_str().map(str::parse) {
            Some(Ok(value)) => return Some(value),
            Some(Err(why)) => self.bad(item.span(), why.to_string()),
            None => self.bad(item.span(), format!("expected {what}, in quotes")),
        }
        None
    }
}

/// A word of the file: nothing that a shell, apt or TOML reads as more than a name.
struct Plain(String);

impl std::str::FromStr for Plain {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "+-.:~_/@=*".contains(c);
        let is_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(plain);
        is_plain.then(|| Self(text.to_owned())).ok_or_else(|| Malformed(format!("`{text}` is not a name")))
    }
}

fn fault(path: &Path, text: &str, problems: &[TomlError]) -> Fault {
    let mut problems = problems.to_vec();
    problems.sort_by_key(|(span, _)| span.start);
    let shown: Vec<String> = problems.iter().map(|(span, why)| place(path, text, span.start, why)).collect();
    Fault::usage(format!("cannot read `{}`\n\n{}", path.display(), shown.join("\n\n")))
        .hint("update it: `cargo xtask lock`")
}

fn place(path: &Path, text: &str, at: usize, why: &str) -> String {
    let before = &text[..at.min(text.len())];
    let begin = before.rfind('\n').map_or(0, |feed| feed + 1);
    let line = text[begin..].lines().next().unwrap_or_default();
    let column = before[begin..].chars().count();
    let number = before.matches('\n').count() + 1;
    if line.is_empty() {
        return format!("{}:{number}:{}: {why}", path.display(), column + 1);
    }
    format!("{}:{number}:{}: {why}\n    {line}\n    {}^", path.display(), column + 1, " ".repeat(column))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn parse(text: &str) -> Result<ImagesLock, Fault> {
        ImagesLock::parse(Path::new("images.lock"), text)
    }

    fn example(base: Option<Digest>) -> ImagesLock {
        let digest = Digest::of(b"");
        let platforms = ["linux/arm64", "linux/amd64"].map(|name| (name.parse().unwrap(), digest));
        let root = RootPin { image: "python:3.12-slim".parse().unwrap(), platforms: platforms.into() };
        ImagesLock { root: Some(root), base, ..ImagesLock::default() }
    }

    fn system() -> SystemPin {
        let pin = "libpq5 17.6-0+deb13u1 sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 7 pool/main/p/libpq5_17.6-0%2bdeb13u1_amd64.deb";
        let packages = SystemPackages { installed: Digest::of(b""), packages: vec![pin.parse().unwrap()] };
        SystemPin {
            root: "debian:trixie".to_owned(),
            suite: "trixie".to_owned(),
            packages: vec!["libpq5".to_owned()],
            platforms: [("linux/amd64".parse().unwrap(), packages)].into(),
        }
    }

    #[test]
    fn packages_are_pinned_by_version_and_digest() {
        let lock = ImagesLock { system: vec![system()], ..ImagesLock::default() };
        expect![[r#"
            # Written by `cargo xtask lock`; do not edit.

            # Debian packages on the root: name, version, digest, size, path on a mirror.
            [[system]]
            root = "debian:trixie"
            suite = "trixie"
            packages = ["libpq5"]

            [system.platforms."linux/amd64"]
            installed = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
            packages = [
                "libpq5 17.6-0+deb13u1 sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 7 pool/main/p/libpq5_17.6-0%2bdeb13u1_amd64.deb",
            ]
        "#]]
        .assert_eq(&lock.to_string());
        assert_eq!(parse(&lock.to_string()).unwrap(), lock);
        for (from, to) in
            [("libpq5 17", "-o 17"), ("pool/main", "../main"), (" 7 ", " x "), ("[\"libpq5\"]", "[\"-o\"]")]
        {
            let fault = parse(&lock.to_string().replace(from, to)).unwrap_err();
            assert!(fault.what.contains("images.lock:"), "{fault}");
        }
    }

    #[test]
    fn it_has_one_form() {
        expect![[r#"
            # Written by `cargo xtask lock`; do not edit.

            [root]
            image = "docker.io/library/python:3.12-slim"

            [root.platforms]
            "linux/amd64" = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
            "linux/arm64" = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        "#]]
        .assert_eq(&example(None).to_string());
        let base = Some(Digest::of(b"x"));
        let bases = BTreeMap::from([("cpu".to_owned(), Digest::of(b"c")), ("cuda".to_owned(), Digest::of(b"d"))]);
        let hash = format!("sha256:{}", "0".repeat(64));
        let build = SourcePin::parse_build(&[format!("b==1 ; python_full_version < '3.13' --hash={hash}")]).unwrap();
        let source = SourcePin { name: "a".to_owned(), version: "1".to_owned(), from: hash, build };
        let sources = vec![SourcePin { build: Vec::new(), ..source.clone() }, source];
        let of_sources = ImagesLock { sources: sources.clone(), ..ImagesLock::default() };
        let named = ImagesLock { bases, sources, ..example(None) };
        for lock in [example(None), example(base), ImagesLock { root: None, ..example(base) }, named, of_sources] {
            assert_eq!(parse(&lock.to_string()).unwrap(), lock);
        }
        let broken = parse("[[source]]\nname = 'a'\nversion = '1'\nfrom = 'x'\nbuild = ['b>=1']\n").unwrap_err();
        assert!(broken.what.contains("expected one exact version"), "{broken}");
    }

    #[test]
    fn every_mistake_is_shown_at_its_place() {
        let text =
            "rot = 1\n[root]\nimage = \"A b\"\n[root.platforms]\n\"linux/x\" = \"sha256:1\"\n[base]\ndigest = 3\n";
        expect![[r#"
            cannot read `images.lock`

            images.lock:1:1: `rot` is not known here; expected `root` or `base` or `bases` or `system` or `source`
                rot = 1
                ^

            images.lock:3:9: `A b` cannot be part of a repository name (repository names are lowercase)
                image = "A b"
                        ^

            images.lock:5:1: `linux/x` is not a platform like `linux/amd64` or `linux/arm64`
                "linux/x" = "sha256:1"
                ^

            images.lock:5:13: `sha256:1` is not `sha256:` and 64 lowercase hex digits
                "linux/x" = "sha256:1"
                            ^

            images.lock:7:10: expected a digest, `sha256:` and 64 hex digits, in quotes
                digest = 3
                         ^

            hint: update it: `cargo xtask lock`"#]]
        .assert_eq(&parse(text).unwrap_err().to_string());
        expect![[r#"
            cannot read `images.lock`

            images.lock:1:6: unclosed table, expected `]`
                [root
                     ^

            hint: update it: `cargo xtask lock`"#]]
        .assert_eq(&parse("[root\n").unwrap_err().to_string());
        expect![[r#"
            cannot read `images.lock`

            images.lock:1:1: expected a table `root`

            hint: update it: `cargo xtask lock`"#]]
        .assert_eq(&parse("").unwrap_err().to_string());
    }
}
