//! The pages: what they show, and how a template is rendered.
//!
//! Templates are read at every request, so an edit shows on the next one and a broken one breaks only the page.

pub mod forecast;
pub mod list;
pub mod simulation;
pub mod workload;

use crate::readiness::Leadership;
use crate::state::{Health, ScalerName};
use autoscaler_forecast::protocol::Hello;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, path_loader};
use serde::Serialize;
use std::path::Path;

/// Input of the error template.
#[derive(Debug, Serialize)]
pub struct ErrorPage {
    pub about: About,
    /// Error message.
    pub message: String,
    pub causes: Vec<String>,
    /// Next step for the user.
    pub hint: Option<String>,
}

/// Versions of the running program.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    pub version: &'static str,
    /// The source's revision, when the environment gave one.
    pub revision: Option<String>,
    /// Version of the worker's Python.
    pub python: Option<String>,
    /// Names and versions of the worker's packages.
    pub packages: Vec<(String, String)>,
}

impl About {
    /// Returns the versions, as far as they are known.
    pub fn new(revision: Option<&str>, hello: Option<&Hello>) -> About {
        About {
            version: env!("CARGO_PKG_VERSION"),
            revision: revision.map(str::to_owned),
            python: hello.map(|hello| hello.python.clone()),
            packages: hello.map(|hello| hello.packages.clone().into_iter().collect()).unwrap_or_default(),
        }
    }
}

/// Something to know before reading on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// True if someone should act on it.
    pub poor: bool,
    pub text: String,
}

impl Notice {
    /// Returns notices on the leader and on the state, for the top of a page.
    pub fn of(leader: &Leadership, health: &Health) -> Vec<Notice> {
        let mut notices = Vec::new();
        if let Leadership::Follows(leader) = leader {
            notices.push(Notice {
                poor: false,
                text: format!(
                    "This replica is on standby; `{leader}` decides. This page may be older than the pages of that replica."
                ),
            });
        }
        match health {
            Health::Kept | Health::InMemory(None) => {}
            Health::InMemory(Some(cause)) => notices.push(Notice {
                poor: true,
                text: format!("The state is in memory only and is lost when the process ends: {cause}."),
            }),
            Health::Unwritten(cause) => notices.push(Notice {
                poor: true,
                text: format!("The state cannot be written, so this page may be out of date: {cause}."),
            }),
        }
        notices
    }
}

/// A text as it is written in a URL.
fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The path of a scaler's page.
pub fn path(name: &ScalerName) -> String {
    format!("/scalers/{}/{}", encoded(&name.namespace), encoded(&name.name))
}

/// Reason that a template could not be rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenTemplate {
    /// `file:line`, as far as it is known.
    pub place: String,
    pub cause: String,
}

/// Renders a template of a folder, as both are now.
pub fn render(folder: &Path, name: &str, page: &impl Serialize) -> Result<String, BrokenTemplate> {
    let environment = environment(folder);
    let rendered = environment.get_template(name).and_then(|template| template.render(Serde(page)));
    rendered.map_err(|error| broken(folder, name, &error))
}

/// Checks that a template exists and can be parsed; not that its variables exist.
pub fn parses(folder: &Path, name: &str) -> Result<(), BrokenTemplate> {
    environment(folder).get_template(name).map(|_| ()).map_err(|error| broken(folder, name, &error))
}

fn environment(folder: &Path) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_loader(path_loader(folder));
    // A misspelt name is an error, not an empty place on the page.
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // The style sheet is a template too, of text that is ours.
    environment.set_auto_escape_callback(
        |name| {
            if name.ends_with(".css") { AutoEscape::None } else { AutoEscape::Html }
        },
    );
    environment
}

fn broken(folder: &Path, name: &str, error: &minijinja::Error) -> BrokenTemplate {
    let file = folder.join(error.name().unwrap_or(name));
    let place = match error.line() {
        Some(line) => format!("{}:{line}", file.display()),
        None => file.display().to_string(),
    };
    let mut cause = match (error.kind(), error.detail()) {
        // Without a line it is the page's own template, which the place names.
        (ErrorKind::TemplateNotFound, _) if error.line().is_none() => "no such template".to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    let mut deeper = std::error::Error::source(error);
    while let Some(source) = deeper {
        cause = format!("{cause}: {source}");
        deeper = source.source();
    }
    BrokenTemplate { place, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Name {
        name: &'static str,
    }

    #[track_caller]
    fn broken(text: &str, line: &str, cause: &str) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.html"), text).unwrap();
        let error = render(folder.path(), "a.html", &Name { name: "a" }).unwrap_err();
        assert!(error.place.ends_with(line), "{error:?}");
        assert!(error.cause.contains(cause), "{error:?}");
    }

    #[test]
    fn a_broken_template_says_where() {
        broken("fine\n{% if %}", "a.html:2", "syntax error");
        broken("\n\n{{ nmae }}", "a.html:3", "undefined value");
        broken("{% include 'b.html' %}", "a.html:1", "b.html");
    }

    #[test]
    fn a_missing_template_says_which() {
        let error = render(Path::new("/nowhere"), "a.html", &Name { name: "a" }).unwrap_err();
        assert_eq!((error.place.as_str(), error.cause.as_str()), ("/nowhere/a.html", "no such template"));
    }

    #[test]
    fn the_error_page_renders() {
        let about = About::new(None, None);
        let error = ErrorPage { about, message: "cannot <b>".into(), causes: vec!["why".into()], hint: None };
        let html = render(&tests_support::ours(), "error.html", &error).unwrap();
        assert!(html.contains("why") && html.contains("cannot &lt;b&gt;"), "{html}");
    }

    #[test]
    fn what_is_in_a_path_stays_in_it() {
        assert_eq!(path(&ScalerName::new("shop", "web-1.x")), "/scalers/shop/web-1.x");
        assert_eq!(path(&ScalerName::new("a/b", "\"><é")), "/scalers/a%2Fb/%22%3E%3C%C3%A9");
    }

    #[test]
    fn a_state_that_is_not_kept_is_said() {
        assert!(Notice::of(&Leadership::Leads, &Health::Kept).is_empty());
        let notices = Notice::of(&Leadership::Follows("pod-1".into()), &Health::Unwritten("disk full".into()));
        assert!(notices[0].text.contains("`pod-1` decides") && notices[1].text.contains("disk full"));
    }
}

#[cfg(test)]
pub(crate) mod tests_support {
    use std::path::{Path, PathBuf};

    pub(crate) fn ours() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates")
    }
}
