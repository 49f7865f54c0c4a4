//! Checks the requirements of `run`: the worker's packages, a cluster that answers, the resource, the rights, Prometheus.
//!
//! Asks and changes nothing: the one object that it creates is a question about rights, which no cluster keeps. Every
//! finding that is not good says what to do next.

use crate::crd::{GROUP, PredictiveScaler};
use crate::prometheus::{self, Prometheus};
use crate::tls;
use autoscaler_forecast::home::Home;
use autoscaler_forecast::worker::{Launch, Worker};
use autoscaler_show::page;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PostParams;
use kube::{Api, Client, Config, CustomResourceExt};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The version of the resource that this binary speaks.
pub const VERSION: &str = "v1alpha1";

const WITHIN: Duration = Duration::from_secs(5);
const APPLY: &str = "`autoscaler crd | kubectl apply -f -`";

/// Something that may be done to a kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    pub group: &'static str,
    /// The resource, with its subresource behind a slash.
    pub resource: &'static str,
    pub verb: &'static str,
    /// Only in the operator's own namespace.
    pub own: bool,
}

const fn everywhere(group: &'static str, resource: &'static str, verb: &'static str) -> Right {
    Right { group, resource, verb, own: false }
}

const fn own(group: &'static str, resource: &'static str, verb: &'static str) -> Right {
    Right { group, resource, verb, own: true }
}

/// All rights that `run` needs, and no other: what the chart grants is compared with these.
pub const RIGHTS: &[Right] = &[
    everywhere(GROUP, "predictivescalers", "get"),
    everywhere(GROUP, "predictivescalers", "list"),
    everywhere(GROUP, "predictivescalers", "watch"),
    everywhere(GROUP, "predictivescalers", "patch"),
    everywhere(GROUP, "predictivescalers/status", "patch"),
    everywhere("autoscaling", "horizontalpodautoscalers", "get"),
    everywhere("autoscaling", "horizontalpodautoscalers", "list"),
    everywhere("autoscaling", "horizontalpodautoscalers", "patch"),
    everywhere("events.k8s.io", "events", "create"),
    everywhere("events.k8s.io", "events", "patch"),
    own("coordination.k8s.io", "leases", "create"),
    own("coordination.k8s.io", "leases", "get"),
    own("coordination.k8s.io", "leases", "update"),
];

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}.{}", self.verb, self.resource, self.group)
    }
}

/// State of a requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Is {
    Good,
    Missing,
    /// Not asked, for want of something else.
    NotAsked,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the requirement.
    pub what: &'static str,
    pub is: Is,
    /// Description of the state.
    pub says: String,
    /// Next step for the user.
    pub next: Option<String>,
}

impl Finding {
    fn good(what: &'static str, says: impl Into<String>) -> Finding {
        Finding { what, is: Is::Good, says: says.into(), next: None }
    }

    fn missing(what: &'static str, says: impl Into<String>, next: impl Into<String>) -> Finding {
        Finding { what, is: Is::Missing, says: says.into(), next: Some(next.into()) }
    }

    fn not_asked(what: &'static str, says: impl Into<String>) -> Finding {
        Finding { what, is: Is::NotAsked, says: says.into(), next: None }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.is {
            Is::Good => "ok",
            Is::Missing => "missing",
            Is::NotAsked => "not asked",
        };
        let mut lines = self.says.lines();
        write!(f, "{mark:<9}  {:<10}  {}", self.what, lines.next().unwrap_or_default())?;
        for line in lines {
            write!(f, "\n{:23}{line}", "")?;
        }
        if let Some(next) = &self.next {
            write!(f, "\n{:23}next: {next}", "")?;
        }
        Ok(())
    }
}

/// Settings to check.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Start command of the worker.
    pub launch: Launch,
    /// Folder with the templates.
    pub home: Home,
    pub prometheus: Option<prometheus::PrometheusSettings>,
    /// State file.
    pub state: Option<PathBuf>,
    /// The namespace of the lease, where it is not the one of the kubeconfig or the pod.
    pub namespace: Option<String>,
    pub lease: String,
}

/// Checks everything, each once.
pub async fn examine(asked: &Asked) -> Vec<Finding> {
    tls::provide();
    let mut findings = vec![worker(&asked.launch).await, templates(&asked.home)];
    findings.extend(asked.state.as_deref().map(state));
    findings.extend(cluster(asked).await);
    findings.push(prometheus(asked.prometheus.clone()).await);
    findings
}

async fn worker(launch: &Launch) -> Finding {
    match Worker::start(launch).await {
        Ok(worker) => {
            let hello = worker.hello().clone();
            worker.stop().await;
            let packages: Vec<String> =
                hello.packages.iter().map(|(name, version)| format!("{name} {version}")).collect();
            Finding::good("worker", format!("Python {} with {}", hello.python, packages.join(", ")))
        }
        Err(error) => {
            Finding::missing("worker", error.to_string(), install(&launch.python, python_version(&launch.python).await))
        }
    }
}

/// Python's versions from which on the lock has a wheel for every package, as its header says.
const LOCKED_FOR: (u32, u32) = (3, 12);

/// Returns the command that installs the worker's packages with this Python: from the lock if it can be installed, else from
/// the requirements.
fn install(python: &Path, version: Option<(u32, u32)>) -> String {
    let python = python.display();
    match version {
        Some((major, minor)) if (major, minor) < LOCKED_FOR => format!(
            "`{python} -m pip install -r requirements-enhanced.txt`: the lock needs Python {}.{} or newer, this is \
             {major}.{minor}; or name another Python with `--python`",
            LOCKED_FOR.0, LOCKED_FOR.1
        ),
        Some(_) => format!(
            "`{python} -m pip install --require-hashes -r requirements-enhanced.lock`, or name another Python with `--python`"
        ),
        None => "name a Python with `--python` or AUTOSCALER_PYTHON".to_owned(),
    }
}

/// Major and minor version of a Python; none where it cannot run.
async fn python_version(python: &Path) -> Option<(u32, u32)> {
    let print = "import sys; print(*sys.version_info[:2])";
    let ran = tokio::process::Command::new(python).args(["-I", "-c", print]).output();
    let ran = tokio::time::timeout(std::time::Duration::from_secs(10), ran).await.ok()?.ok()?;
    let text = String::from_utf8(ran.stdout).ok()?;
    let (major, minor) = text.trim().split_once(' ')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn templates(home: &Home) -> Finding {
    let folder = home.templates();
    let broken: Vec<String> = [page::list::TEMPLATE, page::workload::TEMPLATE, "error.html"]
        .iter()
        .filter_map(|name| page::parses(&folder, name).err())
        .map(|broken| format!("{}: {}", broken.place, broken.cause))
        .collect();
    if broken.is_empty() {
        Finding::good("templates", folder.display().to_string())
    } else {
        Finding::missing("templates", broken.join("\n"), "name the folder above templates/ with `--home`")
    }
}

fn state(path: &std::path::Path) -> Finding {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    let probe = folder.join(".autoscaler-doctor");
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&probe, "x"));
    // It may never have existed.
    let _ = std::fs::remove_file(&probe);
    match written {
        Ok(()) => Finding::good("state", format!("`{}` can be written", folder.display())),
        Err(cause) => Finding::missing(
            "state",
            format!("cannot write to `{}`: {cause}", folder.display()),
            "name another file with `--state`; without one the pages show only data of this process",
        ),
    }
}

async fn cluster(asked: &Asked) -> Vec<Finding> {
    let unasked = |since: usize| {
        ["cluster", "resource", "rights"][since..].iter().map(|what| Finding::not_asked(what, "no cluster available"))
    };
    let mut config = match Config::infer().await {
        Ok(config) => config,
        Err(cause) => {
            let next = "name a kubeconfig with KUBECONFIG, or run this in a pod with a service account";
            return std::iter::once(Finding::missing("kubeconfig", chain(&cause), next)).chain(unasked(0)).collect();
        }
    };
    let url = config.cluster_url.to_string();
    let namespace = asked.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let mut findings = vec![Finding::good("kubeconfig", format!("{url}, namespace `{namespace}`"))];
    config.connect_timeout = Some(WITHIN);
    config.read_timeout = Some(WITHIN * 2);
    let client = match Client::try_from(config) {
        Ok(client) => client,
        Err(cause) => {
            findings.push(Finding::missing("cluster", chain(&cause), "`kubectl version`"));
            findings.extend(unasked(1));
            return findings;
        }
    };
    match client.apiserver_version().await {
        Ok(version) => findings.push(Finding::good("cluster", format!("Kubernetes {}", version.git_version))),
        Err(cause) => {
            findings.push(Finding::missing("cluster", format!("{url}: {}", chain(&cause)), "`kubectl version`"));
            findings.extend(unasked(1));
            return findings;
        }
    }
    findings.push(resource(&client).await);
    findings.push(rights(&client, &namespace, &asked.lease).await);
    findings
}

async fn resource(client: &Client) -> Finding {
    let found = client.list_api_group_resources(&format!("{GROUP}/{VERSION}")).await;
    let known = match found {
        Ok(list) => list.resources.into_iter().any(|resource| resource.name == "predictivescalers"),
        Err(kube::Error::Api(status)) if status.code == 404 => false,
        Err(cause) => return Finding::missing("resource", chain(&cause), "`kubectl api-resources`"),
    };
    if !known {
        let others = versions(client).await;
        let says = match others.as_slice() {
            [] => format!("the cluster has no PredictiveScaler of {GROUP}/{VERSION}"),
            others => format!("the cluster has PredictiveScaler in {}, but not in {VERSION}", others.join(", ")),
        };
        return Finding::missing("resource", says, APPLY);
    }
    // Whoever runs the operator may not be allowed to read definitions, and need not be.
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    if let Ok(theirs) = api.get(PredictiveScaler::crd_name()).await {
        let lacks = lacks(&PredictiveScaler::crd(), &theirs);
        if !lacks.is_empty() {
            let says = format!("the definition in the cluster is out of date: it lacks {}", lacks.join(", "));
            return Finding::missing("resource", says, APPLY);
        }
    }
    Finding::good("resource", format!("PredictiveScaler of {GROUP}/{VERSION}"))
}

/// The versions of our group that the cluster knows.
async fn versions(client: &Client) -> Vec<String> {
    let groups = client.list_api_groups().await.map(|list| list.groups).unwrap_or_default();
    let ours = groups.into_iter().filter(|group| group.name == GROUP);
    ours.flat_map(|group| group.versions).map(|version| version.version).collect()
}

/// The fields of the spec and the status that a definition has and another has not.
fn lacks(ours: &CustomResourceDefinition, theirs: &CustomResourceDefinition) -> Vec<String> {
    let fields = |definition: &CustomResourceDefinition| -> Vec<String> {
        let version = definition.spec.versions.iter().find(|version| version.name == VERSION);
        let schema = version.and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref());
        let top = schema.and_then(|schema| schema.properties.as_ref());
        ["spec", "status"]
            .iter()
            .flat_map(|part| {
                let inner = top.and_then(|top| top.get(*part)?.properties.as_ref());
                inner.into_iter().flat_map(|inner| inner.keys()).map(move |field| format!("`{part}.{field}`"))
            })
            .collect()
    };
    let theirs = fields(theirs);
    fields(ours).into_iter().filter(|field| !theirs.contains(field)).collect()
}

async fn rights(client: &Client, namespace: &str, lease: &str) -> Finding {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut denied = Vec::new();
    for right in RIGHTS {
        let (resource, subresource) =
            right.resource.split_once('/').map_or((right.resource, None), |(resource, sub)| (resource, Some(sub)));
        let attributes = ResourceAttributes {
            group: Some(right.group.to_owned()),
            resource: Some(resource.to_owned()),
            subresource: subresource.map(str::to_owned),
            verb: Some(right.verb.to_owned()),
            namespace: right.own.then(|| namespace.to_owned()),
            // What is created has no name yet.
            name: (right.own && right.verb != "create").then(|| lease.to_owned()),
            ..ResourceAttributes::default()
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() },
            ..Default::default()
        };
        match api.create(&PostParams::default(), &review).await {
            Ok(answer) if answer.status.as_ref().is_some_and(|status| status.allowed) => {}
            Ok(_) => denied.push(right.to_string()),
            Err(cause) => {
                return Finding::missing(
                    "rights",
                    format!("cannot ask for rights: {}", chain(&cause)),
                    "`kubectl auth whoami`",
                );
            }
        }
    }
    if denied.is_empty() {
        Finding::good("rights", format!("all {} that `run` needs", RIGHTS.len()))
    } else {
        Finding::missing(
            "rights",
            format!("missing rights:\n{}", denied.join("\n")),
            "install the chart, whose roles grant exactly these, and run this as its service account",
        )
    }
}

async fn prometheus(settings: Option<prometheus::PrometheusSettings>) -> Finding {
    let Some(settings) = settings else {
        return Finding::not_asked("prometheus", "name it with `--prometheus`");
    };
    let url = settings.url.clone();
    let next = format!("check that `{url}` is correct and that no network policy blocks it");
    let client = match Prometheus::new(settings) {
        Ok(client) => client,
        Err(cause) => return Finding::missing("prometheus", cause, next),
    };
    match client.reachable().await {
        Ok(()) => Finding::good("prometheus", format!("`{url}` answers")),
        Err(trouble) => Finding::missing("prometheus", trouble.to_string(), next),
    }
}

/// An error with its causes in one line; a library's own repeats itself.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_read_from_left_to_right() {
        let finding = Finding::missing("rights", "missing rights:\nget leases", "ask");
        let expected = "missing    rights      missing rights:\n                       get leases\n                       next: ask";
        assert_eq!(finding.to_string(), expected);
        assert_eq!(Finding::good("cluster", "v1").to_string(), "ok         cluster     v1");
    }

    #[test]
    fn an_older_definition_lacks_fields() {
        let ours = PredictiveScaler::crd();
        assert!(lacks(&ours, &ours).is_empty());
        let mut theirs = ours.clone();
        let schema = theirs.spec.versions[0].schema.as_mut().unwrap().open_api_v3_schema.as_mut().unwrap();
        let spec = schema.properties.as_mut().unwrap().get_mut("spec").unwrap();
        spec.properties.as_mut().unwrap().remove("takeOwnership");
        assert_eq!(lacks(&ours, &theirs), ["`spec.takeOwnership`"]);
        theirs.spec.versions[0].name = "v1".to_owned();
        assert!(lacks(&ours, &theirs).len() > 10);
    }

    #[test]
    fn doctor_recommends_what_the_available_python_can_install() {
        let next = |version| install(Path::new("python3"), version);
        assert!(
            next(Some((3, 12))).starts_with("`python3 -m pip install --require-hashes -r requirements-enhanced.lock`")
        );
        let old = next(Some((3, 11)));
        assert!(
            old.contains("-r requirements-enhanced.txt`: the lock needs Python 3.12 or newer, this is 3.11"),
            "{old}"
        );
        assert!(next(None).starts_with("name a Python"));
    }
}
