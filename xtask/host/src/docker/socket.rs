//! One question to an engine over its socket: the client takes ten times as long to start.

use serde::Deserialize;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The longest silence. An engine that is slower is asked through the client, which waits longer.
const SILENCE: Duration = Duration::from_secs(1);

/// Bytes of an answer. What is longer is none.
const LONGEST: u64 = 1 << 20;

/// The version of the engine at a socket, if it gives a plain answer.
pub(super) fn version(socket: &Path) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct EngineVersion {
        version: String,
    }
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(SILENCE)).ok()?;
    stream.set_write_timeout(Some(SILENCE)).ok()?;
    // With HTTP/1.0 the body ends with the connection.
    stream.write_all(b"GET /version HTTP/1.0\r\nHost: docker\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).ok()?;
    let head = answer.windows(4).position(|part| part == b"\r\n\r\n")?;
    let (head, body) = (answer[..head].split(|byte| *byte == b'\r').next()?, &answer[head + 4..]);
    if !head.starts_with(b"HTTP/1.") || !head.ends_with(b" 200 OK") {
        return None;
    }
    Some(serde_json::from_slice::<EngineVersion>(body).ok()?.version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::net::UnixListener;

    #[track_caller]
    fn check(said: &'static str, expected: Option<&str>) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let engine = UnixListener::bind(&socket).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (mut stream, _) = engine.accept().unwrap();
                let asked = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
                assert_eq!(asked.collect::<Vec<_>>(), ["GET /version HTTP/1.0", "Host: docker"]);
                stream.write_all(said.as_bytes()).unwrap();
            });
            assert_eq!(version(&socket).as_deref(), expected);
        });
    }

    #[test]
    fn an_engine_says_its_version_and_anything_else_is_none() {
        check("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"Version\": \"26.1.5\"}\n", Some("26.1.5"));
        check("HTTP/1.0 403 Forbidden\r\n\r\n{\"Version\": \"26.1.5\"}\n", None);
        check("HTTP/1.0 200 OK\r\n\r\n{\"message\": \"no\"}\n", None);
        check("SSH-2.0-OpenSSH\r\n", None);
        assert_eq!(version(Path::new("/nonexistent/docker.sock")), None);
    }
}
