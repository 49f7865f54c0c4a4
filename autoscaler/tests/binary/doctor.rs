//! `autoscaler doctor` against an API server that says what a real one would, and against none.

use crate::support::{Ran, autoscaler, bare_python, hostile_home, run};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A server on loopback that answers JSON by path; a right is granted unless it is among the denied.
struct Cluster {
    address: String,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Cluster {
    fn start(paths: &[(&str, Value)], denied: &'static [&'static str]) -> Cluster {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let paths: BTreeMap<String, Value> =
            paths.iter().map(|(path, answer)| ((*path).to_owned(), answer.clone())).collect();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                answer(stream, &paths, denied, &kept);
            }
        });
        Cluster { address, asked }
    }

    fn kubeconfig(&self, folder: &Path) -> std::path::PathBuf {
        let file = folder.join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\ncontexts: [{{name: test, context: {{cluster: test, user: test, \
             namespace: here}}}}]\nclusters: [{{name: test, cluster: {{server: \"http://{}\"}}}}]\nusers: [{{name: test, user: {{}}}}]\n",
            self.address
        );
        std::fs::write(&file, text).unwrap();
        file
    }
}

fn answer(mut stream: TcpStream, paths: &BTreeMap<String, Value>, denied: &[&str], asked: &Mutex<Vec<Value>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    // A connection that was opened and not used.
    if reader.read_line(&mut first).unwrap_or(0) == 0 {
        return;
    }
    let (mut length, mut line) = (0, String::new());
    while reader.read_line(&mut line).unwrap() > 2 {
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let path = first.split(' ').nth(1).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let (status, answer) = if path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" {
        let mut review: Value = serde_json::from_slice(&body).unwrap();
        let wanted = &review["spec"]["resourceAttributes"];
        asked.lock().unwrap().push(wanted.clone());
        let text = |name: &str| wanted[name].as_str().unwrap_or_default();
        let right = format!("{} {}", text("verb"), text("resource"));
        review["status"] = json!({ "allowed": !denied.contains(&right.as_str()) });
        ("201 Created", review)
    } else if let Some(answer) = paths.get(path) {
        ("200 OK", answer.clone())
    } else {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
            "message": "the server could not find the requested resource",
        });
        ("404 Not Found", status)
    };
    let text = answer.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        text.len()
    );
    // Whoever has gone does not read.
    let _ = stream.write_all((head + &text).as_bytes());
}

fn version() -> (&'static str, Value) {
    let empty = ["major", "minor", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"];
    let mut version = json!({ "gitVersion": "v1.33.1" });
    for name in empty {
        version[name] = json!("x");
    }
    ("/version", version)
}

fn resource() -> (&'static str, Value) {
    let names = json!({ "name": "predictivescalers", "singularName": "", "namespaced": true, "kind": "PredictiveScaler", "verbs": ["get"] });
    let list =
        json!({ "kind": "APIResourceList", "groupVersion": "autoscaler.acme.dev/v1alpha1", "resources": [names] });
    ("/apis/autoscaler.acme.dev/v1alpha1", list)
}

fn number() -> (&'static str, Value) {
    let data = json!({ "resultType": "matrix", "result": [{ "metric": {}, "values": [[1, "1"]] }] });
    ("/prometheus/api/v1/query_range", json!({ "status": "success", "data": data }))
}

fn doctor(python: &Path, home: &Path, kubeconfig: &Path, prometheus: &str) -> Ran {
    let mut command = autoscaler();
    command.arg("doctor").env("KUBECONFIG", kubeconfig).arg("--home").arg(home).arg("--python").arg(python);
    run(command.args(["--prometheus", prometheus]))
}

/// A home with a worker that says hello, and our templates.
fn home() -> tempfile::TempDir {
    let home = hostile_home("exits_when_asked");
    let templates = home.path().join("templates");
    std::fs::create_dir(&templates).unwrap();
    crate::serve::copy_templates(&templates);
    home
}

#[test]
fn a_cluster_with_everything_is_good() {
    let Some(python) = bare_python("a_cluster_with_everything_is_good") else { return };
    let definition: Value = serde_saphyr::from_str(&run(autoscaler().arg("crd")).stdout).unwrap();
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/predictivescalers.autoscaler.acme.dev";
    let cluster = Cluster::start(&[version(), resource(), number(), (path, definition)], &[]);
    let home = home();
    let prometheus = format!("http://{}/prometheus", cluster.address);
    let ran = doctor(&python, home.path(), &cluster.kubeconfig(home.path()), &prometheus);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let marks: Vec<&str> = ran.stdout.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(marks, ["ok"; 7], "{}", ran.stdout);
    for part in ["Kubernetes v1.33.1", "namespace `here`", "PredictiveScaler of autoscaler.acme.dev/v1alpha1", "all 13"]
    {
        assert!(ran.stdout.contains(part), "{part} is not in {}", ran.stdout);
    }
    // The lease's name and namespace are part of the question, where they are known.
    let asked = cluster.asked.lock().unwrap();
    let leases: Vec<&Value> = asked.iter().filter(|wanted| wanted["resource"] == "leases").collect();
    assert!(leases.iter().all(|wanted| wanted["namespace"] == "here"), "{leases:?}");
    assert_eq!(leases.iter().filter(|wanted| wanted["name"] == "autoscaler").count(), 2);
    assert!(asked.iter().any(|wanted| wanted["subresource"] == "status" && wanted["verb"] == "patch"));
}

#[test]
fn what_is_missing_is_said_with_the_next_command() {
    let Some(python) = bare_python("what_is_missing_is_said_with_the_next_command") else { return };
    let group = json!({
        "kind": "APIGroupList",
        "groups": [{
            "name": "autoscaler.acme.dev",
            "versions": [{ "groupVersion": "autoscaler.acme.dev/v1beta9", "version": "v1beta9" }],
            "preferredVersion": { "groupVersion": "autoscaler.acme.dev/v1beta9", "version": "v1beta9" },
        }],
    });
    let cluster = Cluster::start(&[version(), ("/apis", group)], &["patch horizontalpodautoscalers", "update leases"]);
    let home = home();
    std::fs::write(home.path().join("templates/list.html"), "{% if %}").unwrap();
    let ran =
        doctor(Path::new("/nowhere/python"), home.path(), &cluster.kubeconfig(home.path()), "http://127.0.0.1:9/");
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.stderr.contains("error: 5 things are missing for `run`"), "{ran:?}");
    for part in [
        "missing    worker",
        "next: name a Python with `--python` or AUTOSCALER_PYTHON",
        "missing    templates",
        "list.html:1: syntax error",
        "the cluster has PredictiveScaler in v1beta9, but not in v1alpha1",
        "next: `autoscaler crd | kubectl apply -f -`",
        "missing rights:\n                       patch horizontalpodautoscalers.autoscaling\n                       update leases.coordination.k8s.io\n",
        "missing    prometheus  cannot reach Prometheus",
    ] {
        assert!(ran.stdout.contains(part), "{part} is not in {}", ran.stdout);
    }
    let home = self::home();
    let json = run(autoscaler()
        .args(["doctor", "--format", "json", "--python"])
        .arg(&python)
        .arg("--home")
        .arg(home.path())
        .env("KUBECONFIG", cluster.kubeconfig(home.path())));
    let findings: Vec<Value> = serde_json::from_str(&json.stdout).unwrap();
    let is: Vec<&str> = findings.iter().map(|finding| finding["is"].as_str().unwrap()).collect();
    assert_eq!(is, ["good", "good", "good", "good", "missing", "missing", "not-asked"]);
}

#[test]
fn an_older_definition_is_seen() {
    let Some(python) = bare_python("an_older_definition_is_seen") else { return };
    let mut definition: Value = serde_saphyr::from_str(&run(autoscaler().arg("crd")).stdout).unwrap();
    let spec = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    spec.as_object_mut().unwrap().remove("takeOwnership").unwrap();
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/predictivescalers.autoscaler.acme.dev";
    let cluster = Cluster::start(&[version(), resource(), number(), (path, definition)], &[]);
    let home = home();
    let prometheus = format!("http://{}/prometheus", cluster.address);
    let ran = doctor(&python, home.path(), &cluster.kubeconfig(home.path()), &prometheus);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.stdout.contains("out of date: it lacks `spec.takeOwnership`"), "{}", ran.stdout);
}

#[test]
fn without_a_cluster_the_rest_is_not_asked() {
    let Some(python) = bare_python("without_a_cluster_the_rest_is_not_asked") else { return };
    let home = home();
    let nowhere = home.path().join("no-kubeconfig");
    let ran = doctor(&python, home.path(), &nowhere, "http://127.0.0.1:9/");
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.stdout.contains("missing    kubeconfig"), "{}", ran.stdout);
    assert_eq!(ran.stdout.matches("not asked").count(), 3, "{}", ran.stdout);
    // A cluster that is down.
    let down = Cluster { address: "127.0.0.1:9".to_owned(), asked: Arc::default() };
    let ran = doctor(&python, home.path(), &down.kubeconfig(home.path()), "http://127.0.0.1:9/");
    assert!(
        ran.stdout.contains("missing    cluster") && ran.stdout.contains("next: `kubectl version`"),
        "{}",
        ran.stdout
    );
    assert_eq!(ran.stdout.matches("not asked").count(), 2, "{}", ran.stdout);
}
