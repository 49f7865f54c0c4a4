//! Dockerfiles of many styles: what each becomes.

use super::*;

struct Case {
    dockerfile: &'static str,
    context: &'static str,
    files: &'static [(&'static str, &'static str)],
    root_image: Option<&'static str>,
    system_packages: Vec<String>,
}

fn case(dockerfile: &'static str, files: &'static [(&'static str, &'static str)]) -> Case {
    Case { dockerfile, context: "", files, root_image: None, system_packages: Vec::new() }
}

impl Case {
    fn adopt(&self) -> Adoption {
        let dockerfile = Dockerfile::parse("Dockerfile", self.dockerfile).unwrap();
        let files: BTreeSet<String> = self.files.iter().map(|(path, _)| (*path).to_owned()).collect();
        let read = |path: &str| self.files.iter().find(|(known, _)| *known == path).map(|(_, text)| (*text).to_owned());
        let program = Program {
            git: "https://example.com/x".to_owned(),
            revision: "0".to_owned(),
            toolchain: "1.95.0".to_owned(),
        };
        let request = Request {
            name: "app",
            app: None,
            registry: &"ghcr.io/acme".parse().unwrap(),
            source: None,
            branch: "main",
            platforms: &["linux/amd64".parse().unwrap()],
            dockerfile: &dockerfile,
            context: self.context,
            files: &files,
            ignore: None,
            read: &read,
            root_image: self.root_image,
            python: None,
            requirements: &[],
            system_packages: &self.system_packages,
            workflows: false,
            program: &program,
        };
        adopt(&request).unwrap_or_else(|fault| panic!("{fault}"))
    }

    /// Lines that a file must have, and lines that it must not have, which begin with `!`; then every note as `kind line what`.
    #[track_caller]
    fn gives(&self, expected: &[(&str, &[&str])], notes: &[&str]) -> &Self {
        let adoption = self.adopt();
        for (path, lines) in expected {
            let file = adoption.files.iter().find(|file| file.path == *path);
            let text = &file.unwrap_or_else(|| panic!("`{path}` is not written")).text;
            for line in *lines {
                let (wanted, line) = line.strip_prefix('!').map_or((true, *line), |line| (false, line));
                assert_eq!(text.lines().any(|found| found == line), wanted, "`{line}` in `{path}`:\n{text}");
            }
        }
        let of = |note: &Note| {
            let kind = match note.kind {
                NoteKind::Missing => "missing",
                NoteKind::Docker => "docker",
                NoteKind::Changed => "changed",
            };
            format!("{kind} {} {}", note.line, note.what)
        };
        let found: Vec<String> = adoption.notes.iter().filter(|note| note.what != "[smoke.serve]").map(of).collect();
        assert_eq!(found, notes, "{:#?}", adoption.notes);
        self
    }
}

const FAST: &str = "dockerfiles/Dockerfile.fast";
const BASE: &str = "dockerfiles/Dockerfile.base";

#[test]
fn a_stage_that_only_installs_is_the_environment() {
    let text = "\
ARG VERSION=3.12
FROM ghcr.io/astral-sh/uv:python${VERSION}-bookworm-slim AS builder
WORKDIR /app
RUN --mount=type=bind,source=uv.lock,target=uv.lock uv sync --frozen --no-dev --extra web
COPY . /app
RUN uv sync --frozen --no-dev
FROM python:${VERSION}-slim-bookworm
RUN groupadd --gid 999 api && useradd --gid 999 --uid 999 api
COPY --from=builder --chown=api:api /app /app
ENV PATH=\"/app/.venv/bin:$PATH\" MODE=/app/.venv/x
USER api
WORKDIR /app
CMD [\"uv\", \"run\", \"--no-sync\", \"-m\", \"api\"]
";
    let files =
        &[("uv.lock", ""), ("pyproject.toml", "[build-system]"), ("src/api/__main__.py", ""), ("README.md", "")];
    case(text, files).gives(
        &[
            (
                FAST,
                &[
                    "COPY --link --chown=999:999 . /app",
                    "CMD [\"python\", \"-m\", \"api\"]",
                    "ENV MODE=/opt/venv/x \\",
                    "    PYTHONPATH=/app/src",
                ],
            ),
            (
                "images.toml",
                &[
                    "lock = \"uv.lock\"",
                    "extras = [\"web\"]",
                    "image = \"docker.io/library/python:3.12-slim-bookworm\"",
                    "user = \"user\"",
                ],
            ),
            ("dockerfiles/Dockerfile.fast.dockerignore", &["!src", "!!README.md", "!!uv.lock"]),
            (BASE, &["COPY target/lock/packages.lock ./", "ARG USER_ID=999"]),
        ],
        &["changed 0 PYTHONPATH"],
    );
}

#[test]
fn wheels_and_prefixes_of_a_stage_are_its_packages() {
    for install in [
        "RUN pip wheel -w /wheels -r requirements.txt\nFROM python:3.12-slim\nCOPY --from=b /wheels /wheels\nRUN pip install /wheels/*",
        "RUN pip install --prefix=/install -r requirements.txt\nFROM python:3.12-slim\nCOPY --from=b /install /usr/local",
        "RUN pip install --user -r requirements.txt\nFROM python:3.12-slim\nCOPY --from=b @/.local @/.local\nENV PATH=@/.local/bin:$PATH",
        "RUN python -m venv /v && /v/bin/pip install -r requirements.txt\nFROM python:3.12-slim\nCOPY --from=b /v /v\nENV PATH=/v/bin:$PATH",
        "RUN pip install -r requirements.txt\nFROM python:3.12-slim\nCOPY --from=b /usr/local/lib/python3.12/site-packages /usr/local/lib/python3.12/site-packages",
    ] {
        let text = format!(
            "FROM python:3.12-slim AS b\nRUN apt-get update && apt-get install -y gcc\nCOPY requirements.txt .\n{install}\nCOPY app /app\nCMD [\"python\", \"/app/main.py\"]\n"
        );
        case(text.replace('@', "/root").leak(), &[("requirements.txt", ""), ("app/main.py", "")]).gives(
            &[
                (
                    "images.toml",
                    &["requirements = \"requirements.txt\"", "packages = \"python-packages\"", "!engine = \"docker\""],
                ),
                (FAST, &["FROM ${BASE_IMAGE} AS app", "COPY --link app /app", "!ENV PATH=/bin:$PATH"]),
            ],
            &[],
        );
    }
}

#[test]
fn programs_that_run_stay_for_docker() {
    let text = "\
FROM node:20 AS web
COPY web/package.json ./
RUN npm ci && npm run build
FROM python:3.12-slim
RUN apt-get update && apt-get install -y nginx=1.* gcc
RUN pip install -r requirements.txt
RUN python -m spacy download en
COPY nginx.conf /etc/nginx/
COPY --from=web /dist /srv/www
RUN <<EOF
set -e
python manage.py collectstatic
EOF
";
    let files = &[("requirements.txt", ""), ("web/package.json", ""), ("nginx.conf", "")];
    case(text, files).gives(
        &[
            ("images.toml", &["engine = \"docker\"", "SYSTEM_PACKAGES = \"nginx=1.*\"", "![base.stages]"]),
            (BASE, &["FROM assembled AS steps", "RUN python -m spacy download en", "FROM steps AS base"]),
            (
                FAST,
                &[
                    "FROM node:20 AS web",
                    "RUN npm ci && npm run build",
                    "COPY --link --from=web /dist /srv/www",
                    "python manage.py collectstatic",
                ],
            ),
        ],
        &[
            "docker 5 install nginx=1.*",
            "docker 7 RUN python -m spacy download en",
            "docker 9 COPY --from=web /dist /srv/www",
            "docker 10 RUN set -e && python manage.py collectstatic",
            "changed 5 install gcc",
        ],
    );
}

#[test]
fn folders_owners_and_modes_need_no_program() {
    let text = "\
FROM python:3.13-slim
ENV HOME_DIR=/srv/app
WORKDIR $HOME_DIR
RUN pip install --no-cache-dir -r requirements.txt gunicorn==23.0.0
COPY run.sh main.py ./
RUN chmod +x run.sh && mkdir -p /data /scratch && chmod 1777 /scratch && adduser --disabled-password --uid 1200 web
RUN chown -R web:web $HOME_DIR /data
USER web
ENTRYPOINT [\"./run.sh\"]
";
    case(text, &[("requirements.txt", ""), ("run.sh", "exec python main.py"), ("main.py", "")]).gives(
        &[
            (
                FAST,
                &[
                    "COPY --link --from=folders --chown=1200:1200 /data /data",
                    "COPY --link --from=folders --chmod=1777 /scratch /scratch",
                    "COPY --link --chown=1200:1200 run.sh main.py /srv/app/",
                    "COPY --chown=1200:1200 --chmod=0755 run.sh /srv/app/run.sh",
                ],
            ),
            ("requirements-image.txt", &["-r requirements.txt", "gunicorn==23.0.0"]),
            (BASE, &["WORKDIR /srv/app", "ARG USER_NAME=web"]),
        ],
        &[],
    );
}

#[test]
fn a_context_below_the_root_is_a_prefix() {
    let text = "FROM python:3.13-slim\nWORKDIR /code\nCOPY ./requirements.txt /code/\nRUN pip install -r /code/requirements.txt\nCOPY ./app /code/app\n";
    let nested =
        Case { context: "backend", ..case(text, &[("backend/requirements.txt", ""), ("backend/app/main.py", "")]) };
    nested.gives(
        &[
            (FAST, &["COPY --link backend/app /code/app"]),
            ("images.toml", &["requirements = \"backend/requirements.txt\"", "lock = \"backend/requirements.lock\""]),
        ],
        &[],
    );
}

#[test]
fn alpine_becomes_slim_and_its_packages_are_a_question() {
    let text = "FROM python:3.12-alpine\nRUN apk add --no-cache gcc musl-dev libpq\nRUN pip install -r requirements.txt\nCOPY a.py /\nUSER 1000\n";
    let files = &[("requirements.txt", ""), ("a.py", "")];
    let changed = ["changed 1 FROM python:3.12-alpine", "changed 2 install gcc", "changed 2 install musl-dev"];
    case(text, files).gives(
        &[("images.toml", &["image = \"docker.io/library/python:3.12-slim\""])],
        &[&["missing 2 apk add libpq"][..], &changed].concat(),
    );
    let answered = Case { system_packages: vec!["none".to_owned()], ..case(text, files) };
    answered.gives(&[("images.toml", &["!SYSTEM_PACKAGES = \"none\""])], &changed);
}

#[test]
fn what_has_no_translation_is_missing() {
    let text = "FROM jupyterhub/jupyterhub:5\nRUN if true; then pip install x; fi\nRUN conda install y\nRUN pip install -r https://example.com/r.txt\nUSER me\n";
    case(text, &[]).gives(
        &[],
        &[
            "missing 0 Dockerfile",
            "missing 0 me",
            "missing 1 FROM jupyterhub/jupyterhub:5",
            "missing 2 RUN if true; then pip install x; fi",
            "missing 3 conda install y",
            "missing 4 pip install -r https://example.com/r.txt",
            "docker 2 RUN if true; then pip install x; fi",
        ],
    );
}

/// What is written is a valid policy whose Dockerfiles parse, and a second reading finds nothing of the first.
#[test]
fn every_file_that_is_written_can_be_read() {
    let text = "FROM python:3.12-slim\nRUN pip install flask\nCOPY [\"a b\", \"c\", \"/x/\"]\nENV A=\"1 \\\"2\" B=\nLABEL x=\"y z\"\nHEALTHCHECK --interval=5s CMD wget -q localhost:80/up\nCMD exec uv run --frozen gunicorn app:app\n";
    let adoption = case(text, &[("a b/x.py", ""), ("c/y.py", "")]).adopt();
    let texts: std::collections::BTreeMap<_, _> =
        adoption.files.iter().map(|file| (file.path.as_str(), file.text.as_str())).collect();
    for path in [BASE, FAST] {
        Dockerfile::parse(path, texts[path]).unwrap_or_else(|fault| panic!("{fault}"));
    }
    let fast = texts[FAST];
    for line in
        ["COPY --link [\"a b\", \"c\", \"/x/\"]", "ENV A=\"1 \\\"2\" \\", "    B=\"\"", "CMD exec gunicorn app:app"]
    {
        assert!(fast.lines().any(|found| found == line), "{line}\n{fast}");
    }
    assert!(fast.contains("r.urlopen('http://localhost:80/up', timeout=5)"), "{fast}");
    let is_file = |path: &crate::image::policy::RelPath| texts.contains_key(path.as_str());
    let policy = crate::image::policy::parse(texts["images.toml"], &is_file).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(policy.smoke.serve.unwrap().url, "http://127.0.0.1:80/up");
    assert!(is_written(texts["images.toml"]) && is_written(fast) && !is_written(text));
}

#[test]
fn apps_are_named_after_their_dockerfiles() {
    let names = |paths: &[&str]| app_names(&paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
    assert_eq!(names(&["web/Dockerfile", "docker/Dockerfile.worker", "cron.Dockerfile"]), ["web", "worker", "cron"]);
    assert_eq!(names(&["Dockerfile", "docker/Dockerfile", "Dockerfile.base"]), ["app", "app-2", "app-3"]);
    assert_eq!(names(&["a/api/Dockerfile", "b/api/Dockerfile", "My App/Dockerfile"]), ["api", "b-api", "my-app"]);
    for path in ["Dockerfile.dev", ".devcontainer/Dockerfile", "docker/test/Dockerfile"] {
        assert!(is_for_development(path), "{path}");
    }
    assert!(!is_for_development("device/Dockerfile"));
}
