//! A root image with Python and pip, as a repository's own Dockerfile expects one, in the registry of the tests' engine: the Debian root
//! with pip for the system's Python, Debian's archive, and the certificates of this machine.

use crate::{debian_root, real_engine};
use xtask_host::docker::debian;
use xtask_host::registry::{Answer, Client, ClientOptions};
use xtask_model::fault::Exit;
use xtask_model::spec::reference::{Digest, Repository, Tag};

/// The pip that comes with `venv`, for the system's Python; installers of Debian may not change that one.
const DOCKERFILE: &str = r#"FROM debian
COPY pip.conf /etc/pip.conf
COPY ca.crt /etc/ssl/certs/tests.crt
COPY sources.list /etc/apt/sources.list
RUN apt-get update && apt-get install -y --no-install-recommends adduser passwd && rm -rf /var/lib/apt/lists/*
RUN rm -f /usr/lib/python3*/EXTERNALLY-MANAGED && \
    python3 -m venv --without-scm-ignore-files /tmp/venv && \
    mkdir -p /usr/local/lib/python3.13/dist-packages && \
    mv /tmp/venv/lib/python3.13/site-packages/pip* /usr/local/lib/python3.13/dist-packages/ && \
    sed '1s|.*|#!/usr/bin/python3|' /tmp/venv/bin/pip > /usr/local/bin/pip && chmod 755 /usr/local/bin/pip && \
    rm -rf /tmp/venv ~/.cache
"#;

const PIP: &str = "[global]\ncert = /etc/ssl/certs/tests.crt\ndisable-pip-version-check = true\n";

/// The image's name: its tag says the Python.
pub(crate) fn shared(engine: &real_engine::Engine) -> String {
    let (_, folder, root) = debian_root::shared();
    let certificates = std::fs::read("/etc/ssl/certs/ca-certificates.crt").unwrap();
    let sources = debian::AptSource::of_host().unwrap().lines("trixie").join("\n") + "\n";
    let key =
        [sources.as_bytes(), root.digest.to_string().as_bytes(), DOCKERFILE.as_bytes(), PIP.as_bytes(), &certificates]
            .concat();
    let repository: Repository =
        format!("{}/tests-{}/python", engine.registry(), &Digest::of(&key).hex()[..12]).parse().unwrap();
    let name = format!("{repository}:3.13-slim");
    let client = Client::new(ClientOptions::default());
    if let Answer::Present(_) = client.head(&repository, "3.13-slim".parse::<Tag>().unwrap()).unwrap() {
        return name;
    }
    let context = tempfile::tempdir().unwrap();
    for (file, bytes) in [
        ("Dockerfile", DOCKERFILE.as_bytes()),
        ("pip.conf", PIP.as_bytes()),
        ("sources.list", sources.as_bytes()),
        ("ca.crt", &certificates),
    ] {
        std::fs::write(context.path().join(file), bytes).unwrap();
    }
    let from = format!("debian=oci-layout://{}@{}", folder.display(), root.digest);
    let command = engine.command(&["buildx", "build", "--quiet", "--provenance=false", "--network=host"]);
    let command = command.args(["--build-context", &from, "--push", "--tag", &name]).arg(context.path());
    command.read(Exit::Build).unwrap_or_else(|fault| panic!("{fault}"));
    name
}
