//! The newest commit of a branch, as a remote says; and where a folder is in its repository.
//!
//! A remote is asked outside of the repository: what its own configuration names as a program (a transport, a helper, an ssh command) is
//! never run. A remote that does not answer in time is one more reason why nothing is known, never an error.

use super::Git;
use crate::process::{self, Command};
use base64::Engine as _;
use std::io::Read as _;
use std::process::Stdio;
use std::time::{Duration, Instant};
use xtask_model::fault::{Exit, Fault};

const TIMEOUT: Duration = Duration::from_secs(15);

/// Newest commit of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteHead {
    /// It is at this commit of the named remote.
    At(String, String),
    Absent(String),
    Unknown(String),
}

impl Git {
    /// Asks the branch's own remote, else `origin`, else the only one.
    pub fn remote_head(&self, branch: &str) -> Result<RemoteHead, Fault> {
        let unknown = |why: String| Ok(RemoteHead::Unknown(why));
        let remotes = self.ask(&["remote"])?.unwrap_or_default();
        let remotes: Vec<&str> = remotes.lines().collect();
        let own = self.ask(&["config", "--get", &format!("branch.{branch}.remote")])?;
        let own = own.filter(|own| remotes.contains(&own.as_str()));
        let origin = remotes.contains(&"origin").then(|| "origin".to_owned());
        let only = || if let [only] = remotes[..] { Some(only.to_owned()) } else { None };
        let Some(remote) = own.or(origin).or_else(only) else {
            return unknown("no remote says at which commit the branch is".to_owned());
        };
        let Some(url) = self.ask(&["config", "--get", &format!("remote.{remote}.url")])? else {
            return unknown(format!("remote `{remote}` has no URL"));
        };
        let url = self.absolute(url)?;
        let reference = format!("refs/heads/{branch}");
        let call = Command::new("git")
            .args(["-C", "/", "-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=10"])
            .args(["ls-remote", "--exit-code", "--", &url, &reference])
            .env("GIT_TERMINAL_PROMPT", "0")
            // No repository, wherever this runs and whatever a hook has set.
            .env("GIT_DIR", "/dev/null")
            .env_remove("GIT_WORK_TREE");
        let call = with_token(call, &url);
        let Some((code, printed, said)) = with_timeout(&call)? else {
            return unknown(format!("remote `{remote}` did not answer within {} s", TIMEOUT.as_secs()));
        };
        match code {
            Some(0) => {}
            Some(2) => return Ok(RemoteHead::Absent(remote)),
            _ => {
                let line = said.lines().find(|line| line.starts_with("fatal:")).or(said.lines().last());
                // An address may hold a password.
                let line = line.unwrap_or("git failed").trim_start_matches("fatal: ").replace(&url, &remote);
                return unknown(format!("remote `{remote}` did not answer: {line}"));
            }
        }
        let exact =
            |line: &str| line.split_once('\t').filter(|(_, name)| *name == reference).map(|(id, _)| id.to_owned());
        Ok(match printed.lines().find_map(exact) {
            Some(id) => RemoteHead::At(id, remote),
            None => RemoteHead::Absent(remote),
        })
    }

    /// Trimmed answer of a call; none where git fails, as for a setting that does not exist.
    fn ask(&self, args: &[&str]) -> Result<Option<String>, Fault> {
        let output = self.command().args(args).output()?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned()))
    }

    /// This folder from the repository's top, as `services/app`; empty at the top, and outside a repository.
    pub fn prefix(&self) -> Result<String, Fault> {
        let mut above = self.root.ancestors().map(|folder| folder.join(".git").exists());
        if above.next() == Some(true) || !above.any(|found| found) {
            return Ok(String::new());
        }
        let prefix = self.command().args(["rev-parse", "--show-prefix"]).read(Exit::Usage)?;
        Ok(prefix.trim_end_matches('/').to_owned())
    }

    /// A relative path of a remote counts from the repository's top.
    fn absolute(&self, url: String) -> Result<String, Fault> {
        if url.contains("://") || url.starts_with('/') {
            return Ok(url);
        }
        let top = self.ask(&["rev-parse", "--show-toplevel"])?.map(|top| std::path::Path::new(&top).join(&url));
        Ok(top.filter(|path| path.exists()).map_or(url, |path| path.display().to_string()))
    }
}

/// The variable with a token for the repository's own server: CI keeps no credentials in its checkout.
pub const TOKEN: &str = "XTASK_GIT_TOKEN";

/// Gives git the token, by its environment: it is never an argument.
pub(super) fn with_token(call: Command, url: &str) -> Command {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let token = variable(TOKEN);
    // GitLab knows the token of a job by this name; GitHub takes any.
    let (server, user) = match variable("CI_SERVER_URL").filter(|_| variable("GITLAB_CI").is_some()) {
        Some(server) => (server, "gitlab-ci-token"),
        None => (variable("GITHUB_SERVER_URL").unwrap_or_else(|| "https://github.com".to_owned()), "x-access-token"),
    };
    authorised(call, token.and_then(|token| header(url, &server, user, &token)))
}

/// Gives git a setting by its environment, after the existing ones.
pub(crate) fn authorised(call: Command, setting: Option<[String; 2]>) -> Command {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let Some([key, value]) = setting else { return call };
    let count: usize = variable("GIT_CONFIG_COUNT").and_then(|count| count.parse().ok()).unwrap_or(0);
    call.env("GIT_CONFIG_COUNT", (count + 1).to_string())
        .env(format!("GIT_CONFIG_KEY_{count}"), key)
        .env(format!("GIT_CONFIG_VALUE_{count}"), value)
}

/// Git's setting that authorises a call to this server, and to no other.
pub(crate) fn header(url: &str, server: &str, user: &str, token: &str) -> Option<[String; 2]> {
    let server = format!("{}/", server.trim_end_matches('/'));
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{token}"));
    let own = server.starts_with("https://") && url.starts_with(&server);
    own.then(|| [format!("http.{server}.extraheader"), format!("AUTHORIZATION: basic {basic}")])
}

/// Exit code, stdout and stderr of a call; nothing where it takes too long, in which case it is ended.
fn with_timeout(call: &Command) -> Result<Option<(Option<i32>, String, String)>, Fault> {
    let cannot = |error: std::io::Error| Fault::new(Exit::Missing, "cannot run `git`").cause(error);
    let mut child = call.start([Stdio::null(), Stdio::piped(), Stdio::piped()]).map_err(cannot)?;
    let began = Instant::now();
    // One line comes back: neither pipe can be full.
    let status = loop {
        if let Some(status) = child.try_wait().map_err(cannot)? {
            break status;
        }
        if began.elapsed() > TIMEOUT || process::interrupted().is_err() {
            let _ = child.kill();
            child.wait().map_err(cannot)?;
            process::interrupted()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let (mut printed, mut said) = (Vec::new(), Vec::new());
    child.stdout.take().map(|mut from| from.read_to_end(&mut printed)).transpose().map_err(cannot)?;
    child.stderr.take().map(|mut from| from.read_to_end(&mut said)).transpose().map_err(cannot)?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Some((status.code(), text(printed), text(said))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn git(folder: &Path, args: &[&str]) -> String {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"];
        Command::new("git").arg("-C").arg(folder).args(identity).args(args).read(Exit::Build).unwrap()
    }

    #[test]
    fn a_remote_is_asked_for_the_newest_commit_of_a_branch() {
        let folder = tempfile::tempdir().unwrap();
        let (upstream, copy) = (folder.path().join("upstream"), folder.path().join("copy"));
        std::fs::create_dir(&upstream).unwrap();
        git(&upstream, &["init", "-q", "-b", "main"]);
        git(&upstream, &["commit", "-q", "--allow-empty", "-m", "one"]);
        let one = git(&upstream, &["rev-parse", "HEAD"]);
        assert!(matches!(Git::at(&upstream).remote_head("main").unwrap(), RemoteHead::Unknown(_)));
        git(folder.path(), &["clone", "-q", "upstream", "copy"]);
        let head = |branch: &str| Git::at(&copy).remote_head(branch).unwrap();
        assert_eq!(head("main"), RemoteHead::At(one, "origin".to_owned()));
        git(&upstream, &["commit", "-q", "--allow-empty", "-m", "two"]);
        let two = git(&upstream, &["rev-parse", "HEAD"]);
        git(&copy, &["config", "remote.origin.url", "../upstream"]);
        assert_eq!(head("main"), RemoteHead::At(two, "origin".to_owned()));
        assert_eq!(head("nosuch"), RemoteHead::Absent("origin".to_owned()));
        git(&copy, &["config", "remote.origin.url", "/nonexistent"]);
        assert!(matches!(head("main"), RemoteHead::Unknown(why) if why.contains("`origin` did not answer")));
    }

    #[test]
    fn a_token_goes_to_its_own_server_alone() {
        let header = |url: &str, server: &str| header(url, server, "x-access-token", "t");
        let expected = ["http.https://github.com/.extraheader", "AUTHORIZATION: basic eC1hY2Nlc3MtdG9rZW46dA=="];
        assert_eq!(header("https://github.com/acme/app", "https://github.com"), Some(expected.map(str::to_owned)));
        for (url, server) in [
            ("https://github.com.example/acme/app", "https://github.com"),
            ("git@github.com:acme/app.git", "https://github.com"),
            ("http://github.com/acme/app", "http://github.com"),
        ] {
            assert_eq!(header(url, server), None, "{url}");
        }
    }

    #[test]
    fn no_program_of_the_repositorys_configuration_is_run() {
        let folder = tempfile::tempdir().unwrap();
        let (copy, trap) = (folder.path().join("copy"), folder.path().join("trap"));
        std::fs::create_dir(&copy).unwrap();
        git(&copy, &["init", "-q", "-b", "main"]);
        let touch = format!("touch {}", trap.display());
        for (key, value) in [
            ("remote.origin.url", format!("ext::sh -c {}", touch.replace(' ', "%S"))),
            ("remote.origin.uploadpack", touch.clone()),
            ("protocol.ext.allow", "always".to_owned()),
            ("core.sshCommand", touch.clone()),
        ] {
            git(&copy, &["config", key, &value]);
        }
        assert!(matches!(Git::at(&copy).remote_head("main").unwrap(), RemoteHead::Unknown(_)));
        git(&copy, &["config", "remote.origin.url", "ssh://127.0.0.1:9/x"]);
        assert!(matches!(Git::at(&copy).remote_head("main").unwrap(), RemoteHead::Unknown(_)));
        assert!(!trap.exists());
    }
}
