//! Certificates: the host's are trusted, and a company's own through `SSL_CERT_FILE` or `SSL_CERT_DIR`.
//!
//! The variables are read once a process, so each case runs this test program again.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use xtask_host::registry::{Client, ClientOptions};

const TARGET: &str = "XTASK_TEST_TLS_REGISTRY";

fn openssl(folder: &Path, args: &[&str]) {
    let output = Command::new("openssl").args(args).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and a certificate of its for `localhost`.
fn certificates(folder: &Path) {
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let ca = ["req", "-x509", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(folder, &[&ca[..], &curve[..]].concat());
    let request = ["req", "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"];
    openssl(folder, &[&request[..], &curve[..5]].concat());
    std::fs::write(folder.join("ext"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
    let sign = ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
    openssl(folder, &[&sign[..], &["-days", "2", "-extfile", "ext", "-out", "server.pem"]].concat());
}

/// `openssl s_server`, which answers every GET with a page.
struct Server(Child, u16);

impl Server {
    fn start(folder: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let accept = format!("127.0.0.1:{port}");
        let child = Command::new("openssl")
            .args(["s_server", "-accept", &accept, "-cert", "server.pem", "-key", "server.key", "-www", "-quiet"])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "openssl s_server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self(child, port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks the registry that the variable names; does nothing by itself.
#[test]
fn ping_as_asked() {
    let Ok(registry) = std::env::var(TARGET) else { return };
    let options = ClientOptions { tls: [registry.clone()].into(), tries: 1, ..ClientOptions::default() };
    match Client::new(options).ping(&registry) {
        Ok(()) => println!("answer: trusted"),
        Err(fault) => println!("answer: {fault}"),
    }
}

fn ping(port: u16, variables: &[(&str, &Path)]) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["tls::ping_as_asked", "--exact", "--nocapture"]);
    child.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR").env(TARGET, format!("localhost:{port}"));
    let output = child.envs(variables.iter().copied()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_authority_of_ones_own_is_trusted_when_it_is_named() {
    if which::which("openssl").is_err() {
        assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "no `openssl` on the PATH");
        println!("skipped: no `openssl` on the PATH");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let server = Server::start(folder.path());
    let file = folder.path().join("ca.pem");
    assert!(ping(server.1, &[("SSL_CERT_FILE", &file)]).contains("answer: trusted"));

    let store = folder.path().join("store");
    std::fs::create_dir(&store).unwrap();
    std::fs::copy(&file, store.join("ca.pem")).unwrap();
    openssl(&store, &["rehash", "."]);
    assert!(ping(server.1, &[("SSL_CERT_DIR", &store)]).contains("answer: trusted"));

    let refused = ping(server.1, &[]);
    assert!(refused.contains("TLS failed") && refused.contains("SSL_CERT_FILE"), "{refused}");
}
