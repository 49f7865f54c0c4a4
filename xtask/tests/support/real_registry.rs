//! A real registry for a test: distribution's own binary on a free loopback port, its store in a folder that vanishes.

#![allow(clippy::disallowed_methods, reason = "a server that is ended by its handle")]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The user that [`RealRegistry::start`] lets in when it asks for a password.
pub const USER: &str = "user";
/// The user's password.
pub const PASSWORD: &str = "s3cret";
/// bcrypt of the password, at the lowest cost.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n";

/// A running registry; dropping it ends it.
pub struct RealRegistry {
    pub address: SocketAddr,
    child: Child,
    _folder: tempfile::TempDir,
}

impl RealRegistry {
    /// Starts one, with a password if `login`; `None`, said aloud, where there is no registry program.
    pub fn start(login: bool) -> Option<Self> {
        let Some(program) = program() else {
            let why = "no `docker-registry` on the PATH nor in XTASK_TEST_REGISTRY_BIN";
            assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "{why}");
            println!("skipped: {why}");
            return None;
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = folder.path().join("store");
        Some(Self::start_at(&program, folder, &store, login))
    }

    /// Starts this program with its blobs in `store`.
    pub fn start_at(program: &Path, folder: tempfile::TempDir, store: &Path, login: bool) -> Self {
        // The port is free again for a moment; a second try makes up for a thief.
        for _ in 0..3 {
            if let Some((address, child)) = launch(program, &folder, store, login) {
                return Self { address, child, _folder: folder };
            }
        }
        panic!("`{}` does not answer", program.display());
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Option<PathBuf> {
    match std::env::var_os("XTASK_TEST_REGISTRY_BIN") {
        Some(path) => Some(PathBuf::from(path)),
        None => which::which("docker-registry").ok(),
    }
}

fn launch(program: &Path, folder: &tempfile::TempDir, store: &Path, login: bool) -> Option<(SocketAddr, Child)> {
    let address = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?;
    let (root, store) = (folder.path().display(), store.display());
    let auth = if login {
        std::fs::write(folder.path().join("htpasswd"), HTPASSWD).ok()?;
        format!("auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}\n")
    } else {
        String::new()
    };
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {store}}}, delete: {{enabled: true}}}}\n\
         http: {{addr: \"{address}\"}}\n{auth}"
    );
    let file = folder.path().join("config.yml");
    std::fs::write(&file, config).ok()?;
    // Its heap is a few megabytes: collected that often, half of its time is collecting it.
    let mut child = Command::new(program)
        .env("GOGC", "off")
        .env("GOMEMLIMIT", "256MiB")
        .arg("serve")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(10) {
        if TcpStream::connect(address).is_ok() {
            return Some((address, child));
        }
        if let Ok(Some(_)) = child.try_wait() {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}
