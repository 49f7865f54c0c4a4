//! Asks a registry of this machine many questions over one connection.
//!
//! The way to such a registry is short, so that preparing each request costs more than the request itself. Only a plain 200 counts here:
//! whatever has any other answer is asked for again in the usual way, which knows challenges, redirects, refusals and retries.

use super::http::auth::AuthContext;
use super::http::exchange::pull;
use super::manifests::{ACCEPTED, LONGEST, Name, RawManifest, understood};
use super::parallel::some_at_once;
use super::{Client, Endpoint};
use crate::process;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;
use xtask_model::fault::Fault;
use xtask_model::spec::reference::{Digest, Repository};

/// The longest silence. A slower registry is asked in the usual way, which waits longer.
const SILENCE: Duration = Duration::from_secs(1);

const HEAD: u64 = 16 << 10;

/// Requests on the way at one time: few enough to fit into the buffers of a socket.
const AT_ONCE: usize = 64;

impl Client {
    /// True if the repository has each of the blobs, asked over `connections` at a time, if it has not just said so.
    pub fn has_blobs(
        &self,
        repository: &Repository,
        digests: &[Digest],
        connections: usize,
    ) -> Result<Vec<bool>, Fault> {
        let unknown: Vec<Digest> =
            digests.iter().filter(|digest| !self.had_blob(repository, digest)).copied().collect();
        let found = self.ask_for_blobs(repository, &unknown, connections)?;
        let found: BTreeMap<Digest, bool> = unknown.into_iter().zip(found).collect();
        let present = found.iter().filter(|(_, present)| **present);
        present.for_each(|(digest, _)| self.found_blob(repository, digest));
        Ok(digests.iter().map(|digest| found.get(digest).copied().unwrap_or(true)).collect())
    }

    pub(super) fn ask_for_blobs(
        &self,
        repository: &Repository,
        digests: &[Digest],
        connections: usize,
    ) -> Result<Vec<bool>, Fault> {
        let parts: Vec<&[Digest]> = digests.chunks(digests.len().div_ceil(connections).max(1)).collect();
        let found = some_at_once(connections, &parts, |part| {
            let (endpoint, url) = self.of(repository, "blobs/")?;
            let here = !url.is_https() && url.is_loopback();
            let present = if here { self.in_a_row(&endpoint, repository, part)? } else { 0 };
            let asked = part[present..].iter().map(|digest| self.has_blob(repository, digest));
            std::iter::repeat_n(Ok(true), present).chain(asked).collect::<Result<Vec<bool>, Fault>>()
        })?;
        Ok(found.concat())
    }

    /// Number of blobs from the first that the registry says it has, up to one about which it says anything else.
    fn in_a_row(&self, endpoint: &Endpoint, repository: &Repository, digests: &[Digest]) -> Result<usize, Fault> {
        let paths = digests.iter().map(|digest| format!("blobs/{digest}")).collect::<Vec<_>>();
        Ok(self.row(endpoint, repository, "HEAD", &paths)?.len())
    }

    /// Manifests and configurations of a registry on this machine, as far as it gives them with plain answers.
    pub(super) fn documents_in_a_row(
        &self,
        repository: &Repository,
        names: &[Name],
        configs: &[Digest],
    ) -> Result<Documents, Fault> {
        let (endpoint, url) = self.of(repository, "manifests/")?;
        let mut found = Documents::default();
        if url.is_https() || !url.is_loopback() {
            return Ok(found);
        }
        let paths = names.iter().map(|name| format!("manifests/{name}"));
        let paths: Vec<String> = paths.chain(configs.iter().map(|digest| format!("blobs/{digest}"))).collect();
        let answers = self.row(&endpoint, repository, "GET", &paths)?;
        for (at, Said { media_type, digest, body, .. }) in answers.into_iter().enumerate() {
            match names.get(at) {
                Some(name) => {
                    let manifest = understood(body, media_type, digest, name).ok();
                    found.manifests.extend(manifest.map(|manifest| (name.clone(), manifest)));
                }
                None => found.configs.push((configs[at - names.len()], body)),
            }
        }
        if !found.manifests.is_empty() {
            self.proven().insert(endpoint.name);
        }
        found.configs.retain(|(digest, bytes)| Digest::of(bytes) == *digest);
        Ok(found)
    }

    /// Answers of these requests, up to the first that is not a plain one.
    fn row(
        &self,
        endpoint: &Endpoint,
        repository: &Repository,
        method: &str,
        paths: &[String],
    ) -> Result<Vec<Said>, Fault> {
        let mut answers = Vec::new();
        if paths.is_empty() {
            return Ok(answers);
        }
        let means =
            AuthContext { transport: &self.transport, credentials: &self.options.credentials, limits: &self.limits };
        let authorization = self.auth.header(&means, endpoint, &pull(repository))?;
        let authorization = authorization.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
        let (host, name, accepted) = (endpoint.base.authority(), repository.path(), ACCEPTED.join(", "));
        let agent = concat!("xtask/", env!("CARGO_PKG_VERSION"));
        let request = |path: &String| {
            let accepted = if path.starts_with("manifests/") { &accepted } else { "*/*" };
            format!(
                "{method} /v2/{name}/{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\nAccept: {accepted}\r\n{authorization}\r\n"
            )
        };
        let Some(mut connection) = connect(endpoint) else { return Ok(answers) };
        for batch in paths.chunks(AT_ONCE) {
            process::interrupted()?;
            // Pipelined (RFC 9112, section 9.3.2): the answers come in the order of the requests.
            let requests: String = batch.iter().map(request).collect();
            if connection.get_mut().write_all(requests.as_bytes()).is_err() {
                return Ok(answers);
            }
            for _ in batch {
                let Some(said) = answer(&mut connection, method == "GET") else { return Ok(answers) };
                let last = said.closes;
                answers.push(said);
                if last {
                    return Ok(answers);
                }
            }
        }
        Ok(answers)
    }
}

/// Documents that a registry gave.
#[derive(Default)]
pub(super) struct Documents {
    pub(super) manifests: Vec<(Name, RawManifest)>,
    pub(super) configs: Vec<(Digest, Vec<u8>)>,
}

/// A plain 200.
#[derive(Default)]
struct Said {
    media_type: Option<String>,
    digest: Option<Digest>,
    body: Vec<u8>,
    /// The registry ends the connection.
    closes: bool,
}

fn connect(endpoint: &Endpoint) -> Option<BufReader<TcpStream>> {
    let url = &endpoint.base;
    let address = (url.host(), url.port()).to_socket_addrs().ok()?.next()?;
    let stream = TcpStream::connect_timeout(&address, SILENCE).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(SILENCE)).ok()?;
    stream.set_write_timeout(Some(SILENCE)).ok()?;
    Some(BufReader::new(stream))
}

/// Reads an answer, with its body if it has one. Nothing where it is anything but a plain 200 of known length.
fn answer(connection: &mut BufReader<TcpStream>, has_body: bool) -> Option<Said> {
    let mut head = connection.by_ref().take(HEAD);
    let mut line = String::new();
    head.read_line(&mut line).ok()?;
    if !line.starts_with("HTTP/1.1 200 ") {
        return None;
    }
    let (mut said, mut length) = (Said::default(), None);
    loop {
        line.clear();
        head.read_line(&mut line).ok()?;
        if line == "\r\n" {
            break;
        }
        let (name, value) = line.strip_suffix("\r\n")?.split_once(':')?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "connection" => said.closes = value.eq_ignore_ascii_case("close"),
            "content-length" => length = value.parse().ok().filter(|length| *length <= LONGEST),
            "content-type" => said.media_type = Some(value.split(';').next().unwrap_or_default().trim().to_owned()),
            "docker-content-digest" => said.digest = value.parse().ok(),
            "content-encoding" | "transfer-encoding" if has_body => return None,
            _ => {}
        }
    }
    if has_body {
        let length: u64 = length?;
        connection.take(length).read_to_end(&mut said.body).ok()?;
        if said.body.len() as u64 != length {
            return None;
        }
    }
    Some(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::ClientOptions;
    use std::net::TcpListener;
    use std::sync::Mutex;

    /// A registry that gives each connection the next of these lists of answers; it returns what was asked of each.
    fn registry(answers: &[&[&str]], digests: &[Digest]) -> (Result<Vec<bool>, Fault>, Vec<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let repository: Repository = format!("{}/some/app", listener.local_addr().unwrap()).parse().unwrap();
        let asked = Mutex::new(Vec::new());
        let found = std::thread::scope(|scope| {
            let serve = scope.spawn(|| {
                for answers in answers {
                    let mut connection = BufReader::new(listener.accept().unwrap().0);
                    let mut questions = Vec::new();
                    for answer in *answers {
                        let mut line = String::new();
                        connection.read_line(&mut line).unwrap();
                        questions.push(line.trim_end().to_owned());
                        while connection.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {}
                        connection.get_mut().write_all(answer.as_bytes()).unwrap();
                    }
                    asked.lock().unwrap().push(questions);
                }
            });
            let client = Client::new(ClientOptions { tries: 1, ..ClientOptions::default() });
            let found = client.has_blobs(&repository, digests, 1);
            serve.join().unwrap();
            found
        });
        (found, asked.into_inner().unwrap())
    }

    const YES: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    const LAST: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    const ABSENT: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    const PROVEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    const BROKEN: &str = "HTTP/1.1 200 OK\r\nContent-Le";

    fn digests() -> Vec<Digest> {
        ["one", "two", "three"].map(|text| Digest::of(text.as_bytes())).to_vec()
    }

    #[test]
    fn existing_blobs_take_one_connection() {
        let (found, asked) = registry(&[&[YES, YES, YES]], &digests());
        assert_eq!(found.unwrap(), [true; 3]);
        assert_eq!(asked[0].len(), 3);
        assert_eq!(asked[0][1], format!("HEAD /v2/some/app/blobs/{} HTTP/1.1", digests()[1]));
        let (found, _) = registry(&[], &[]);
        assert!(found.unwrap().is_empty());
    }

    #[test]
    fn anything_but_a_plain_answer_is_asked_again_in_the_usual_way() {
        // The question that proves the registry follows the first bare 404.
        let (found, asked) = registry(&[&[YES, ABSENT], &[ABSENT], &[PROVEN], &[LAST]], &digests());
        assert_eq!(found.unwrap(), [true, false, true]);
        assert!(asked[1][0].contains(&digests()[1].to_string()), "{asked:?}");
        let (found, _) = registry(&[&[LAST], &[LAST], &[LAST]], &digests());
        assert_eq!(found.unwrap(), [true; 3], "a connection that ends");
        let (found, _) = registry(&[&[BROKEN], &[ABSENT], &[PROVEN]], &digests()[..1]);
        assert_eq!(found.unwrap(), [false], "half an answer says nothing");
        let (found, _) = registry(&[&[], &["HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"]], &digests()[..1]);
        found.unwrap_err();
    }
}
