//! One HTTP/1.1 GET, for the image's HEALTHCHECK: an image without curl needs no curl.
//!
//! Plain `http://` to one address, a status line back. Not a client for anything else.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Asks a URL, and succeeds when the answer is a 2xx. Each step waits no longer than `within`.
pub fn check(url: &str, within: Duration) -> Result<(), String> {
    let (address, path) = parse(url)?;
    let cannot = |cause: &dyn std::fmt::Display| format!("cannot ask `{url}`: {cause}");
    let host = if address.contains("]:") || (address.contains(':') && !address.ends_with(']')) {
        address.to_owned()
    } else {
        format!("{address}:80")
    };
    let mut candidates = host.to_socket_addrs().map_err(|cause| cannot(&cause))?;
    let socket = candidates.next().ok_or_else(|| cannot(&"the name has no address"))?;
    let mut stream = TcpStream::connect_timeout(&socket, within).map_err(|cause| cannot(&cause))?;
    stream.set_read_timeout(Some(within)).map_err(|cause| cannot(&cause))?;
    stream.set_write_timeout(Some(within)).map_err(|cause| cannot(&cause))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|cause| cannot(&cause))?;
    // The status line is all that counts, and all that is waited for.
    let mut head = [0; 64];
    let mut filled = 0;
    while filled < head.len() && !head[..filled].contains(&b'\n') {
        match stream.read(&mut head[filled..]).map_err(|cause| cannot(&cause))? {
            0 => break,
            more => filled += more,
        }
    }
    let line = String::from_utf8_lossy(&head[..filled]);
    let line = line.lines().next().unwrap_or_default();
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    match status {
        Some(status) if status.len() == 3 && status.starts_with('2') => Ok(()),
        Some(status) => Err(format!("`{url}` answers {status}")),
        None => Err(format!("`{url}` does not answer in HTTP/1")),
    }
}

/// Returns host and port, and path.
fn parse(url: &str) -> Result<(&str, &str), String> {
    let rest = url.strip_prefix("http://").ok_or_else(|| format!("`{url}` does not begin with `http://`"))?;
    let (address, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    // What is written into the request line must stay on it.
    if address.is_empty() || url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("`{url}` is not a URL"));
    }
    Ok((address, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[track_caller]
    fn answered(answer: &'static [u8]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(answer).unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let result = check(&format!("http://127.0.0.1:{port}/readyz"), Duration::from_secs(5));
        let request = server.join().unwrap();
        assert!(request.starts_with("GET /readyz HTTP/1.1\r\nhost: 127.0.0.1:"), "{request}");
        result.map_err(|error| error.replace(&port.to_string(), "PORT"))
    }

    #[test]
    fn only_a_2xx_is_healthy() {
        assert_eq!(answered(b"HTTP/1.1 200 OK\r\n\r\n"), Ok(()));
        let down = answered(b"HTTP/1.1 503 Service Unavailable\r\n\r\n");
        assert_eq!(down, Err("`http://127.0.0.1:PORT/readyz` answers 503".to_owned()));
        let other = answered(b"SSH-2.0-OpenSSH\r\n");
        assert_eq!(other, Err("`http://127.0.0.1:PORT/readyz` does not answer in HTTP/1".to_owned()));
        assert!(answered(b"").is_err());
    }

    #[test]
    fn urls_are_plain_http() {
        assert_eq!(parse("http://a:1/b?c"), Ok(("a:1", "/b?c")));
        assert_eq!(parse("http://a"), Ok(("a", "/")));
        for url in ["https://a/", "a:1", "http://", "http:///x", "http://a/ b", "http://a/\r\nx"] {
            assert!(parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn nobody_there_is_not_healthy() {
        let error = check("http://127.0.0.1:1/", Duration::from_secs(1)).unwrap_err();
        assert!(error.starts_with("cannot ask `http://127.0.0.1:1/`: "), "{error}");
    }
}
