//! Credentials from `docker login`: `config.json`, its credential helpers and its store.
//!
//! Reads one file and runs helpers; sends nothing. No secret reaches a message or [`fmt::Debug`].
//! `docs/adr/0019` says why no crate does this.

use crate::process::Command;
use base64::Engine as _;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use xtask_model::fault::Fault;

/// A credential for a registry or its token server.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    Anonymous,
    /// A user name and a password or access token.
    Password {
        user: String,
        secret: String,
    },
    /// An OAuth2 refresh token that only the token server takes.
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Password { .. } => "Password(hidden)",
            Self::IdentityToken(_) => "IdentityToken(hidden)",
        })
    }
}

impl Credential {
    /// The value of an `Authorization` header, where this is a password.
    pub(in crate::registry) fn basic(&self) -> Option<String> {
        match self {
            Self::Password { user, secret } => Some(format!("Basic {}", BASE64.encode(format!("{user}:{secret}")))),
            Self::Anonymous | Self::IdentityToken(_) => None,
        }
    }
}

const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    base64::engine::general_purpose::GeneralPurposeConfig::new()
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

/// The key that `docker login` without a registry uses.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The folder of `config.json`; `None` means that everybody is anonymous.
    pub folder: Option<PathBuf>,
    /// Search path for helpers, in the form of `PATH`. `None` is the process's own.
    pub path: Option<OsString>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: Option<BTreeMap<String, Option<Entry>>>,
    creds_store: Option<String>,
    cred_helpers: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

impl Credentials {
    /// Docker's own place: `DOCKER_CONFIG`, else `.docker` in the home folder.
    pub fn from_env() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self { folder: set("DOCKER_CONFIG").or_else(|| Some(set("HOME")?.join(".docker"))), path: None }
    }

    /// The credential for a registry (`docker.io`, `ghcr.io`, `127.0.0.1:5000`).
    ///
    /// As docker does it, the registry's own helper is asked, else the store; the file's entry counts where these have
    /// nothing. No file, no entry and a helper that has nothing all mean anonymous; a file that cannot be read and a
    /// helper that fails are faults.
    pub fn lookup(&self, registry: &str) -> Result<Credential, Fault> {
        let Some(config) = self.read()? else { return Ok(Credential::Anonymous) };
        let keys = keys(registry);
        let own = keys.iter().find_map(|key| config.cred_helpers.as_ref()?.get(*key));
        if let Some(helper) = own.or(config.creds_store.as_ref()).filter(|helper| !helper.is_empty()) {
            let credential = self.ask(helper, keys[0])?;
            if credential != Credential::Anonymous {
                return Ok(credential);
            }
        }
        let ours = |key: &str| keys.contains(&host_of(key)) || keys.contains(&key);
        let entry = config.auths.iter().flatten().find(|(key, _)| ours(key));
        let entry = entry.and_then(|(key, entry)| Some((key, entry.as_ref()?)));
        let credential = entry.map(|(key, entry)| self.entry(key, entry)).transpose()?.flatten();
        Ok(credential.unwrap_or(Credential::Anonymous))
    }

    fn file(&self) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join("config.json"))
    }

    fn read(&self) -> Result<Option<Config>, Fault> {
        let Some(file) = self.file() else { return Ok(None) };
        let cannot = |cause: &dyn fmt::Display| {
            Fault::usage(format!("cannot read `{}`", file.display()))
                .needed_by("the registry's credentials")
                .cause(cause)
                .hint("repair the file, or name another folder with `DOCKER_CONFIG`")
        };
        match std::fs::read(&file) {
            // serde_json's message names line and column, never the text there.
            // `null` and nothing at all are what docker reads as no settings, too.
            Ok(bytes) => match settings_text(bytes) {
                text if text.trim_ascii().is_empty() => Ok(None),
                text => serde_json::from_slice::<Option<Config>>(&text),
            }
            .map_err(|error| match error.classify() {
                serde_json::error::Category::Data => {
                    cannot(&format!("wrong type at line {} column {}", error.line(), error.column()))
                }
                _ => cannot(&error),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(cannot(&error)),
        }
    }

    fn entry(&self, key: &str, entry: &Entry) -> Result<Option<Credential>, Fault> {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = filled(&entry.identitytoken) {
            return Ok(Some(Credential::IdentityToken(token)));
        }
        if let Some(auth) = filled(&entry.auth) {
            let pair = BASE64.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = pair.as_deref().and_then(|pair| pair.split_once(':'));
            let Some((user, secret)) = pair else {
                let file = self.file().unwrap_or_default();
                return Err(Fault::usage(format!("cannot read `auths.{key}.auth` of `{}`", file.display()))
                    .cause("it is not `user:password` in base64")
                    .hint(format!("log in again: `docker login {}`", host_of(key))));
            };
            return Ok(Some(Credential::Password {
                user: user.to_owned(),
                secret: secret.trim_end_matches('\0').to_owned(),
            }));
        }
        Ok(filled(&entry.username)
            .zip(filled(&entry.password))
            .map(|(user, secret)| Credential::Password { user, secret }))
    }

    /// Asks `docker-credential-{helper}` for the credential stored under `server`.
    fn ask(&self, helper: &str, server: &str) -> Result<Credential, Fault> {
        let name = format!("docker-credential-{helper}");
        let failed = |cause: &dyn fmt::Display| {
            Fault::network(format!("cannot get the credential for `{server}` from `{name}`")).cause(cause)
        };
        let fix = || {
            let file = self.file().unwrap_or_default();
            format!("repair `{name}`, or remove it from `{}`", file.display())
        };
        let path = self.path.clone().or_else(|| std::env::var_os("PATH"));
        let program = which::which_in(&name, path, ".").map_err(|error| failed(&error).hint(fix()))?;
        let output = Command::new(program).arg("get").stdin(server).output().map_err(|fault| {
            fault.causes.iter().fold(failed(&fault.what), |fault, cause| fault.cause(cause)).hint(fix())
        })?;
        if output.status.success() {
            return helper_answer(&output.stdout).map_err(|cause| failed(&cause).hint(fix()));
        }
        // On failure helpers print their reason, by protocol on stdout; some print it on stderr.
        let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).trim().to_owned());
        if said.iter().any(|text| text.to_ascii_lowercase().contains("credentials not found")) {
            return Ok(Credential::Anonymous);
        }
        let said = said.into_iter().find(|text| !text.is_empty()).unwrap_or_else(|| output.status.to_string());
        Err(failed(&said).hint(fix()))
    }
}

/// The text of a file of settings in UTF-8: without the mark of the byte order that Windows' editors begin it with, and out of the
/// UTF-16 that its PowerShell writes.
pub fn settings_text(bytes: Vec<u8>) -> Vec<u8> {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        String::from_utf16_lossy(&units).into_bytes()
    };
    match bytes.as_slice() {
        [0xef, 0xbb, 0xbf, rest @ ..] => rest.to_vec(),
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        _ => bytes,
    }
}

/// Parses a helper's output; some helpers print an empty user and secret if they have nothing.
fn helper_answer(stdout: &[u8]) -> Result<Credential, &'static str> {
    let answer: HelperAnswer =
        serde_json::from_slice(stdout).map_err(|_| "its output is not JSON with `Username` and `Secret`")?;
    Ok(match (answer.username.as_str(), answer.secret) {
        ("", secret) if secret.is_empty() => Credential::Anonymous,
        ("<token>", secret) => Credential::IdentityToken(secret),
        (user, secret) => Credential::Password { user: user.to_owned(), secret },
    })
}

/// The keys under which a registry may be listed, the one that helpers are asked for first.
fn keys(registry: &str) -> Vec<&str> {
    match registry {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => {
            vec![DOCKER_HUB, "index.docker.io", "docker.io", "registry-1.docker.io"]
        }
        other => vec![other],
    }
}

/// The registry of a key of `auths`, which may be an address with a path.
fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Credentials over a folder with this `config.json` and these helpers (name, shell script).
    fn with(config: &str, helpers: &[(&str, &str)]) -> (tempfile::TempDir, Credentials) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        for (name, script) in helpers {
            let file = folder.path().join(format!("docker-credential-{name}"));
            // Written by another process: a file that a forked child still holds open cannot be run.
            let write = Command::new("sh").args(["-c", r#"cat >"$1" && chmod 755 "$1""#, "sh"]).arg(file);
            write.stdin(format!("#!/bin/sh\nread server\n{script}\n")).read(xtask_model::fault::Exit::Build).unwrap();
        }
        let path = Some(folder.path().as_os_str().to_owned());
        let credentials = Credentials { folder: Some(folder.path().to_owned()), path };
        (folder, credentials)
    }

    fn password(user: &str, secret: &str) -> Credential {
        Credential::Password { user: user.to_owned(), secret: secret.to_owned() }
    }

    #[track_caller]
    fn check(config: &str, registry: &str, wanted: &Credential) {
        assert!(with(config, &[]).1.lookup(registry).unwrap() == *wanted, "{config} {registry}");
    }

    #[test]
    fn no_folder_no_file_and_no_entry_are_anonymous() {
        assert!(Credentials::default().lookup("ghcr.io").unwrap() == Credential::Anonymous);
        let missing = Credentials { folder: Some("/nonexistent".into()), path: None };
        assert!(missing.lookup("ghcr.io").unwrap() == Credential::Anonymous);
        check("{}", "ghcr.io", &Credential::Anonymous);
        check(r#"{"auths": {"ghcr.io": {}}}"#, "ghcr.io", &Credential::Anonymous);
    }

    #[test]
    fn entries_of_the_file() {
        check(r#"{"auths": {"ghcr.io": {"auth": "dTpwOnc="}}}"#, "ghcr.io", &password("u", "p:w"));
        check(r#"{"auths": {"ghcr.io": {"auth": "dTpwOnc"}}}"#, "ghcr.io", &password("u", "p:w"));
        check(r#"{"auths": {"https://r:5000/v2/": {"auth": "dTpwOnc="}}}"#, "r:5000", &password("u", "p:w"));
        check(r#"{"auths": {"r": {"username": "a", "password": "b"}}}"#, "r", &password("a", "b"));
        check(
            r#"{"auths": {"r": {"auth": "dTpw", "identitytoken": "t"}}}"#,
            "r",
            &Credential::IdentityToken("t".into()),
        );
        check(r#"{"auths": {"r": {"auth": "dTpw"}}}"#, "r.example", &Credential::Anonymous);
    }

    #[test]
    fn an_empty_file_and_one_with_a_byte_order_mark_are_settings() {
        for empty in
            ["", " \n", "null", "\u{feff}", "\u{feff}{}", r#"{"auths": null, "credHelpers": null, "credsStore": null}"#]
        {
            check(empty, "ghcr.io", &Credential::Anonymous);
        }
        check(r#"{"auths": {"ghcr.io": null}}"#, "ghcr.io", &Credential::Anonymous);
        let good = r#"{"auths": {"ghcr.io": {"auth": "dTpwOnc="}}}"#;
        check(&format!("\u{feff}{good}"), "ghcr.io", &password("u", "p:w"));
        for unit in [u16::to_le_bytes, u16::to_be_bytes] {
            let (folder, credentials) = with("", &[]);
            let wide: Vec<u8> = format!("\u{feff}{good}").encode_utf16().flat_map(unit).collect();
            std::fs::write(folder.path().join("config.json"), wide).unwrap();
            assert!(credentials.lookup("ghcr.io").unwrap() == password("u", "p:w"));
        }
    }

    #[test]
    fn docker_hub_has_a_key_of_its_own() {
        check(r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}}}"#, "docker.io", &password("u", "p"));
        let echo = r#"echo "{\"Username\": \"u\", \"Secret\": \"$server\"}""#;
        let (_folder, credentials) = with(r#"{"credsStore": "echo"}"#, &[("echo", echo)]);
        assert!(credentials.lookup("docker.io").unwrap() == password("u", DOCKER_HUB));
        assert!(credentials.lookup("ghcr.io").unwrap() == password("u", "ghcr.io"));
    }

    #[test]
    fn its_own_helper_comes_before_the_store_and_both_before_the_file() {
        let config = r#"{"credsStore": "store", "credHelpers": {"a": "own"}, "auths": {"a": {"auth": "dTpw"}, "b": {"auth": "dTpw"}, "c": {"auth": "dTpw"}}}"#;
        let (_folder, credentials) = with(
            config,
            &[
                ("own", r#"echo '{"Username": "<token>", "Secret": "x"}'"#),
                (
                    "store",
                    r#"test "$server" = b && echo '{"Username": "s", "Secret": "y"}' || { echo credentials not found; exit 1; }"#,
                ),
            ],
        );
        assert!(credentials.lookup("a").unwrap() == Credential::IdentityToken("x".into()));
        assert!(credentials.lookup("b").unwrap() == password("s", "y"));
        assert!(credentials.lookup("c").unwrap() == password("u", "p"));
    }

    #[test]
    fn a_helper_that_has_nothing_means_anonymous() {
        for script in [
            "echo 'credentials not found in native keychain'; exit 1",
            "echo 'Error: Credentials not found' >&2; exit 1",
            r#"echo '{"ServerURL": "x", "Username": "", "Secret": ""}'"#,
        ] {
            let (_folder, credentials) = with(r#"{"credsStore": "x"}"#, &[("x", script)]);
            assert!(credentials.lookup("r").unwrap() == Credential::Anonymous, "{script}");
        }
    }

    #[track_caller]
    fn fails(config: &str, helpers: &[(&str, &str)], says: &str) {
        let fault = with(config, helpers).1.lookup("r").unwrap_err().to_string();
        assert!(fault.contains(says) && fault.contains("hint: ") && !fault.contains("s3cret"), "{fault}");
    }

    #[test]
    fn what_is_broken_says_so() {
        fails("{\"auths\": ", &[], "config.json");
        fails(r#"{"auths": "s3cret"}"#, &[], "line 1");
        fails(r#"{"auths": {"r": {"auth": "!s3cret"}}}"#, &[], "auths.r.auth");
        fails(r#"{"credsStore": "gone"}"#, &[], "docker-credential-gone");
        fails(r#"{"credsStore": "x"}"#, &[("x", "echo 'keyring is locked'; exit 1")], "keyring is locked");
        fails(r#"{"credsStore": "x"}"#, &[("x", "echo s3cret")], "is not JSON with");
    }

    #[test]
    fn secrets_are_never_shown() {
        let shown = format!("{:?} {:?}", password("u", "s3cret"), Credential::IdentityToken("s3cret".into()));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
