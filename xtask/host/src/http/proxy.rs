//! Proxy for an address, from the variables that curl and Go read.
//!
//! Pure but for [`Proxies::from_env`]. Loopback never goes through a proxy.

use super::url::{Url, is_loopback, split_port};
use std::fmt;
use std::net::IpAddr;

/// The proxies in force. A proxy's address may carry a password, so none is ever shown.
#[derive(Clone, Default)]
pub struct Proxies {
    /// For plain HTTP: `http_proxy` (the lower-case spelling alone may be set by a web server's caller, so it wins).
    pub http: Option<String>,
    /// For HTTPS: `HTTPS_PROXY`.
    pub https: Option<String>,
    /// Hosts that are reached directly: `NO_PROXY`, separated by commas.
    pub none_for: String,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |proxy: &Option<String>| if proxy.is_some() { "set" } else { "unset" };
        write!(f, "Proxies {{ http: {}, https: {}, .. }}", set(&self.http), set(&self.https))
    }
}

impl Proxies {
    /// Reads `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY` and their lower-case spellings.
    pub fn from_env() -> Self {
        let read = |names: [&str; 2]| {
            names.iter().find_map(|name| std::env::var(name).ok()).filter(|value| !value.trim().is_empty())
        };
        let all = read(["all_proxy", "ALL_PROXY"]);
        Self {
            http: read(["http_proxy", "HTTP_PROXY"]).or_else(|| all.clone()),
            https: read(["https_proxy", "HTTPS_PROXY"]).or(all),
            none_for: read(["no_proxy", "NO_PROXY"]).unwrap_or_default(),
        }
    }

    pub(crate) fn for_url(&self, url: &Url) -> Option<&str> {
        let direct = url.is_loopback() || self.none_for.split(',').any(|entry| exempts(entry.trim(), url));
        let proxy = if url.is_https() { &self.https } else { &self.http };
        proxy.as_deref().filter(|_| !direct)
    }
}

/// True if an entry of `NO_PROXY` covers the address: `*`, a host and its subdomains, an address, a CIDR block;
/// each but the block with a port where one is written.
fn exempts(entry: &str, url: &Url) -> bool {
    if entry.is_empty() || entry == "*" {
        return entry == "*";
    }
    let host = url.host();
    if let Some((block, bits)) = entry.split_once('/') {
        return match (block.parse(), bits.parse(), host.parse()) {
            (Ok(block), Ok(bits), Ok(ip)) => within(block, bits, ip),
            _ => false,
        };
    }
    let (name, port) = split_port(entry);
    if port.is_some_and(|port| port != url.port()) {
        return false;
    }
    let name = name.trim_start_matches('*').trim_start_matches('.').to_ascii_lowercase();
    if let (Ok(entry), Ok(ip)) = (name.parse::<IpAddr>(), host.parse::<IpAddr>()) {
        return entry == ip;
    }
    !name.is_empty() && (host == name || host.strip_suffix(&name).is_some_and(|rest| rest.ends_with('.')))
        || (name == "localhost" && is_loopback(host))
}

fn within(block: IpAddr, bits: u32, ip: IpAddr) -> bool {
    let (block, ip, width) = match (block, ip) {
        (IpAddr::V4(block), IpAddr::V4(ip)) => (u128::from(block.to_bits()), u128::from(ip.to_bits()), 32),
        (IpAddr::V6(block), IpAddr::V6(ip)) => (block.to_bits(), ip.to_bits(), 128),
        _ => return false,
    };
    bits <= width && (block ^ ip).checked_shr(width - bits).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(none_for: &str, url: &str, wanted: Option<&str>) {
        let proxies =
            Proxies { http: Some("http://p".into()), https: Some("http://s".into()), none_for: none_for.into() };
        assert_eq!(proxies.for_url(&Url::parse(url).unwrap()), wanted, "{none_for} {url}");
    }

    #[test]
    fn each_scheme_has_its_own() {
        check("", "https://ghcr.io/v2/", Some("http://s"));
        check("", "http://ghcr.io/v2/", Some("http://p"));
    }

    #[test]
    fn loopback_is_always_direct() {
        check("", "http://127.0.0.1:5000/", None);
        check("", "https://localhost/", None);
        check("", "http://[::1]:5000/", None);
    }

    #[test]
    fn exemptions() {
        check("example.com", "https://r.example.com/", None);
        check(".example.com", "https://r.example.com:5000/", None);
        check("*.example.com", "https://r.example.com/", None);
        check("example.com", "https://notexample.com/", Some("http://s"));
        check(" a , r.example:5000", "https://r.example:5000/", None);
        check("r.example:5001", "https://r.example:5000/", Some("http://s"));
        check("*", "https://r.example/", None);
        check("10.0.0.0/8", "https://10.2.3.4/", None);
        check("10.0.0.0/8", "https://11.2.3.4/", Some("http://s"));
        check("0.0.0.0/0", "https://11.2.3.4/", None);
        check("10.0.0.0/99", "https://10.2.3.4/", Some("http://s"));
        check("fd00::/8", "https://[fd12::1]:5000/", None);
        check("10.1.1.1", "https://10.1.1.1/", None);
    }

    #[test]
    fn a_password_is_never_shown() {
        let proxies = Proxies { http: Some("http://u:secret@p".into()), ..Proxies::default() };
        assert!(!format!("{proxies:?}").contains("secret"));
    }
}
