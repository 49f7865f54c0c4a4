//! Runs a workflow as GitHub's runner does, as far as the generated ones go: conditions, matrices, outputs, environment, and
//! each `run:` line by bash in a fresh clone. `cargo xtask` is the built binary; the two actions are what they do for us.
//! `gitlab` does the same for GitLab's file.

#[path = "gitlab.rs"]
mod gitlab;

use super::expression::{Status, asks_status, evaluate, interpolate, truthy};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use xtask_model::image::policy::Provider;
use yaml_rust2::{Yaml, YamlLoader};

/// Something that happens to the repository.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// `github.event_name`.
    pub name: &'static str,
    /// `github.ref`.
    pub reference: String,
    /// Commit to check out.
    pub commit: String,
    /// The document of the event.
    pub payload: Value,
}

/// Machine that runs workflows.
pub(crate) struct Runner {
    /// The repository that is cloned.
    pub origin: PathBuf,
    /// For clones, shims and outputs.
    pub folder: PathBuf,
    /// Variables that reach the engine.
    pub engine: BTreeMap<&'static str, OsString>,
    pub service: Provider,
    /// Host of the registry.
    pub registry: String,
    /// The job of GitHub that ends as cancelled, as one does at its time limit.
    pub cancelled: std::cell::Cell<Option<&'static str>>,
}

/// Result of a run.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// `success`, `failure`, `cancelled` or `skipped` of each job.
    pub results: BTreeMap<String, &'static str>,
    /// The outputs of the job `images`.
    pub planned: BTreeMap<String, String>,
    /// Every `cargo` call, in order.
    pub calls: Vec<String>,
    /// Everything that was printed.
    pub log: String,
}

struct Job<'a> {
    yaml: &'a Yaml,
    environment: BTreeMap<String, String>,
    workspace: PathBuf,
    context: Value,
}

impl Runner {
    /// Runs every job, in the order of the file, which names a job after all that it needs.
    pub(crate) fn run(&self, event: &Event) -> Outcome {
        let mut outcome = match self.service {
            Provider::GitHub => self.on_github(event),
            Provider::GitLab => self.on_gitlab(event),
        };
        let calls = std::fs::read_to_string(self.folder.join("calls")).unwrap_or_default();
        outcome.calls = calls.lines().map(str::to_owned).collect();
        let _ = std::fs::remove_file(self.folder.join("calls"));
        outcome
    }

    fn on_github(&self, event: &Event) -> Outcome {
        // GitHub chooses by `on:`; a tag is what `release.yml` waits for, and everything else is `ci.yml`'s.
        let file = if event.reference.starts_with("refs/tags/") { "release" } else { "ci" };
        let text = self.git(&["show", &format!("{}:.github/workflows/{file}.yml", event.commit)]);
        let document = &YamlLoader::load_from_str(&text).unwrap()[0];
        let mut outcome = Outcome::default();
        let mut needs = Map::new();
        let mut cached = BTreeSet::new();
        for (name, job) in document["jobs"].as_hash().unwrap() {
            let name = name.as_str().unwrap();
            let result = self.job((name, job), event, &needs, &mut cached, &mut outcome);
            outcome.results.insert(name.to_owned(), result);
            let outputs = if name == "images" { json!(outcome.planned) } else { json!({}) };
            needs.insert(name.to_owned(), json!({"result": result, "outputs": outputs}));
        }
        outcome
    }

    fn job(
        &self,
        (name, yaml): (&str, &Yaml),
        event: &Event,
        done: &Map<String, Value>,
        cached: &mut BTreeSet<String>,
        outcome: &mut Outcome,
    ) -> &'static str {
        let wanted: Vec<&str> = match &yaml["needs"] {
            Yaml::String(one) => vec![one],
            Yaml::Array(all) => all.iter().filter_map(Yaml::as_str).collect(),
            _ => Vec::new(),
        };
        let needs: Map<String, Value> = wanted.iter().map(|name| ((*name).to_owned(), done[*name].clone())).collect();
        let all = |result: &str| needs.values().filter(|need| need["result"] == result).count();
        let status = Status { success: all("success") == needs.len(), failure: all("failure") > 0 };
        let context = self.context(event, &needs);
        if !holds(&yaml["if"], &context, status) {
            return "skipped";
        }
        if self.cancelled.get() == Some(name) {
            return "cancelled";
        }
        let legs = yaml["strategy"]["matrix"]["include"].as_vec().cloned().unwrap_or_else(|| vec![Yaml::Null]);
        let mut result = "success";
        for leg in legs {
            let mut context = context.clone();
            context["matrix"] = leg.as_hash().into_iter().flatten().map(|(k, v)| (text(k), json!(text(v)))).collect();
            let workspace = self.folder.join("workspace");
            let _ = std::fs::remove_dir_all(&workspace);
            std::fs::create_dir_all(&workspace).unwrap();
            let environment = environment(&yaml["env"], &context);
            let mut job = Job { yaml, environment, workspace, context };
            outcome.log += &format!("=== {name} {}\n", job.context["matrix"]);
            if !self.steps(name, &mut job, event, cached, outcome) {
                result = "failure";
            }
            for (output, value) in yaml["outputs"].as_hash().into_iter().flatten() {
                outcome.planned.insert(text(output), interpolate(&text(value), &job.context));
            }
        }
        result
    }

    /// Runs the steps of one leg; whether all went well.
    fn steps(
        &self,
        name: &str,
        job: &mut Job<'_>,
        event: &Event,
        cached: &mut BTreeSet<String>,
        outcome: &mut Outcome,
    ) -> bool {
        let mut well = true;
        for step in job.yaml["steps"].as_vec().unwrap() {
            let status = Status { success: well, failure: !well };
            if !holds(&step["if"], &job.context, status) {
                continue;
            }
            outcome.log += &format!("--- {}\n", step["name"].as_str().unwrap());
            let outputs = match step["uses"].as_str().map(|uses| uses.split('@').next().unwrap()) {
                Some("actions/checkout") => self.check_out(&job.workspace, event),
                // Kept by the first job on a runner's kind, found by those after it.
                Some("actions/cache/restore") => {
                    let key = format!("{} {}", text(&step["with"]["key"]), job.context["matrix"]["runner"]);
                    let hit = if cached.contains(&key) { "true" } else { "false" };
                    json!({"cache-hit": hit, "cache-primary-key": key})
                }
                Some("actions/cache/save") => {
                    cached.insert(interpolate(&text(&step["with"]["key"]), &job.context));
                    json!({})
                }
                Some(other) => panic!("`{name}` uses `{other}`"),
                None => match self.shell(&text(&step["run"]), step, job, event, outcome) {
                    Some(outputs) => outputs,
                    None => {
                        well = false;
                        json!({})
                    }
                },
            };
            if let Some(id) = step["id"].as_str() {
                job.context["steps"][id] = json!({"outputs": outputs});
            }
        }
        well
    }

    /// Runs a script, and reads the outputs that it wrote; `None` where it failed.
    fn shell(&self, script: &str, step: &Yaml, job: &Job<'_>, event: &Event, outcome: &mut Outcome) -> Option<Value> {
        let place = |name: &str| self.folder.join(name);
        let _ = std::fs::remove_file(place("output"));
        std::fs::write(place("event.json"), event.payload.to_string()).unwrap();
        let mut command = self.bash(script, &job.workspace);
        command.envs(&job.environment).envs(environment(&step["env"], &job.context)).env("GITHUB_ACTIONS", "true");
        command
            .env("GITHUB_REF", &event.reference)
            .env("GITHUB_SHA", &event.commit)
            .env("GITHUB_EVENT_NAME", event.name);
        command.env("GITHUB_EVENT_PATH", place("event.json")).env("GITHUB_OUTPUT", place("output"));
        command.env("GITHUB_STEP_SUMMARY", place("summary")).env("RUNNER_TEMP", place("home"));
        let done = command.output().unwrap();
        for stream in [&done.stdout, &done.stderr] {
            outcome.log += &String::from_utf8_lossy(stream);
        }
        let written = std::fs::read_to_string(place("output")).unwrap_or_default();
        let outputs = written.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), json!(v)));
        done.status.success().then(|| Value::Object(outputs.collect()))
    }

    /// A script in a folder, with nothing of this process's environment.
    fn bash(&self, script: &str, folder: &Path) -> Command {
        let place = |name: &str| self.folder.join(name);
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", script]).current_dir(folder);
        let mut path = place("bin").into_os_string();
        path.push(":");
        path.push(&self.engine["PATH"]);
        command.env_clear().envs(&self.engine).env("PATH", path).env("HOME", place("home")).env("LANG", "C.UTF-8");
        command.env("CI", "true").env("CALLS", place("calls"));
        command
    }

    /// As actions/checkout: on the branch where the event has one, else on the commit alone.
    fn check_out(&self, workspace: &Path, event: &Event) -> Value {
        let clone = ["clone", "-q", "--no-local", self.origin.to_str().unwrap(), workspace.to_str().unwrap()];
        git(Path::new("/"), &clone);
        match event.reference.strip_prefix("refs/heads/") {
            Some(branch) => git(workspace, &["checkout", "-q", "-B", branch, &event.commit]),
            None => git(workspace, &["checkout", "-q", "--detach", &event.commit]),
        };
        json!({})
    }

    fn context(&self, event: &Event, needs: &Map<String, Value>) -> Value {
        json!({
            "github": {
                "event_name": event.name, "ref": event.reference, "sha": event.commit, "run_id": "1",
                "repository": repository(event), "actor": "someone", "event": event.payload,
            },
            "secrets": {"REGISTRY_USERNAME": "user", "REGISTRY_PASSWORD": "s3cret", "GITHUB_TOKEN": "token"},
            "needs": needs, "steps": {}, "matrix": {},
        })
    }

    /// git in the origin.
    pub(crate) fn git(&self, args: &[&str]) -> String {
        git(&self.origin, args)
    }
}

/// Repository of the event: a fork's event names it.
fn repository(event: &Event) -> &str {
    event.payload["repository"]["full_name"].as_str().unwrap_or("acme/probe")
}

/// Runs git as nobody in particular.
pub(crate) fn git(folder: &Path, args: &[&str]) -> String {
    let identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"];
    let done = Command::new("git").current_dir(folder).args(identity).args(args).output().unwrap();
    assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim_end().to_owned()
}

fn holds(condition: &Yaml, context: &Value, status: Status) -> bool {
    let Some(condition) = condition.as_str() else { return status.success };
    let before = asks_status(condition) || status.success;
    before && truthy(&evaluate(condition.trim(), context, status))
}

fn environment(yaml: &Yaml, context: &Value) -> BTreeMap<String, String> {
    yaml.as_hash().into_iter().flatten().map(|(k, v)| (text(k), interpolate(&text(v), context))).collect()
}

fn text(yaml: &Yaml) -> String {
    yaml.as_str().unwrap_or_else(|| panic!("{yaml:?} is not a string")).to_owned()
}
