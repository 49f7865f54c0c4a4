//! `cluster up|down`: a Kubernetes cluster for tests, whose files are under `target/cluster`.
//!
//! Where the programs of a control plane are installed, they run as processes of this machine: the API server with etcd, and the
//! controllers if they are installed too. Nothing runs pods there. Elsewhere k3d makes a cluster in Docker.

use crate::flags::{ClusterCommand, Global};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use xtask_host::docker::Docker;
use xtask_host::linux::Process;
use xtask_host::process::{self, Command};
use xtask_host::terminal;
use xtask_host::tree::facts::find_root;
use xtask_model::fault::{Exit, Fault};
use xtask_model::quantity;
use xtask_model::spec::reference::Digest;

/// k3d for Linux on x86-64: the version, and the digest of its program.
const K3D: (&str, &str) = ("v5.8.3", "sha256:dbaa79a76ace7f4ca230a1ff41dc7d8a5036a8ad0309e9c54f9bf3836dbe853e");
/// The variable that names the folder of a control plane's programs, as controller-runtime's `setup-envtest` prints it.
const ASSETS: &str = "KUBEBUILDER_ASSETS";
/// Time limit for an API server to be ready.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// Time limit for a process to end.
const GRACE: Duration = Duration::from_secs(15);

/// Processes and folders that were started, `state.json` in the cluster's folder.
#[derive(Debug, Default, Serialize, Deserialize)]
struct ClusterState {
    /// Processes by name, in the order in which they are stopped.
    processes: BTreeMap<String, Process>,
    /// The name of a cluster of k3d, and the program that made it.
    k3d: Option<(String, PathBuf)>,
}

/// Runs the subcommand.
pub fn run(global: &Global, command: &ClusterCommand) -> anyhow::Result<()> {
    let root = find_root(global.root.as_deref())?;
    let folder = root.join("target/cluster");
    match command {
        ClusterCommand::Up { kubeconfig } => {
            let file = kubeconfig.clone().unwrap_or_else(|| folder.join("kubeconfig"));
            up(global, &root, &folder, &file)?;
            let file = file.canonicalize().unwrap_or(file);
            super::print(&format!("export KUBECONFIG={}\n", process::quoted(&file.display().to_string())))
        }
        ClusterCommand::Down => {
            let stopped = down(&folder)?;
            terminal::step("cluster", if stopped { "stopped" } else { "not found" });
            Ok(())
        }
    }
}

fn up(global: &Global, root: &Path, folder: &Path, kubeconfig: &Path) -> Result<(), Fault> {
    let began = Instant::now();
    if load(folder).is_some_and(|state| !state.processes.is_empty() || state.k3d.is_some()) {
        // One that a reboot ended, or that another file describes, is of no use to anyone.
        down(folder)?;
    }
    fs::create_dir_all(folder).map_err(|error| cannot_write(folder, error))?;
    let programs = Programs::find();
    let text = match &programs {
        Ok(programs) => control_plane(folder, programs),
        Err(no_programs) => {
            k3d(root, global.offline).map_err(|no_k3d| unavailable(no_programs, no_k3d)).and_then(|k3d| {
                let name = format!("tests-{}", &Digest::of(folder.as_os_str().as_encoded_bytes()).hex()[..8]);
                in_docker(folder, &name, &k3d)
            })
        }
    };
    let written = text.and_then(|text| write_private(kubeconfig, &text));
    if let Err(fault) = written {
        // What did start is of no use without the rest.
        let _ = down(folder);
        return Err(fault);
    }
    let by = if programs.is_ok() { "processes of this machine" } else { "k3d" };
    terminal::step("cluster", &format!("started in {} by {by}", quantity::seconds(began.elapsed())));
    Ok(())
}

/// Stops what was started, and returns whether there was something; works for a cluster in any state.
fn down(folder: &Path) -> Result<bool, Fault> {
    let Some(mut state) = load(folder) else { return Ok(false) };
    // The API server before etcd, which it would otherwise keep asking.
    for (_, process) in std::mem::take(&mut state.processes).into_iter().rev() {
        process.stop(GRACE)?;
    }
    if let Some((name, program)) = state.k3d.take() {
        let delete = Command::new(program).args(["cluster", "delete", &name]);
        delete.read(Exit::Build).map_err(|fault| fault.hint("start Docker, and try again"))?;
    }
    fs::remove_dir_all(folder).map_err(|error| cannot_write(folder, error))?;
    Ok(true)
}

/// Neither way is possible: both reasons.
fn unavailable(no_programs: &str, no_k3d: Fault) -> Fault {
    let mut fault = Fault::missing("no Kubernetes cluster can be started on this machine")
        .needed_by("`cargo xtask cluster up`")
        .cause(no_programs)
        .cause(no_k3d.what);
    fault.causes.extend(no_k3d.causes);
    let fault = fault.hint(format!("install etcd and kube-apiserver, and name their folder in `{ASSETS}`"));
    no_k3d.hints.into_iter().fold(fault, |fault, hint| fault.hint(format!("or {hint}")))
}

/// Programs of a control plane.
#[derive(Debug)]
struct Programs {
    etcd: PathBuf,
    api_server: PathBuf,
    controllers: Option<PathBuf>,
}

impl Programs {
    /// Those in the folder of `KUBEBUILDER_ASSETS`, or on the `PATH`; otherwise which ones are missing.
    fn find() -> Result<Programs, String> {
        let folder = std::env::var_os(ASSETS).filter(|folder| !folder.is_empty()).map(PathBuf::from);
        Programs::among(&|name| {
            let named = folder.as_ref().map(|folder| folder.join(name)).filter(|program| program.is_file());
            named.or_else(|| process::found(name))
        })
    }

    fn among(found: &dyn Fn(&str) -> Option<PathBuf>) -> Result<Programs, String> {
        match (found("etcd"), found("kube-apiserver")) {
            (Some(etcd), Some(api_server)) => {
                Ok(Programs { etcd, api_server, controllers: found("kube-controller-manager") })
            }
            (etcd, api_server) => {
                let missing = [("etcd", etcd), ("kube-apiserver", api_server)].into_iter();
                let missing: Vec<String> =
                    missing.filter_map(|(name, program)| program.is_none().then(|| format!("`{name}`"))).collect();
                let are = if missing.len() == 1 { "is" } else { "are" };
                Err(format!("{} {are} neither in the folder of `{ASSETS}` nor on `PATH`", missing.join(" and ")))
            }
        }
    }
}

/// Starts a control plane; returns its kubeconfig once it is ready.
fn control_plane(folder: &Path, programs: &Programs) -> Result<String, Fault> {
    let openssl = process::find("openssl", "the key of service accounts", "install openssl")?;
    let curl = process::find("curl", "asking whether the API server is ready", "install curl")?;
    let [client, port] = free_ports()?;
    let key = folder.join("service-accounts.key");
    Command::new(openssl).args(["genrsa", "-out"]).arg(&key).arg("2048").read(Exit::Build)?;
    let token = random_token()?;
    let tokens = folder.join("tokens.csv");
    write_private(&tokens, &format!("{token},admin,admin,\"system:masters\"\n"))?;
    let mut state = ClusterState::default();
    let mut start = |name: &str, command: Command| -> Result<Process, Fault> {
        let pid = command.spawn(&log(folder, name))?;
        let process = Process::now(pid).ok_or_else(|| ended(folder, name))?;
        state.processes.insert(name.to_owned(), process);
        save(folder, &state)?;
        Ok(process)
    };
    let at = format!("http://127.0.0.1:{client}");
    let etcd = Command::new(&programs.etcd)
        .arg("--data-dir")
        .arg(folder.join("etcd"))
        .args(["--listen-client-urls", &at, "--advertise-client-urls", &at])
        .args(["--listen-peer-urls", "http://127.0.0.1:0", "--logger", "zap"]);
    start("etcd", etcd)?;
    let certificates = folder.join("certificates");
    let path = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
    let api_server = Command::new(&programs.api_server).args([
        path("cert-dir", &certificates),
        path("token-auth-file", &tokens),
        path("service-account-key-file", &key),
        path("service-account-signing-key-file", &key),
        format!("--etcd-servers={at}"),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
        // Without the controllers no namespace would have the account that this one waits for.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
    ]);
    let process = start("kube-apiserver", api_server)?;
    // The server writes its own authority into this file when it starts.
    let authority = certificates.join("apiserver.crt");
    let server = format!("https://127.0.0.1:{port}");
    let ready = Command::new(curl)
        .args(["--silent", "--fail", "--max-time", "5", "--cacert"])
        .arg(&authority)
        .arg(format!("{server}/readyz"));
    let limit = Instant::now() + READY_WITHIN;
    while !ready.output()?.status.success() {
        if !process.runs() {
            return Err(ended(folder, "kube-apiserver"));
        }
        if Instant::now() >= limit {
            let seconds = READY_WITHIN.as_secs();
            let fault = Fault::build(format!("the API server is not ready after {seconds} s"));
            return Err(fault.hint(format!("read its log: `{}`", log(folder, "kube-apiserver").display())));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let text = kubeconfig(&server, &authority, &token);
    if let Some(controllers) = &programs.controllers {
        let file = folder.join("controllers.kubeconfig");
        write_private(&file, &text)?;
        let call = Command::new(controllers).args([
            path("kubeconfig", &file),
            path("service-account-private-key-file", &key),
            "--use-service-account-credentials=false".to_owned(),
            "--secure-port=0".to_owned(),
            "--leader-elect=false".to_owned(),
        ]);
        start("kube-controller-manager", call)?;
    }
    Ok(text)
}

/// The access of a person with all rights. JSON is YAML too.
fn kubeconfig(server: &str, authority: &Path, token: &str) -> String {
    let name = "tests";
    let document = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "default"}}],
        "current-context": name,
    });
    format!("{document:#}\n")
}

/// Makes a cluster in Docker; returns its kubeconfig.
fn in_docker(folder: &Path, name: &str, k3d: &Path) -> Result<String, Fault> {
    let k3d_command = || Command::new(k3d);
    save(folder, &ClusterState { k3d: Some((name.to_owned(), k3d.to_owned())), ..ClusterState::default() })?;
    let create = k3d_command().args(["cluster", "create", name, "--no-lb", "--wait", "--timeout", "5m"]);
    let mut last = String::new();
    let status = create.arg("--kubeconfig-update-default=false").stream(|line| {
        terminal::detail(line);
        last = line.to_owned();
    })?;
    if !status.success() {
        let fault = Fault::build(format!("`k3d cluster create` failed ({status})")).cause(last);
        return Err(fault.hint("check that Docker can pull images: `docker pull rancher/k3s`"));
    }
    k3d_command().args(["kubeconfig", "get", name]).read(Exit::Build).map(|text| text + "\n")
}

fn k3d_missing() -> Fault {
    Fault::missing("`k3d` is not on `PATH`").hint("install k3d: https://k3d.io")
}

/// k3d: the installed one, or the known version, downloaded under `target/tools`. It needs a Docker that has networks.
fn k3d(root: &Path, offline: bool) -> Result<PathBuf, Fault> {
    if !Docker::can_build(root) {
        return Err(Fault::missing("k3d cannot be used: Docker is not running").hint("start Docker, which k3d needs"));
    }
    if Docker::find(root)?.lacks_bridge()? {
        return Err(Fault::missing("k3d cannot be used: Docker runs without a bridge network")
            .hint("start Docker with a bridge network, which k3d needs: without `--bridge=none`"));
    }
    if let Some(installed) = process::found("k3d") {
        return Ok(installed);
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(k3d_missing());
    }
    let (version, digest) = K3D;
    let tools = root.join("target/tools");
    let program = tools.join(format!("k3d-{version}"));
    if is_k3d(&program, digest) {
        return Ok(program);
    }
    if offline {
        return Err(k3d_missing().cause("`--offline` forbids its download"));
    }
    let curl =
        process::found("curl").ok_or_else(|| k3d_missing().cause("`curl`, which would download it, is not either"))?;
    fs::create_dir_all(&tools).map_err(|error| cannot_write(&tools, error))?;
    let part = tools.join(format!("k3d-{version}.part"));
    let url = format!("https://github.com/k3d-io/k3d/releases/download/{version}/k3d-linux-amd64");
    terminal::step("installing", &format!("k3d {version} under `target/tools`"));
    let fetch = Command::new(curl)
        .args(["--fail", "--silent", "--show-error", "--location", "--max-time", "300", "--output"])
        .arg(&part)
        .arg(&url);
    let fetched = fetch.read(Exit::Missing);
    fetched.map_err(|fault| Fault {
        what: k3d_missing().what,
        ..fault.cause(format!("it cannot be downloaded: {url}"))
    })?;
    if !is_k3d(&part, digest) {
        let _ = fs::remove_file(&part);
        return Err(k3d_missing().cause(format!("the file that {url} gives does not have the digest {digest}")));
    }
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&part, executable)
        .and_then(|()| fs::rename(&part, &program))
        .map_err(|error| cannot_write(&program, error))?;
    Ok(program)
}

fn is_k3d(program: &Path, digest: &str) -> bool {
    fs::read(program).is_ok_and(|bytes| format!("sha256:{}", Digest::of(&bytes).hex()) == digest)
}

/// Two free ports of 127.0.0.1: for etcd and for the API server.
fn free_ports() -> Result<[u16; 2], Fault> {
    let no_port = |error| Fault::missing("no free port on 127.0.0.1").cause(error);
    // Both are held until both are known.
    let bound =
        [TcpListener::bind("127.0.0.1:0").map_err(no_port)?, TcpListener::bind("127.0.0.1:0").map_err(no_port)?];
    let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port()).map_err(no_port);
    Ok([port(&bound[0])?, port(&bound[1])?])
}

fn random_token() -> Result<String, Fault> {
    let mut bytes = [0; 16];
    let read = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| Fault::missing("cannot read `/dev/urandom`").cause(error))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

fn log(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

/// The fault of a program that ended, with its last words.
fn ended(folder: &Path, name: &str) -> Fault {
    let text = fs::read(log(folder, name)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
    lines.into_iter().rev().fold(Fault::build(format!("`{name}` ended when it started")), Fault::cause)
}

fn load(folder: &Path) -> Option<ClusterState> {
    serde_json::from_slice(&fs::read(folder.join("state.json")).ok()?).ok()
}

fn save(folder: &Path, state: &ClusterState) -> Result<(), Fault> {
    let path = folder.join("state.json");
    let text = serde_json::to_string_pretty(state).map_err(|error| cannot_write(&path, error))?;
    write_private(&path, &text)
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_private(path: &Path, text: &str) -> Result<(), Fault> {
    let new = path.with_extension("new");
    let write = || {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        fs::rename(&new, path)
    };
    write().map_err(|error| cannot_write(path, error))
}

fn cannot_write(path: &Path, error: impl std::fmt::Display) -> Fault {
    Fault::missing(format!("cannot write `{}`", path.display())).cause(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_programs_are_named_together() {
        let found = |known: &'static [&'static str]| {
            Programs::among(&|name| known.contains(&name).then(|| PathBuf::from(name))).map(|programs| {
                [Some(programs.etcd), Some(programs.api_server), programs.controllers].into_iter().flatten().count()
            })
        };
        let places = "neither in the folder of `KUBEBUILDER_ASSETS` nor on `PATH`";
        assert_eq!(found(&[]), Err(format!("`etcd` and `kube-apiserver` are {places}")));
        assert_eq!(found(&["etcd"]), Err(format!("`kube-apiserver` is {places}")));
        assert_eq!(found(&["etcd", "kube-apiserver"]), Ok(2));
        assert_eq!(found(&["etcd", "kube-apiserver", "kube-controller-manager"]), Ok(3));
    }

    #[test]
    fn where_neither_way_is_possible_both_reasons_are_given() {
        let fault = unavailable("no programs", Fault::missing("no k3d").cause("no network").hint("install k3d"));
        assert_eq!((fault.exit, fault.causes.len(), fault.hints.len()), (Exit::Missing, 3, 2));
        assert_eq!(fault.hints[1], "or install k3d");
    }

    #[test]
    fn a_kubeconfig_is_private_and_names_the_servers_authority() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kubeconfig");
        write_private(&file, &kubeconfig("https://127.0.0.1:1", Path::new("/x/apiserver.crt"), "secret")).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let document: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(document["clusters"][0]["cluster"]["certificate-authority"], "/x/apiserver.crt");
        assert_eq!(document["users"][0]["user"]["token"], "secret");
    }

    #[test]
    fn a_cluster_that_ended_by_itself_is_stopped_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = folder.path().join("cluster");
        fs::create_dir(&cluster).unwrap();
        // No process has this id and this start.
        let gone = serde_json::from_value(serde_json::json!({"pid": 1, "started": 1})).unwrap();
        save(&cluster, &ClusterState { processes: BTreeMap::from([("etcd".to_owned(), gone)]), k3d: None }).unwrap();
        assert!(down(&cluster).unwrap() && !cluster.exists());
        assert!(!down(&cluster).unwrap());
    }

    #[test]
    fn where_a_part_ends_when_it_starts_nothing_is_left() {
        use std::os::unix::fs::PermissionsExt as _;
        if Process::now(std::process::id()).is_none() {
            eprintln!(
                "skipped: where_a_part_ends_when_it_starts_nothing_is_left: processes are followed on Linux only"
            );
            return;
        }
        if ["openssl", "curl"].into_iter().any(|program| process::found(program).is_none()) {
            let why = "no openssl, or no curl";
            assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "{why}");
            eprintln!("skipped: where_a_part_ends_when_it_starts_nothing_is_left: {why}");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let script = |name: &str, text: &str| {
            let file = folder.path().join(name);
            fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
            file
        };
        let programs = Programs {
            etcd: script("etcd", "exec sleep 60"),
            api_server: script("kube-apiserver", "echo 'unknown flag' >&2; sleep 1; exit 1"),
            controllers: None,
        };
        let cluster = folder.path().join("cluster");
        fs::create_dir(&cluster).unwrap();
        let fault = control_plane(&cluster, &programs).unwrap_err();
        assert_eq!(
            (fault.what.as_str(), fault.causes),
            ("`kube-apiserver` ended when it started", vec!["unknown flag".to_owned()])
        );
        let etcd = load(&cluster).unwrap().processes["etcd"];
        assert!(etcd.runs() && down(&cluster).unwrap());
        assert!(!etcd.runs() && !cluster.exists());
    }
}
