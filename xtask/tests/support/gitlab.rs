//! Runs `.gitlab-ci.yml` as GitLab does, as far as the generated file goes: rules, templates, matrices, needs, dotenv reports, and
//! each job's script by bash in a fresh clone with a detached head.

use super::{Event, Outcome, Runner, git, repository, text};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use yaml_rust2::{Yaml, YamlLoader, yaml::Hash};

type Variables = BTreeMap<String, String>;

/// Output of a job without work.
const DONE: [&str; 2] = ["the plan has no work for this job", "a fork publishes nothing"];

impl Runner {
    pub(super) fn on_gitlab(&self, event: &Event) -> Outcome {
        let file = self.git(&["show", &format!("{}:.gitlab-ci.yml", event.commit)]);
        let document = YamlLoader::load_from_str(&file).unwrap().remove(0);
        let mut predefined = self.predefined(event);
        let (mut outcome, mut passed, mut failed) = (Outcome::default(), BTreeSet::new(), false);
        for (name, job) in document.as_hash().unwrap() {
            let name = name.as_str().unwrap();
            let job = resolved(&document, job);
            if name.starts_with('.') || !is_chosen(&job["rules"], &predefined) {
                continue;
            }
            let needs: Vec<&str> = job["needs"].as_vec().unwrap().iter().filter_map(Yaml::as_str).collect();
            assert!(
                needs.iter().all(|need| outcome.results.contains_key(*need)),
                "{name} needs {needs:?}, which are not chosen"
            );
            if !needs.iter().all(|need| passed.contains(*need)) {
                outcome.results.insert(name.to_owned(), "skipped");
                continue;
            }
            let begin = outcome.log.len();
            let well = self.legs(name, &job, &mut predefined, event, &mut outcome);
            let idle = DONE.iter().any(|said| outcome.log[begin..].contains(said));
            failed |= !well;
            if well {
                passed.insert(name.to_owned());
            }
            outcome.results.insert(
                name.to_owned(),
                if !well {
                    "failure"
                } else if idle {
                    "skipped"
                } else {
                    "success"
                },
            );
        }
        // What a request to merge waits for: the pipeline.
        outcome.results.insert("required".to_owned(), if failed { "failure" } else { "success" });
        outcome
    }

    /// Runs a job for each entry of its matrix; true if all went well.
    fn legs(&self, name: &str, job: &Yaml, known: &mut Variables, event: &Event, outcome: &mut Outcome) -> bool {
        let mut legs = job["parallel"]["matrix"].as_vec().cloned().unwrap_or_default();
        if legs.is_empty() {
            legs.push(Yaml::Null);
        }
        let mut well = true;
        for leg in legs {
            let workspace = self.folder.join("workspace");
            let private = self.folder.join("workspace.tmp");
            for folder in [&workspace, &private].into_iter().filter(|folder| folder.exists()) {
                std::fs::remove_dir_all(folder)
                    .unwrap_or_else(|error| panic!("{name}: `{}`: {error}", folder.display()));
            }
            git(
                Path::new("/"),
                &["clone", "-q", "--no-local", self.origin.to_str().unwrap(), workspace.to_str().unwrap()],
            );
            git(&workspace, &["checkout", "-q", "--detach", &event.commit]);
            let mut variables = known.clone();
            variables.insert("CI_PROJECT_DIR".to_owned(), workspace.display().to_string());
            variables.extend(leg.as_hash().into_iter().flatten().map(|(name, value)| (text(name), text(value))));
            for (name, value) in job["variables"].as_hash().into_iter().flatten() {
                let value = expanded(&text(value), &variables);
                variables.insert(text(name), value);
            }
            let script: Vec<&str> =
                job["script"].as_vec().unwrap().iter().map(|entry| entry.as_str().unwrap()).collect();
            let done = self.bash(&script.join("\n"), &workspace).envs(&variables).output().unwrap();
            outcome.log += &format!("=== {name} {leg:?}\n");
            for stream in [&done.stdout, &done.stderr] {
                outcome.log += &String::from_utf8_lossy(stream);
            }
            let after: Vec<&str> =
                job["after_script"].as_vec().into_iter().flatten().filter_map(Yaml::as_str).collect();
            let after = self.bash(&after.join("\n"), &workspace).envs(&variables).output().unwrap();
            outcome.log += &String::from_utf8_lossy(&after.stderr);
            if private.join("docker/config.json").exists() {
                outcome.log += "Log in\n";
            }
            well &= done.status.success();
            let Some(report) = job["artifacts"]["reports"]["dotenv"].as_str() else { continue };
            let report = std::fs::read_to_string(workspace.join(report)).unwrap_or_default();
            for (name, value) in report.lines().map(|line| line.split_once('=').unwrap()) {
                assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "GitLab refuses `{name}`");
                let output = name.trim_start_matches("XTASK_").to_ascii_lowercase().replace('_', "-");
                outcome.planned.insert(output, value.to_owned());
                known.insert(name.to_owned(), value.to_owned());
            }
        }
        well
    }

    /// The variables that GitLab gives every job of this event.
    fn predefined(&self, event: &Event) -> Variables {
        let zero = "0".repeat(40);
        let mut variables = Variables::new();
        let mut set = |name: &str, value: &str| drop(variables.insert(name.to_owned(), value.to_owned()));
        set("GITLAB_CI", "true");
        set("CI_COMMIT_SHA", &event.commit);
        set("CI_DEFAULT_BRANCH", "main");
        set("CI_PROJECT_ID", "1");
        set("CI_PROJECT_URL", &format!("https://git.example.com/{}", repository(event)));
        set("CI_SERVER_URL", "https://git.example.com");
        set("CI_JOB_TOKEN", "t0ken");
        set("CI_REGISTRY", &self.registry);
        set("CI_REGISTRY_USER", "gitlab-ci-token");
        set("CI_REGISTRY_PASSWORD", "t0ken");
        set("CI_COMMIT_BEFORE_SHA", &zero);
        let payload = &event.payload;
        match event.name {
            "pull_request" | "merge_group" => {
                set("CI_PIPELINE_SOURCE", "merge_request_event");
                set("CI_MERGE_REQUEST_IID", "7");
                set("CI_MERGE_REQUEST_REF_PATH", "refs/merge-requests/7/head");
                set("CI_MERGE_REQUEST_PROJECT_ID", "1");
                let request = &payload["pull_request"];
                let stranger = request["head"]["repo"]["full_name"].as_str().is_some_and(|name| name != "acme/probe");
                set("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", if stranger { "2" } else { "1" });
                if let Some(base) = request["base"]["sha"].as_str() {
                    set("CI_MERGE_REQUEST_EVENT_TYPE", "detached");
                    set("CI_MERGE_REQUEST_DIFF_BASE_SHA", base);
                }
                if let Some(base) = payload["merge_group"]["base_sha"].as_str() {
                    set("CI_MERGE_REQUEST_EVENT_TYPE", "merge_train");
                    set("CI_MERGE_REQUEST_DIFF_BASE_SHA", base);
                    set("CI_MERGE_REQUEST_TARGET_BRANCH_SHA", base);
                }
                return variables;
            }
            "push" => {
                set("CI_PIPELINE_SOURCE", "push");
                set("CI_COMMIT_BEFORE_SHA", payload["before"].as_str().unwrap_or(&zero));
            }
            "schedule" => set("CI_PIPELINE_SOURCE", "schedule"),
            "workflow_dispatch" => set("CI_PIPELINE_SOURCE", "web"),
            other => panic!("GitLab has no `{other}`"),
        }
        match event.reference.strip_prefix("refs/tags/") {
            Some(tag) => set("CI_COMMIT_TAG", tag),
            None => set("CI_COMMIT_BRANCH", event.reference.strip_prefix("refs/heads/").unwrap()),
        }
        variables
    }
}

/// A job with what it takes over from its template.
fn resolved(document: &Yaml, job: &Yaml) -> Yaml {
    let Some(template) = job["extends"].as_str() else { return job.clone() };
    merged(document[template].as_hash().unwrap(), job.as_hash().unwrap())
}

/// Mappings are merged, everything else is replaced.
fn merged(below: &Hash, above: &Hash) -> Yaml {
    let mut all = below.clone();
    for (name, value) in above {
        let value = match (below.get(name), value) {
            (Some(Yaml::Hash(below)), Yaml::Hash(above)) => merged(below, above),
            _ => value.clone(),
        };
        all.insert(name.clone(), value);
    }
    Yaml::Hash(all)
}

/// The first rule that holds decides.
fn is_chosen(rules: &Yaml, variables: &Variables) -> bool {
    let rule = rules.as_vec().unwrap().iter().find(|rule| holds(rule["if"].as_str().unwrap(), variables));
    rule.is_some_and(|rule| rule["when"].as_str() != Some("never"))
}

/// Replaces `$NAME` in the value of a variable.
fn expanded(value: &str, variables: &Variables) -> String {
    let mut parts = value.split('$');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(part.len());
        out += variables.get(&part[..end]).map_or("", String::as_str);
        out += &part[end..];
    }
    out
}

/// A rule's expression: `||` of `&&` of comparisons. Anything else is a panic, never a guess.
pub(crate) fn holds(expression: &str, variables: &Variables) -> bool {
    expression.split("||").any(|all| all.split("&&").all(|one| compares(one.trim(), variables)))
}

fn compares(text: &str, variables: &Variables) -> bool {
    let value = |name: &str| {
        let name = name.trim().strip_prefix('$').unwrap_or_else(|| panic!("`{name}` is not a variable"));
        variables.get(name).map(String::as_str)
    };
    if let Some((name, wanted)) = text.split_once(" == ") {
        return value(name) == Some(wanted.trim().strip_prefix('"').unwrap().strip_suffix('"').unwrap());
    }
    if let Some((name, pattern)) = text.split_once(" =~ ") {
        let pattern = pattern.trim().strip_prefix('/').unwrap().strip_suffix('/').unwrap();
        assert_eq!(pattern, r"^v.*\..*\.");
        return value(name).is_some_and(|value| value.starts_with('v') && value.matches('.').count() >= 2);
    }
    value(text).is_some_and(|value| !value.is_empty())
}
