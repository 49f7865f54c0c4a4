//! Every way in which uv finds an index when it resolves is known to both engines when they install.

use super::*;
use crate::spec::project::{Project, Selection};
use crate::spec::requirements as pip_files;

#[derive(Default)]
struct World {
    requirements: &'static str,
    variables: &'static [(&'static str, &'static str)],
    files: &'static [(&'static str, &'static str)],
}

impl World {
    fn gather(&self) -> Result<Indexes, Fault> {
        let requirements = pip_files::read(Path::new("r.txt"), &mut |_| Ok(self.requirements.to_owned())).unwrap();
        let variable =
            |name: &str| self.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let mut load = |path: &Path| {
            self.files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).to_owned())
        };
        Indexes::gather(Path::new("/repository"), &requirements, &variable, &mut load)
    }
}

#[track_caller]
fn check(world: &World, native: &[(&str, &str)], docker: &[(&str, &str)]) {
    let found = world.gather().unwrap_or_else(|fault| panic!("{fault}"));
    let shown = |map: BTreeMap<&'static str, String>| -> Vec<String> {
        map.into_iter().map(|(name, value)| format!("{name} {value}")).collect()
    };
    let wanted =
        |list: &[(&str, &str)]| -> Vec<String> { list.iter().map(|(name, value)| format!("{name} {value}")).collect() };
    assert_eq!(shown(found.for_uv()), wanted(native));
    assert_eq!(shown(found.secrets()), wanted(docker));
}

#[test]
fn a_machine_that_knows_nothing_names_nothing() {
    check(&World::default(), &[], &[]);
}

#[test]
fn an_extra_index_of_the_requirements_reaches_both_engines() {
    check(
        &World { requirements: "--extra-index-url https://x/cpu/\ntorchy", ..World::default() },
        &[("UV_INDEX", "https://x/cpu/")],
        &[("extra-index-url", "https://x/cpu/")],
    );
}

#[test]
fn credentials_of_the_environment_are_put_in() {
    let world = World {
        requirements: "--index-url https://${USER}:${TOKEN}@x/simple\ntorchy",
        variables: &[("USER", "me"), ("TOKEN", "word"), ("PIP_INDEX_URL", "https://pip/simple")],
        ..World::default()
    };
    // The installer is not on the index of the requirements; the machine's has it.
    check(
        &world,
        &[("UV_DEFAULT_INDEX", "https://me:word@x/simple")],
        &[("extra-index-url", "https://me:word@x/simple"), ("index-url", "https://pip/simple")],
    );
    let fault = World { variables: &[("USER", "me")], ..world }.gather().err().unwrap();
    assert_eq!(fault.what, "the environment has no value for `TOKEN`");
    assert!(fault.needed_by.unwrap().contains("https://***@x/simple"));
}

#[test]
fn a_configuration_of_uv_in_the_repository_reaches_both_engines() {
    let pyproject = "[[tool.uv.index]]\nname = 'cpu'\nurl = 'https://x/cpu'\n[[tool.uv.index]]\nurl = 'https://d'\n\
                     default = true\n[[tool.uv.index]]\nurl = 'https://only'\nexplicit = true\n[tool.uv.pip]\n\
                     extra-index-url = ['https://e']\nfind-links = ['https://l', 'wheels']\n";
    let files = Box::leak(Box::new([("/repository/pyproject.toml", &*pyproject.to_owned().leak())]));
    check(
        &World {
            files,
            variables: &[("UV_INDEX_CPU_USERNAME", "me"), ("UV_INDEX_CPU_PASSWORD", "w/rd")],
            ..World::default()
        },
        &[
            ("UV_DEFAULT_INDEX", "https://d"),
            ("UV_FIND_LINKS", "https://l,/repository/wheels"),
            ("UV_INDEX", "https://e https://me:w%2Frd@x/cpu"),
        ],
        &[("extra-index-url", "https://e https://me:w%2Frd@x/cpu https://d"), ("find-links", "https://l")],
    );
}

#[test]
fn an_explicit_index_that_a_project_takes_a_package_from_reaches_both_engines() {
    let text = "[project]\nname = 'p'\ndependencies = ['torchy', 'numpy']\n[[tool.uv.index]]\nname = 'cpu'\n\
                url = 'https://x/cpu'\nexplicit = true\n[[tool.uv.index]]\nname = 'other'\nurl = 'https://o'\n\
                explicit = true\n[[tool.uv.index]]\nname = 'flat'\nurl = 'wheels'\nformat = 'flat'\nexplicit = true\n[tool.uv.sources]\n\
                torchy = [{ index = 'cpu', marker = \"sys_platform == 'linux'\" }]\nnumpy = { index = 'flat' }\n";
    let project = Project::parse(Path::new("pyproject.toml"), text).unwrap();
    let requirements = project.requirements(&Selection::default()).unwrap();
    let variable = |name: &str| match name {
        "UV_INDEX_CPU_USERNAME" => Some("me".to_owned()),
        "UV_INDEX_CPU_PASSWORD" => Some("word".to_owned()),
        _ => None,
    };
    let mut load = |path: &Path| (path == Path::new("/repository/pyproject.toml")).then(|| text.to_owned());
    let found = Indexes::gather(Path::new("/repository"), &requirements, &variable, &mut load).unwrap();
    let (url, strategy) = ("https://me:word@x/cpu".to_owned(), "unsafe-best-match".to_owned());
    let native = [
        ("UV_FIND_LINKS", "/repository/wheels".to_owned()),
        ("UV_INDEX", url.clone()),
        ("UV_INDEX_STRATEGY", strategy.clone()),
    ];
    assert_eq!(found.for_uv(), BTreeMap::from(native));
    let docker = [("extra-index-url", url), ("index-strategy", strategy)];
    assert_eq!(found.secrets(), BTreeMap::from(docker));
}

#[test]
fn files_of_the_user_and_variables_count_too() {
    check(
        &World {
            requirements: "--extra-index-url https://r\n--index-url https://late\n--find-links https://l\na",
            variables: &[
                ("HOME", "/h"),
                ("UV_INDEX", "own=https://own https://two"),
                ("UV_DEFAULT_INDEX", "https://d"),
            ],
            files: &[(
                "/h/.config/uv/uv.toml",
                "index-strategy = 'x'\nextra-index-url = ['https://user', 'https://r']\n",
            )],
        },
        &[
            ("UV_DEFAULT_INDEX", "https://d"),
            ("UV_FIND_LINKS", "https://l"),
            ("UV_INDEX", "https://own https://two https://user https://r"),
            ("UV_INDEX_STRATEGY", "x"),
        ],
        &[
            ("extra-index-url", "https://own https://two https://user https://r"),
            ("find-links", "https://l"),
            ("index-strategy", "x"),
            ("index-url", "https://d"),
        ],
    );
    check(
        &World {
            variables: &[("PIP_EXTRA_INDEX_URL", "https://a https://b"), ("PIP_INDEX_URL", "https://p")],
            ..World::default()
        },
        &[("UV_DEFAULT_INDEX", "https://p"), ("UV_INDEX", "https://a https://b")],
        &[("extra-index-url", "https://a https://b"), ("index-url", "https://p")],
    );
    check(
        &World {
            variables: &[("UV_NO_CONFIG", "1")],
            files: &[("/repository/uv.toml", "index-url = 'https://x'\n")],
            ..World::default()
        },
        &[],
        &[],
    );
}

#[test]
fn a_file_behind_a_password_is_asked_for_with_it() {
    let world = World {
        requirements: "a @ https://${USER}:${TOKEN}@h:8/a-1-py3-none-any.whl\nb @ https://h/b-1.zip",
        variables: &[("USER", "me"), ("TOKEN", "w%2Frd")],
        ..World::default()
    };
    let found = world.gather().unwrap_or_else(|fault| panic!("{fault}"));
    let asked = "https://me:w%2Frd@h:8/a-1-py3-none-any.whl";
    assert_eq!(found.url("https://h:8/a-1-py3-none-any.whl"), asked);
    assert_eq!(found.url("https://h/b-1.zip"), "https://h/b-1.zip");
    assert_eq!(found.netrc(), "machine h login me password w/rd\n");
}
