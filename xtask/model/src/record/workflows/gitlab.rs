//! The graph of jobs as one file of GitLab's CI.
//!
//! GitLab chooses jobs before any runs, by the event alone. What the plan decides is therefore asked by a job's script: the first job
//! hands its plan over as variables, and a job with nothing to do ends at once.

use super::graph::{DockerFor, Does, Graph, Job, JobStep, Runners, Setting, When};
use super::{File, HEADER, PolicyLocation, RootDigests, quoted};
use crate::fault::Fault;
use crate::image::change::gitlab_variable;
use crate::image::policy::{Ci, Engine, Policy};
use crate::spec::reference::Platform;
use std::fmt::Write as _;

/// The file that GitLab reads.
pub const TOP: &str = ".gitlab-ci.yml";

/// Image of the jobs, where the policy names none: it has git, bash and a compiler, and reads `rust-toolchain.toml`.
pub const IMAGE: &str = "docker.io/library/rust:1";

/// Variable that a schedule sets, and its value, to have the locks upgraded.
const PIPELINE: [&str; 2] = ["XTASK_PIPELINE", "locks"];

/// File with the plan, between the job's commands and for later jobs.
const PLAN: &str = "target/plan.env";

/// Folder in which cargo keeps crates. A cache holds only folders of the project.
const CARGO_HOME: &str = "target/cargo";

/// GitLab's file of a policy.
///
/// # Errors
/// A platform without a known runner; a key of the policy that has no counterpart.
pub(super) fn files(
    policy: &Policy,
    place: &PolicyLocation,
    root: RootDigests,
    graph: &Graph,
) -> Result<Vec<File>, Fault> {
    if !policy.ci.laptops.is_empty() {
        return Err(Fault::usage("`[ci] laptops` cannot be used with `provider = \"gitlab\"`")
            .cause("GitLab has no runners for macOS that every project may use")
            .hint("remove `laptops` from `[ci]` of `images.toml`"));
    }
    let text = GitlabWriter { policy, place, root, matrix: matrix(policy)? }.file(graph);
    Ok(vec![File { path: path(place), text }])
}

pub(super) fn path(place: &PolicyLocation) -> String {
    if is_included(place) { format!(".gitlab/{}images.yml", place.prefix()) } else { TOP.to_owned() }
}

/// True if another file includes this one: it is somebody else's, or this policy is one of several.
fn is_included(place: &PolicyLocation) -> bool {
    place.included || !place.folder.is_empty()
}

/// The legs of a job that is run for each platform.
fn matrix(policy: &Policy) -> Result<String, Fault> {
    let mut legs = "  parallel:\n    matrix:\n".to_owned();
    for platform in &policy.project.platforms {
        let label = runner(&policy.ci, platform)?;
        let machine = platform.to_string().replace('/', "-");
        let _ = write!(legs, "      - PLATFORM: {platform}\n        MACHINE: {machine}\n        RUNNER: {label}\n");
    }
    Ok(legs + "  tags:\n    - $RUNNER\n")
}

/// The tag of a platform's runner: of those that gitlab.com offers, where the policy names none.
fn runner<'p>(ci: &'p Ci, platform: &Platform) -> Result<&'p str, Fault> {
    if let Some(label) = ci.runners.get(platform) {
        return Ok(label);
    }
    match platform.to_string().as_str() {
        "linux/amd64" => Ok("saas-linux-small-amd64"),
        "linux/arm64" => Ok("saas-linux-small-arm64"),
        _ => Err(super::no_runner(platform, &format!("`{TOP}`"))),
    }
}

struct GitlabWriter<'p> {
    policy: &'p Policy,
    place: &'p PolicyLocation,
    root: RootDigests,
    matrix: String,
}

impl GitlabWriter<'_> {
    fn file(&self, graph: &Graph) -> String {
        let mut text = format!("{HEADER} from `{}`; do not edit.\n", self.place.policy());
        text += &self.schedules();
        text += &self.template();
        for job in &graph.ci {
            text += &self.job(&self.name(job.name), job, &self.change_rules());
        }
        let tag = "    - if: $CI_COMMIT_TAG =~ /^v.*\\..*\\./\n      interruptible: false\n";
        for job in &graph.version {
            text += &self.job(&self.name("version"), job, tag);
        }
        if let Some(job) = &graph.locks {
            let rule = format!("    - if: ${} == \"{}\"\n      interruptible: false\n", PIPELINE[0], PIPELINE[1]);
            text += &self.job(&self.name(job.name), job, &rule);
        }
        text
    }

    /// Schedules are not read from a file.
    fn schedules(&self) -> String {
        let (ci, branch) = (&self.policy.ci, &self.policy.project.default_branch);
        let mut text =
            "#\n# Schedules are settings of the project. Create them once, with GitLab's `glab`:\n".to_owned();
        let create = |when: &str, what: &str, more: &str| {
            format!("#   glab schedule create --ref {branch} --cron \"{when}\" --description \"{what}\"{more}\n")
        };
        text += &create(&ci.schedule, "security updates of images", "");
        if let Some(when) = &ci.updates {
            text += &create(when, "upgrade of locks", &format!(" --variable \"{}:{}\"", PIPELINE[0], PIPELINE[1]));
        }
        if is_included(self.place) {
            let _ = write!(
                text,
                "#\n# `{TOP}` includes it, and has a stage `test`:\n#   include:\n#     - local: {}\n",
                path(self.place)
            );
        }
        text
    }

    /// Template that all jobs extend. It has nothing that only other jobs need.
    fn template(&self) -> String {
        let ci = &self.policy.ci;
        let identity = self.place.prefix();
        format!(
            "
.{identity}xtask:
  image: {}
  stage: test
  inherit:
    default: false
    variables: false
  interruptible: true
  timeout: {} minutes
  variables:
    # All of history: whether a commit follows another decides what `latest` names, and what changed since the last push.
    GIT_DEPTH: '0'
    # A runner compiles xtask once: notes for the next time cost seconds.
    CARGO_INCREMENTAL: '0'
    CARGO_HOME: $CI_PROJECT_DIR/{CARGO_HOME}
    # Next to the checkout: no build context contains it.
    DOCKER_CONFIG: $CI_PROJECT_DIR.tmp/docker
",
            quoted(ci.image.as_deref().unwrap_or(IMAGE)),
            ci.timeout_minutes
        )
    }

    /// A name that no job of others has.
    fn name(&self, name: &str) -> String {
        let own = if is_included(self.place) { "xtask-" } else { "" };
        format!("{}{own}{name}", self.place.prefix())
    }

    /// Pipelines of a request to merge, of the default branch, and by hand. What publishes for the default branch is left to end.
    fn change_rules(&self) -> String {
        let branch = quoted(&self.policy.project.default_branch);
        let (open, close) = if branch.contains('\'') { ("", "") } else { ("'", "'") };
        format!(
            "    - if: $CI_COMMIT_TAG || ${}
      when: never
    - if: $CI_PIPELINE_SOURCE == \"merge_request_event\"
    - if: {open}$CI_COMMIT_BRANCH == {branch}{close}
      interruptible: false
    - if: $CI_PIPELINE_SOURCE == \"web\"
",
            PIPELINE[0]
        )
    }

    fn job(&self, name: &str, job: &Job, rules: &str) -> String {
        let mut text = "\n".to_owned();
        if !job.comment.is_empty() {
            let _ = writeln!(text, "# {}", job.comment);
        }
        let _ = write!(text, "{name}:\n  extends: .{}xtask\n  rules:\n{rules}", self.place.prefix());
        let needs: String = job.needs.iter().map(|need| format!("    - {}\n", self.name(need))).collect();
        text += &if needs.is_empty() { "  needs: []\n".to_owned() } else { format!("  needs:\n{needs}") };
        if matches!(job.machines, Runners::Platforms) {
            text += &self.matrix;
        }
        if job.identity {
            text += "  id_tokens:\n    SIGSTORE_ID_TOKEN:\n      aud: sigstore\n";
        }
        if job.asks_branch {
            text += "  variables:\n    XTASK_GIT_TOKEN: $CI_JOB_TOKEN\n";
        }
        let caches: String = job.steps.iter().filter_map(|step| self.cache(job, step)).collect();
        if !caches.is_empty() {
            text += &format!(
                "  # GitLab keeps the caches of protected branches apart: what publishes restores none of another branch.\n  cache:\n{caches}"
            );
        }
        text += "  script:\n";
        if !self.place.folder.is_empty() {
            let _ = writeln!(text, "    - cd {} || exit", self.place.folder);
        }
        let when = self.conditions(&job.when);
        if !when.is_empty() {
            let guard = if job.needs.is_empty() { String::new() } else { format!("      {GUARD}\n") };
            let why =
                if job.needs.is_empty() { "a fork publishes nothing" } else { "the plan has no work for this job" };
            let _ = write!(
                text,
                "    - |\n{guard}      if ! {{ {when}; }}; then\n        echo '{why}'\n        exit 0\n      fi\n"
            );
        }
        for step in &job.steps {
            text += &self.step(job, step);
        }
        if job.steps.iter().any(|step| matches!(step.does, Does::PrepareDocker(purpose) if self.needs_docker(purpose)))
        {
            // On a runner that keeps its machine, nothing would end it.
            text += &indented("  after_script:\n    - |\n", &self.stop_docker().lines().collect::<Vec<_>>(), "      ");
        }
        if !job.outputs.is_empty() {
            let _ = write!(text, "  artifacts:\n    reports:\n      dotenv: {PLAN}\n");
        }
        text
    }

    /// An entry of `cache`. GitLab makes a key of two files at most: the sources of xtask are compared by the job.
    fn cache(&self, job: &Job, step: &JobStep) -> Option<String> {
        let Does::Restore(cache) = &step.does else { return None };
        let machine = if matches!(job.machines, Runners::Platforms) { "-$MACHINE" } else { "" };
        let key = match cache.version {
            Some(version) => format!("    - key: {}-{version}{machine}\n", cache.id),
            None => {
                let files: String = cache.locked.iter().map(|file| format!("          - {file}\n")).collect();
                format!("    - key:\n        prefix: {}{machine}\n        files:\n{files}", cache.id)
            }
        };
        let inside = |path: &String| path.replace("~/.cargo", CARGO_HOME);
        let paths: String = cache.paths.iter().map(|path| format!("        - {}\n", inside(path))).collect();
        // Whoever compiles nothing sends nothing back.
        let saves = job.steps.iter().any(|step| matches!(&step.does, Does::Save(saved) if saved.id == cache.id));
        let policy = if saves { "" } else { "      policy: pull\n" };
        Some(format!("{key}{policy}      paths:\n{paths}"))
    }

    /// The commands of a step, as an entry of `script`.
    fn step(&self, job: &Job, step: &JobStep) -> String {
        let (settings, commands): (&[Setting], String) = match &step.does {
            // GitLab's runner does it: it brings the sources and the cache; it is saved after the job.
            Does::CheckOut | Does::Restore(_) => return String::new(),
            Does::Save(cache) if cache.sources.is_empty() => return String::new(),
            Does::Save(_) => (&[], self.in_workspace(&format!("mkdir -p target/debug\n{} > {STAMP}", id_of_sources()))),
            Does::TrustTimes(_) => {
                let (touch, id) = (super::trust_times(), id_of_sources());
                let same = format!("[ -e {STAMP} ] && [ \"$(cat {STAMP})\" = \"$({id})\" ]");
                (&[], self.in_workspace(&format!("if {same}; then\n  {touch}\nfi")))
            }
            Does::AskMay => (&[], self.ask_may(job)),
            Does::LogIn => (&[], self.log_in()),
            Does::Plan => (&[], plan_commands(self.root)),
            Does::PrepareDocker(purpose) if !self.needs_docker(*purpose) => return String::new(),
            Does::PrepareDocker(_) => (&[], DOCKER.to_owned()),
            Does::StartCluster => {
                (&[], "cargo xtask cluster up --kubeconfig \"$CI_PROJECT_DIR.tmp/kubeconfig\"".to_owned())
            }
            Does::Refuse(why) => (&[], format!("echo '{why}'\nexit 1")),
            Does::Run(command, settings) => (settings, command.clone()),
        };
        let commands =
            format!("{}{commands}", settings.iter().map(|setting| self.setting(*setting)).collect::<String>());
        let mut text = format!("    # {}\n", step.name);
        let when = self.conditions(&step.when);
        let lines: Vec<&str> = commands.lines().collect();
        match (&lines[..], when.is_empty()) {
            ([one], true) if !one.contains(": ") => text += &format!("    - {one}\n"),
            (_, true) => text += &indented("    - |\n", &lines, "      "),
            (_, false) => {
                text += &indented(&format!("    - |\n      if {when}; then\n"), &lines, "        ");
                text += "      fi\n";
            }
        }
        text
    }

    /// Secrets are variables of the project, which every job has.
    fn setting(&self, setting: Setting) -> String {
        match setting {
            Setting::Output(name, output) => format!("export {name}=\"${}\"\n", gitlab_variable(output)),
            Setting::RequireTools => {
                "# A missing tool is a failure here, not a test that is left out.\nexport XTASK_REQUIRE_REAL=1\n"
                    .to_owned()
            }
            Setting::Kubeconfig => "export KUBECONFIG=\"$CI_PROJECT_DIR.tmp/kubeconfig\"\n".to_owned(),
            Setting::UpdateToken | Setting::Secret(_) => String::new(),
        }
    }

    fn conditions(&self, when: &[When]) -> String {
        let all: Vec<String> = when.iter().map(|when| self.condition(when)).filter(|text| !text.is_empty()).collect();
        all.join(" && ")
    }

    fn condition(&self, when: &When) -> String {
        match when {
            When::Is(output, text) => format!("[ \"${}\" = '{text}' ]", gitlab_variable(output)),
            When::IsNot(output, text) => format!("[ \"${}\" != '{text}' ]", gitlab_variable(output)),
            When::Contains(output, text) => {
                format!("case \"${}\" in *{text}*) ;; *) false ;; esac", gitlab_variable(output))
            }
            When::Scheduled => "[ \"$CI_PIPELINE_SOURCE\" = schedule ]".to_owned(),
            When::NotScheduled => "[ \"$CI_PIPELINE_SOURCE\" != schedule ]".to_owned(),
            When::DefaultBranch => {
                format!("[ \"${{CI_COMMIT_BRANCH:-}}\" = '{}' ]", self.policy.project.default_branch)
            }
            When::OwnRepository => self.own_repository().unwrap_or_default(),
            When::Exists(file) => format!("[ -e {file} ]"),
            When::Missed(_) => "[ ! -x \"$CARGO_HOME/bin/cargo-deny\" ]".to_owned(),
            // A job runs only after those that it needs have succeeded.
            When::Succeeded(_) => "true".to_owned(),
            When::Any(all) => {
                let all: Vec<String> = all.iter().map(|when| self.condition(when)).collect();
                format!("{{ {}; }}", all.join(" || "))
            }
        }
    }

    /// True if docker has to be available: `cargo xtask ci` starts an engine for tests that need one.
    fn needs_docker(&self, purpose: DockerFor) -> bool {
        purpose == DockerFor::Builds || self.policy.ci.cluster || self.policy.ci.engine != Engine::Native
    }

    /// The condition of the policy's own project. GitLab does not say which project is a fork: it is another one than `source` names on the
    /// same server. Without `source`, every project is taken for the policy's own.
    fn own_repository(&self) -> Option<String> {
        let source = super::own_repository(self.policy)?;
        let is_own = "case \"$own\" in \"$CI_PROJECT_URL\") ;; \"$CI_SERVER_URL\"/*) false ;; esac";
        Some(format!("{{ own='{source}'; {is_own}; }}"))
    }

    /// A request to merge from a fork has another project's changes. One of a branch that is not protected has no protected variable:
    /// it publishes nothing that it could not sign, and nothing where it cannot log in.
    fn ask_may(&self, job: &Job) -> String {
        let settings = job.steps.iter().filter_map(|step| match &step.does {
            Does::Run(_, settings) => Some(settings),
            _ => None,
        });
        let secret = settings.flatten().find_map(|setting| match setting {
            Setting::Secret(name) => Some(*name),
            _ => None,
        });
        let secret = secret.map(|name| format!(" || [ -z \"${{{name}:-}}\" ]")).unwrap_or_default();
        let own = self.own_repository().map_or_else(String::new, |own| {
            format!(
                "if ! {own}; then
  echo \"nothing is published: '[project] source' of {} names another project than $CI_PROJECT_URL\"
  XTASK_PUBLISH=false
fi
",
                self.place.policy()
            )
        });
        format!(
            "XTASK_PUBLISH=true
{own}if [ -n \"${{CI_MERGE_REQUEST_IID:-}}\" ]; then
  if [ \"$CI_MERGE_REQUEST_SOURCE_PROJECT_ID\" != \"$CI_MERGE_REQUEST_PROJECT_ID\" ]{secret}; then XTASK_PUBLISH=false; fi
  if [ '{}' != \"${{CI_REGISTRY:-}}\" ] && [ -z \"${{REGISTRY_PASSWORD:-}}\" ]; then XTASK_PUBLISH=false; fi
fi",
            super::registry_host(self.policy)
        )
    }

    /// Ends what a job started. It begins in the top folder, with nothing that the script exported.
    fn stop_docker(&self) -> String {
        let below = super::slashed(&self.place.folder);
        let folder = if below.is_empty() { String::new() } else { format!("cd {below} && ") };
        format!("if [ -e {below}target/engine/state.json ]; then {folder}cargo xtask engine down; fi")
    }

    /// From the folder of the policy to that of its workspace, with a slash at the end.
    fn up(&self) -> String {
        let below = self.place.folder.strip_prefix(&self.place.workspace).unwrap_or_default();
        "../".repeat(below.split('/').filter(|part| !part.is_empty()).count())
    }

    /// Commands in the folder of the workspace.
    fn in_workspace(&self, commands: &str) -> String {
        match self.up() {
            up if up.is_empty() => commands.to_owned(),
            up => format!("(cd {up}\n{commands})"),
        }
    }

    /// The project's own registry takes the job's token; any other one has variables of the project.
    fn log_in(&self) -> String {
        let registry = super::registry_host(self.policy);
        format!(
            "registry='{registry}'
user=\"${{REGISTRY_USERNAME:-}}\" password=\"${{REGISTRY_PASSWORD:-}}\"
if [ \"$registry\" = \"${{CI_REGISTRY:-}}\" ]; then user=\"$CI_REGISTRY_USER\" password=\"$CI_REGISTRY_PASSWORD\"; fi
if [ -z \"$password\" ]; then
  echo \"no password for $registry: set the variables REGISTRY_USERNAME and REGISTRY_PASSWORD\"
  exit 1
fi
mkdir -p \"$DOCKER_CONFIG\"
auth=\"$(printf '%s:%s' \"$user\" \"$password\" | base64 | tr -d '\\n')\"
(umask 077; printf '{{\"auths\":{{\"%s\":{{\"auth\":\"%s\"}}}}}}' \"$registry\" \"$auth\" > \"$DOCKER_CONFIG/config.json\")"
        )
    }
}

fn indented(begin: &str, lines: &[&str], by: &str) -> String {
    lines.iter().fold(begin.to_owned(), |text, line| text + by + line + "\n")
}

/// Without the plan's report a job would take its absence for nothing to do.
const GUARD: &str = ": \"${XTASK_DECISION:?the job of the plan left no report}\"";

/// File that names the sources from which a cached xtask was compiled.
const STAMP: &str = "target/debug/xtask.sources";

/// The command for the id of the sources of xtask.
fn id_of_sources() -> String {
    format!("git ls-files -s -- {} | git hash-object --stdin", super::SOURCES)
}

/// Docker, where a runner has none: it needs root rights and a privileged container.
const DOCKER: &str = "if ! docker info > /dev/null 2>&1; then
  credentials=\"$DOCKER_CONFIG/config.json\"
  engine=\"$(cargo xtask engine up)\"
  eval \"$engine\"
  unset XTASK_REGISTRY
  if [ -e \"$credentials\" ]; then cp \"$credentials\" \"$DOCKER_CONFIG/\"; fi
fi";

/// The plan as variables of this job, and in a file for later ones.
fn plan_commands(root: RootDigests) -> String {
    let note = root.note().map(|note| format!("# {note}\n")).unwrap_or_default();
    let locked = root.flag();
    format!(
        "{note}mkdir -p \"$CI_PROJECT_DIR/target\"
cargo xtask plan{locked} --format gitlab > \"$CI_PROJECT_DIR/{PLAN}\"
echo \"XTASK_PUBLISH=${{XTASK_PUBLISH:-true}}\" >> \"$CI_PROJECT_DIR/{PLAN}\"
while IFS= read -r line; do export \"${{line?}}\"; done < \"$CI_PROJECT_DIR/{PLAN}\""
    )
}
