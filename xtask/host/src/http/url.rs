//! Absolute http and https addresses: parsing, joining a `Location`, comparing origins.
//!
//! Pure. An address with a user name in it is refused, so that a printed URL has no secret.

use std::fmt;

/// An absolute address; its query may carry a signature, so [`fmt::Display`] leaves it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    https: bool,
    authority: String,
    target: String,
}

impl Url {
    /// The root of `authority`, a host with or without a port.
    pub(crate) fn root(https: bool, authority: &str) -> Option<Self> {
        Self::parse(&format!("{}://{authority}/", if https { "https" } else { "http" }))
    }

    /// Reads an absolute address; `None` where it is not one or where it carries a user name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let printable = rest.bytes().all(|b| b.is_ascii_graphic());
        if authority.is_empty() || authority.contains('@') || !printable {
            return None;
        }
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let default = if https { ":443" } else { ":80" };
        let authority = authority.to_ascii_lowercase();
        let authority = authority.strip_suffix(default).unwrap_or(&authority).to_owned();
        Some(Self { https, authority, target })
    }

    /// The address that `location`, absolute or relative, means when this one answers with it (RFC 3986).
    pub(crate) fn join(&self, location: &str) -> Option<Self> {
        let scheme = if self.https { "https" } else { "http" };
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        if location.split(['/', '?']).next().is_some_and(|first| first.contains(':')) {
            return Self::parse(location);
        }
        let path = self.target.split('?').next().unwrap_or("/");
        let folder = &path[..path.rfind('/').map_or(0, |slash| slash + 1)];
        let target = match location.chars().next() {
            Some('/') => location.to_owned(),
            Some('?') => format!("{path}{location}"),
            Some(_) => format!("{folder}{location}"),
            None => return None,
        };
        Self::parse(&format!("{scheme}://{}{}", self.authority, without_dots(&target)))
    }

    /// The same origin with another path, which begins with a slash.
    pub(crate) fn at(&self, path: &str) -> Self {
        Self { target: path.to_owned(), ..self.clone() }
    }

    pub(crate) fn query<'a>(&self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut target = self.target.clone();
        for (name, value) in pairs {
            target.push(if target.contains('?') { '&' } else { '?' });
            target.push_str(&format!("{name}={}", encode(value)));
        }
        Self { target, ..self.clone() }
    }

    pub(crate) fn wire(&self) -> String {
        format!("{}://{}{}", if self.https { "https" } else { "http" }, self.authority, self.target)
    }

    pub(crate) fn is_https(&self) -> bool {
        self.https
    }

    /// Host and, where it is not the scheme's own, port.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    pub(crate) fn host(&self) -> &str {
        split_port(&self.authority).0
    }

    /// The port, the scheme's own where none is written.
    pub(crate) fn port(&self) -> u16 {
        split_port(&self.authority).1.unwrap_or(if self.https { 443 } else { 80 })
    }

    /// True if both have the same scheme, host and port: the only place a credential may follow to.
    pub(crate) fn same_origin(&self, other: &Self) -> bool {
        self.https == other.https && self.authority == other.authority
    }

    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(self.host())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or_default();
        write!(f, "{}://{}{path}", if self.https { "https" } else { "http" }, self.authority)
    }
}

/// An absolute path and its query without the dot segments of the path (RFC 3986 section 5.2.4).
fn without_dots(target: &str) -> String {
    let (path, query) = target.split_at(target.find(['?', '#']).unwrap_or(target.len()));
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').skip(1) {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let folder = (path.ends_with("/.") || path.ends_with("/..")) && !parts.is_empty();
    format!("/{}{}{query}", parts.join("/"), if folder { "/" } else { "" })
}

/// Host (without brackets) and port of `authority`.
pub(crate) fn split_port(authority: &str) -> (&str, Option<u16>) {
    if let Some((host, rest)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, rest.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match authority.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

/// True if a host without brackets is this machine's loopback.
pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Percent-encodes a value for a query; the characters of scopes and digests stay readable.
pub(crate) fn encode(value: &str) -> String {
    value.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn joined(base: &str, location: &str, wanted: &str) {
        assert_eq!(Url::parse(base).unwrap().join(location).unwrap().wire(), wanted);
    }

    #[test]
    fn locations_are_resolved() {
        let base = "https://r.example:5000/v2/a/blobs/uploads/?x=1";
        joined(base, "/v2/a/blobs/uploads/7?_state=q", "https://r.example:5000/v2/a/blobs/uploads/7?_state=q");
        joined(base, "https://cdn.example/b?sig=1", "https://cdn.example/b?sig=1");
        joined(base, "//cdn.example/b", "https://cdn.example/b");
        joined(base, "7", "https://r.example:5000/v2/a/blobs/uploads/7");
        joined(base, "?y=2", "https://r.example:5000/v2/a/blobs/uploads/?y=2");
        joined("http://h", "/v2/a/b:c", "http://h/v2/a/b:c");
        joined("https://h/simple/numpy/", "../../files/a.whl#sha256=0", "https://h/files/a.whl");
        joined("https://h/simple/numpy/", "./b/./c/..", "https://h/simple/numpy/b/");
        joined("https://h/a", "../../../b?c=../d", "https://h/b?c=../d");
    }

    #[test]
    fn user_names_and_other_schemes_are_refused() {
        for bad in ["https://u:p@h/", "ftp://h/", "h/v2", "https:///x", "https://h/a b", "https://h/\r\nx"] {
            assert_eq!(Url::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn origins_know_their_default_port() {
        let url = |text: &str| Url::parse(text).unwrap();
        assert!(url("https://H:443/a").same_origin(&url("https://h/b")));
        assert!(!url("https://h/a").same_origin(&url("http://h/a")));
        assert!(!url("https://h/a").same_origin(&url("https://h:444/a")));
        assert_eq!((url("http://[::1]:5000/").host(), url("http://[::1]:5000/").port()), ("::1", 5000));
        assert!(url("http://[::1]:5000/").is_loopback() && url("http://127.1.2.3/").is_loopback());
        assert!(!url("http://localhost.example/").is_loopback());
    }

    #[test]
    fn a_shown_address_has_no_query() {
        let url = Url::parse("https://h/v2/").unwrap().query([("scope", "repository:a/b:pull,push"), ("x", "a b&c")]);
        assert_eq!(url.wire(), "https://h/v2/?scope=repository:a/b:pull,push&x=a%20b%26c");
        assert_eq!(url.to_string(), "https://h/v2/");
    }
}
