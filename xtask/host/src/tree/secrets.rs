//! Settings of the host that a build uses and must not keep: certificates, package index, credentials, proxies.
//!
//! Everything goes in as a file that BuildKit mounts for one step, or as an argument that it knows and keeps out of the
//! history. No value of it is ever an argument of a program.

use crate::docker::debian;
use crate::scratch::Scratch;
use crate::tree::uv;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use xtask_model::fault::Fault;
use xtask_model::spec::lock::Indexes;
use xtask_model::spec::requirements::Requirements;

/// Proxy variables that BuildKit predefines as build arguments, and whose values docker takes from the environment.
const PROXIES: [&str; 8] =
    ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "FTP_PROXY", "http_proxy", "https_proxy", "no_proxy", "ftp_proxy"];

const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

const INDEX_SECRETS: [&str; 4] = ["index-url", "extra-index-url", "find-links", "index-strategy"];

/// Refuses a local folder of packages for a Dockerfile whose steps install packages: a step cannot read it, and without it would
/// install other packages or none.
///
/// # Errors
/// The first folder among the places that packages come from.
pub fn check_folders(wanted: &BTreeSet<String>, indexes: &dyn Fn() -> Result<Indexes, Fault>) -> Result<(), Fault> {
    if !INDEX_SECRETS.into_iter().any(|id| wanted.contains(id)) {
        return Ok(());
    }
    let indexes = indexes()?;
    let Some(folder) = indexes.folders().next() else { return Ok(()) };
    Err(Fault::usage(format!("docker cannot read the packages in `{folder}`"))
        .cause("the folder is on this machine, and a step of a Dockerfile reads packages from URLs alone")
        .needed_by("`--find-links` of the requirements, `find-links` of uv, or `UV_FIND_LINKS`")
        .hint("serve the folder over HTTP, and name its URL: `--find-links https://…` in the requirements"))
}

pub struct Secrets {
    files: BTreeMap<&'static str, PathBuf>,
    _folder: Option<Scratch>,
}

impl Secrets {
    pub fn none() -> Self {
        Self { files: BTreeMap::new(), _folder: None }
    }

    /// Collects those that a Dockerfile's steps mount, from the environment and the host's own configuration. `suite` is the
    /// Debian release that the image is built on, if its packages come from the host's mirror.
    pub fn collect(wanted: &BTreeSet<String>, suite: Option<&str>) -> Result<Self, Fault> {
        Self::of(wanted, suite, &|| uv::indexes(Path::new("/"), &Requirements::default()))
    }

    /// The same where packages come from the indexes that the repository names, too.
    pub fn of(
        wanted: &BTreeSet<String>,
        suite: Option<&str>,
        indexes: &dyn Fn() -> Result<Indexes, Fault>,
    ) -> Result<Self, Fault> {
        let mut secrets = Self::none();
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let wants = |id: &str| wanted.contains(id);
        if wants("ca") {
            secrets.files.extend(certificates(&variable).map(|bundle| ("ca", bundle)));
        }
        if INDEX_SECRETS.into_iter().any(wants) {
            let indexes = indexes()?;
            for (id, value) in indexes.secrets().into_iter().filter(|(id, _)| wants(id)) {
                secrets.write(id, &value)?;
            }
        }
        if wants("netrc") {
            let netrc = variable("NETRC").or_else(|| Some(variable("HOME")? + "/.netrc")).map(PathBuf::from);
            let netrc = netrc.filter(|path| path.is_file());
            match (indexes()?.netrc(), netrc) {
                (own, Some(netrc)) if own.is_empty() => drop(secrets.files.insert("netrc", netrc)),
                (own, _) if own.is_empty() => {}
                (own, netrc) => {
                    // What the requirements say comes first, and so counts.
                    let rest = netrc.map_or_else(|| Ok(String::new()), std::fs::read_to_string);
                    let rest = rest.map_err(|error| Fault::usage("cannot read the netrc file").cause(error))?;
                    secrets.write("netrc", &(own + &rest))?;
                }
            }
        }
        // Asking the host's apt takes a moment.
        if let Some(suite) = suite.filter(|_| wants("apt-sources")) {
            secrets.write("apt-sources", &debian::AptSource::of_host()?.deb822(suite))?;
        }
        if wants("cargo-config")
            && let Some(config) = cargo_config(&variable)?
        {
            secrets.write("cargo-config", &config)?;
        }
        Ok(secrets)
    }

    /// Puts a value into a file that its owner alone can read, and that goes with this build.
    fn write(&mut self, id: &'static str, value: &str) -> Result<(), Fault> {
        let cannot = |error| Fault::build(format!("cannot write the build secret `{id}`")).cause(error);
        let folder = match &self._folder {
            Some(folder) => folder,
            None => self._folder.insert(Scratch::new().map_err(cannot)?),
        };
        let path = folder.path().join(id);
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(value.as_bytes())).map_err(cannot)?;
        self.files.insert(id, path);
        Ok(())
    }

    pub fn files(&self) -> &BTreeMap<&'static str, PathBuf> {
        &self.files
    }

    /// The proxy variables that are set: passed by name, so that a password in one is in no argument list.
    pub fn proxies() -> Vec<&'static str> {
        PROXIES.into_iter().filter(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())).collect()
    }
}

/// The certificates that the host trusts: those that its tools are configured with, else the system's.
fn certificates(variable: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let told = ["SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"].into_iter().find_map(variable);
    let told = told.map(PathBuf::from).filter(|path| path.is_file());
    told.or_else(|| BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file()))
}

/// Configuration that gives cargo in a build the host's source of crates: a mirror, and how to reach it. Leaves out paths of the host
/// (certificates, wrappers) and settings for compiling.
fn cargo_config(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, Fault> {
    let home =
        variable("CARGO_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cargo")));
    let candidates = home.into_iter().flat_map(|home| [home.join("config"), home.join("config.toml")]);
    let Some((path, text)) = candidates
        .into_iter()
        .find_map(|path| Some((std::fs::read_to_string(&path).ok()?, path)))
        .map(|(text, path)| (path, text))
    else {
        return Ok(None);
    };
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        Fault::usage(format!("cannot read `{}`", path.display())).cause(error.message())
    })?;
    Ok(sources_of(table))
}

/// The parts of a cargo configuration that say where crates come from; none where it says nothing of it.
fn sources_of(table: toml::Table) -> Option<String> {
    const ABOUT_SOURCES: [&str; 3] = ["source", "registries", "registry"];
    let kept: toml::Table = table.into_iter().filter(|(name, _)| ABOUT_SOURCES.contains(&name.as_str())).collect();
    (!kept.is_empty()).then(|| kept.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_configured_bundle_comes_first() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let told = |name: &str| (name == "PIP_CERT").then(|| path.clone());
        assert_eq!(certificates(&told).as_deref(), Some(file.path()));
        let gone = |name: &str| (name == "PIP_CERT").then(|| "/no/such/file".to_owned());
        assert_ne!(certificates(&gone).as_deref(), Some(Path::new("/no/such/file")));
    }

    #[track_caller]
    fn folders(wanted: &[&str], links: &str, refused: Option<&str>) {
        let wanted = wanted.iter().map(|id| (*id).to_owned()).collect();
        let text = format!("--find-links {links}\na\n");
        let mut first = Some(text);
        let read = xtask_model::spec::requirements::read(Path::new("r.txt"), &mut |_| Ok(first.take().unwrap()));
        let indexes = || uv::indexes(Path::new("/repository"), read.as_ref().unwrap());
        let fault = check_folders(&wanted, &indexes).err();
        assert_eq!(fault.map(|fault| fault.what).as_deref(), refused);
    }

    #[test]
    fn a_folder_of_wheels_is_refused_where_a_step_installs_packages() {
        let what = "docker cannot read the packages in `/repository/wheels`";
        folders(&["find-links", "ca"], "./wheels", Some(what));
        // A step that takes an index and not the links would install other packages.
        folders(&["index-url"], "wheels", Some(what));
        folders(&["find-links"], "file:///srv/wheels", Some("docker cannot read the packages in `/srv/wheels`"));
        folders(&["ca"], "./wheels", None);
        folders(&["find-links"], "https://example.com/wheels", None);
    }

    #[test]
    fn only_what_is_mounted_is_collected() {
        assert!(Secrets::collect(&BTreeSet::new(), Some("trixie")).unwrap().files().is_empty());
        let ca = Secrets::collect(&BTreeSet::from(["ca".to_owned()]), None).unwrap();
        assert!(ca.files().keys().all(|id| *id == "ca"));
    }

    #[test]
    fn cargo_gets_sources_of_crates_and_nothing_else() {
        let table = "[source.crates-io]\nreplace-with = \"near\"\n[http]\ncainfo = \"/host/ca\"\n[build]\njobs = 1\n";
        assert_eq!(sources_of(table.parse().unwrap()).unwrap(), "[source.crates-io]\nreplace-with = \"near\"\n");
        assert_eq!(sources_of("[build]\njobs = 1\n".parse().unwrap()), None);
    }
}
