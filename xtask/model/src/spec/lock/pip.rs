//! pip's settings for the package index, translated for uv.
//!
//! Pure: environment and files come from closures. uv does not read pip's configuration, so a machine set up for pip alone
//! would find no index. Values may hold passwords: they travel by environment variables only, and nothing here prints them.
//! uv's own settings take precedence.

use crate::spec::requirements::Options;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// pip's settings. Neither `Debug` nor `Display`: it may hold a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PipSettings {
    values: BTreeMap<String, Vec<String>>,
}

impl PipSettings {
    /// Reads pip's configuration as pip does: the machine's files, the user's, the virtual environment's, the one that
    /// `PIP_CONFIG_FILE` names, then `PIP_…`; the later overrules. `load` returns `None` for a missing file.
    pub fn read(variable: Variables<'_>, load: &mut dyn FnMut(&Path) -> Option<String>) -> Self {
        let mut settings = Self::default();
        for file in files(variable) {
            if let Some(text) = load(&file) {
                settings.merge(ini(&text));
            }
        }
        for name in [
            "index-url",
            "extra-index-url",
            "find-links",
            "no-index",
            "trusted-host",
            "cert",
            "proxy",
            "timeout",
            "default-timeout",
        ] {
            let spelled = format!("PIP_{}", name.to_ascii_uppercase().replace('-', "_"));
            if let Some(value) = variable(&spelled).filter(|value| !value.trim().is_empty()) {
                settings.values.insert(name.to_owned(), value.split_whitespace().map(str::to_owned).collect());
            }
        }
        settings
    }

    /// Sections that count for an installation, `[install]` over `[global]`.
    fn merge(&mut self, sections: BTreeMap<String, BTreeMap<String, Vec<String>>>) {
        for section in ["global", "install"] {
            self.values.extend(sections.get(section).cloned().unwrap_or_default());
        }
    }

    fn one(&self, name: &str) -> Option<&str> {
        self.values.get(name).and_then(|words| words.first()).map(String::as_str)
    }

    fn many(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    fn is_on(&self, name: &str) -> bool {
        self.one(name)
            .is_some_and(|word| matches!(word.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on" | "y" | "t"))
    }

    /// Variables that give uv the same settings, except those that uv has already. `options` are those of the
    /// requirement files, whose own index overrules the machine's, as it does in pip. `indexed` says that a `uv.toml`
    /// names indexes.
    pub fn for_uv(&self, variable: Variables<'_>, options: &Options, indexed: bool) -> BTreeMap<&'static str, String> {
        let told = |names: &[&str]| names.iter().any(|name| variable(name).is_some_and(|value| !value.is_empty()));
        let mut found = BTreeMap::new();
        let mut tell = |name: &'static str, instead: &[&str], value: Option<String>| {
            if let Some(value) = value.filter(|value| !value.is_empty() && !told(&[name]) && !told(instead)) {
                found.insert(name, value);
            }
        };
        if !indexed {
            let index = self.one("index-url").filter(|_| options.index_url.is_none());
            tell("UV_DEFAULT_INDEX", &["UV_INDEX_URL"], index.map(str::to_owned));
            tell("UV_INDEX", &["UV_EXTRA_INDEX_URL"], Some(self.many("extra-index-url").join(" ")));
        }
        tell("UV_FIND_LINKS", &[], Some(self.links().join(",")));
        tell("UV_INSECURE_HOST", &[], Some(self.trusted(options).join(" ")));
        tell("SSL_CERT_FILE", &["UV_SYSTEM_CERTS", "UV_NATIVE_TLS"], self.one("cert").map(str::to_owned));
        for name in ["HTTPS_PROXY", "HTTP_PROXY"] {
            let instead = ["ALL_PROXY", "all_proxy", "https_proxy", "http_proxy"];
            tell(name, &instead, self.one("proxy").map(str::to_owned));
        }
        let timeout = self.one("timeout").or_else(|| self.one("default-timeout"));
        tell("UV_HTTP_TIMEOUT", &["UV_REQUEST_TIMEOUT", "HTTP_TIMEOUT"], timeout.map(str::to_owned));
        found
    }

    /// True if pip may not ask any index; uv has no variable for it.
    pub fn no_index(&self) -> bool {
        self.is_on("no-index")
    }

    /// Folders of this machine are left out while there is an index: a lock must not pin what nobody else can fetch.
    fn links(&self) -> Vec<String> {
        let links = self.many("find-links").iter();
        links
            .filter(|link| self.no_index() || link.starts_with("https://") || link.starts_with("http://"))
            .cloned()
            .collect()
    }

    fn trusted(&self, options: &Options) -> Vec<String> {
        self.many("trusted-host").iter().chain(&options.trusted_hosts).cloned().collect()
    }
}

/// The files that pip would read, the most general first.
fn files(variable: Variables<'_>) -> Vec<PathBuf> {
    let named = variable("PIP_CONFIG_FILE").filter(|file| !file.is_empty());
    if named.as_deref() == Some("/dev/null") {
        return Vec::new();
    }
    let mut files: Vec<PathBuf> = Vec::new();
    let machine = variable("XDG_CONFIG_DIRS").filter(|list| !list.is_empty()).unwrap_or_else(|| "/etc/xdg".to_owned());
    files.extend(machine.split(':').rev().map(|folder| Path::new(folder).join("pip/pip.conf")));
    files.push("/etc/pip.conf".into());
    if let Some(home) = variable("HOME").map(PathBuf::from) {
        files.push(home.join(".pip/pip.conf"));
        let user = variable("XDG_CONFIG_HOME").filter(|folder| !folder.is_empty());
        files.push(user.map_or_else(|| home.join(".config"), PathBuf::from).join("pip/pip.conf"));
    }
    files.extend(
        variable("VIRTUAL_ENV").filter(|folder| !folder.is_empty()).map(|folder| Path::new(&folder).join("pip.conf")),
    );
    files.extend(named.map(PathBuf::from));
    files
}

/// Python's configuration format, as far as pip uses it: sections, `name = words`, indented lines continue.
fn ini(text: &str) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
    let mut sections: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    let (mut section, mut name) = (String::new(), None::<String>);
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        if line.starts_with([' ', '\t'])
            && let Some(open) = &name
        {
            sections.entry(section.clone()).or_default().entry(open.clone()).or_default().extend(words(trimmed));
        } else if let Some(inner) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            (section, name) = (inner.trim().to_owned(), None);
        } else if let Some(at) = trimmed.find(['=', ':']) {
            let key = trimmed[..at].trim().trim_start_matches("--").to_ascii_lowercase().replace('_', "-");
            sections.entry(section.clone()).or_default().insert(key.clone(), words(&trimmed[at + 1..]));
            name = Some(key);
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(variables: &[(&str, &str)], files: &[(&str, &str)], wanted: &[(&str, &str)]) {
        check_with(variables, files, &Options::default(), wanted);
    }

    #[track_caller]
    fn check_with(variables: &[(&str, &str)], files: &[(&str, &str)], options: &Options, wanted: &[(&str, &str)]) {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        let variable = |name: &str| variables.get(name).map(|value| (*value).to_owned());
        let mut load =
            |path: &Path| files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).to_owned());
        let found = PipSettings::read(&variable, &mut load).for_uv(&variable, options, false);
        let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_machine_that_knows_nothing_tells_nothing() {
        check(&[("HOME", "/h")], &[], &[]);
        check(&[("PIP_INDEX_URL", "")], &[("/etc/pip.conf", "[freeze]\nindex-url = https://h\n")], &[]);
    }

    #[test]
    fn variables_are_translated() {
        check(
            &[
                ("PIP_INDEX_URL", "https://u:p@h/s"),
                ("PIP_EXTRA_INDEX_URL", "https://a  https://b"),
                ("PIP_CERT", "/c"),
                ("PIP_DEFAULT_TIMEOUT", "180"),
                ("PIP_TRUSTED_HOST", "x y"),
                ("PIP_PROXY", "http://q"),
            ],
            &[],
            &[
                ("HTTPS_PROXY", "http://q"),
                ("HTTP_PROXY", "http://q"),
                ("SSL_CERT_FILE", "/c"),
                ("UV_DEFAULT_INDEX", "https://u:p@h/s"),
                ("UV_HTTP_TIMEOUT", "180"),
                ("UV_INDEX", "https://a https://b"),
                ("UV_INSECURE_HOST", "x y"),
            ],
        );
    }

    #[test]
    fn the_nearer_file_wins_and_the_environment_over_all() {
        let files = [
            ("/etc/pip.conf", "[global]\nindex-url = https://machine\ncert: /machine\n"),
            (
                "/h/.config/pip/pip.conf",
                "[install]\nindex_url = https://install\n[global]\nindex-url = https://global\n",
            ),
            ("/v/pip.conf", "[global]\nextra-index-url =\n    https://a\n    # not this\n    https://b\n"),
            ("/named", "[global]\ncert = /named\n"),
        ];
        check(&[("HOME", "/h")], &files, &[("SSL_CERT_FILE", "/machine"), ("UV_DEFAULT_INDEX", "https://install")]);
        check(
            &[("HOME", "/h"), ("VIRTUAL_ENV", "/v"), ("PIP_CONFIG_FILE", "/named"), ("PIP_INDEX_URL", "https://env")],
            &files,
            &[("SSL_CERT_FILE", "/named"), ("UV_DEFAULT_INDEX", "https://env"), ("UV_INDEX", "https://a https://b")],
        );
        check(&[("HOME", "/h"), ("PIP_CONFIG_FILE", "/dev/null")], &files, &[]);
    }

    #[test]
    fn settings_of_uv_take_precedence() {
        let files = [("/etc/pip.conf", "[global]\nindex-url = https://h\ncert = /c\nextra-index-url = https://x\n")];
        check(&[("UV_INDEX_URL", "https://own"), ("SSL_CERT_FILE", "/own")], &files, &[("UV_INDEX", "https://x")]);
        check(&[("UV_DEFAULT_INDEX", "https://own"), ("UV_SYSTEM_CERTS", "1"), ("UV_INDEX", "https://y")], &files, &[]);
    }

    #[test]
    fn an_index_in_the_requirements_overrules_the_machines() {
        let options = Options { index_url: Some("https://own".to_owned()), ..Options::default() };
        check_with(&[("PIP_INDEX_URL", "https://h")], &[], &options, &[]);
    }

    #[test]
    fn folders_of_this_machine_count_only_without_an_index() {
        let links = ("PIP_FIND_LINKS", "/opt/wheels https://h/links");
        check(&[links], &[], &[("UV_FIND_LINKS", "https://h/links")]);
        check(&[links, ("PIP_NO_INDEX", "1")], &[], &[("UV_FIND_LINKS", "/opt/wheels,https://h/links")]);
    }
}
