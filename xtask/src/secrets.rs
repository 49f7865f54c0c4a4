//! What of the host a build may use and must not keep: certificates, package index, credentials, proxies.
//!
//! Everything goes in as a file that BuildKit mounts for one step, or as an argument that it knows and keeps out of the
//! history. No value of it is ever an argument of a program.

use crate::fault::Fault;
use crate::lock::pip;
use crate::requirements::Options;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Proxy variables that BuildKit predefines as build arguments, and whose values docker takes from the environment.
const PROXIES: [&str; 8] =
    ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "FTP_PROXY", "http_proxy", "https_proxy", "no_proxy", "ftp_proxy"];

/// Where systems keep the certificates that they trust.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A build's secrets, while they are needed.
pub struct Secrets {
    files: BTreeMap<&'static str, PathBuf>,
    /// Holds the files that were written for this build.
    _folder: TempDir,
}

impl Secrets {
    /// Collects them from the environment and the host's own configuration.
    pub fn collect() -> Result<Self, Fault> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let folder =
            tempfile::tempdir().map_err(|error| Fault::build("cannot make a temporary folder").cause(error))?;
        let mut files = BTreeMap::new();
        if let Some(bundle) = certificates(&variable) {
            files.insert("ca", bundle);
        }
        let settings = pip::Settings::read(&variable, &mut |path| std::fs::read_to_string(path).ok());
        let index = settings.for_uv(&variable, &Options::default(), false);
        for (id, name) in [("index-url", "UV_DEFAULT_INDEX"), ("extra-index-url", "UV_INDEX")] {
            // What uv has been told itself comes before what pip's settings come to.
            if let Some(value) = variable(name).or_else(|| index.get(name).cloned()) {
                files.insert(id, write(folder.path(), id, &value)?);
            }
        }
        let netrc = variable("NETRC").or_else(|| Some(variable("HOME")? + "/.netrc")).map(PathBuf::from);
        if let Some(netrc) = netrc.filter(|path| path.is_file()) {
            files.insert("netrc", netrc);
        }
        Ok(Self { files, _folder: folder })
    }

    /// Adds one more, whose value is text.
    pub fn add(&mut self, id: &'static str, value: &str) -> Result<(), Fault> {
        let path = write(self._folder.path(), id, value)?;
        self.files.insert(id, path);
        Ok(())
    }

    /// The files by their ids.
    pub fn files(&self) -> &BTreeMap<&'static str, PathBuf> {
        &self.files
    }

    /// The proxy variables that are set: passed by name, so that a password in one is in no argument list.
    pub fn proxies() -> Vec<&'static str> {
        PROXIES.into_iter().filter(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())).collect()
    }
}

/// The certificates that the host trusts: those that its tools were told of, else the system's.
fn certificates(variable: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let told = ["SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"].into_iter().find_map(variable);
    let told = told.map(PathBuf::from).filter(|path| path.is_file());
    told.or_else(|| BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file()))
}

fn write(folder: &Path, id: &str, value: &str) -> Result<PathBuf, Fault> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = folder.join(id);
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|error| Fault::build(format!("cannot write the build secret `{id}`")).cause(error))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_that_tools_were_told_of_comes_first() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let told = |name: &str| (name == "PIP_CERT").then(|| path.clone());
        assert_eq!(certificates(&told).as_deref(), Some(file.path()));
        let gone = |name: &str| (name == "PIP_CERT").then(|| "/no/such/file".to_owned());
        assert_ne!(certificates(&gone).as_deref(), Some(Path::new("/no/such/file")));
    }
}
