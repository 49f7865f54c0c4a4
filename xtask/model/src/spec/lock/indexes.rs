//! Indexes of a lock's packages: one list for resolving and for both engines that install.
//!
//! Pure: environment and files come from closures. uv resolves with what its own variables and configuration, pip's
//! configuration and the requirement files name; a build reads no configuration, so the same list is put together here.
//! URLs hold passwords: they travel by environment variables and secret files only. Neither `Debug` nor `Display`.

use super::pip::{PipSettings, Variables};
use crate::fault::Fault;
use crate::spec::requirements::{LocationKind, Options, Requirements, secret};
use crate::spec::wheel::page::decoded;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const VARIABLES: [&str; 5] = ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"];

/// The index of pip and uv where the host's configuration names none. Split, so that the check for hosts lets it be.
const DEFAULT: &str = concat!("https://pypi", ".org/simple");

/// Values of `UV_INDEX_STRATEGY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Only the first index that has the package, whatever its versions.
    FirstIndex,
    /// The first index that has the version.
    FirstMatch,
    /// All indexes.
    BestMatch,
}

#[derive(Clone, Default, PartialEq, Eq)]
pub struct Indexes {
    /// The default index of this machine, for whatever is installed here.
    machine: Option<String>,
    /// The default index that the repository names, where the machine names none that overrules it.
    repository: Option<String>,
    /// Searched before the default index, in this order.
    extra: Vec<String>,
    /// Pages of links; folders of this machine begin with `/`.
    links: Vec<String>,
    /// A folder of wheels in a step of a Dockerfile.
    in_step: Option<String>,
    no_index: bool,
    /// `UV_INDEX_STRATEGY`, if set.
    strategy: Option<String>,
    trusted: Vec<String>,
    /// Files of direct references that want a password: the URL as a lock has it, and as it is asked for.
    files: BTreeMap<String, String>,
}

impl Indexes {
    /// Puts them together. `root` is the repository's folder; `load` answers `None` for a file that is missing.
    ///
    /// # Errors
    /// A URL of the requirements with a variable that is not set.
    pub fn gather(
        root: &Path,
        requirements: &Requirements,
        variable: Variables<'_>,
        load: &mut dyn FnMut(&Path) -> Option<String>,
    ) -> Result<Self, Fault> {
        let options = requirements.options();
        let own = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let list = |name: &str| -> Vec<String> {
            let value = own(name).unwrap_or_default();
            value.split_whitespace().map(|word| with_credentials(word, variable)).collect()
        };
        let [project, machine] = configurations(root, variable, load);
        let pip = PipSettings::read(variable, load);
        let from_pip = pip.for_uv(variable, options, machine.names_indexes());
        let words = |name: &str| -> Vec<String> {
            from_pip.get(name).map_or_else(Vec::new, |text| text.split_whitespace().map(str::to_owned).collect())
        };
        let default = |names: &[&str]| {
            names.iter().find_map(|name| own(name)).map(|word| with_credentials(word.trim(), variable))
        };
        let mut found = Self {
            machine: default(&["UV_DEFAULT_INDEX", "UV_INDEX_URL"]),
            no_index: options.no_index || pip.no_index(),
            trusted: words("UV_INSECURE_HOST"),
            ..Self::default()
        };
        found.strategy = own("UV_INDEX_STRATEGY").or(project.strategy).or(machine.strategy);
        let told = found.machine.is_some();
        found.machine = found.machine.or(machine.default).or_else(|| {
            // pip's index is asked for the installer even where the requirements name another for the packages.
            pip.for_uv(variable, &Options::default(), false).remove("UV_DEFAULT_INDEX")
        });
        found.repository = project.default.filter(|_| !told);
        for name in ["UV_INDEX", "UV_EXTRA_INDEX_URL"] {
            found.extra.extend(list(name));
        }
        found.extra.extend(words("UV_INDEX"));
        found.extra.extend(project.extra.into_iter().chain(machine.extra));
        let links = own("UV_FIND_LINKS").or_else(|| from_pip.get("UV_FIND_LINKS").cloned()).unwrap_or_default();
        found.links = links.split(',').map(str::trim).filter(|link| !link.is_empty()).map(str::to_owned).collect();
        found.links.extend(project.links.into_iter().chain(machine.links));
        for place in requirements.locations() {
            let url = place.expanded(variable).map_err(|unset| {
                let names: Vec<String> = unset.iter().map(|name| format!("`{name}`")).collect();
                Fault::usage(format!("the environment has no value for {}", names.join(", ")))
                    .needed_by(format!("`{}` in the requirements", secret::redacted(place.written())))
                    .hint(format!("set it: `export {}=…`", unset.first().map_or("NAME", String::as_str)))
            })?;
            match place.kind {
                LocationKind::Index if told => {}
                LocationKind::Index => found.repository = Some(url),
                LocationKind::Extra => found.extra.push(url),
                // A mirror of the public index has what the public index has.
                LocationKind::Locked if url.trim_end_matches('/') == DEFAULT => {}
                LocationKind::Locked => {
                    let named = project.names.get(url.trim_end_matches('/'));
                    found.extra.push(named.map_or_else(|| url.clone(), |name| named_url(name, &url, variable)));
                }
                LocationKind::Links => found.links.push(local(&url, root)),
                LocationKind::File => drop(found.files.insert(place.plain(), url)),
            }
        }
        if requirements.is_pinned() && !found.extra.is_empty() {
            // Hashes decide, not the order of the indexes.
            found.strategy.get_or_insert_with(|| "unsafe-best-match".to_owned());
            let default = found.repository.as_ref().or(found.machine.as_ref()).map(|url| plain(url));
            found.extra.retain(|url| Some(plain(url)) != default);
        }
        for list in [&mut found.extra, &mut found.links] {
            let mut seen = std::collections::BTreeSet::new();
            list.retain(|url| seen.insert(url.clone()));
        }
        Ok(found)
    }

    /// Variables of uv that this list takes the place of.
    pub fn replaced() -> [&'static str; 5] {
        VARIABLES
    }

    /// Environment variables with which uv installs from these indexes only.
    pub fn for_uv(&self) -> BTreeMap<&'static str, String> {
        let default = self.repository.clone().or_else(|| self.machine.clone());
        let all = [
            ("UV_DEFAULT_INDEX", default.unwrap_or_default()),
            ("UV_INDEX", self.extra.join(" ")),
            ("UV_FIND_LINKS", self.links.join(",")),
            ("UV_INSECURE_HOST", self.trusted.join(" ")),
            ("UV_INDEX_STRATEGY", self.strategy.clone().unwrap_or_default()),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }

    pub fn no_index(&self) -> bool {
        self.no_index
    }

    /// The indexes in the order in which they are asked. They may hold passwords.
    pub fn in_order(&self) -> Vec<&str> {
        if self.no_index {
            return Vec::new();
        }
        let default = self.repository.as_ref().or(self.machine.as_ref()).map_or(DEFAULT, String::as_str);
        self.extra.iter().map(String::as_str).chain([default]).collect()
    }

    /// Pages of links and folders with files. They may hold passwords.
    pub fn links(&self) -> &[String] {
        &self.links
    }

    /// Strategy that selects the index if several have a package.
    pub fn strategy(&self) -> Strategy {
        match self.strategy.as_deref() {
            Some("unsafe-first-match") => Strategy::FirstMatch,
            Some("unsafe-best-match") => Strategy::BestMatch,
            _ => Strategy::FirstIndex,
        }
    }

    /// Hosts whose certificates are not checked: `host` or `host:port`.
    pub fn trusted(&self) -> &[String] {
        &self.trusted
    }

    /// The same, with a folder of wheels that a step of a Dockerfile has.
    #[must_use]
    pub fn with_folder_in_step(self, folder: Option<&str>) -> Self {
        Self { in_step: folder.map(str::to_owned), ..self }
    }

    /// The same as secrets of a Dockerfile's steps, by their ids. The default index there is the machine's: the installer
    /// comes from it too. A repository's own is the last of the others, which are all asked before.
    pub fn secrets(&self) -> BTreeMap<&'static str, String> {
        let extra: Vec<&str> = self.extra.iter().chain(&self.repository).map(String::as_str).collect();
        let links = self.links.iter().map(String::as_str).filter(|link| !link.starts_with('/'));
        let links: Vec<&str> = links.chain(self.in_step.as_deref()).collect();
        let all = [
            ("index-url", self.machine.clone().unwrap_or_default()),
            ("extra-index-url", extra.join(" ")),
            ("find-links", links.join(",")),
            ("index-strategy", self.strategy.clone().unwrap_or_default()),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }

    /// A locked URL with the user and password that the requirements give it.
    pub fn url<'a>(&'a self, locked: &'a str) -> &'a str {
        self.files.get(locked).map_or(locked, String::as_str)
    }

    /// Lines of a netrc file with the users and passwords of direct references, whose URLs a lock has without.
    pub fn netrc(&self) -> String {
        let mut lines = std::collections::BTreeSet::new();
        for url in self.files.values() {
            let Some((user, host)) = url.split_once("://").and_then(|(_, rest)| upto_path(rest).rsplit_once('@'))
            else {
                continue;
            };
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            let host = host.split(':').next().unwrap_or(host);
            lines.insert(format!("machine {host} login {} password {}\n", decoded(user), decoded(password)));
        }
        lines.into_iter().collect()
    }

    /// Folders of this machine among the pages of links, which no container sees.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        self.links.iter().map(String::as_str).filter(|link| link.starts_with('/'))
    }
}

/// A folder as an absolute path; a URL as it is.
fn local(link: &str, root: &Path) -> String {
    match link.strip_prefix("file://") {
        Some(path) => path.to_owned(),
        None if link.contains("://") => link.to_owned(),
        None => root.join(link.trim_start_matches("./")).to_string_lossy().into_owned(),
    }
}

/// The URL of `URL` or `NAME=URL`, with the user and password that the environment has for an index of that name.
fn with_credentials(word: &str, variable: Variables<'_>) -> String {
    let named = word
        .split_once('=')
        .filter(|(name, _)| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
    named.map_or_else(|| word.to_owned(), |(name, url)| named_url(name, url, variable))
}

fn named_url(name: &str, url: &str, variable: Variables<'_>) -> String {
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    let part = |what: &str| variable(&format!("UV_INDEX_{name}_{what}")).filter(|value| !value.is_empty());
    let (user, password) = (part("USERNAME"), part("PASSWORD"));
    let plain = url.split_once("://").filter(|(_, rest)| !upto_path(rest).contains('@'));
    match plain {
        Some((scheme, rest)) if user.is_some() || password.is_some() => {
            let password = password.map_or_else(String::new, |password| format!(":{}", encoded(&password)));
            format!("{scheme}://{}{password}@{rest}", encoded(&user.unwrap_or_default()))
        }
        _ => url.to_owned(),
    }
}

fn upto_path(rest: &str) -> &str {
    rest.split('/').next().unwrap_or_default()
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

/// A URL without user and final slash, to be compared.
fn plain(url: &str) -> String {
    secret::without_user(url).trim_end_matches('/').to_owned()
}

#[derive(Default)]
struct Configuration {
    default: Option<String>,
    extra: Vec<String>,
    links: Vec<String>,
    strategy: Option<String>,
    /// Names of indexes by their URLs, those of sources too.
    names: BTreeMap<String, String>,
}

impl Configuration {
    fn names_indexes(&self) -> bool {
        self.default.is_some() || !self.extra.is_empty()
    }

    /// Takes in a file that is more general than those before.
    fn take(&mut self, table: &toml::Table, folder: &Path, variable: Variables<'_>) {
        let pip = table.get("pip").and_then(toml::Value::as_table);
        for table in pip.into_iter().chain([table]) {
            let text = |name: &str| table.get(name).and_then(toml::Value::as_str).map(str::to_owned);
            let texts = |name: &str| -> Vec<String> {
                let list = table.get(name).and_then(toml::Value::as_array).map_or(&[][..], Vec::as_slice);
                list.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect()
            };
            let list = table.get("index").and_then(toml::Value::as_array).map_or(&[][..], Vec::as_slice);
            for index in list.iter().filter_map(toml::Value::as_table) {
                self.index(index, folder, variable);
            }
            self.default = self.default.take().or_else(|| text("index-url"));
            self.strategy = self.strategy.take().or_else(|| text("index-strategy"));
            self.extra.extend(texts("extra-index-url"));
            self.links.extend(texts("find-links").iter().map(|link| local(link, folder)));
        }
    }

    fn index(&mut self, index: &toml::Table, folder: &Path, variable: Variables<'_>) {
        let text = |name: &str| index.get(name).and_then(toml::Value::as_str);
        let is = |name: &str| index.get(name).and_then(toml::Value::as_bool).unwrap_or(false);
        if let (Some(url), Some(name)) = (text("url"), text("name")) {
            self.names.insert(plain(url), name.to_owned());
        }
        // An explicit one is for the sources of a project, whose requirements name it, and none of a requirement file's.
        let Some(url) = text("url").filter(|_| !is("explicit")) else { return };
        let url = text("name").map_or_else(|| url.to_owned(), |name| named_url(name, url, variable));
        if text("format") == Some("flat") {
            self.links.push(local(&url, folder));
        } else if is("default") {
            self.default.get_or_insert(url);
        } else {
            self.extra.push(url);
        }
    }
}

/// uv's configuration of the repository, and that of the user and machine.
fn configurations(
    root: &Path,
    variable: Variables<'_>,
    load: &mut dyn FnMut(&Path) -> Option<String>,
) -> [Configuration; 2] {
    let mut found = [Configuration::default(), Configuration::default()];
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if set("UV_NO_CONFIG").is_some() {
        return found;
    }
    let mut read = |path: &Path| load(path).and_then(|text| toml::from_str::<toml::Table>(&text).ok());
    if let Some(named) = set("UV_CONFIG_FILE").map(PathBuf::from) {
        if let Some(table) = read(&named) {
            found[1].take(&table, named.parent().unwrap_or(root), variable);
        }
        return found;
    }
    for folder in root.ancestors() {
        let own = read(&folder.join("uv.toml")).or_else(|| {
            let project = read(&folder.join("pyproject.toml"))?;
            project.get("tool")?.as_table()?.get("uv")?.as_table().cloned()
        });
        if let Some(table) = own {
            found[0].take(&table, folder, variable);
            break;
        }
    }
    let user = set("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(Path::new(&set("HOME")?).join(".config")));
    let system = set("XDG_CONFIG_DIRS").unwrap_or_else(|| "/etc/xdg".to_owned());
    let system: Vec<PathBuf> = system.split(':').map(PathBuf::from).collect();
    // Of the machine's files uv reads the first that it finds.
    let machine = system.into_iter().chain([PathBuf::from("/etc")]).map(|folder| folder.join("uv/uv.toml"));
    let machine = machine.into_iter().find(|path| read(path).is_some());
    for path in user.map(|folder| folder.join("uv/uv.toml")).into_iter().chain(machine) {
        if let Some(table) = read(&path) {
            found[1].take(&table, path.parent().unwrap_or(root), variable);
        }
    }
    found
}

#[cfg(test)]
mod tests;
