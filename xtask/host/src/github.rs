//! Pull requests on GitHub, through the `gh` program: it knows the repository, and its token never passes through here.
//!
//! A commit is made by GitHub from the texts that it is sent. Nothing is pushed, so no credential of git is needed, and the
//! working tree stays as it is.

use crate::process::{self, Command};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use xtask_model::fault::{Exit, Fault};

/// Files to propose, on one branch that belongs to nobody else.
#[derive(Clone, Copy, Debug)]
pub struct Proposal<'a> {
    /// A folder of the repository, by which `gh` finds it on GitHub.
    pub root: &'a Path,
    /// The branch that is to change.
    pub base: &'a str,
    /// The branch with the proposal; what it had is replaced.
    pub branch: &'a str,
    /// Commit and tree on which the proposal is.
    pub parent: [&'a str; 2],
    pub title: &'a str,
    pub body: &'a str,
    /// Texts by path from the top of the repository; `None` removes a file.
    pub files: &'a BTreeMap<String, Option<String>>,
}

/// Opens a pull request, or renews the open one of the same branch, and returns its address.
///
/// # Errors
/// `gh` is not installed, or GitHub refuses. The branch moves after its commit exists, and the pull request comes last.
pub fn propose(proposal: &Proposal<'_>) -> Result<String, Fault> {
    let Proposal { base, branch, title, body, .. } = *proposal;
    let github = GitHub::find(proposal.root)?;
    let file = |(path, text): (&String, &Option<String>)| match text {
        Some(text) => json!({"path": path, "mode": "100644", "type": "blob", "content": text}),
        None => json!({"path": path, "mode": "100644", "type": "blob", "sha": null}),
    };
    let files: Vec<Value> = proposal.files.iter().map(file).collect();
    let [commit, tree] = proposal.parent;
    let tree = github
        .call("POST", "git/trees", &json!({"base_tree": tree, "tree": files}))
        .map_err(|fault| fault.hint(format!("commit `{commit}` has to be on GitHub: `git push`")))?;
    let message = format!("{title}\n\n{body}");
    let commit = json!({"message": message, "tree": text(&tree, "sha")?, "parents": [commit]});
    let commit = github.call("POST", "git/commits", &commit)?;
    let commit = text(&commit, "sha")?;
    let reference = format!("refs/heads/{branch}");
    match github.call("PATCH", &format!("git/{reference}"), &json!({"sha": commit, "force": true})) {
        Err(fault) if is_missing(&fault) => {
            github.call("POST", "git/refs", &json!({"ref": reference, "sha": commit}))?
        }
        moved => moved?,
    };
    let open = github.get(&format!("pulls?state=open&base={base}&head={{owner}}:{branch}"))?;
    let (title, body) = (json!(title), json!(body));
    let pull = match open.get(0).and_then(|pull| pull["number"].as_u64()) {
        Some(number) => github.call("PATCH", &format!("pulls/{number}"), &json!({"title": title, "body": body}))?,
        None => github.call("POST", "pulls", &json!({"title": title, "body": body, "head": branch, "base": base}))?,
    };
    Ok(text(&pull, "html_url")?.to_owned())
}

/// True if a branch does not exist yet: GitHub answers 422 with these words, and other services 404.
fn is_missing(fault: &Fault) -> bool {
    fault.causes.iter().any(|cause| cause.contains("Reference does not exist") || cause.contains("HTTP 404"))
}

fn text<'v>(answer: &'v Value, name: &str) -> Result<&'v str, Fault> {
    answer[name]
        .as_str()
        .ok_or_else(|| Fault::network("cannot read GitHub's answer").cause(format!("it has no `{name}`: {answer}")))
}

struct GitHub<'a> {
    program: PathBuf,
    root: &'a Path,
}

impl<'a> GitHub<'a> {
    fn find(root: &'a Path) -> Result<Self, Fault> {
        let hint = "install it: https://cli.github.com, then `gh auth login`, or set `GH_TOKEN`";
        Ok(Self { program: process::find("gh", "opening a pull request", hint)?, root })
    }

    fn get(&self, path: &str) -> Result<Value, Fault> {
        self.answer(path, self.api("GET", path))
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value, Fault> {
        self.answer(path, self.api(method, path).args(["--input", "-"]).stdin(body.to_string()))
    }

    /// `gh` puts the owner and the name of the repository in the place of these words.
    fn api(&self, method: &str, path: &str) -> Command {
        let call =
            Command::new(&self.program).args(["api", "--method", method, &format!("repos/{{owner}}/{{repo}}/{path}")]);
        call.current_dir(self.root).env("GH_PROMPT_DISABLED", "1").env("NO_COLOR", "1")
    }

    fn answer(&self, path: &str, call: Command) -> Result<Value, Fault> {
        let output = call.output()?;
        let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            return serde_json::from_str(&printed)
                .map_err(|error| Fault::network(format!("cannot read GitHub's answer for `{path}`")).cause(error));
        }
        let fault = Fault::network(format!("GitHub refuses `{path}`")).cause(said.trim());
        // The answer's own words are on stdout.
        let fault =
            match serde_json::from_str::<Value>(&printed).ok().and_then(|v| v["message"].as_str().map(str::to_owned)) {
                Some(message) => fault.cause(message),
                None => fault,
            };
        let says = |words: &str| said.contains(words) || printed.contains(words);
        Err(if says("not permitted to create or approve pull requests") {
            fault.hint(
                "allow it: Settings, Actions, General, \"Allow GitHub Actions to create and approve pull requests\"",
            )
        } else if says("gh auth login") || says("HTTP 401") {
            Fault { exit: Exit::Missing, ..fault }.hint("log in: `gh auth login`, or set `GH_TOKEN`")
        } else if says("HTTP 403") {
            fault.hint("the token needs the rights `contents: write` and `pull-requests: write`")
        } else {
            fault
        })
    }
}
