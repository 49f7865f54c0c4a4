//! Dockerfiles for other programs, made from this repository's by text replacement. Pure.
//!
//! Fails if the text to replace is missing.

use xtask_model::fault::Fault;

/// For builders without `COPY --link`.
pub(super) fn without_link(text: &str) -> String {
    let copies = |line: &&str| line.trim_start().starts_with("COPY ") || line.trim_start().starts_with("ADD ");
    let line = |line: &str| if copies(&line) { line.replacen(" --link ", " ", 1) } else { line.to_owned() };
    text.split_inclusive('\n').map(line).collect()
}

/// Replacements in `Dockerfile.base` to install with pip: uv is not installed, and pip gets the same options. Byte code
/// is compiled by the same later step.
const BY_PIP: [(&str, &str); 9] = [
    (" && \\\n    /opt/installer/bin/pip install --disable-pip-version-check --require-hashes -r installer.lock", ""),
    ("export SSL_CERT_FILE=", "export PIP_CERT="),
    ("export UV_DEFAULT_INDEX=", "export PIP_INDEX_URL="),
    ("export UV_INDEX=", "export PIP_EXTRA_INDEX_URL="),
    ("export UV_FIND_LINKS=", "export PIP_FIND_LINKS="),
    (
        "    if [ -f /run/secrets/index-strategy ]; then export UV_INDEX_STRATEGY=\"$(cat /run/secrets/index-strategy)\"; fi && \\\n",
        "",
    ),
    ("python3 -I -S install.py \"/opt/venv/lib/${version}/site-packages\" \\\n        ", ""),
    ("--no-build --python-platform $(uname -m)-manylinux_${MANYLINUX}", "--only-binary :all:"),
    (
        "/opt/installer/bin/uv pip install --no-config --python /opt/venv/bin/python3 --python-preference only-system \\\n        \
         --link-mode copy --require-hashes",
        "/opt/installer/bin/pip --python /opt/venv/bin/python3 install --disable-pip-version-check \\\n        \
         --no-compile --require-hashes",
    ),
];

pub(super) fn by_pip(path: &str, text: &str) -> Result<String, Fault> {
    let mut text = text.to_owned();
    for (uv, pip) in BY_PIP {
        if !text.contains(uv) {
            return Err(Fault::usage(format!("cannot change `{path}` to install with pip"))
                .cause(format!("it does not contain `{uv}`"))
                .hint("update `BY_PIP` in `xtask/bench/src/compare/rewrite.rs`"));
        }
        text = text.replace(uv, pip);
    }
    Ok(text)
}

const SOURCES: &str = "\
COPY autoscaler/forecast/src autoscaler/forecast/src
COPY autoscaler/floor/src autoscaler/floor/src
COPY autoscaler/show/src autoscaler/show/src
COPY autoscaler/cluster/src autoscaler/cluster/src
COPY autoscaler/cli/src autoscaler/cli/src
COPY autoscaler/src autoscaler/src
";
const COMPILED: &str = " --mount=type=cache,target=/src/target,sharing=locked";
const MEMBERS: &str = "    for member in ";
const INSTALLED: &str = " && \\\n    install -D -m 0755 target/debug/autoscaler /out/autoscaler\n";

/// The Dockerfile of everything, with the crates of others compiled in a layer before the sources are copied: a cache of layers then has
/// them.
pub(super) fn crates_apart(path: &str, text: &str) -> Result<String, Fault> {
    let apart = || {
        let (head, rest) = text.split_once(SOURCES)?;
        let (run, tail) = rest.split_once(INSTALLED)?;
        let run = run.replacen(COMPILED, "", 1);
        let with = |first: &str| run.replacen(MEMBERS, &format!("    {first} && \\\n{MEMBERS}"), 1);
        let empty = "for part in . forecast floor show cluster cli; do \\
        mkdir -p autoscaler/$part/src && touch autoscaler/$part/src/lib.rs; \\
    done && \\
    echo 'fn main() {}' > autoscaler/src/main.rs";
        let (crates, own) = (with(empty), with("find autoscaler -name '*.rs' -exec touch {} +"));
        (crates != run && run.len() < rest.len()).then(|| format!("{head}{crates}\n{SOURCES}{own}{INSTALLED}{tail}"))
    };
    apart().ok_or_else(|| {
        Fault::usage(format!("cannot compile the crates of `{path}` in a layer of their own"))
            .cause("it does not compile the program as this comparison expects")
            .hint("update `crates_apart` in `xtask/bench/src/compare/rewrite.rs`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use xtask_model::spec::dockerfile::Dockerfile;

    const PATH: &str = "dockerfiles/Dockerfile.base";

    fn base() -> String {
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../dockerfiles/Dockerfile.base")).unwrap()
    }

    fn instructions(text: &str) -> Vec<String> {
        Dockerfile::parse(PATH, text).unwrap();
        text.lines()
            .map(str::trim)
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn pip_replaces_uv_in_the_base() {
        let (ours, theirs) = (instructions(&base()), instructions(&by_pip(PATH, &base()).unwrap()));
        let says = |lines: &[String], what: &str| lines.iter().filter(|line| line.contains(what)).count();
        assert!(says(&ours, "/uv ") == 1 && says(&ours, "UV_") == 4);
        assert_eq!((says(&theirs, "/uv "), says(&theirs, "UV_"), says(&theirs, "SSL_CERT_FILE")), (0, 0, 0));
        assert_eq!(says(&theirs, "pip --python /opt/venv/bin/python3 install"), 1);
        assert_eq!(says(&theirs, "-r requirements-enhanced.lock"), 1);
        assert_eq!(says(&theirs, "-r installer.lock"), 0);
        // Everything else is untouched.
        let kept = ours.iter().filter(|line| theirs.contains(line)).count();
        assert_eq!(kept + 11, ours.len());
    }

    #[test]
    fn a_base_with_another_installation_is_rejected() {
        let fault = by_pip(PATH, "FROM a\nRUN conda install\n").unwrap_err();
        assert!(fault.what.contains(PATH), "{fault}");
    }

    #[test]
    fn crates_are_compiled_before_the_sources_are_copied() {
        let path = "dockerfiles/Dockerfile.enhanced";
        let text =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../dockerfiles/Dockerfile.enhanced"))
                .unwrap();
        let apart = crates_apart(path, &text).unwrap();
        Dockerfile::parse(path, &apart).unwrap();
        let at = |what: &str| apart.match_indices(what).map(|(at, _)| at).collect::<Vec<_>>();
        let (sources, builds) = (at(SOURCES), at("cargo build --locked --package"));
        assert!(sources.len() == 1 && builds.len() == 2 && builds[0] < sources[0] && sources[0] < builds[1], "{apart}");
        assert!(!apart.contains("target=/src/target"), "a cache of layers has no mount: {apart}");
        assert_eq!(at("/out/autoscaler\n").len(), at(INSTALLED).len());
        assert!(crates_apart(path, "FROM a\n").is_err());
    }

    #[track_caller]
    fn unlinked(text: &str, expected: &str) {
        assert_eq!(without_link(text), expected);
    }

    #[test]
    fn link_is_removed_from_copies_only() {
        unlinked("COPY --link a /a\n", "COPY a /a\n");
        unlinked("COPY --chown=0:0 --link a /a", "COPY --chown=0:0 a /a");
        unlinked("COPY a --link /a\nRUN ld --link a\n", "COPY a /a\nRUN ld --link a\n");
        unlinked("# COPY --link a\nRUN echo COPY --link a\n", "# COPY --link a\nRUN echo COPY --link a\n");
        let text = base();
        assert_eq!(instructions(&text).len(), instructions(&without_link(&text)).len());
        assert!(!without_link(&text).contains("COPY --link"));
    }
}
