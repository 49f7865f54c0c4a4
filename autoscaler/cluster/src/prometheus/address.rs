//! Address of Prometheus, with the credentials that it may contain. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use hyper::header::HeaderValue;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use std::fmt;
use std::str::FromStr;

/// Characters that people write and a request must not contain; those beyond ASCII belong to them.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>');

/// Address of a Prometheus: `http` or `https`, and the path before `/api/v1` if there is one. Never shows its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Scheme, host and port.
    origin: String,
    /// Without a slash at its end.
    path: String,
    query: String,
    /// The header of a name and a password in the address.
    credentials: Option<HeaderValue>,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let text = text.trim();
        let uri: Uri =
            utf8_percent_encode(text, ESCAPED).to_string().parse().map_err(|cause| match text.is_ascii() {
                true => format!("{cause}"),
                false => format!("{cause}: a host name beyond ASCII has to be written as `xn--…`"),
            })?;
        let scheme = match uri.scheme_str() {
            Some(scheme @ ("http" | "https")) => scheme,
            Some(other) => return Err(format!("the scheme is `{other}` instead of `http` or `https`")),
            None => return Err("it has to begin with `http://` or `https://`".to_owned()),
        };
        let authority = uri.authority().ok_or("it has no host")?;
        let (login, server) = match authority.as_str().rsplit_once('@') {
            Some((login, server)) => (Some(login), server),
            None => (None, authority.as_str()),
        };
        let host = authority.host();
        if host.is_empty() {
            return Err("it has no host".to_owned());
        }
        let port = match server.strip_prefix(host).unwrap_or_default() {
            "" | ":" => String::new(),
            port => {
                let number: Option<u16> = port.strip_prefix(':').and_then(|number| number.parse().ok());
                format!(":{}", number.ok_or_else(|| format!("`{port}` is not a port"))?)
            }
        };
        Ok(Address {
            origin: format!("{scheme}://{}{port}", host.to_ascii_lowercase()),
            path: uri.path().trim_end_matches('/').to_owned(),
            query: uri.query().unwrap_or_default().to_owned(),
            credentials: login.filter(|login| !matches!(*login, "" | ":")).map(basic),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)?;
        if self.query.is_empty() { Ok(()) } else { write!(f, "?{}", self.query) }
    }
}

impl Address {
    /// Header of the name and the password in the address.
    pub(super) fn credentials(&self) -> Option<&HeaderValue> {
        self.credentials.as_ref()
    }

    /// A range query with these parameters, after those that the address has.
    pub(super) fn range_query(&self, parameters: &[(&str, &str)]) -> Result<Uri, String> {
        let query = form_urlencoded::Serializer::new(self.query.clone()).extend_pairs(parameters).finish();
        let uri = format!("{}{}/api/v1/query_range?{query}", self.origin, self.path);
        uri.parse().map_err(|cause: hyper::http::uri::InvalidUri| cause.to_string())
    }
}

fn basic(login: &str) -> HeaderValue {
    // Decoded apart: a name may contain an escaped colon, which the other side then takes for the first.
    let (name, password) = login.split_once(':').unwrap_or((login, ""));
    let mut plain: Vec<u8> = percent_decode_str(name).collect();
    plain.push(b':');
    plain.extend(percent_decode_str(password));
    let text = format!("Basic {}", STANDARD.encode(plain));
    let mut value = HeaderValue::try_from(text).unwrap_or_else(|_| unreachable!("base64 is ASCII"));
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Address {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[track_caller]
    fn asks(text: &str, expected: &str) {
        assert_eq!(read(text).range_query(&[("query", "a b")]).unwrap(), expected);
    }

    #[track_caller]
    fn refuses(text: &str, expected: &str) {
        let error = text.parse::<Address>().unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }

    #[test]
    fn the_path_and_the_parameters_of_the_address_are_kept() {
        asks("http://prometheus:9090", "http://prometheus:9090/api/v1/query_range?query=a+b");
        asks(" HTTP://Prometheus:9090/ ", "http://prometheus:9090/api/v1/query_range?query=a+b");
        asks("https://host/a/b/", "https://host/a/b/api/v1/query_range?query=a+b");
        asks("https://host/a?tenant=one", "https://host/a/api/v1/query_range?tenant=one&query=a+b");
        asks("http://host:/#top", "http://host/api/v1/query_range?query=a+b");
        asks("http://[::1]:9090", "http://[::1]:9090/api/v1/query_range?query=a+b");
        asks("http://host/ä b", "http://host/%C3%A4%20b/api/v1/query_range?query=a+b");
        assert_eq!(read("https://host:443/a/?b").to_string(), "https://host:443/a?b");
    }

    #[test]
    fn every_character_of_a_query_arrives() {
        let query = "sum(rate(x{a=~\"b|c+\",d!=\"é&=#%\"}[5m]))\n";
        let uri = read("http://host").range_query(&[("query", query), ("step", "60")]).unwrap();
        let pairs: Vec<_> = form_urlencoded::parse(uri.query().unwrap().as_bytes()).collect();
        assert_eq!(pairs, [("query".into(), query.into()), ("step".into(), "60".into())]);
    }

    #[test]
    fn a_query_that_no_request_can_hold_is_an_error() {
        let error = read("http://host").range_query(&[("query", &"x".repeat(70_000))]).unwrap_err();
        assert!(error.contains("too long"), "{error}");
    }

    #[test]
    fn a_password_is_a_header_and_never_shown() {
        let address = read("https://us%3Aer:p%40ss%20é@host:1/a");
        assert_eq!(
            address.credentials().unwrap().to_str().unwrap(),
            format!("Basic {}", STANDARD.encode("us:er:p@ss é"))
        );
        for shown in [address.to_string(), format!("{address:?}"), address.range_query(&[]).unwrap().to_string()] {
            assert!(!shown.contains("us%3Aer") && !shown.contains("p%40ss"), "{shown}");
        }
        assert_eq!(read("http://user@host").credentials().unwrap(), &format!("Basic {}", STANDARD.encode("user:")));
        assert_eq!(read("http://:pass@host").credentials().unwrap(), &format!("Basic {}", STANDARD.encode(":pass")));
        assert_eq!(read("http://@host").credentials(), None);
        assert_eq!(read("http://host/a@b").credentials(), None);
    }

    #[test]
    fn what_is_not_an_address_is_refused_with_the_reason() {
        refuses("prometheus:9090", "begin with `http://`");
        refuses("prometheus", "begin with `http://`");
        refuses("/api", "begin with `http://`");
        refuses("ftp://host", "the scheme is `ftp`");
        refuses("http://host:99999", "`:99999` is not a port");
        refuses("http://host:a", "");
        refuses("http://:9090", "no host");
        refuses("http://", "");
        refuses("", "");
        refuses("http://prométheus", "`xn--…`");
    }
}
