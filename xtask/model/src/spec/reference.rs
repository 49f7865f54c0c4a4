//! Names of images as the OCI distribution and image specifications spell them.
//!
//! Pure: parsing and printing only. A [`Repository`] always carries its registry, so that `docker.io/library/python`
//! and `python` are one value.

use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;

/// Reason why a name does not parse: one lowercase phrase that fits after "cannot read `…`: ".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Malformed {}

/// Strings that serialise as themselves and are checked when they come in.
macro_rules! text_type {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use text_type;

/// A sha256 digest, `sha256:` and 64 lowercase hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// A digest from a finished sha256 state.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits without the algorithm.
    pub fn hex(&self) -> String {
        // By hand: a context of 100,000 files has as many digests.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = Vec::with_capacity(64);
        for byte in self.0 {
            text.push(DIGITS[usize::from(byte >> 4)]);
            text.push(DIGITS[usize::from(byte & 15)]);
        }
        String::from_utf8(text).expect("hex digits are ASCII")
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = || Malformed(format!("`{text}` is not `sha256:` and 64 lowercase hex digits"));
        let hex = text.strip_prefix("sha256:").ok_or_else(wrong)?;
        if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

text_type!(Digest);

/// A tag: up to 128 characters of `[A-Za-z0-9_.-]`, not starting with a dot or a dash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    pub fn latest() -> Self {
        Self("latest".to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest tag to a name that may not be one (a branch `feature/x` becomes `feature-x`); `None` where nothing is left.
    pub fn from_name(name: &str) -> Option<Self> {
        let text: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '-' })
            .collect();
        let text = text.trim_start_matches(['.', '-']);
        text[..text.len().min(128)].parse().ok()
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Tag {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let good = !text.is_empty()
            && text.len() <= 128
            && !text.starts_with(['.', '-'])
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if good { Ok(Self(text.to_owned())) } else { Err(Malformed(format!("`{text}` is not a tag"))) }
    }
}

text_type!(Tag);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    registry: String,
    path: String,
}

impl Repository {
    /// Host and port of the registry as it is written (`docker.io` for Docker Hub).
    pub fn registry(&self) -> &str {
        &self.registry
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// True if the registry is on this machine's loopback, where plain HTTP is the rule.
    pub fn is_loopback(&self) -> bool {
        let host = match self.registry.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => &self.registry,
        };
        host == "localhost" || host == "[::1]" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
    }

    pub fn tag(&self, tag: &Tag) -> Reference {
        Reference { repository: self.clone(), tag: Some(tag.clone()), digest: None }
    }

    pub fn digest(&self, digest: Digest) -> Reference {
        Reference { repository: self.clone(), tag: None, digest: Some(digest) }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)
    }
}

impl FromStr for Repository {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (registry, path) = match text.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
            _ if is_image_id(text) => {
                return Err(Malformed(format!("`{text}` is an image ID, not a repository name")));
            }
            _ => (DOCKER_HUB, text.to_owned()),
        };
        // The name that Docker Hub had before; docker reads both as one registry.
        let registry = if registry == "index.docker.io" { DOCKER_HUB } else { registry };
        let path = if registry == DOCKER_HUB && !path.contains('/') { format!("library/{path}") } else { path };
        if !is_host(registry) {
            return Err(Malformed(format!("`{registry}` is not a registry host")));
        }
        for part in path.split('/') {
            if !is_path_part(part) {
                let uppercase = part.bytes().any(|b| b.is_ascii_uppercase());
                let why = if uppercase { " (repository names are lowercase)" } else { "" };
                return Err(Malformed(format!("`{part}` cannot be part of a repository name{why}")));
            }
        }
        if path.len() > LONGEST_PATH {
            return Err(Malformed(format!(
                "`{path}` is longer than the {LONGEST_PATH} characters of a repository name"
            )));
        }
        Ok(Self { registry: registry.to_owned(), path })
    }
}

text_type!(Repository);

const DOCKER_HUB: &str = "docker.io";

const LONGEST_PATH: usize = 255;

/// A whole image identifier, which docker never takes for a name.
fn is_image_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A host as distribution's grammar has it: a domain name, an IPv4 address or an IPv6 address in brackets, and perhaps a port.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match rest.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if rest.is_empty() => (None, None),
                None => return false,
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    let label = |label: &str| {
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(good)
    };
    let digits = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    host.is_none_or(|host| host.split('.').all(label)) && port.is_none_or(digits)
}

/// A part of a path: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` of the distribution specification.
fn is_path_part(part: &str) -> bool {
    let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !part.starts_with(alnum) || !part.ends_with(alnum) {
        return false;
    }
    let separators = part.split(alnum).filter(|separator| !separator.is_empty());
    let good = |separator: &str| matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
    separators.into_iter().all(good)
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    pub repository: Repository,
    pub tag: Option<Tag>,
    pub digest: Option<Digest>,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let name_at = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_at..].split_once(':') {
            Some((last, tag)) => (&rest[..name_at + last.len()], Some(tag.parse()?)),
            None => (rest, None),
        };
        Ok(Self { repository: name.parse()?, tag, digest })
    }
}

text_type!(Reference);

/// An operating system, an architecture and perhaps a variant: `linux/arm64`, `linux/arm/v7`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// Go's name of the architecture: `amd64`, `arm64`.
    pub architecture: String,
    /// `v7` of `linux/arm/v7`.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform of this machine's containers: Linux on the host's processor.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// As part of a tag or a folder name: `linux-arm64`.
    pub fn dashed(&self) -> String {
        self.to_string().replace('/', "-")
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        const KNOWN: [&str; 9] = ["amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64", "loong64", "mips64le"];
        let mut parts = text.split('/');
        let (os, architecture, variant) = (parts.next(), parts.next(), parts.next());
        match (os, architecture, parts.next()) {
            (Some("linux"), Some(architecture), None) if KNOWN.contains(&architecture) => {
                let variant_good = variant.is_none_or(|v| {
                    v.strip_prefix('v').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
                });
                if !variant_good {
                    return Err(Malformed(format!("`{text}` has an invalid variant: expected a form like `v8`")));
                }
                // `linux/arm64/v8` is how some tools spell `linux/arm64`.
                let variant = variant.filter(|v| !(architecture == "arm64" && *v == "v8"));
                Ok(Self {
                    os: "linux".to_owned(),
                    architecture: architecture.to_owned(),
                    variant: variant.map(str::to_owned),
                })
            }
            _ => Err(Malformed(format!("`{text}` is not a platform like `linux/amd64` or `linux/arm64`"))),
        }
    }
}

text_type!(Platform);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reference(text: &str, printed: &str) {
        assert_eq!(text.parse::<Reference>().unwrap().to_string(), printed);
    }

    #[test]
    fn references_are_completed() {
        reference("python:3.12-slim", "docker.io/library/python:3.12-slim");
        reference("acme/app", "docker.io/acme/app");
        reference("ghcr.io/acme/app:1.0", "ghcr.io/acme/app:1.0");
        reference("127.0.0.1:5000/app", "127.0.0.1:5000/app");
        reference("localhost/app:x", "localhost/app:x");
        let digest = Digest::of(b"");
        reference(&format!("localhost:5000/a/b@{digest}"), &format!("localhost:5000/a/b@{digest}"));
    }

    #[track_caller]
    fn refused(text: &str, why: &str) {
        let error = text.parse::<Reference>().unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn bad_references_say_why() {
        refused("ghcr.io/Acme/app", "lowercase");
        refused("ghcr.io/acme/app:-x", "not a tag");
        refused("ghcr.io/acme/", "cannot be part");
        refused("ghcr.io/acme/app@sha256:12", "64 lowercase hex");
        refused("", "cannot be part");
    }

    #[test]
    fn docker_hub_has_one_name() {
        for text in ["x/y", "docker.io/x/y", "index.docker.io/x/y"] {
            reference(text, "docker.io/x/y");
        }
        for text in ["python", "docker.io/python", "index.docker.io/python", "index.docker.io/library/python"] {
            reference(text, "docker.io/library/python");
        }
    }

    #[test]
    fn hosts_and_paths_that_docker_refuses_are_refused() {
        for host in [
            "-docker.io",
            "docker-.io",
            "dock..er",
            ".docker.io",
            "docker.io.",
            "a_b.io",
            "h:",
            "h:x",
            "h:1:2",
            "h:99999",
            "[::1",
            "[::1]x",
            "[::1]:",
            "[x]:1",
            "[]:1",
            "h]:1",
            "a.[b",
            "é.io",
            ":5000",
        ] {
            refused(&format!("{host}/x/y"), "not a registry host");
        }
        for host in
            ["a", "0", "A.b-c.D", "10.0.0.1", "10.0.0.1:1", "xn--n3h.com", "localhost", "[::1]", "[fe80::1]:5000"]
        {
            assert!(is_host(host), "{host}");
        }
        for part in [
            "a_.b", "a._b", "a..b", "a___b", "a-_b", "a_-b", ".a", "a.", "_a", "a_", "-a", "a-", "", "A", "a b", "a+b",
            "é",
        ] {
            refused(&format!("ghcr.io/x/{part}/y"), "cannot be part");
        }
        for part in ["a", "0", "a.b", "a_b", "a__b", "a-b", "a---b", "a.b_c__d--e", "1.2.3"] {
            assert!(is_path_part(part), "{part}");
        }
        refused(&"0".repeat(64), "an image ID");
        refused(&format!("ghcr.io/{}", "a".repeat(256)), "longer than the 255");
        reference(&format!("ghcr.io/{}", "a".repeat(255)), &format!("ghcr.io/{}", "a".repeat(255)));
    }

    #[test]
    fn loopback_is_known_by_address() {
        for (text, yes) in [
            ("127.0.0.1:5000/a", true),
            ("127.9.9.9/a", true),
            ("localhost:1/a", true),
            ("[::1]:5000/a", true),
            ("10.0.0.1:5000/a", false),
            ("localhost.example.com/a", false),
        ] {
            assert_eq!(text.parse::<Repository>().unwrap().is_loopback(), yes, "{text}");
        }
    }

    #[test]
    fn branches_become_tags() {
        for (name, tag) in [("feature/x", Some("feature-x")), ("-ü", None), ("…", None), ("v1.2", Some("v1.2"))] {
            assert_eq!(Tag::from_name(name).map(|t| t.to_string()).as_deref(), tag, "{name}");
        }
        assert_eq!(Tag::from_name(&"é".repeat(200)), None);
        assert_eq!(Tag::from_name(&"x".repeat(200)).unwrap().as_str().len(), 128);
    }

    #[test]
    fn platforms() {
        assert_eq!("linux/arm64/v8".parse::<Platform>().unwrap().to_string(), "linux/arm64");
        assert_eq!("linux/arm/v7".parse::<Platform>().unwrap().dashed(), "linux-arm-v7");
        for bad in ["amd64", "windows/amd64", "linux/x86_64", "linux/amd64/x", "linux/amd64/v1/v2"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
