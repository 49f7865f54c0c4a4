//! Plugins that are programs: any command (`run`), or a program of the workspace (`uses = "package:NAME"`).
//!
//! The protocol has files, so that a program may print what it likes. `XTASK_REQUEST` names a JSON document with the question; a program that
//! has something to say beyond its exit code writes a JSON document to the path in `XTASK_OUTCOME`.

use super::{Artifact, Blob, Call, Finding, Outcome, Severity, Subject};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use xtask_host::process::Command;
use xtask_host::{signing, terminal};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::policy::plugin::Settings;
use xtask_model::image::policy::{Action, Step};

/// Version of the protocol.
pub const PROTOCOL: u32 = 1;

/// Variable with the path of the request.
pub const REQUEST: &str = "XTASK_REQUEST";
/// Variable with the path of the outcome.
pub const OUTCOME: &str = "XTASK_OUTCOME";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reply {
    protocol: u32,
    #[serde(default = "yes")]
    passed: bool,
    #[serde(default)]
    findings: Vec<Finding>,
    #[serde(default)]
    files: Vec<PathBuf>,
    #[serde(default)]
    attach: Vec<ToAttach>,
    /// In answer to `check`.
    #[serde(default)]
    problems: Vec<Problem>,
    /// In answer to `describe`.
    #[serde(default)]
    about: Option<String>,
    #[serde(default)]
    settings: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToAttach {
    artifact_type: String,
    file: PathBuf,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Problem {
    #[serde(default)]
    setting: Option<String>,
    message: String,
    #[serde(default)]
    hint: Option<String>,
}

/// Description that a program gives of itself.
#[derive(Clone, Debug, Serialize)]
pub struct SaidDescription {
    pub about: Option<String>,
    pub settings: BTreeMap<String, String>,
}

/// Runs the program of a step on an image.
pub fn run(call: &Call<'_>) -> Result<Outcome, Fault> {
    let subject = call.subject;
    let request = run_request(&call.step.name, call.settings, subject, &call.output);
    let command = command_of(&call.tree.root, &call.step.action)
        .env("XTASK_STEP", &call.step.name)
        .env("XTASK_IMAGE", subject.reference.to_string())
        .env("XTASK_DIGEST", subject.digest.to_string())
        .env("XTASK_KIND", subject.kind.to_string())
        .env("XTASK_PLATFORM", subject.platform.to_string());
    let reply = ask(&command, &call.step.name, &call.output, &request).map_err(|fault| match fault.needed_by {
        None => fault.needed_by(format!("`{}`", subject.reference)),
        Some(_) => fault,
    })?;
    let Some(reply) = reply else { return Ok(Outcome::default()) };
    let cannot = |why: String| invalid(&call.step.name, why);
    let inside = |path: &Path| -> Result<PathBuf, Fault> {
        let leaves = path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir));
        match leaves && !path.starts_with(&call.output) {
            true => Err(cannot(format!("`{}` is outside the output folder", path.display()))),
            false => Ok(call.output.join(path)),
        }
    };
    let mut attach = Vec::new();
    for one in reply.attach {
        let path = inside(&one.file)?;
        let bytes =
            std::fs::read(&path).map_err(|error| cannot(format!("cannot read `{}`: {error}", path.display())))?;
        attach.push(Artifact {
            documents: vec![Blob::new(&one.artifact_type, bytes)],
            artifact_type: one.artifact_type,
            config: None,
            annotations: one.annotations,
            suffix: None,
        });
    }
    let files = reply.files.iter().map(|file| inside(file)).collect::<Result<_, _>>()?;
    Ok(Outcome { files, attach, findings: reply.findings, failed: !reply.passed })
}

fn run_request(step: &str, settings: &Settings, subject: &Subject<'_>, output: &Path) -> Value {
    json!({
        "protocol": PROTOCOL,
        "ask": "run",
        "step": step,
        "settings": settings.to_json(),
        "image": {
            "kind": subject.kind,
            "reference": subject.reference.to_string(),
            "digest": subject.digest,
            "platform": subject.platform.to_string(),
            "size": subject.size,
        },
        "output": output,
    })
}

/// Has a program of the workspace check its settings; returns each problem with its place.
pub fn check(root: &Path, step: &Step, settings: &Settings) -> Result<Vec<String>, Fault> {
    let request = json!({"protocol": PROTOCOL, "ask": "check", "step": step.name, "settings": settings.to_json()});
    let reply = ask(&command_of(root, &step.action), &step.name, &output_folder(root, &step.name), &request)?;
    let problems = reply.map(|reply| reply.problems).unwrap_or_default();
    let said = |problem: Problem| {
        let place = problem.setting.as_deref().and_then(|setting| settings.place(setting));
        let hint = problem.hint.map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
        match place {
            Some(place) => format!("{place}: {}{hint}", problem.message),
            None => format!("step `{}`: {}{hint}", step.name, problem.message),
        }
    };
    Ok(problems.into_iter().map(said).collect())
}

/// Asks a program of the workspace what it is.
pub fn describe(root: &Path, package: &str) -> Result<SaidDescription, Fault> {
    let action = Action::Package(package.to_owned(), Settings::default());
    let request = json!({"protocol": PROTOCOL, "ask": "describe"});
    let reply = ask(&command_of(root, &action), package, &output_folder(root, package), &request)?;
    let (about, settings) = reply.map(|reply| (reply.about, reply.settings)).unwrap_or_default();
    Ok(SaidDescription { about, settings })
}

/// Folder for the files of a step.
pub fn output_folder(root: &Path, step: &str) -> PathBuf {
    root.join("target/steps").join(step)
}

fn command_of(root: &Path, action: &Action) -> Command {
    let call = match action {
        Action::Run(command) => {
            // A program of the repository is named by its path in it; any other is looked up.
            let program = &command[0];
            let program = if program.contains('/') { root.join(program) } else { program.into() };
            Command::new(program).args(&command[1..])
        }
        Action::Package(package, _) => Command::new("cargo").args(["run", "--quiet", "--locked", "--package", package]),
        Action::Uses(..) => unreachable!("a plugin that is compiled in is not a program"),
    };
    // The keys are for signatures of images alone.
    call.current_dir(root).env_remove(signing::KEY).env_remove(signing::KEY_FILE)
}

/// Asks, and returns what the program wrote. `None` if it wrote nothing.
fn ask(command: &Command, step: &str, output: &Path, request: &Value) -> Result<Option<Reply>, Fault> {
    let cannot =
        |error: std::io::Error| Fault::build(format!("cannot make the output folder of step `{step}`")).cause(error);
    std::fs::create_dir_all(output).map_err(cannot)?;
    // Next to the folder: what a program writes into it is its own.
    let folder = tempfile::tempdir_in(output.parent().unwrap_or(output)).map_err(cannot)?;
    let (asked, answer) = (folder.path().join("request.json"), folder.path().join("outcome.json"));
    std::fs::write(&asked, request.to_string()).map_err(cannot)?;
    let call = command.clone().env("XTASK_OUTPUT", output).env(REQUEST, &asked).env(OUTCOME, &answer);
    let mut progress = terminal::Progress::begin("step", step);
    let mut said = Vec::new();
    let status = call.stream(|line| {
        progress.line(line);
        said.push(line.to_owned());
    });
    progress.end();
    let status = status.map_err(|fault| fault.needed_by(format!("step `{step}` of `images.toml`")))?;
    if !status.success() {
        let end = said[said.len().saturating_sub(20)..].join("\n");
        let fault = Fault::build(format!("step `{step}` failed ({status})"));
        return Err(if end.is_empty() { fault } else { fault.cause(end) });
    }
    let bytes = match std::fs::read(&answer) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(cannot)?,
    };
    let reply: Reply = serde_json::from_slice(&bytes).map_err(|error| invalid(step, error.to_string()))?;
    if reply.protocol != PROTOCOL {
        return Err(invalid(
            step,
            format!("it has version {} of the protocol, and this xtask has {PROTOCOL}", reply.protocol),
        ));
    }
    Ok(Some(reply))
}

fn invalid(step: &str, why: String) -> Fault {
    Fault::new(Exit::Build, format!("the outcome of step `{step}` is invalid"))
        .cause(why)
        .hint("`docs/plugins.md` has the protocol")
}

/// Prints findings; the worst first.
pub(crate) fn announce(step: &str, findings: &[Finding]) {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    for finding in sorted {
        match finding.severity {
            Severity::Note => terminal::step("note", &format!("{step}: {}", finding.message)),
            Severity::Warning | Severity::Error => terminal::warn(&format!("{step}: {}", finding.message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xtask_model::image::policy::ImageKind;

    fn reply(script: &str) -> Result<Option<Reply>, Fault> {
        let root = tempfile::tempdir().unwrap();
        let action = Action::Run(["sh", "-c", script].map(str::to_owned).to_vec());
        let output = output_folder(root.path(), "probe");
        ask(&command_of(root.path(), &action), "probe", &output, &json!({"protocol": 1, "ask": "run"}))
    }

    #[test]
    fn a_program_reads_the_request_and_may_say_nothing() {
        assert!(reply("grep -q '\"ask\":\"run\"' \"$XTASK_REQUEST\" && test -d \"$XTASK_OUTPUT\"").unwrap().is_none());
        assert!(reply("test -z \"$XTASK_SIGNING_KEY_FILE\"").is_ok());
    }

    #[test]
    fn a_failing_program_ends_the_build_with_its_own_words() {
        let fault = reply("echo no licence >&2; exit 9").err().unwrap();
        assert_eq!((fault.exit, fault.causes), (Exit::Build, vec!["no licence".to_owned()]));
    }

    #[test]
    fn an_outcome_is_read_or_refused() {
        let found = reply(
            r#"echo '{"protocol":1,"passed":false,"findings":[{"severity":"error","message":"GPL"}]}' > "$XTASK_OUTCOME""#,
        );
        let found = found.unwrap().unwrap();
        assert!(!found.passed && found.findings[0].message == "GPL");
        for (text, why) in [
            ("{", "EOF"),
            (r#"{"protocol":2}"#, "version 2"),
            (r#"{"protocol":1,"pased":true}"#, "unknown field"),
            ("{}", "missing field"),
        ] {
            let fault = reply(&format!("printf '%s' '{text}' > \"$XTASK_OUTCOME\"")).err().unwrap();
            assert!(fault.to_string().contains(why), "{fault}");
        }
    }

    #[test]
    fn the_documented_protocol_is_the_one_that_is_spoken() {
        let text = include_str!("../../../docs/plugins.md").replace("sha256:…", &format!("sha256:{}", "0".repeat(64)));
        let blocks: Vec<&str> =
            text.split("```json\n").skip(1).map(|rest| rest.split_once("\n```\n").unwrap().0).collect();
        let [request, outcome, problems, vex] = blocks[..] else { panic!("{} documents", blocks.len()) };

        let request: Value = serde_json::from_str(request).unwrap();
        let said = |name: &str| request["image"][name].as_str().unwrap();
        let subject = Subject {
            kind: ImageKind::App,
            reference: &said("reference").parse().unwrap(),
            digest: said("digest").parse().unwrap(),
            place: None,
            platform: &said("platform").parse().unwrap(),
            size: request["image"]["size"].as_u64(),
            version: None,
        };
        let (step, output) = (request["step"].as_str().unwrap(), Path::new(request["output"].as_str().unwrap()));
        assert_eq!(request, run_request(step, &Settings::default(), &subject, output));
        assert_eq!(output, output_folder(Path::new("/repository"), step));

        let outcome: Reply = serde_json::from_str(outcome).unwrap();
        assert_eq!((outcome.findings.len(), outcome.files.len(), outcome.attach.len()), (1, 1, 1));
        assert_eq!(serde_json::from_str::<Reply>(problems).unwrap().problems.len(), 1);
        let (_, described) = text.split_once("is for `plugin describe`: `").unwrap();
        let described: Reply = serde_json::from_str(described.split_once('`').unwrap().0).unwrap();
        assert!(described.about.is_some() && described.settings.contains_key("largest"));
        assert_eq!(xtask_model::supply::vex::read("vex.json", vex.as_bytes()).unwrap().len(), 1);
    }
}
