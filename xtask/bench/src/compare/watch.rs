//! From the save of a template until the page that the app serves has it.
//!
//! The page is asked for without pause, so a measurement includes the start of the app.

use super::harness::{self, Harness};
use super::peers;
use crate::sample::{Sample, call};
use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};
use xtask_host::process;
use xtask_model::fault::Fault;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// `watch` with the native engine, the app in namespaces.
    Native,
    /// `watch` with docker's engine, the app in docker.
    Docker,
    /// `docker buildx build`, then `docker run` in place of the container that runs.
    ByHand,
}

/// Port that the app's Dockerfile serves on. The machine may use it.
const PORT: &str = "8080";

const TEMPLATE: &str = "autoscaler/templates/layout.html";

/// Time for a first build and the app's start.
const FIRST: Duration = Duration::from_secs(180);

/// Time for an edit to be served.
const LIMIT: Duration = Duration::from_secs(60);

/// Time in which `watch` finishes the round that started the app.
const QUIET: Duration = Duration::from_secs(1);

pub(super) fn build(harness: &mut Harness, follow: Follow) -> Result<Sample, Fault> {
    let address = free_address().map_err(|error| Fault::build("cannot find a free port").cause(error))?;
    let dockerfile = harness.workspace.tree.policy.app.dockerfile.clone();
    let port = address.port().to_string();
    harness.workspace.edit(&dockerfile, |text| text.replace(PORT, &port))?;
    match follow {
        Follow::Native | Follow::Docker => {
            let registry = harness.before_native()?.to_string();
            let engine = if follow == Follow::Native { "native" } else { "docker" };
            let call = harness::call(&harness.workspace).args(["watch", "--engine", engine, "--registry", &registry]);
            let call = match follow {
                Follow::Native => call.env("DOCKER_HOST", "unix:///nonexistent"),
                _ => call,
            };
            let watch = call.start_group()?;
            wait_for(address, "<html", FIRST)?;
            std::thread::sleep(QUIET);
            let sample = edited(harness, address, || Ok(()))?;
            watch.end(LIMIT);
            Ok(sample)
        }
        Follow::ByHand => by_hand(harness, address),
    }
}

/// Saves an edit, does what a person does then, and waits for the page.
fn edited(harness: &Harness, address: SocketAddr, then: impl FnOnce() -> Result<(), Fault>) -> Result<Sample, Fault> {
    let mark = format!("<!-- edit {} -->", harness.number);
    let began = Instant::now();
    harness.workspace.edit(TEMPLATE, |text| text.replace("</html>", &format!("{mark}</html>")))?;
    then()?;
    wait_for(address, &mark, LIMIT)?;
    Ok(Sample { seconds: began.elapsed().as_secs_f64(), ..Sample::default() })
}

fn by_hand(harness: &mut Harness, address: SocketAddr) -> Result<Sample, Fault> {
    let order = peers::stored_app(harness)?;
    let docker = harness.workspace.docker()?;
    let name = format!("bench-{}", address.port());
    let replace = || -> Result<(), Fault> {
        docker.build(&order, "the app with plain docker")?;
        call(&docker.command().args(["rm", "--force", &name]))?;
        let network = if docker.lacks_bridge()? { "--network=host".to_owned() } else { published(address) };
        let run = docker.command().args(["run", "--detach", "--rm", &network, &format!("--name={name}"), "--"]);
        call(&run.arg(&order.names[0])).map(drop)
    };
    let measured =
        replace().and_then(|()| wait_for(address, "<html", FIRST)).and_then(|()| edited(harness, address, replace));
    call(&docker.command().args(["rm", "--force", &name]))?;
    measured
}

fn published(address: SocketAddr) -> String {
    format!("--publish={address}:{}", address.port())
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Asks for the page until it contains this text.
fn wait_for(address: SocketAddr, text: &str, limit: Duration) -> Result<(), Fault> {
    let began = Instant::now();
    let mut last: Box<dyn Display> = Box::new("no question was asked");
    while began.elapsed() < limit {
        process::interrupted()?;
        match page(address) {
            Ok(page) if page.contains(text) => return Ok(()),
            Ok(page) => last = Box::new(format!("a page of {} bytes without it", page.len())),
            Err(error) => last = Box::new(error),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let what = format!("`http://{address}/` did not serve `{text}` within {} s", limit.as_secs());
    Err(Fault::build(what).cause(format!("the last answer: {last}")))
}

fn page(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(200))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
