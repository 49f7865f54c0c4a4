//! Folders and configuration files of an engine.
//!
//! Pure but for the folders given: starts nothing, reads nothing.

use serde_json::json;
use std::path::{Path, PathBuf};

/// The longest path of a unix socket, without the closing zero (unix(7)).
const SOCKET_LIMIT: usize = 107;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EnginePaths {
    /// `target/engine` or `target/engine-NAME`.
    pub(super) folder: PathBuf,
    /// Sockets and short-lived state: in the folder, or in a short one where sockets would not fit.
    pub(super) run: PathBuf,
}

impl EnginePaths {
    pub(super) fn packages(&self) -> PathBuf {
        self.folder.join("packages")
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        let folder = if name == "dockerd" { "usr/sbin" } else { "usr/bin" };
        self.packages().join(folder).join(name)
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(super) fn docker_config(&self) -> PathBuf {
        self.folder.join("config")
    }

    pub(super) fn log(&self, part: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{part}.log"))
    }

    pub(super) fn docker_socket(&self) -> PathBuf {
        self.run.join("docker.sock")
    }

    pub(super) fn containerd_socket(&self) -> PathBuf {
        self.run.join("containerd.sock")
    }

    /// `PATH` for the daemons: their own programs before the host's.
    pub(super) fn path(&self, host: &str) -> String {
        let packages = self.packages();
        format!("{}:{}:{host}", packages.join("usr/bin").display(), packages.join("usr/sbin").display())
    }

    /// `containerd.toml`: no Kubernetes, nothing in `/opt`.
    pub(super) fn containerd(&self) -> String {
        let text = |path: PathBuf| toml::Value::String(path.display().to_string());
        format!(
            "version = 2\nroot = {}\nstate = {}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = {}\n[debug]\nlevel = \"warn\"\n",
            text(self.data().join("containerd")),
            text(self.run.join("containerd")),
            text(self.containerd_socket()),
        )
    }

    /// `daemon.json`. The snapshotter store gives several platforms, attestations and cache export without a builder of
    /// its own; no bridge and no firewall rule keep the host's network as it is.
    pub(super) fn dockerd(&self, snapshotter: Option<&str>) -> String {
        let mut config = json!({
            "features": {"containerd-snapshotter": true},
            "containerd": self.containerd_socket(),
            "data-root": self.data().join("docker"),
            "exec-root": self.run.join("docker"),
            "pidfile": self.run.join("docker.pid"),
            "hosts": [format!("unix://{}", self.docker_socket().display())],
            "iptables": false,
            "ip6tables": false,
            "bridge": "none",
            "init-path": self.program("tini-static"),
            "log-level": "warn",
            "shutdown-timeout": 5,
        });
        if let Some(snapshotter) = snapshotter {
            config["storage-driver"] = json!(snapshotter);
        }
        format!("{config:#}\n")
    }

    /// The registry's configuration: JSON, which is YAML too, so that it can contain any path.
    pub(super) fn registry(&self, address: &str) -> String {
        let config = json!({
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": true}},
            "storage": {
                "filesystem": {"rootdirectory": self.data().join("registry")},
                "delete": {"enabled": true},
            },
            "http": {"addr": address},
        });
        format!("{config:#}\n")
    }
}

/// `engine`, or `engine-NAME` for an additional engine.
pub(super) fn folder_name(name: Option<&str>) -> Option<String> {
    match name {
        None => Some("engine".to_owned()),
        Some(name) => {
            let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            good.then(|| format!("engine-{name}"))
        }
    }
}

/// True if every socket path of an engine below `run` is short enough; the longest are named by libnetwork and by containerd.
pub(super) fn sockets_fit(run: &Path) -> bool {
    ["containerd.sock.ttrpc", "docker/libnetwork/0123456789ab.sock"]
        .iter()
        .all(|socket| run.join(socket).as_os_str().len() <= SOCKET_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> EnginePaths {
        EnginePaths { folder: "/a \"b\" é/target/engine".into(), run: "/run/x".into() }
    }

    #[test]
    fn odd_paths_survive_in_every_configuration() {
        let containerd: toml::Value = toml::from_str(&paths().containerd()).unwrap();
        assert_eq!(containerd["root"].as_str(), Some("/a \"b\" é/target/engine/data/containerd"));
        let dockerd: serde_json::Value = serde_json::from_str(&paths().dockerd(None)).unwrap();
        assert_eq!(dockerd["data-root"], "/a \"b\" é/target/engine/data/docker");
        assert_eq!(dockerd["storage-driver"], serde_json::Value::Null);
        let registry: serde_json::Value = serde_json::from_str(&paths().registry("127.0.0.1:5000")).unwrap();
        assert_eq!(registry["http"]["addr"], "127.0.0.1:5000");
    }

    #[test]
    fn the_hosts_network_is_left_alone() {
        let dockerd: serde_json::Value = serde_json::from_str(&paths().dockerd(Some("native"))).unwrap();
        assert_eq!((&dockerd["iptables"], &dockerd["ip6tables"]), (&json!(false), &json!(false)));
        assert_eq!((&dockerd["bridge"], &dockerd["storage-driver"]), (&json!("none"), &json!("native")));
    }

    #[test]
    fn engines_have_plain_names() {
        assert_eq!(folder_name(None).as_deref(), Some("engine"));
        assert_eq!(folder_name(Some("two")).as_deref(), Some("engine-two"));
        for bad in ["", "../x", "a b", "é"] {
            assert_eq!(folder_name(Some(bad)), None, "{bad}");
        }
    }

    #[test]
    fn long_paths_do_not_fit() {
        assert!(sockets_fit(Path::new("/run/user/1000/xtask-0123456789ab")));
        assert!(!sockets_fit(&Path::new("/").join("x".repeat(80))));
    }
}
