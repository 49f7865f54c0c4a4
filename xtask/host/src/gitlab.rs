//! Merge requests on GitLab, by the options of a push: its server opens the request.
//!
//! The commit is made from texts, in an index of its own: the working tree, its index and its branches stay as they are.

use crate::github::Proposal;
use crate::process::Command;
use crate::scratch::Scratch;
use crate::tree::git::Git;
use crate::tree::git::remote::{authorised, header};
use xtask_model::fault::{Exit, Fault};

/// Variable with a token that may push: the one of a job may not.
const TOKEN: &str = "XTASK_UPDATE_TOKEN";

/// Pushes one commit to a branch that belongs to nobody else, with a merge request for it, and returns the request's address, or the
/// branch's name where the server does not say it.
///
/// # Errors
/// Git or GitLab refuses the push. The branch and the request come with the same push, or neither does.
pub fn propose(proposal: &Proposal<'_>, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, Fault> {
    let Proposal { root, base, branch, title, body, .. } = *proposal;
    let git = Git::at(root);
    let commit = commit(&git, proposal, &format!("{title}\n\n{body}"), variable)?;
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let (place, setting) = match (set(TOKEN), set("CI_PROJECT_URL"), set("CI_SERVER_URL")) {
        (Some(token), Some(project), Some(server)) => {
            let url = format!("{project}.git");
            let setting = header(&url, &server, "oauth2", &token);
            (url, setting)
        }
        _ => ("origin".to_owned(), None),
    };
    let target = format!("merge_request.target={base}");
    let title = format!("merge_request.title={title}");
    // With the transports and credentials of whoever calls.
    let mut call = git.plain().args(["push", "--force"]);
    for option in ["merge_request.create", &target, &title, "merge_request.remove_source_branch"] {
        call = call.args(["-o", option]);
    }
    let call = authorised(call.args(["--", &place, &format!("{commit}:refs/heads/{branch}")]), setting);
    let output = call.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        let address = said.split_whitespace().find(|word| word.contains("/merge_requests/"));
        return Ok(address.map_or_else(|| format!("branch `{branch}`"), str::to_owned));
    }
    // The address of a remote may have a password.
    let lines = said.lines().filter(|line| !line.contains("://")).map(str::trim);
    let fault = lines.fold(Fault::network(format!("cannot push `{branch}` for a merge request")), Fault::cause);
    Err(if said.contains("does not support push options") {
        fault.hint("merge requests by push options need GitLab; for GitHub, set `[ci] provider = \"github\"`")
    } else {
        fault.hint(format!("in CI, set `{TOKEN}` to a project access token with the scope `write_repository`"))
    })
}

/// A commit of the proposed texts on its parent, as an object that no branch of this repository has.
fn commit(
    git: &Git,
    proposal: &Proposal<'_>,
    message: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Fault> {
    let scratch = Scratch::new().map_err(|error| Fault::usage("cannot make a temporary folder").cause(error))?;
    let index = scratch.path().join("index");
    let read = |call: Command| call.env("GIT_INDEX_FILE", &index).read(Exit::Usage).map(|text| text.trim().to_owned());
    let call = |args: &[&str]| git.command().args(args);
    let [parent, tree] = proposal.parent;
    read(call(&["read-tree", tree]))?;
    for (path, text) in proposal.files {
        let Some(text) = text else {
            let zeros = "0".repeat(parent.len());
            read(call(&["update-index", "-z", "--index-info"]).stdin(format!("0 {zeros}\t{path}\0")))?;
            continue;
        };
        let id = read(call(&["hash-object", "-w", "--no-filters", "--stdin"]).stdin(text.as_str()))?;
        // A path from the top, wherever the policy is.
        read(call(&["update-index", "--add", "--cacheinfo", &format!("100644,{id},{path}")]))?;
    }
    let tree = read(call(&["write-tree"]))?;
    let mut commit = call(&["commit-tree", &tree, "-p", parent]).stdin(message);
    // A server may take commits of its users alone: whoever started the pipeline is one.
    for (own, names) in [
        ("GITLAB_USER_NAME", ["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"]),
        ("GITLAB_USER_EMAIL", ["GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"]),
    ] {
        if let Some(value) = variable(own).filter(|value| !value.is_empty()) {
            commit = names.into_iter().fold(commit, |commit, name| commit.env(name, &value));
        }
    }
    read(commit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::path::Path;

    fn git(folder: &Path, args: &[&str]) -> String {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"];
        let call = Command::new("git").arg("-C").arg(folder).args(identity).args(args);
        call.read(Exit::Build).unwrap().trim().to_owned()
    }

    #[test]
    fn a_push_has_the_options_of_one_merge_request() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (server, copy) = (folder.path().join("server"), folder.path().join("copy"));
        git(folder.path(), &["init", "-q", "--bare", "-b", "main", "server"]);
        git(folder.path(), &["clone", "-q", "server", "copy"]);
        git(&copy, &["switch", "-q", "-c", "main"]);
        std::fs::write(copy.join("a.lock"), "old\n").unwrap();
        std::fs::write(copy.join("gone"), "x").unwrap();
        git(&copy, &["add", "-A"]);
        git(&copy, &["commit", "-q", "-m", "one"]);
        git(&copy, &["push", "-q", "origin", "main"]);
        let parent = [git(&copy, &["rev-parse", "HEAD"]), git(&copy, &["rev-parse", "HEAD^{tree}"])];
        // Not among the proposed texts.
        std::fs::write(copy.join("other"), "x").unwrap();
        let texts = |texts: &[(&str, Option<&str>)]| -> BTreeMap<String, Option<String>> {
            texts.iter().map(|(path, text)| ((*path).to_owned(), text.map(str::to_owned))).collect()
        };
        let files = texts(&[("a.lock", Some("new\n")), ("b/c.lock", Some("c\n")), ("gone", None)]);
        let earlier = texts(&[("a.lock", Some("newer\n"))]);
        let of = |files| Proposal {
            root: &copy,
            base: "main",
            branch: "xtask/lock",
            parent: [&parent[0], &parent[1]],
            title: "Update locked dependencies",
            body: "- a",
            files,
        };
        let user = |name: &str| match name {
            "GITLAB_USER_NAME" => Some("Ann".to_owned()),
            "GITLAB_USER_EMAIL" => Some("ann@example.com".to_owned()),
            _ => None,
        };
        let said = propose(&of(&files), &user).unwrap_err().to_string();
        assert!(said.contains("does not support push options") && said.contains("hint:"), "{said}");
        assert_eq!(git(&server, &["branch", "--list", "xtask/*"]), "");

        git(&server, &["config", "receive.advertisePushOptions", "true"]);
        let hook = server.join("hooks/pre-receive");
        let options = server.join("options");
        let text = format!(
            "#!/bin/sh\ni=0\nwhile [ $i -lt $GIT_PUSH_OPTION_COUNT ]; do eval \"echo \\$GIT_PUSH_OPTION_$i\"; i=$((i+1)); done > {}\n\
             echo 'View merge request for xtask/lock:' >&2\necho '  https://git.example.com/a/-/merge_requests/7' >&2\n",
            options.display()
        );
        std::fs::write(&hook, text).unwrap();
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
        for files in [&earlier, &files] {
            let address = propose(&of(files), &user).unwrap();
            assert_eq!(address, "https://git.example.com/a/-/merge_requests/7");
        }
        let expected = "merge_request.create\nmerge_request.target=main\nmerge_request.title=Update locked dependencies\n\
                        merge_request.remove_source_branch\n";
        assert_eq!(std::fs::read_to_string(&options).unwrap(), expected);
        assert_eq!(git(&server, &["log", "--format=%an %s", "main..xtask/lock"]), "Ann Update locked dependencies");
        assert_eq!(git(&server, &["show", "xtask/lock:a.lock", "xtask/lock:b/c.lock"]), "new\nc");
        assert_eq!(git(&server, &["diff", "--name-only", "main", "xtask/lock"]), "a.lock\nb/c.lock\ngone");
        assert_eq!(git(&copy, &["status", "--porcelain"]), "?? other", "the working tree stays as it is");
    }
}
