//! Prometheus by TLS and through proxies, as the environment of the binary says: `autoscaler doctor` asks it for a number.

use crate::support::{autoscaler, run};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

/// A server on loopback that keeps the heads of requests: a Prometheus, and a proxy.
struct Server {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

impl Server {
    /// By TLS, with the certificate of a folder, or without. A tunnel through it leads to `behind`.
    fn start(certificates: Option<&Path>, behind: &str) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let (kept, behind, tls) = (Arc::clone(&heads), behind.to_owned(), certificates.map(certified));
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let copy = stream.try_clone().unwrap();
                let mut stream: Box<dyn ReadWrite> = match &tls {
                    Some(tls) => Box::new(StreamOwned::new(ServerConnection::new(Arc::clone(tls)).unwrap(), stream)),
                    None => Box::new(stream),
                };
                let Some(head) = head(&mut stream) else { continue };
                let tunnels = head.starts_with("CONNECT ");
                kept.lock().unwrap().push(head);
                if tunnels {
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                    join(&copy, &TcpStream::connect(&behind).unwrap());
                } else {
                    number(&mut stream);
                }
            }
        });
        Server { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        std::mem::take(&mut *self.heads.lock().unwrap())
    }
}

/// A folder with an authority, another one, and a certificate of the first for `prometheus.test` and 127.0.0.1. Without `openssl` the test
/// is skipped, loudly, unless skipping is forbidden.
fn certificates(test: &str) -> Option<tempfile::TempDir> {
    if Command::new("openssl").arg("version").output().is_err() {
        let why = "no `openssl` on the PATH";
        assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "{test}: {why}");
        let _ = writeln!(std::io::stderr(), "\nskipped: {test}: {why}");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl").args(args).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    for name in ["ca", "other"] {
        let (subject, key, file) = (format!("/CN={name}"), format!("{name}.key"), format!("{name}.pem"));
        let request = ["req", "-x509", "-days", "2", "-subj", &subject, "-keyout", &key, "-out", &file];
        openssl(&[&request[..], &curve].concat());
    }
    let request = ["req", "-subj", "/CN=prometheus.test", "-keyout", "server.key", "-out", "server.csr"];
    openssl(&[&request[..], &curve].concat());
    let names = "subjectAltName=DNS:prometheus.test,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
    std::fs::write(folder.path().join("names"), names).unwrap();
    let sign = ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
    openssl(&[&sign[..], &["-days", "2", "-extfile", "names", "-out", "server.pem"]].concat());
    Some(folder)
}

fn certified(folder: &Path) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_file(folder.join("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

/// The head of a request; none where there is none, as where a certificate was not trusted.
fn head(stream: &mut dyn ReadWrite) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        if reader.read_line(&mut text).ok()? == 0 {
            return None;
        }
    }
    Some(text)
}

fn number(stream: &mut dyn ReadWrite) {
    let body = r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"1"]]}]}}"#;
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    // Whoever has gone does not read.
    let _ = stream.write_all((head + body).as_bytes()).and_then(|()| stream.flush());
}

/// Copies both ways, each on a thread, until its sender has ended.
fn join(one: &TcpStream, other: &TcpStream) {
    for (from, to) in [(one, other), (other, one)] {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        std::thread::spawn(move || {
            // Either may have gone.
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
    }
}

/// The line that `doctor` writes of a Prometheus, in this environment and without the proxies of the tests.
fn doctor(address: &str, environment: &[(&str, &str)]) -> String {
    let mut command = autoscaler();
    for name in ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUEST_METHOD"] {
        command.env_remove(name);
    }
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_ascii_uppercase());
    }
    let nowhere = "/nowhere/at/all";
    command.args(["doctor", "--python", nowhere, "--prometheus", address]).env("KUBECONFIG", nowhere);
    let ran = run(command.envs(environment.iter().copied()));
    let line = ran.stdout.lines().find(|line| line.split_whitespace().nth(1) == Some("prometheus"));
    line.unwrap_or_else(|| panic!("{ran:?}")).to_owned()
}

#[track_caller]
fn answers(line: &str) {
    assert!(line.starts_with("ok ") && line.ends_with("answers"), "{line}");
}

#[test]
fn tls_trusts_what_the_host_trusts() {
    let Some(folder) = certificates("tls_trusts_what_the_host_trusts") else { return };
    let server = Server::start(Some(folder.path()), "");
    let address = format!("https://{}", server.address);
    answers(&doctor(&address, &[("SSL_CERT_FILE", folder.path().join("ca.pem").to_str().unwrap())]));
    assert_eq!(server.heads().len(), 1);
    let line = doctor(&address, &[("SSL_CERT_FILE", folder.path().join("other.pem").to_str().unwrap())]);
    assert!(line.starts_with("missing ") && line.contains("UnknownIssuer"), "{line}");
    assert_eq!(server.heads().len(), 0, "nothing is asked of one that is not trusted");
}

#[test]
fn proxies_are_those_of_the_environment() {
    let proxy = Server::start(None, "");
    let url = format!("http://{}", proxy.address);
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        answers(&doctor("http://prometheus.test:9090/a", &[(name, &url)]));
        let heads = proxy.heads();
        assert!(
            heads[0].starts_with("GET http://prometheus.test:9090/a/api/v1/query_range?query="),
            "{name}: {heads:?}"
        );
    }
    let direct = Server::start(None, "");
    for no in ["127.0.0.1", "127.0.0.0/8", "other.test, 127.0.0.1"] {
        answers(&doctor(&format!("http://{}", direct.address), &[("HTTP_PROXY", &url), ("NO_PROXY", no)]));
    }
    assert_eq!((proxy.heads().len(), direct.heads().len()), (0, 3));
}

#[test]
fn tls_goes_through_a_proxy_in_a_tunnel() {
    let Some(folder) = certificates("tls_goes_through_a_proxy_in_a_tunnel") else { return };
    let trusted = folder.path().join("ca.pem");
    let trusted = ("SSL_CERT_FILE", trusted.to_str().unwrap());
    let server = Server::start(Some(folder.path()), "");
    let proxy = Server::start(None, &server.address);
    let url = format!("http://user:pass@{}", proxy.address);
    answers(&doctor("https://name:word@prometheus.test", &[trusted, ("ALL_PROXY", &url)]));
    let (outer, inner) = (proxy.heads(), server.heads());
    assert!(outer[0].starts_with("CONNECT prometheus.test:443 HTTP/1.1\r\n"), "{outer:?}");
    assert!(outer[0].contains("Basic dXNlcjpwYXNz") && !outer[0].contains("bmFtZTp3b3Jk"), "{outer:?}");
    assert!(inner[0].starts_with("GET /api/v1/query_range?"), "{inner:?}");
    assert!(inner[0].contains("Basic bmFtZTp3b3Jk") && !inner[0].contains("dXNlcjpwYXNz"), "{inner:?}");
    // And a proxy that itself speaks TLS.
    let proxy = Server::start(Some(folder.path()), "");
    answers(&doctor("http://prometheus.test", &[trusted, ("ALL_PROXY", &format!("https://{}", proxy.address))]));
    assert!(proxy.heads()[0].starts_with("GET http://prometheus.test/api/v1/query_range?"));
}

#[test]
fn an_address_that_cannot_be_asked_is_an_error_of_usage() {
    for address in ["prometheus:9090", "ftp://prometheus", "http://prometheus:99999"] {
        let ran = run(autoscaler().args(["doctor", "--prometheus", address]));
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains(address), "{ran:?}");
    }
}
