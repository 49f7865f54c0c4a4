//! Settings for package indexes on this machine: uv's variables, and pip's settings where uv has none.
//!
//! Reads environment and files. Values may hold passwords: neither `Debug` nor `Display`.

use super::netrc::Netrc;
use crate::http::Limits;
use crate::http::proxy::Proxies;
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::tls::{Certificate, PemItem, parse_pem};
use xtask_model::fault::Fault;
use xtask_model::spec::lock::Indexes;
use xtask_model::spec::lock::pip;
use xtask_model::spec::requirements::Options;

#[derive(Clone, Default)]
pub struct Settings {
    pub(super) limits: Limits,
    pub(super) proxies: Proxies,
    /// Certificates that pip's settings name; `None` for those of the host.
    pub(super) bundle: Option<Vec<Certificate<'static>>>,
    /// Hosts whose certificates are not checked: `host`, `host:port`, or `*`.
    pub(super) trusted: Vec<String>,
    pub(super) netrc: Netrc,
    /// A place with credentials that only other installers read.
    pub(super) elsewhere: Option<String>,
    /// Credentials exist that only uv reads.
    pub(super) stored: bool,
    /// A setting forbids the network.
    pub(super) offline: bool,
    /// The setting that only other installers follow.
    pub(super) unsupported: Option<String>,
}

impl Settings {
    /// The settings of this machine and its environment.
    ///
    /// # Errors
    /// A file of certificates that cannot be read.
    pub fn from_env(indexes: &Indexes) -> Result<Self, Fault> {
        Self::read(indexes, &|name| std::env::var(name).ok(), &mut |path| std::fs::read_to_string(path).ok())
    }

    fn read(
        indexes: &Indexes,
        variable: pip::Variables<'_>,
        load: &mut dyn FnMut(&Path) -> Option<String>,
    ) -> Result<Self, Fault> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let mut from_pip = pip::PipSettings::read(variable, load).for_uv(variable, &Options::default(), false);
        let mut limits = Limits::default();
        let seconds = |text: String| text.trim().parse().ok().map(Duration::from_secs);
        let timeout = ["UV_HTTP_TIMEOUT", "UV_REQUEST_TIMEOUT", "HTTP_TIMEOUT"].into_iter().find_map(set);
        if let Some(idle) = timeout.or_else(|| from_pip.remove("UV_HTTP_TIMEOUT")).and_then(seconds) {
            limits.idle_timeout = idle.max(Duration::from_millis(1));
            limits.deadline = limits.deadline.max(idle * 2);
        }
        if let Some(connect) = set("UV_HTTP_CONNECT_TIMEOUT").and_then(seconds) {
            limits.connect_timeout = connect.max(Duration::from_millis(1));
        }
        if let Some(retries) = set("UV_HTTP_RETRIES").and_then(|text| text.trim().parse::<u32>().ok()) {
            limits.tries = retries.saturating_add(1);
        }
        let mut proxies = Proxies::from_env();
        proxies.https = proxies.https.or_else(|| from_pip.remove("HTTPS_PROXY"));
        proxies.http = proxies.http.or_else(|| from_pip.remove("HTTP_PROXY"));
        let mut trusted = indexes.trusted().to_vec();
        trusted.extend(set("UV_INSECURE_HOST").iter().flat_map(|text| text.split_whitespace()).map(str::to_owned));
        let netrc = set("NETRC").map(PathBuf::from).or_else(|| Some(Path::new(&set("HOME")?).join(".netrc")));
        // What the requirements say comes first, and so counts.
        let netrc = indexes.netrc() + &netrc.and_then(|path| load(&path)).unwrap_or_default();
        let keyring = set("UV_KEYRING_PROVIDER").filter(|provider| provider != "disabled");
        let data =
            set("XDG_DATA_HOME").map(PathBuf::from).or_else(|| Some(Path::new(&set("HOME")?).join(".local/share")));
        let store = set("UV_CREDENTIALS_DIR").map(PathBuf::from).or_else(|| Some(data?.join("uv/credentials")));
        let store = store.is_some_and(|folder| load(&folder.join("credentials.toml")).is_some());
        let elsewhere = keyring.map(|_| "`UV_KEYRING_PROVIDER` names a keyring program".to_owned());
        let on = |name: &str| set(name).is_some_and(|value| !matches!(value.as_str(), "0" | "false" | "no" | "off"));
        let certificate = ["SSL_CLIENT_CERT", "PIP_CLIENT_CERT"].into_iter().find(|name| set(name).is_some());
        Ok(Self {
            limits,
            proxies,
            bundle: from_pip.remove("SSL_CERT_FILE").map(|path| bundle(Path::new(&path), load)).transpose()?,
            trusted,
            netrc: Netrc::parse(&netrc),
            elsewhere,
            stored: store,
            offline: on("UV_OFFLINE"),
            unsupported: certificate.map(|name| format!("`{name}` names a client certificate")),
        })
    }
}

fn bundle(path: &Path, load: &mut dyn FnMut(&Path) -> Option<String>) -> Result<Vec<Certificate<'static>>, Fault> {
    let cannot = |why: &str| {
        Fault::usage(format!("cannot read the certificates in `{}`", path.display()))
            .cause(why)
            .needed_by("`cert` in pip's settings")
    };
    let text = load(path).ok_or_else(|| cannot("the file is missing, or no text"))?;
    let items = parse_pem(text.as_bytes()).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let found: Vec<_> = items.collect();
    if found.is_empty() { Err(cannot("it has no certificate")) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn settings(variables: &[(&str, &str)], files: &[(&str, &str)]) -> Result<Settings, Fault> {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        let variable = |name: &str| variables.get(name).map(|value| (*value).to_owned());
        let mut load =
            |path: &Path| files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).to_owned());
        Settings::read(&Indexes::default(), &variable, &mut load)
    }

    #[test]
    fn limits_and_credentials_are_those_of_uv_and_pip() {
        let files = [("/h/.netrc", "machine h login u password p"), ("/etc/pip.conf", "[global]\ntimeout = 7\n")];
        let found = settings(&[("HOME", "/h"), ("UV_HTTP_RETRIES", "0"), ("UV_OFFLINE", "0")], &files).unwrap();
        assert_eq!((found.limits.idle_timeout, found.limits.tries), (Duration::from_secs(7), 1));
        assert_eq!(found.netrc.of("h"), Some(("u", "p")));
        assert!(!found.offline && found.elsewhere.is_none() && found.unsupported.is_none());
        let found = settings(&[("UV_HTTP_TIMEOUT", "90"), ("UV_INSECURE_HOST", "a b:1")], &files).unwrap();
        assert_eq!(
            (found.limits.idle_timeout, found.limits.deadline),
            (Duration::from_secs(90), Duration::from_secs(180))
        );
        assert_eq!(found.trusted, ["a", "b:1"]);
    }

    #[test]
    fn settings_for_other_installers_are_named() {
        let store = [("/h/.local/share/uv/credentials/credentials.toml", "")];
        assert!(settings(&[("HOME", "/h")], &store).unwrap().stored);
        let keyring = settings(&[("UV_KEYRING_PROVIDER", "subprocess")], &[]).unwrap();
        assert!(keyring.elsewhere.unwrap().contains("UV_KEYRING_PROVIDER"));
        assert!(settings(&[("UV_KEYRING_PROVIDER", "disabled")], &[]).unwrap().elsewhere.is_none());
        assert!(settings(&[("SSL_CLIENT_CERT", "/c")], &[]).unwrap().unsupported.unwrap().contains("SSL_CLIENT_CERT"));
        assert!(settings(&[("UV_OFFLINE", "1")], &[]).unwrap().offline);
    }

    #[test]
    fn certificates_that_cannot_be_read_are_a_fault() {
        for files in [&[][..], &[("/c", "nothing")]] {
            let fault = settings(&[("PIP_CERT", "/c")], files).err().unwrap();
            assert_eq!(fault.what, "cannot read the certificates in `/c`");
        }
    }
}
