//! Installed manifests: the chart as the real `helm` renders it, the plain manifest made of it, and the rights that both grant.

use crate::support::{autoscaler, crate_folder, run};
use autoscaler::cluster::crd::PredictiveScaler;
use autoscaler::cluster::doctor::RIGHTS;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const WRITE: &str = "AUTOSCALER_WRITE_MANIFESTS";
const DEFINITION: &str = "deploy/chart/crds/predictivescalers.yaml";
const PLAIN: &str = "deploy/autoscaler.yaml";

const HEAD: &str = "\
# Everything that the operator needs in a cluster, as the chart renders it with its default values; written by a test, never
# by hand. Name your Prometheus in the Deployment's arguments, then: kubectl apply --server-side -f autoscaler.yaml
apiVersion: v1
kind: Namespace
metadata:
  name: autoscaler
  labels:
    # Nothing in it needs more than the strictest profile allows.
    pod-security.kubernetes.io/enforce: restricted
";

fn chart() -> PathBuf {
    crate_folder().join("deploy/chart")
}

/// `helm`, as the tests' own Python has it next to it, or as PATH has it. Without one the test is skipped, loudly, unless
/// skipping is forbidden.
fn helm(test: &str) -> Option<PathBuf> {
    let next_to_python = std::env::var_os("AUTOSCALER_PYTHON").map(|python| Path::new(&python).with_file_name("helm"));
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = next_to_python
        .into_iter()
        .chain(std::env::split_paths(&paths).map(|path| path.join("helm")))
        .find(|file| file.is_file());
    if found.is_none() {
        let why = "no `helm` on the PATH, and none next to AUTOSCALER_PYTHON";
        // There is a wheel with it for these machines.
        let to_be_had = cfg!(all(target_os = "linux", target_arch = "x86_64"));
        assert!(!to_be_had || std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "{test}: {why}");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("\nskipped: {test}: {why}\n").as_bytes());
    }
    found
}

#[track_caller]
fn rendered(helm: &Path, args: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(helm)
        .args(["template", "autoscaler"])
        .arg(chart())
        .args(["--namespace", "autoscaler"])
        .args(args)
        .envs([("HELM_CONFIG_HOME", home.path()), ("HELM_CACHE_HOME", home.path()), ("HELM_DATA_HOME", home.path())])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn documents(text: &str) -> Vec<Value> {
    text.split("\n---\n")
        .map(|document| document.trim_start_matches("---\n"))
        .filter(|document| document.lines().any(|line| !line.is_empty() && !line.starts_with('#')))
        .map(|document| serde_saphyr::from_str(document).unwrap_or_else(|cause| panic!("{cause}: {document}")))
        .collect()
}

/// Reads a document as its type and writes it again: what the type does not know, such as a misspelt field, is lost.
#[track_caller]
fn typed<T: DeserializeOwned + Serialize>(document: &Value) -> T {
    let value: T = serde_json::from_value(document.clone()).unwrap();
    let mut again = serde_json::to_value(&value).unwrap();
    let mut wanted = document.clone();
    settled(&mut again);
    settled(&mut wanted);
    assert_eq!(again, wanted, "something in the {} is not of its type", document["kind"]);
    value
}

/// Without the difference between a quantity's and a port's ways of being written.
fn settled(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(settled),
        Value::Array(items) => items.iter_mut().for_each(settled),
        Value::Number(number) => *value = Value::String(number.to_string()),
        _ => {}
    }
}

fn of<'a>(documents: &'a [Value], kind: &str) -> Option<&'a Value> {
    documents.iter().find(|document| document["kind"] == kind)
}

/// Compares a file with what it should be, or writes it when asked to.
#[track_caller]
fn same(file: &str, wanted: &str) {
    let path = crate_folder().join(file);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, wanted).unwrap();
        return;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "`{file}` is not up to date: {WRITE}=1 cargo test -p autoscaler --test binary manifests");
}

#[test]
fn the_charts_definition_is_the_one_that_crd_prints() {
    let printed = run(autoscaler().arg("crd"));
    assert_eq!(printed.code, Some(0));
    same(DEFINITION, &printed.stdout);
    let _: CustomResourceDefinition = typed(&documents(&printed.stdout)[0]);
}

#[test]
fn the_plain_manifest_is_the_rendered_chart() {
    let Some(helm) = helm("the_plain_manifest_is_the_rendered_chart") else { return };
    let ours = |line: &&str| {
        !line.starts_with("# Source:")
            && !line.contains("app.kubernetes.io/managed-by: Helm")
            && !line.contains("helm.sh/chart:")
    };
    let definition = std::fs::read_to_string(crate_folder().join(DEFINITION)).unwrap();
    let rendered = rendered(&helm, &[]);
    let lines: Vec<&str> = rendered.lines().filter(ours).collect();
    same(PLAIN, &format!("{HEAD}---\n{}\n{}\n", definition.trim_end(), lines.join("\n").trim_end()));
}

#[test]
fn the_plain_manifest_is_made_of_what_a_cluster_knows() {
    let documents = documents(&std::fs::read_to_string(crate_folder().join(PLAIN)).unwrap());
    let mut kinds = BTreeSet::new();
    for document in &documents {
        let kind = document["kind"].as_str().unwrap();
        kinds.insert(kind);
        match kind {
            "Namespace" => drop(typed::<Namespace>(document)),
            "CustomResourceDefinition" => drop(typed::<CustomResourceDefinition>(document)),
            "ServiceAccount" => drop(typed::<ServiceAccount>(document)),
            "ClusterRole" => drop(typed::<ClusterRole>(document)),
            "ClusterRoleBinding" => drop(typed::<ClusterRoleBinding>(document)),
            "Role" => drop(typed::<Role>(document)),
            "RoleBinding" => drop(typed::<RoleBinding>(document)),
            "Deployment" => drop(typed::<Deployment>(document)),
            "Service" => drop(typed::<Service>(document)),
            "PodDisruptionBudget" => drop(typed::<PodDisruptionBudget>(document)),
            "NetworkPolicy" => drop(typed::<NetworkPolicy>(document)),
            other => panic!("{other}"),
        }
    }
    assert_eq!(kinds.len(), 11, "{kinds:?}");
}

#[test]
fn what_is_granted_is_what_run_needs_and_no_more() {
    let documents = documents(&std::fs::read_to_string(crate_folder().join(PLAIN)).unwrap());
    let mut granted = BTreeSet::new();
    for (kind, own) in [("ClusterRole", false), ("Role", true)] {
        for rule in of(&documents, kind).unwrap()["rules"].as_array().unwrap() {
            let list = |name: &str| -> Vec<String> {
                rule[name].as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned()).collect()
            };
            // The lease alone, by its name, but where it has none yet.
            assert_eq!(rule.get("resourceNames").is_some(), own && list("verbs") != ["create"], "{rule}");
            for group in list("apiGroups") {
                for resource in list("resources") {
                    for verb in list("verbs") {
                        granted.insert((group.clone(), resource.clone(), verb, own));
                    }
                }
            }
        }
    }
    let needed: BTreeSet<_> = RIGHTS
        .iter()
        .map(|right| (right.group.to_owned(), right.resource.to_owned(), right.verb.to_owned(), right.own))
        .collect();
    assert_eq!(granted, needed);
    assert!(!granted.iter().any(|(group, resource, verb, _)| group == "apps" || resource == "*" || verb == "*"));
}

#[test]
fn the_pod_has_no_right_on_its_node() {
    let documents = documents(&std::fs::read_to_string(crate_folder().join(PLAIN)).unwrap());
    let deployment: Deployment = typed(of(&documents, "Deployment").unwrap());
    let spec = deployment.spec.unwrap();
    assert_eq!(spec.replicas, Some(2));
    let pod = spec.template.spec.unwrap();
    let user = pod.security_context.unwrap();
    assert_eq!((user.run_as_non_root, user.run_as_user, user.run_as_group), (Some(true), Some(10_001), Some(10_001)));
    assert_eq!(user.seccomp_profile.unwrap().type_, "RuntimeDefault");
    // The number is the image's.
    let dockerfile = std::fs::read_to_string(crate_folder().join("../dockerfiles/Dockerfile.enhanced")).unwrap();
    assert!(dockerfile.contains("ARG USER_ID=10001\n"));
    let container = &pod.containers[0];
    let security = container.security_context.as_ref().unwrap();
    assert_eq!(security.read_only_root_filesystem, Some(true));
    assert_eq!(security.allow_privilege_escalation, Some(false));
    assert_eq!(security.capabilities.as_ref().unwrap().drop.as_deref(), Some(&["ALL".to_owned()][..]));
    // The one place that can be written is the state's.
    let mounts = container.volume_mounts.as_ref().unwrap();
    assert_eq!(mounts.len(), 1);
    assert!(container.args.as_ref().unwrap().contains(&format!("--state={}/state.db", mounts[0].mount_path)));
    assert!(pod.volumes.unwrap()[0].empty_dir.as_ref().unwrap().size_limit.is_some());
}

#[test]
fn the_arguments_are_ones_that_run_takes() {
    let documents = documents(&std::fs::read_to_string(crate_folder().join(PLAIN)).unwrap());
    let deployment: Deployment = typed(of(&documents, "Deployment").unwrap());
    let container = deployment.spec.unwrap().template.spec.unwrap().containers.remove(0);
    let folder = tempfile::tempdir().unwrap();
    let args = container.args.unwrap().into_iter().map(|arg| match arg.strip_prefix("--state=") {
        Some(_) => format!("--state={}", folder.path().join("state.db").display()),
        None => arg.replace("0.0.0.0:8080", "127.0.0.1:0"),
    });
    // Everything is understood, and only the cluster is missing.
    let ran =
        run(autoscaler().args(args).env("KUBECONFIG", folder.path().join("none")).env("AUTOSCALER_NAMESPACE", "x"));
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("cannot determine the cluster"), "{ran:?}");
}

/// The first PredictiveScaler in a document, from its first line to a line that is not YAML.
fn example(file: &str, fence: &str) -> PredictiveScaler {
    let text = std::fs::read_to_string(crate_folder().join(file)).unwrap();
    let from = text.find("apiVersion: autoscaler.acme.dev/v1alpha1\nkind: PredictiveScaler").unwrap();
    serde_saphyr::from_str(text[from..].split(fence).next().unwrap()).unwrap()
}

#[test]
fn the_examples_are_scalers_and_their_defaults_are_the_resources() {
    let readme = example("README.md", "```");
    let page = example("templates/list.html", "</pre>");
    assert!(page.spec.settings().is_ok(), "{:?}", page.spec.settings());
    // What the README says of a value that is not given is what it is.
    let mut short = serde_json::to_value(&readme).unwrap();
    short["spec"]
        .as_object_mut()
        .unwrap()
        .retain(|name, _| ["hpaRef", "query", "perPodCapacity", "maxFloor"].contains(&name.as_str()));
    let short: PredictiveScaler = serde_json::from_value(short).unwrap();
    assert_eq!(short.spec, readme.spec);
    assert!(readme.spec.settings().is_ok());
}

#[test]
fn the_chart_is_linted_and_its_values_are_checked() {
    let Some(helm) = helm("the_chart_is_linted_and_its_values_are_checked") else { return };
    let lint = Command::new(&helm).arg("lint").arg("--strict").arg(chart()).output().unwrap();
    assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
    let misspelt =
        Command::new(&helm).args(["template", "a"]).arg(chart()).args(["--set", "replica=3"]).output().unwrap();
    assert!(!misspelt.status.success() && String::from_utf8_lossy(&misspelt.stderr).contains("replica"));

    let one = documents(&rendered(&helm, &["--set", "replicas=1,networkPolicy.enabled=false,rbac.create=false"]));
    for kind in ["PodDisruptionBudget", "NetworkPolicy", "ClusterRole", "Role"] {
        assert!(of(&one, kind).is_none(), "{kind}");
    }
    let digest = format!("sha256:{}", "a".repeat(64));
    let all = documents(&rendered(
        &helm,
        &[
            "--set-string",
            &format!(
                "image.digest={digest},serviceAccount.name=mine,prometheus.tokenSecret.name=token,podLabels.team=a"
            ),
            "--set",
            "serviceMonitor.enabled=true,nodeSelector.disk=ssd,extraArgs={--at-a-time=4},tolerations[0].operator=Exists",
        ],
    ));
    let deployment: Deployment = typed(of(&all, "Deployment").unwrap());
    let pod = deployment.spec.unwrap().template.spec.unwrap();
    assert_eq!(pod.containers[0].image.as_deref(), Some(format!("ghcr.io/acme/autoscaler@{digest}").as_str()));
    assert_eq!(pod.service_account_name.as_deref(), Some("mine"));
    let args = pod.containers[0].args.as_ref().unwrap();
    assert!(
        args.contains(&"--at-a-time=4".to_owned())
            && args.iter().any(|arg| arg.starts_with("--prometheus-token-file="))
    );
    assert_eq!(pod.volumes.unwrap().len(), 2);
    assert!(of(&all, "ServiceMonitor").is_some());
    for kind in ["ClusterRoleBinding", "RoleBinding"] {
        assert_eq!(of(&all, kind).unwrap()["subjects"][0]["name"], "mine");
    }
}
