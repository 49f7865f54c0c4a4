//! Containers through the docker command line, or podman's.

use super::{Launch, Manner};
use std::io::IsTerminal as _;
use std::process::{Child, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use xtask_host::docker::Docker;
use xtask_host::process::Command;
use xtask_model::fault::{Exit, Fault};

const CONFINED: [&str; 4] = ["--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"];

/// A container that is removed when it is dropped.
pub(super) struct Container<'d> {
    docker: &'d Docker,
    id: String,
    /// The docker client that prints the program's output.
    client: Option<Child>,
    is_removed: bool,
}

pub(super) fn run(docker: &Docker, image: &str, launch: &Launch) -> Result<Output, Fault> {
    called(docker, image, launch).arg("--rm").args(named(image, launch)).output()
}

pub(super) fn start<'d>(docker: &'d Docker, image: &str, launch: &Launch) -> Result<Container<'d>, Fault> {
    let id = called(docker, image, launch).arg("--detach").args(named(image, launch)).read(Exit::Build)?;
    Ok(Container { docker, id, client: None, is_removed: false })
}

/// Starts an image in the background, with this process's output streams.
pub(super) fn serve<'d>(docker: &'d Docker, image: &str, launch: &Launch) -> Result<Container<'d>, Fault> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let id = format!("xtask-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let call = reachable(docker, image, launch)?.args(["--rm", &format!("--name={id}")]);
    // The first process of a container ignores signals that it does not handle: below docker's init a shell ends at once.
    let call = if docker.podman { call } else { call.arg("--init") };
    let call = call.args(named(image, launch));
    let client = call.start([Stdio::null(), Stdio::inherit(), Stdio::inherit()]);
    let client = client.map_err(|error| Fault::missing("cannot run docker").cause(error))?;
    Ok(Container { docker, id, client: Some(client), is_removed: false })
}

/// Replaces this process with `docker run` on its terminal; returns only on an error.
pub(super) fn attach(docker: &Docker, image: &str, launch: &Launch) -> Fault {
    let mut call = match reachable(docker, image, launch) {
        Ok(call) => call.args(["--rm", "--interactive"]),
        Err(fault) => return fault,
    };
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        call = call.arg("--tty");
    }
    super::announce(image);
    Fault::missing("cannot run docker").cause(call.args(named(image, launch)).replace())
}

/// `docker run` of an image whose ports are reachable from this machine.
fn reachable(docker: &Docker, image: &str, launch: &Launch) -> Result<Command, Fault> {
    let ports = match docker.stored(image)? {
        Some(stored) => stored.ports(),
        None => {
            // The exposed ports are in the configuration, which is available only after a pull.
            xtask_host::terminal::step("pulling", &format!("`{image}`"));
            docker.bring("pull", image).args(["--quiet", "--", image]).read(Exit::Network)?;
            docker.stored(image)?.map(|stored| stored.ports()).unwrap_or_default()
        }
    };
    let call = called(docker, image, launch);
    if launch.manner != Manner::Open {
        return Ok(call);
    }
    Ok(if docker.lacks_bridge()? {
        call.arg("--network=host")
    } else {
        // On the loopback interface only; other options need docker itself.
        ports.iter().fold(call, |call, port| call.arg(format!("--publish=127.0.0.1:{}", published(port))))
    })
}

/// `8080:8080` for `8080`, `53:53/udp` for `53/udp`.
fn published(port: &str) -> String {
    let number = port.split('/').next().unwrap_or(port);
    format!("{number}:{port}")
}

fn called(docker: &Docker, image: &str, launch: &Launch) -> Command {
    let call = docker.bring("run", image).arg("--pull=missing");
    match launch.manner {
        // Podman leaves `/tmp` writable.
        Manner::Confined if docker.podman => call.args(CONFINED).args(["--init=false", "--read-only-tmpfs=false"]),
        Manner::Confined => call.args(CONFINED).arg("--init=false"),
        Manner::Open => call,
        Manner::Offline => call.arg("--network=none"),
    }
}

fn named(image: &str, launch: &Launch) -> Vec<String> {
    let entrypoint = launch.entrypoint.iter().map(|entrypoint| format!("--entrypoint={entrypoint}"));
    entrypoint.chain(["--".to_owned(), image.to_owned()]).chain(launch.args.iter().cloned()).collect()
}

impl Container<'_> {
    pub(super) fn exec(&self, argv: &[&str]) -> Result<Output, Fault> {
        self.docker.command().args(["exec", &self.id]).args(argv).output()
    }

    pub(super) fn runs(&mut self) -> Result<bool, Fault> {
        if let Some(client) = &mut self.client {
            let ended = client.try_wait().map_err(|error| Fault::missing("cannot wait for docker").cause(error))?;
            return Ok(ended.is_none());
        }
        let call = self.docker.command().args(["inspect", "--format={{.State.Running}}", &self.id]);
        Ok(call.read(Exit::Build)? == "true")
    }

    /// Asks its program to end, and kills it after this time.
    pub(super) fn end(mut self, grace: Duration) {
        let time = format!("--time={}", grace.as_secs());
        let stopped = self.docker.command().args(["stop", &time, &self.id]).output();
        // Docker removes what has a client itself. The drop removes a container that could not be stopped.
        if stopped.is_ok_and(|output| output.status.success())
            && let Some(mut client) = self.client.take()
        {
            self.is_removed = client.wait().is_ok();
        }
    }

    pub(super) fn log(&self, lines: usize) -> Result<String, Fault> {
        let logs = self.docker.command().arg("logs").arg(format!("--tail={lines}")).arg(&self.id).output()?;
        Ok(format!("{}{}", String::from_utf8_lossy(&logs.stdout), String::from_utf8_lossy(&logs.stderr)))
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if self.is_removed {
            return;
        }
        // It may have ended already; an error here has no receiver.
        let _ = self.docker.command().args(["rm", "--force", "--volumes", &self.id]).output();
        if let Some(client) = &mut self.client {
            let _ = client.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_never_options_of_docker() {
        let args = ["--privileged".to_owned()];
        let launch = Launch { entrypoint: Some("id".to_owned()), ..Launch::confined(&args) };
        assert_eq!(named("app", &launch), ["--entrypoint=id", "--", "app", "--privileged"]);
        assert_eq!(named("app", &Launch::confined(&[])), ["--", "app"]);
    }

    #[test]
    fn ports_are_published_as_they_are_exposed() {
        assert_eq!(published("8080/tcp"), "8080:8080/tcp");
        assert_eq!(published("53/udp"), "53:53/udp");
        assert_eq!(published("80"), "80:80");
    }
}
