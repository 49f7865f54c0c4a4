//! Files that the repositories of tests begin with, whichever engine and system they are for.

use std::path::Path;
use xtask_model::spec::requirements;

/// An app of one layer.
pub const FAST: &str = "\
ARG BASE_IMAGE
FROM ${BASE_IMAGE} AS app
COPY --link templates /app/templates
ENTRYPOINT [\"cat\", \"/app/templates/page.html\"]
";

/// An app of three layers, of which an edit of a template changes the last.
pub const NATIVE_FAST: &str = "\
ARG BASE_IMAGE
FROM ${BASE_IMAGE} AS app
COPY --link --chown=0:0 code/tool /usr/local/bin/tool
COPY --link --chown=0:0 code /app/code
COPY --link --chown=0:0 templates /app/templates
ENTRYPOINT [\"cat\", \"/app/templates/page.html\"]
";

/// A base for both engines, with these lines at its end: what runs something is a stage that a recipe realises.
pub fn native_base(end: &str) -> String {
    format!("{USER_STAGE}{end}USER 10001:10001\n")
}

const USER_STAGE: &str = "\
ARG ROOT_IMAGE
ARG USER_NAME=app
ARG USER_ID=10001
ARG GROUP_ID=10001
ARG USER_HOME=/home/app
FROM ${ROOT_IMAGE} AS root
FROM root AS user
ARG USER_NAME
ARG USER_ID
ARG GROUP_ID
ARG USER_HOME
RUN echo \"${USER_NAME}:x:${GROUP_ID}:\" >> /etc/group && \
    echo \"${USER_NAME}:x:${USER_ID}:${GROUP_ID}:${USER_NAME}:${USER_HOME}:/usr/sbin/nologin\" >> /etc/passwd && \
    mkdir -p \"${USER_HOME}\" /app
FROM root AS base
COPY --link --from=user /etc/passwd /etc/group /etc/
COPY --link --from=user --chown=10001:10001 /home/app /home/app
COPY --link --from=user /app /app
";

const HASH: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Writes a file.
pub fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Writes everything but the policy, the Dockerfiles and the requirements.
pub fn begin(root: &Path) {
    for (path, text) in [
        ("dockerfiles/installer.lock", ""),
        ("dockerfiles/check.txt", "check\n"),
        ("templates/page.html", "<p>one</p>\n"),
        (".gitignore", "target\n"),
        (".dockerignore", "target\n.git\n"),
        ("README.md", "read\n"),
    ] {
        write(root, path, text);
    }
}

/// Writes the code of [`NATIVE_FAST`]: a program, and a folder with a file of each size and a link.
pub fn code(root: &Path, tool: &str, small: &str) {
    write(root, "code/tool", tool);
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(root.join("code/tool"), executable).unwrap();
    write(root, "code/deep/a.py", small);
    std::os::unix::fs::symlink("deep/a.py", root.join("code/link")).unwrap();
}

/// A file of many equal lines.
pub fn long() -> String {
    "# a line that is repeated often\n".repeat(1000)
}

/// Writes the requirements, and a lock that matches them, for this Python and later ones.
pub fn lock(root: &Path, python: &str, wanted: &str, pins: &[(&str, &str)]) {
    write(root, "requirements-enhanced.txt", wanted);
    let mut text = Some(wanted.to_owned());
    let read = requirements::read(Path::new("requirements-enhanced.txt"), &mut |_| Ok(text.take().unwrap()));
    let digest = read.unwrap_or_else(|fault| panic!("{fault}")).fingerprint();
    let mut lock = format!("# requirements: {digest}\n# python: >={python}\n# resolver: uv 0.0.0\n");
    for (name, version) in pins {
        lock += &format!("{name}=={version} \\\n    --hash={HASH}\n");
    }
    write(root, "requirements-enhanced.lock", &lock);
}
