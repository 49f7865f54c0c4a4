//! Effects of the commands in a `RUN`, where they are known.
//!
//! Pure. Everything that is not recognised is [`CommandEffect::Other`]: it is kept for docker, and never guessed.

use super::accounts;
use super::effect::CommandEffect;
use super::shell::Simple;
use super::{Input, LockFile};

/// Home of the user that runs commands by default.
pub(super) const HOME: &str = "/root";

/// Tools that install packages; an image has no use for them.
const INSTALLERS: [&str; 9] =
    ["pip", "setuptools", "wheel", "uv", "poetry", "pipenv", "poetry-plugin-export", "virtualenv", "build"];

pub(super) fn effect(one: &Simple, workdir: &str) -> CommandEffect {
    let installs_tool = one.text.contains("astral.sh/uv") || one.text.contains("install.python-poetry.org");
    if installs_tool && one.text.contains('|') {
        return CommandEffect::Nothing;
    }
    let words: Vec<&str> = one.words.iter().map(String::as_str).collect();
    if let Some(effect) = python(&words, workdir) {
        return effect;
    }
    match one.program() {
        "apt-get" | "apt" | "aptitude" | "apk" => packages(one),
        "yum" | "dnf" | "microdnf" => {
            CommandEffect::Unknown("the root has Debian packages", "name Debian's packages: `--system-package NAME`")
        }
        "conda" | "mamba" | "micromamba" => CommandEffect::Unknown(
            "packages of conda are not wheels",
            "list them in a requirements file with their names on PyPI",
        ),
        // `set` and `export` are for the commands after them in the same shell.
        "set" | "export" | "cd" | "ldconfig" | "which" => CommandEffect::Nothing,
        // What it sets is for the commands after it, and the environment is on `PATH`.
        "." | "source" if one.args().len() == 1 && one.args()[0].ends_with("/bin/activate") => CommandEffect::Nothing,
        "echo" | "printf" if !one.text.contains(['>', '|']) => CommandEffect::Nothing,
        "rm" if one.args().iter().filter(|arg| !arg.starts_with('-')).all(|path| is_cache(path)) => {
            CommandEffect::Nothing
        }
        "truncate" if one.args().iter().rfind(|arg| arg.starts_with('/')).is_some_and(|path| is_cache(path)) => {
            CommandEffect::Nothing
        }
        "find" if one.text.contains("-delete") && (one.text.contains("pyc") || one.text.contains("__pycache__")) => {
            CommandEffect::Nothing
        }
        _ if !one.plain => CommandEffect::Other,
        "useradd" | "adduser" => accounts::user(one),
        "groupadd" | "addgroup" => accounts::group(one),
        "mkdir"
            if one
                .args()
                .iter()
                .any(|arg| arg.starts_with('-') && !["-p", "--parents", "-pv"].contains(&arg.as_str())) =>
        {
            CommandEffect::Other
        }
        "mkdir" => CommandEffect::Folders(one.args().iter().filter(|arg| !arg.starts_with('-')).cloned().collect()),
        "chown" | "chmod" => {
            let (options, rest): (Vec<_>, Vec<_>) =
                one.args().iter().cloned().partition(|arg| arg.starts_with('-') && arg.len() > 1);
            let recursive = options.iter().any(|option| option.contains('R') || option == "--recursive");
            match rest.split_first() {
                Some((owner, paths)) if one.program() == "chown" => {
                    CommandEffect::Owner { owner: owner.clone(), recursive, paths: paths.to_vec() }
                }
                Some((mode, paths)) => CommandEffect::Mode { mode: mode.clone(), recursive, paths: paths.to_vec() },
                None => CommandEffect::Other,
            }
        }
        _ => CommandEffect::Other,
    }
}

pub(super) fn is_cache(path: &str) -> bool {
    let places =
        ["/var/lib/apt", "/var/apt", "/var/cache", "/tmp", "/var/tmp", "~/.cache", "/var/log", "/usr/share/doc"];
    places.iter().any(|place| path.starts_with(place))
        || path.contains("/.cache")
        || path.contains("/.npm")
        || path.contains("__pycache__")
}

fn packages(one: &Simple) -> CommandEffect {
    let is_option = |arg: &&String| arg.starts_with('-');
    let verbs = ["install", "add"];
    let Some(at) = one.args().iter().position(|arg| verbs.contains(&arg.as_str())) else {
        return CommandEffect::Nothing;
    };
    let mut names = Vec::new();
    let mut rest = one.args()[at + 1..].iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "-t" | "-o" | "--target-release" | "--virtual" | "--repository" | "-X" => drop(rest.next()),
            _ if is_option(&word) => {}
            name => names.push(name.to_owned()),
        }
    }
    if !names.iter().all(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:=~_*".contains(c))) {
        return CommandEffect::Other;
    }
    CommandEffect::System { manager: if one.program() == "apk" { "apk" } else { "apt" }, names }
}

/// The effect of a Python tool.
fn python(words: &[&str], workdir: &str) -> Option<CommandEffect> {
    let last = |word: &str| word.rsplit('/').next().unwrap_or(word).to_owned();
    let program = last(words.first()?);
    let is_python = program == "python" || program == "python3" || program.starts_with("python3.");
    let absolute = |path: &str| super::paths::absolute(workdir, path);
    Some(match (program.as_str(), words.get(1).copied(), words.get(2).copied()) {
        (_, Some("-m"), Some("pip")) if is_python => pip(words.get(3..)?, workdir),
        (_, Some("-m"), Some("venv" | "virtualenv")) if is_python => {
            let folder = words[3..].iter().rfind(|word| !word.starts_with('-'))?;
            CommandEffect::Environment(absolute(folder))
        }
        (_, Some("-m"), Some("compileall")) if is_python => CommandEffect::Nothing,
        (_, Some("-m"), Some("build")) if is_python => made(workdir),
        (_, Some("setup.py" | "./setup.py"), _) if is_python => match words.get(2..)? {
            verbs if verbs.iter().any(|verb| ["sdist", "bdist", "bdist_wheel"].contains(verb)) => made(workdir),
            verbs if verbs.iter().any(|verb| ["install", "develop"].contains(verb)) => {
                CommandEffect::Python(Input { names: vec![".".to_owned()], ..Input::default() })
            }
            _ => return None,
        },
        (_, Some("--version" | "-V"), None) => CommandEffect::Nothing,
        ("virtualenv", Some(_), _) => {
            CommandEffect::Environment(absolute(words[1..].iter().rfind(|word| !word.starts_with('-'))?))
        }
        ("uv", Some("pip"), _) => pip(words.get(2..)?, workdir),
        ("uv", Some("venv"), folder) => {
            CommandEffect::Environment(absolute(folder.filter(|word| !word.starts_with('-')).unwrap_or(".venv")))
        }
        ("uv", Some("sync"), _) => CommandEffect::Python(synced(LockFile::Uv, &words[2..])),
        ("uv", Some("export"), _) | ("poetry", Some("export"), _) | ("pipenv", Some("requirements" | "lock"), _) => {
            let lock = match program.as_str() {
                "uv" => LockFile::Uv,
                "poetry" => LockFile::Poetry,
                _ => LockFile::Pipenv,
            };
            CommandEffect::Python(locked(lock, &words[2..]))
        }
        ("poetry", Some("install" | "sync"), _) => CommandEffect::Python(synced(LockFile::Poetry, &words[2..])),
        ("pipenv", Some("install" | "sync"), _) => CommandEffect::Python(locked(LockFile::Pipenv, &words[2..])),
        ("pdm", Some("install" | "sync"), _) => {
            CommandEffect::Unknown("`pdm.lock` cannot be read", "export it: `pdm export --prod -o requirements.txt`")
        }
        ("uv" | "poetry" | "pipenv", Some("config" | "cache" | "lock" | "self" | "check" | "env" | "python"), _) => {
            CommandEffect::Nothing
        }
        ("uv", Some("build"), _) => made(workdir),
        ("pipx", _, _) => CommandEffect::Nothing,
        (pip_like, ..) if pip_like == "pip" || pip_like.starts_with("pip3") || pip_like.starts_with("pip2") => {
            pip(&words[1..], workdir)
        }
        _ => return None,
    })
}

/// The project's own archives, which a later command installs.
fn made(workdir: &str) -> CommandEffect {
    let (names, wheels) = (vec![".".to_owned()], Some(super::paths::absolute(workdir, "dist")));
    CommandEffect::Python(Input { names, wheels, ..Input::default() })
}

/// The call of a tool that installs from a lock, and then the project, unless a flag says not to.
fn synced(file: LockFile, words: &[&str]) -> Input {
    let without = ["--no-install-project", "--no-install-workspace", "--no-install-local", "--no-root"];
    let projects = !words.iter().any(|word| without.contains(word));
    Input { projects, ..locked(file, words) }
}

/// The call of a tool that reads a lock.
fn locked(file: LockFile, words: &[&str]) -> Input {
    let mut input = Input { lock: Some(file), ..Input::default() };
    let mut words = words.iter().copied().flat_map(|word| match word.split_once('=') {
        Some((name, value)) if word.starts_with("--") => vec![name, value],
        _ => vec![word],
    });
    let mut list = |words: &mut dyn Iterator<Item = &str>, into: fn(&mut Input) -> &mut Vec<String>| {
        let names: Vec<String> = words
            .next()
            .unwrap_or_default()
            .split([',', ' '])
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        into(&mut input).extend(names);
    };
    let mut dev = false;
    while let Some(word) = words.next() {
        match word {
            "--extra" | "-E" | "--extras" => list(&mut words, |input| &mut input.extras),
            "--group" | "--with" | "--only-group" | "--only" => list(&mut words, |input| &mut input.groups),
            "--package" => list(&mut words, |input| &mut input.packages),
            "--all-extras" => list(&mut ["*"].into_iter(), |input| &mut input.extras),
            "--dev" => dev = true,
            "-o"
            | "--output-file"
            | "--output"
            | "-f"
            | "--format"
            | "--without"
            | "--no-group"
            | "--python"
            | "-p"
            | "--no-install-package" => drop(words.next()),
            _ => {}
        }
    }
    // Poetry's name for packages outside any group.
    input.groups.retain(|group| group != "main");
    if dev {
        input.groups.push("dev".to_owned());
    }
    input
}

fn pip(words: &[&str], workdir: &str) -> CommandEffect {
    let absolute = |path: &str| super::paths::absolute(workdir, path);
    let Some((verb, words)) = words.split_first() else { return CommandEffect::Nothing };
    match *verb {
        "install" | "wheel" | "sync" => {}
        "uninstall" => return CommandEffect::Other,
        "download" => {
            return CommandEffect::Unknown("packages are downloaded by the base's installer", "remove the line");
        }
        _ => return CommandEffect::Nothing,
    }
    let mut input = Input::default();
    let mut written = None;
    let mut words = words.iter().copied().flat_map(|word| match word.split_once('=') {
        Some((name, value)) if word.starts_with("--") => vec![name, value],
        // `-rFILE`
        _ if word.is_char_boundary(2) && ["-r", "-c", "-e", "-i", "-f", "-t", "-w"].contains(&&word[..2]) => {
            let (name, value) = word.split_at(2);
            if value.is_empty() { vec![name] } else { vec![name, value.trim_start_matches('=')] }
        }
        _ => vec![word],
    });
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_default().to_owned();
        match word {
            "-r" | "--requirement" | "--requirements" => input.requirements.push(value()),
            "-c" | "--constraint" | "--constraints" => input.constraints.push(value()),
            "-i" | "--index-url" | "--default-index" => input.options.push(format!("--index-url {}", value())),
            "--extra-index-url" | "--index" => input.options.push(format!("--extra-index-url {}", value())),
            "-f" | "--find-links" => {
                let place = value();
                if place.contains("://") {
                    input.options.push(format!("--find-links {place}"));
                }
            }
            "--no-binary" | "--only-binary" => input.options.push(format!("{word} {}", value())),
            "--pre" => input.options.push("--pre".to_owned()),
            "-w" | "--wheel-dir" => written = Some(absolute(&value())),
            "-t" | "--target" | "--prefix" | "--root" => input.place = Some(absolute(&value())),
            "--user" => input.place = Some(format!("{HOME}/.local")),
            "-e" | "--editable" => input.names.push(value()),
            "--trusted-host" | "--cache-dir" | "--timeout" | "--retries" | "--python" | "-p" | "--link-mode"
            | "--torch-backend" | "--root-user-action" | "--progress-bar" | "--extra" | "--group"
            | "--default-timeout" | "--index-strategy" | "--platform" => drop(value()),
            _ if word.starts_with('-') => {}
            // Wheels of an earlier stage.
            _ if word.contains('*') || word.ends_with(".whl") && !word.contains("://") => input.made = true,
            name if verb == &"sync" => input.requirements.push(name.to_owned()),
            name => input.names.push(name.to_owned()),
        }
    }
    let bare = |name: &String| {
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c)).unwrap_or(name.len());
        INSTALLERS.contains(&name[..end].to_ascii_lowercase().as_str())
    };
    input.names.retain(|name| !bare(name));
    if input.is_empty() && written.is_none() && !input.made {
        return match input.place {
            Some(place) => CommandEffect::Environment(place),
            None => CommandEffect::Nothing,
        };
    }
    input.wheels = written;
    CommandEffect::Python(input)
}

#[cfg(test)]
mod tests {
    use super::super::shell;
    use super::*;

    #[track_caller]
    fn of(text: &str) -> CommandEffect {
        let found = shell::commands(text, &std::collections::BTreeMap::new()).unwrap().all;
        assert_eq!(found.len(), 1, "{text}");
        effect(&found[0], "/app")
    }

    #[test]
    fn installers_give_their_input() {
        let requirements = |text: &str| match of(text) {
            CommandEffect::Python(input) => (input.requirements, input.names, input.options),
            other => panic!("{text}: {other:?}"),
        };
        let one = |name: &str| vec![name.to_owned()];
        for text in [
            "pip install --no-cache-dir -r requirements.txt",
            "pip3 install -r requirements.txt --upgrade pip",
            "python -m pip install --requirement=requirements.txt",
            "uv pip install --system -r requirements.txt",
            "/venv/bin/pip install -U pip wheel -r requirements.txt",
            "pip wheel --wheel-dir /wheels -r requirements.txt",
        ] {
            assert_eq!(requirements(text), (one("requirements.txt"), vec![], vec![]), "{text}");
        }
        let torch = requirements("pip install torch==2.9.0 --index-url https://download.pytorch.org/whl/cpu");
        assert_eq!(torch.1, one("torch==2.9.0"));
        assert_eq!(torch.2, one("--index-url https://download.pytorch.org/whl/cpu"));
        assert_eq!(requirements("pip install -rrequirements.txt -e."), (one("requirements.txt"), one("."), vec![]));
        assert_eq!(of("pip install --upgrade pip setuptools>=70 poetry==1.8.3"), CommandEffect::Nothing);
        for text in ["python setup.py sdist bdist_wheel", "python3 -m build --wheel", "uv build"] {
            let CommandEffect::Python(input) = of(text) else { panic!("{text}") };
            assert_eq!((input.names, input.wheels.as_deref()), (one("."), Some("/app/dist")), "{text}");
        }
        assert_eq!(requirements("python setup.py install").1, one("."));
        assert_eq!(of("python setup.py build_ext"), CommandEffect::Other);
        assert_eq!(of("curl -LsSf https://astral.sh/uv/install.sh | sh"), CommandEffect::Nothing);
        let CommandEffect::Python(uv) = of("uv sync --frozen --no-dev --extra web --group=worker --package api") else {
            panic!("uv sync")
        };
        assert_eq!(
            (uv.lock, uv.extras, uv.groups, uv.packages),
            (Some(LockFile::Uv), one("web"), one("worker"), one("api"))
        );
        let CommandEffect::Python(poetry) = of("poetry install --only main,web --no-root -E pg") else {
            panic!("poetry")
        };
        assert_eq!((poetry.lock, poetry.extras, poetry.groups), (Some(LockFile::Poetry), one("pg"), one("web")));
        assert_eq!(of("python3.12 -m venv /opt/env"), CommandEffect::Environment("/opt/env".to_owned()));
        assert_eq!(of("uv venv"), CommandEffect::Environment("/app/.venv".to_owned()));
    }

    #[test]
    fn system_packages_users_and_folders_are_read() {
        let names = |text: &str| match of(text) {
            CommandEffect::System { names, .. } => names.join(" "),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(
            names("apt-get install -y --no-install-recommends libpq5 curl=8.* -t stable").as_str(),
            "libpq5 curl=8.*"
        );
    }

    #[test]
    fn what_is_not_known_is_other() {
        for text in
            ["npm ci", "python manage.py collectstatic --noinput", "curl -o /x https://example.com/x", "mkdir $A"]
        {
            assert_eq!(of(text), CommandEffect::Other, "{text}");
        }
        for text in ["rm -rf /var/lib/apt/lists/* /tmp/*", "set -eux", "apt-get clean", "pip check", "echo done"] {
            assert_eq!(of(text), CommandEffect::Nothing, "{text}");
        }
        assert!(matches!(of("conda install numpy"), CommandEffect::Unknown(..)));
    }
}
