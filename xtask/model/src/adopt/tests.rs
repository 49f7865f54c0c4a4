//! Dockerfiles of many styles: what each becomes.

use super::*;

struct Case {
    dockerfile: &'static str,
    context: &'static str,
    files: &'static [(&'static str, &'static str)],
    root_image: Option<&'static str>,
    system_packages: Vec<String>,
    compiles: bool,
}

fn case(dockerfile: &'static str, files: &'static [(&'static str, &'static str)]) -> Case {
    Case { dockerfile, context: "", files, root_image: None, system_packages: Vec::new(), compiles: false }
}

impl Case {
    fn adopt(&self) -> Adoption {
        self.adopt_as(&[None]).swap_remove(0)
    }

    /// Adopts it once for each app.
    fn adopt_as(&self, apps: &[Option<&str>]) -> Vec<Adoption> {
        let dockerfile = Dockerfile::parse("Dockerfile", self.dockerfile).unwrap();
        let files: BTreeSet<String> = self.files.iter().map(|(path, _)| (*path).to_owned()).collect();
        let read = |path: &str| self.files.iter().find(|(known, _)| *known == path).map(|(_, text)| (*text).to_owned());
        let program = Program {
            git: "https://example.com/x".to_owned(),
            revision: "0".to_owned(),
            toolchain: "1.95.0".to_owned(),
        };
        let (registry, platforms) = ("ghcr.io/acme".parse().unwrap(), ["linux/amd64".parse().unwrap()]);
        let request = |app| Request {
            name: "app",
            app,
            registry: &registry,
            source: None,
            branch: "main",
            platforms: &platforms,
            dockerfile: &dockerfile,
            context: self.context,
            files: &files,
            ignore: None,
            read: &read,
            root_image: self.root_image,
            python: None,
            requirements: &[],
            system_packages: &self.system_packages,
            compiles: self.compiles,
            workflows: None,
            program: &program,
        };
        let requests: Vec<Request<'_>> = apps.iter().copied().map(request).collect();
        adopt_all(&requests).unwrap_or_else(|fault| panic!("{fault}"))
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
            "docker 7 RUN python -m spacy download en",
            "docker 9 COPY --from=web /dist /srv/www",
            "docker 10 RUN set -e && python manage.py collectstatic",
            "changed 5 install gcc",
            "changed 5 install nginx=1.*",
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
                    "WORKDIR /1/scratch",
                    "COPY --link --from=folders --chmod=1777 /1/ /",
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
fn debian_packages_are_a_stage_with_a_recipe() {
    let text = "FROM python:3.12-slim\nRUN apt-get update && apt-get install -y libpq5 gcc\nRUN pip install -r requirements.txt\nCOPY a.py /\nUSER 1000\n";
    let files = &[("requirements.txt", ""), ("a.py", "")];
    case(text, files).gives(
        &[
            (
                "images.toml",
                &[
                    "SYSTEM_PACKAGES = \"libpq5\"",
                    "system = \"system-packages\"",
                    "engine = \"native\"",
                    "!engine = \"docker\"",
                ],
            ),
            (BASE, &["FROM ${ROOT_IMAGE} AS system", "        ${SYSTEM_PACKAGES} && \\", "FROM system AS root"]),
        ],
        &["changed 2 install gcc", "changed 2 install libpq5"],
    );
}

#[test]
fn a_lock_in_a_copied_folder_is_left_out() {
    let text =
        "FROM python:3.12-slim\nWORKDIR /app\nCOPY requirements.txt .\nRUN pip install -r requirements.txt\nCOPY . .\n";
    let case =
        Case { context: "backend", ..case(text, &[("backend/requirements.txt", "six"), ("backend/main.py", "")]) };
    case.gives(&[("dockerfiles/Dockerfile.fast.dockerignore", &["backend/requirements.lock"])], &[]);
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
    let text = "FROM python:3.12-alpine\nRUN apk add --no-cache gcc musl-dev libpq geoip\nRUN pip install -r requirements.txt\nCOPY a.py /\nUSER 1000\n";
    let files = &[("requirements.txt", ""), ("a.py", "")];
    let changed = [
        "changed 1 FROM python:3.12-alpine",
        "changed 2 install gcc",
        "changed 2 install libpq5",
        "changed 2 install musl-dev",
    ];
    case(text, files).gives(
        &[("images.toml", &["image = \"docker.io/library/python:3.12-slim\""])],
        &[&["missing 2 apk add geoip"][..], &changed].concat(),
    );
    let answered = Case { system_packages: vec!["none".to_owned()], ..case(text, files) };
    answered.gives(&[("images.toml", &["!SYSTEM_PACKAGES = \"none\"", "SYSTEM_PACKAGES = \"libpq5\""])], &changed);
}

#[test]
fn what_has_no_translation_is_missing() {
    let text = "FROM jupyterhub/jupyterhub:5\nRUN if [ -f y ]; then pip install x; fi\nRUN conda install y\nRUN pip install -r https://example.com/r.txt\nUSER me\n";
    case(text, &[]).gives(
        &[],
        &[
            "missing 0 Dockerfile",
            "missing 0 me",
            "missing 1 FROM jupyterhub/jupyterhub:5",
            "missing 2 RUN if [ -f y ]; then pip install x; fi",
            "missing 3 conda install y",
            "missing 4 pip install -r https://example.com/r.txt",
            "docker 2 RUN if [ -f y ]; then pip install x; fi",
        ],
    );
}

/// Every written policy is valid and its Dockerfiles parse. A second reading finds nothing of the first.
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
fn a_run_that_stays_finds_what_was_around_it() {
    let text = "\
ARG RELEASE=7
FROM python:3.12-slim
SHELL [\"/bin/bash\", \"-c\"]
ARG RELEASE
ARG NOTHING
ENV MODE=prod LIST=\"a b\"
WORKDIR /opt/tool
RUN fetch.sh tool-$RELEASE
RUN again.sh
WORKDIR /app
RUN pip install flask
COPY main.py .
ARG VERSION=dev
RUN sed -i s/x/${VERSION}/ main.py
CMD [\"python\", \"main.py\"]
";
    case(text, &[("main.py", "")]).gives(
        &[
            (
                BASE,
                &[
                    "WORKDIR /opt/tool",
                    "SHELL [\"/bin/bash\", \"-c\"]",
                    "ARG RELEASE=7",
                    "ARG MODE=prod",
                    "ARG LIST=\"a b\"",
                    "RUN again.sh",
                ],
            ),
            (
                FAST,
                &[
                    "SHELL [\"/bin/bash\", \"-c\"]",
                    "ARG VERSION=dev",
                    "!ARG MODE=prod",
                    "RUN sed -i s/x/${VERSION}/ main.py",
                ],
            ),
        ],
        &[
            "docker 8 RUN fetch.sh tool-7",
            "docker 9 RUN again.sh",
            "docker 14 RUN sed -i s/x/dev/ main.py",
            "changed 8 ARG RELEASE",
            "changed 14 ARG VERSION",
        ],
    );
    let dockerfile = case(text, &[("main.py", "")]).adopt();
    let base = &dockerfile.files.iter().find(|file| file.path == BASE).unwrap().text;
    assert_eq!(base.matches("ARG RELEASE=7").count(), 1, "{base}");
}

#[test]
fn wheels_and_programs_of_mounted_stages_stay() {
    let text = "\
FROM python:3.12-slim AS builder
COPY requirements.txt /tmp
RUN pip wheel --wheel-dir /wheels gunicorn -r /tmp/requirements.txt
FROM node:24 AS web
RUN npm ci
FROM python:3.12-slim
RUN apt-get update && apt-get install -y libpq5 `# the driver of the database` && rm -rf /var/apt/cache
RUN --mount=type=bind,target=/wheels,source=/wheels,from=builder pip install --upgrade pip && pip install /wheels/*
RUN --mount=type=bind,target=/web,from=web install-pages /web
";
    case(text, &[("requirements.txt", "flask")]).gives(
        &[
            ("requirements-image.txt", &["-r requirements.txt", "gunicorn"]),
            (
                FAST,
                &["FROM node:24 AS web", "RUN npm ci", "RUN --mount=type=bind,target=/web,from=web install-pages /web"],
            ),
            ("images.toml", &["SYSTEM_PACKAGES = \"libpq5\""]),
        ],
        &["docker 9 RUN install-pages /web", "changed 7 install libpq5"],
    );
}

#[test]
fn an_environment_in_the_project_of_poetry_is_the_environment() {
    let text = "\
FROM python:3.12-slim AS python-base
ENV POETRY_HOME=/opt/poetry SETUP=/opt/setup VENV=/opt/setup/.venv
RUN useradd -u 911 -b /srv abc && usermod -G users abc
FROM python-base AS builder
RUN curl -sSL https://install.python-poetry.org | python3 -
WORKDIR $SETUP
COPY poetry.lock pyproject.toml ./
RUN poetry install --only main
FROM python-base
COPY --from=builder $POETRY_HOME $POETRY_HOME
COPY --from=builder $SETUP $SETUP
COPY main.py /app/
RUN . /opt/setup/.venv/bin/activate
USER abc
CMD [\"/opt/setup/.venv/bin/python\", \"/app/main.py\"]
";
    let lock = "[metadata]\npython-versions = \"~3.12\"\n";
    let files = [("poetry.lock", lock), ("pyproject.toml", ""), ("main.py", "")];
    case(text, Box::leak(Box::new(files))).gives(
        &[
            (FAST, &["COPY --link main.py /app/", "CMD [\"/opt/venv/bin/python\", \"/app/main.py\"]"]),
            (BASE, &["RUN usermod -G users abc", "ARG USER_HOME=/srv/abc"]),
            // Debian's Python is another one.
            ("images.toml", &["lock = \"poetry.lock\"", "!fallback = \"debian\""]),
        ],
        &["docker 3 RUN usermod -G users abc"],
    );
}

#[test]
fn an_installed_project_has_its_metadata_and_programs() {
    let project = "[project]\nname = \"my-shop\"\nversion = \"2\"\n[project.scripts]\nshop = \"my_shop.cli:main\"\n[build-system]\n";
    let installs = |line: &str| {
        format!("FROM python:3.13-slim\nWORKDIR /app\nCOPY pyproject.toml uv.lock ./\n{line}\nCOPY --chown=7:8 my_shop /app/my_shop\nCMD [\"shop\"]\n").leak() as &str
    };
    let files: &[(&str, &str)] =
        Box::leak(Box::new([("pyproject.toml", project), ("uv.lock", ""), ("my_shop/cli.py", "")]));
    let copies = [
        "COPY --link --chown=7:8 dockerfiles/projects/metadata /app/",
        "COPY --chmod=0755 dockerfiles/projects/bin /opt/venv/bin/",
    ];
    for line in ["RUN uv sync --frozen", "RUN pip install ."] {
        case(installs(line), files).gives(
            &[
                (FAST, &[copies[0], copies[1], "ENV PYTHONPATH=/app"]),
                ("dockerfiles/Dockerfile.fast.dockerignore", &["!dockerfiles/projects"]),
                ("images.toml", &["installed = [\"pyproject.toml\"]"]),
                ("dockerfiles/projects/bin/shop", &["from my_shop.cli import main"]),
                ("dockerfiles/projects/metadata/my_shop-2.dist-info/METADATA", &["Version: 2"]),
            ],
            if line.contains("uv") {
                &["changed 0 PYTHONPATH"]
            } else {
                &["changed 0 PYTHONPATH", "changed 0 pip install ."]
            },
        );
    }
    let not = installs("RUN uv sync --frozen --no-install-project");
    case(not, files).gives(
        &[
            (FAST, &["!COPY --chmod=0755 dockerfiles/projects/bin /opt/venv/bin/"]),
            ("images.toml", &["![\"pyproject.toml\"]"]),
        ],
        &["changed 0 PYTHONPATH"],
    );
    let unknown: &[(&str, &str)] = Box::leak(Box::new([
        ("pyproject.toml", "[project]\nname = \"my-shop\"\ndynamic = [\"version\"]\n[build-system]\n"),
        ("uv.lock", ""),
        ("my_shop/cli.py", ""),
    ]));
    case(installs("RUN uv sync --frozen"), unknown)
        .gives(&[], &["changed 0 PYTHONPATH", "changed 0 install pyproject.toml"]);
}

#[test]
fn an_archive_that_no_command_is_known_to_make_is_the_project() {
    let text = "FROM python:3.12-slim AS b\nCOPY . /src\nRUN cd /src && python setup.py sdist\nFROM python:3.12-slim\n\
                COPY --from=b /src/dist/*.tar.gz /tmp/\nRUN pip install /tmp/*.tar.gz\nCOPY main.py /app/\n";
    let old = case(text, &[("setup.py", ""), ("main.py", "")]).adopt();
    assert!(old.missing().any(|note| note.reason.contains("only a build of the project knows")), "{:#?}", old.notes);
    let text = "FROM python:3.12-slim AS b\nCOPY . /src\nRUN uv build\nFROM python:3.12-slim\nCOPY --from=b /dist /dist\n\
                RUN pip install /dist/*.whl\nCOPY src /app/src\n";
    let project = "[project]\nname = \"a\"\nversion = \"1\"\n[build-system]\n";
    let files: &[(&str, &str)] = Box::leak(Box::new([("pyproject.toml", project), ("src/a/__init__.py", "")]));
    case(text, files).gives(
        &[("images.toml", &["requirements = \"pyproject.toml\"", "installed = [\"pyproject.toml\"]"])],
        &["changed 0 PYTHONPATH", "changed 0 pip install ."],
    );
}

#[test]
fn code_that_only_an_installation_brings_is_copied_or_missing() {
    let project = "[project]\nname = \"shop\"\nversion = \"1\"\n[build-system]\n";
    let text = "FROM python:3.12-slim AS b\nWORKDIR /app\nCOPY . .\nRUN uv sync --frozen --no-editable\nFROM python:3.12-slim\n\
                COPY --from=b /app/.venv /app/.venv\nWORKDIR /app\nRUN apt-get update && apt-get install -y curl\n\
                RUN mkdir -p /config/store && chmod 1777 /config\n";
    let files: &[(&str, &str)] =
        Box::leak(Box::new([("pyproject.toml", project), ("uv.lock", ""), ("shop/__init__.py", "")]));
    case(text, files).gives(
        &[(
            FAST,
            &[
                "COPY --link shop /app/shop",
                "COPY --link dockerfiles/projects/metadata /app/",
                "COPY --link --from=folders /config/store /config/store",
                "COPY --link --from=folders --chmod=1777 /0/ /",
                "ENV PYTHONPATH=/app",
            ],
        )],
        // Without a health check nobody knows what curl is for.
        &["changed 0 PYTHONPATH", "changed 0 install pyproject.toml", "changed 8 install curl"],
    );
    let text = "FROM python:3.12-slim AS b\nWORKDIR /app\nCOPY . .\nRUN make translations\nRUN uv sync --frozen --no-editable\n\
                FROM python:3.12-slim\nCOPY --from=b /app/.venv /app/.venv\n";
    let made = case(text, files).adopt();
    assert!(made.missing().any(|note| note.reason.contains("no line copies it")), "{:#?}", made.notes);
}

#[test]
fn compilers_are_named_where_a_package_has_no_wheel() {
    let text = "\
FROM python:3.13-slim AS builder
RUN apt-get update && apt-get install -y --no-install-recommends gcc libpq-dev=15.* python3-dev
RUN python -m venv /opt/venv && /opt/venv/bin/pip install -r requirements.txt
FROM python:3.13-slim
RUN apt-get update && apt-get install -y libpq5 g++
COPY --from=builder /opt/venv /opt/venv
COPY a.py /
USER 1000
";
    let wheels = case(text, &[("requirements.txt", "psycopg2"), ("a.py", "")]);
    wheels.gives(
        &[(
            "images.toml",
            &["SYSTEM_PACKAGES = \"libpq5\"", "!BUILD_PACKAGES = \"g++ gcc libc6-dev libpq-dev python3-dev\""],
        )],
        &["changed 5 install g++", "changed 5 install libpq5"],
    );
    Case { compiles: true, ..wheels }.gives(
        &[("images.toml", &["BUILD_PACKAGES = \"g++ gcc libc6-dev libpq-dev python3-dev\""])],
        &["changed 5 install g++", "changed 5 install libpq5"],
    );
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
    assert!(is_for_development("examples/ros/Dockerfile") && !is_for_development("device/Dockerfile"));
}

#[test]
fn apps_of_one_project_share_its_metadata() {
    let project =
        "[project]\nname = \"shop\"\nversion = \"2\"\n[project.scripts]\nshop = \"shop.cli:main\"\n[build-system]\n";
    let text = "FROM python:3.13-slim\nWORKDIR /app\nCOPY pyproject.toml uv.lock ./\nRUN uv sync --frozen\nCOPY shop /app/shop\n";
    let files: &[(&str, &str)] =
        Box::leak(Box::new([("pyproject.toml", project), ("uv.lock", ""), ("shop/cli.py", "")]));
    let adoptions = case(text, files).adopt_as(&[Some("web"), Some("worker")]);
    let all: Vec<&NewFile> = adoptions.iter().flat_map(|adoption| &adoption.files).collect();
    let texts: std::collections::BTreeMap<&str, &str> =
        all.iter().map(|file| (file.path.as_str(), file.text.as_str())).collect();
    assert_eq!(texts.len(), all.len(), "a file is written twice");
    assert!(texts.contains_key("dockerfiles/projects/metadata/shop-2.dist-info/METADATA"));
    assert_eq!(texts["images.toml"].matches("installed = [\"pyproject.toml\"]").count(), 1);
    for app in ["web", "worker"] {
        let dockerfile = texts[format!("dockerfiles/Dockerfile.{app}").as_str()];
        assert!(dockerfile.contains("COPY --chmod=0755 dockerfiles/projects/bin /opt/venv/bin/"), "{dockerfile}");
        let ignore = texts[format!("dockerfiles/Dockerfile.{app}.dockerignore").as_str()];
        assert!(ignore.contains("!dockerfiles/projects\n"), "{ignore}");
    }
}

#[test]
fn one_of_several_apps_keeps_its_context() {
    let text = "FROM python:3.13-slim\nWORKDIR /code\nCOPY ./requirements.txt /code/\nRUN pip install -r /code/requirements.txt\nCOPY . /code\n";
    let files =
        &[("backend/requirements.txt", ""), ("backend/app/main.py", ""), ("backend/run.sh", ""), ("other.py", "")];
    let nested = Case { context: "backend", ..case(text, files) };
    let adoptions = nested.adopt_as(&[Some("api"), Some("worker")]);
    let texts: std::collections::BTreeMap<&str, &str> = adoptions
        .iter()
        .flat_map(|adoption| &adoption.files)
        .map(|file| (file.path.as_str(), file.text.as_str()))
        .collect();
    assert_eq!(texts["images.toml"].matches("context = \"backend\"\n").count(), 2, "{}", texts["images.toml"]);
    let dockerfile = texts["dockerfiles/Dockerfile.api"];
    assert!(dockerfile.contains("COPY --link . /code"), "{dockerfile}");
    let ignore = texts["dockerfiles/Dockerfile.api.dockerignore"];
    assert!(ignore.contains("!app\n") && ignore.contains("!run.sh\n") && !ignore.contains("other"), "{ignore}");
    // The base has the repository as its context.
    let base = texts["dockerfiles/Dockerfile.base"];
    assert!(base.contains("COPY backend/requirements.lock ./"), "{base}");
}

#[test]
fn a_project_of_setuptools_is_installed_as_it_says_itself() {
    let text = "FROM python:3.14-slim AS builder\nCOPY . /tmp/source\nRUN mkdir -p /opt/shop && cd /tmp/source && pip install wheel && python setup.py sdist bdist_wheel\n\
                FROM python:3.14-slim\nCOPY --from=builder /tmp/source/dist/*.tar.gz /tmp/\n\
                RUN apt update && apt -y install jq gcc && pip install /tmp/*.tar.gz && rm -rf /tmp/* && apt -y remove gcc && mkdir -p /opt/shop\n\
                WORKDIR /opt/shop\nENTRYPOINT [\"shop\"]\n";
    let setup = "from setuptools import setup, find_packages\nsetup(name='shop2', version='1.0', packages=find_packages(exclude=['tests']),\n\
                 entry_points={'console_scripts': ['shop=shop.cli:main']}, install_requires=['flask>=3'])\n";
    let files: &[(&str, &str)] = Box::leak(Box::new([
        ("setup.py", setup),
        ("shop/__init__.py", ""),
        ("shop/cli.py", ""),
        ("tests/__init__.py", ""),
    ]));
    let policy = ["requirements = \"setup.py\"", "lock = \"requirements.lock\"", "installed = [\"setup.py\"]"];
    case(text, files).gives(
        &[
            ("images.toml", &policy),
            (FAST, &["COPY --link shop /opt/shop/shop", "ENV PYTHONPATH=/opt/shop", "ENTRYPOINT [\"shop\"]"]),
            ("dockerfiles/projects/bin/shop", &["from shop.cli import main"]),
        ],
        &[
            "changed 0 PYTHONPATH",
            "changed 0 install setup.py",
            "changed 0 pip install .",
            "changed 6 install gcc",
            "changed 6 install jq",
        ],
    );
}

#[test]
fn a_project_besides_its_requirements_is_installed_too() {
    let project =
        "[project]\nname = \"shop\"\nversion = \"1\"\n[project.scripts]\nshop = \"shop:main\"\n[build-system]\n";
    let files: &[(&str, &str)] = Box::leak(Box::new([
        ("pyproject.toml", project),
        ("requirements.txt", "flask"),
        ("all.txt", "-e .\nflask\n"),
        ("shop/__init__.py", ""),
    ]));
    for (install, requirements, note) in [
        ("pip install -r requirements.txt .", "requirements = \"requirements.txt\"", Some("changed 0 pip install .")),
        ("pip install -r all.txt", "requirements = \"all.txt\"", None),
    ] {
        let text = format!("FROM python:3.13-slim\nWORKDIR /srv\nCOPY . .\nRUN {install}\nCMD [\"shop\"]\n").leak();
        let notes: Vec<&str> = ["changed 0 PYTHONPATH"].into_iter().chain(note).collect();
        case(text, files).gives(
            &[
                ("images.toml", &[requirements, "installed = [\"pyproject.toml\"]"]),
                (FAST, &["ENV PYTHONPATH=/srv", "COPY --chmod=0755 dockerfiles/projects/bin /opt/venv/bin/"]),
            ],
            &notes,
        );
    }
    let dynamic = "[project]\nname = \"shop\"\nversion = \"1\"\ndynamic = [\"dependencies\"]\n[build-system]\n\
                   [tool.setuptools.dynamic]\ndependencies = { file = [\"requirements.txt\"] }\n";
    let files: &[(&str, &str)] =
        Box::leak(Box::new([("pyproject.toml", dynamic), ("requirements.txt", "flask"), ("shop/__init__.py", "")]));
    let text = "FROM python:3.13-slim\nWORKDIR /srv\nCOPY . .\nRUN pip install .\n";
    case(text, files).gives(
        &[("images.toml", &["requirements = \"requirements.txt\""])],
        &["changed 0 PYTHONPATH", "changed 0 pip install ."],
    );
}

#[test]
fn conditions_and_loops_over_known_values_are_followed() {
    let text = "\
FROM python:3.13-slim
ARG TARGETPLATFORM
RUN pip install -r requirements.txt
RUN pip install playwright==1.56.0 || echo \"it is optional\"
RUN case \"$TARGETPLATFORM\" in linux/arm/v7) echo no ;; *) pip install opencv || echo failed ;; esac
RUN [ ! -d /data ] && mkdir /data
ARG NIGHTLY=0
RUN set -ex && DEPS=\" libpq5 zlib1g \" && apt-get update && apt-get install -y $DEPS && if [ \"$NIGHTLY\" = 1 ]; then sed -i x y; fi
COPY main.py /app/
";
    case(text, &[("requirements.txt", "flask"), ("main.py", "")]).gives(
        &[
            ("requirements-image.txt", &["-r requirements.txt", "playwright==1.56.0", "opencv"]),
            ("images.toml", &["SYSTEM_PACKAGES = \"libpq5 zlib1g\"", "engine = \"native\""]),
            (FAST, &["COPY --link --from=folders /data /data"]),
        ],
        &[
            "changed 4 pip install playwright==1.56.0",
            "changed 5 $TARGETPLATFORM",
            "changed 5 pip install opencv",
            "changed 8 $NIGHTLY",
            "changed 8 install libpq5 zlib1g",
        ],
    );
    let text = "\
FROM python:3.13-slim
WORKDIR /app
COPY pyproject.toml uv.lock ./
ARG OPTIONS=\"--frozen --no-install-project\"
ARG GROUPS=main,web,jobs
RUN <<EOF
  flags=\"\"
  for group in $(echo \"$GROUPS\" | tr ',' ' '); do
    if [ \"$group\" != \"main\" ]; then
      flags=\"$flags --group $group\"
    fi
  done
  uv sync $OPTIONS $flags
EOF
COPY main.py /app/
";
    case(text, &[("uv.lock", ""), ("pyproject.toml", ""), ("main.py", "")])
        .gives(&[("images.toml", &["lock = \"uv.lock\"", "groups = [\"web\", \"jobs\"]"])], &["changed 6 $GROUPS"]);
}

#[test]
fn packages_of_another_repository_stay_in_their_command() {
    let text = "\
FROM python:3.13-slim
RUN apt-get update && apt-get install -y curl
RUN curl https://example.com/list > /etc/apt/sources.list.d/x.list && apt-get update && apt-get install -y driver
RUN apt-get install -y tool && pip install flask
COPY main.py /app/
";
    let adoption = case(text, &[("main.py", "")]).adopt();
    let text = |path: &str| &adoption.files.iter().find(|file| file.path == path).unwrap().text;
    assert!(text("images.toml").contains("SYSTEM_PACKAGES = \"curl\""), "{}", text("images.toml"));
    assert!(text(BASE).contains("apt-get install -y driver"), "{}", text(BASE));
    let missing: Vec<&str> = adoption.missing().map(|note| note.what.as_str()).collect();
    assert_eq!(missing, ["Dockerfile", "RUN apt-get install -y tool && pip install flask"]);
}

#[test]
fn a_kept_command_names_the_new_environment() {
    let text = "FROM python:3.13-slim\nRUN python -m venv /opt/shop && /opt/shop/bin/pip install flask && patch-it /opt/shop/bin/flask\nCOPY main.py /app/\n";
    case(text, &[("main.py", "")])
        .gives(&[(BASE, &["RUN patch-it /opt/venv/bin/flask"])], &["docker 2 RUN patch-it /opt/shop/bin/flask"]);
}

#[test]
fn links_to_programs_and_the_removal_of_archives_need_no_program() {
    let text = "\
FROM python:3.13-slim AS build
COPY . /src
WORKDIR /src
RUN python -m pip wheel -w dist -r requirements.txt
FROM python:3.13-slim
COPY --from=build /src/dist /src/dist
RUN python -m venv /opt/shop && /opt/shop/bin/pip install /src/dist/*.whl && ln -s /opt/shop/bin/flask /usr/bin/flask && rm -rf /src ~/.cache
COPY main.py /app/
ENTRYPOINT [\"/opt/shop/bin/flask\"]
";
    case(text, &[("requirements.txt", "flask"), ("main.py", "")]).gives(
        &[("images.toml", &["engine = \"native\""]), (FAST, &["ENTRYPOINT [\"/opt/venv/bin/flask\"]"])],
        &["changed 7 ln -s /opt/shop/bin/flask /usr/bin/flask"],
    );
    let text = "FROM python:3.13-slim\nRUN pip install flask\nCOPY main.py /app/\nRUN rm -rf /app/main.py && ln -s /app/x /usr/bin/x\n";
    case(text, &[("main.py", "")]).gives(&[], &["docker 4 RUN rm -rf /app/main.py && ln -s /app/x /usr/bin/x"]);
}

#[test]
fn a_name_without_a_version_is_one_that_is_known() {
    let text = "FROM python:alpine\nRUN apk add --no-cache ca-certificates && update-ca-certificates\nRUN pip install flower\nUSER 1000\n";
    let policy = ["image = \"docker.io/library/python:3.13-slim\"", "python = \"3.13\"", "fallback = \"debian\""];
    case(text, &[])
        .gives(&[("images.toml", &policy)], &["changed 1 FROM python:alpine", "changed 1 FROM python:alpine"]);
}
