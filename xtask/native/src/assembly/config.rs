//! The image configuration as each instruction changes it, with its history entries.
//!
//! Pure. `COPY` and the folders of `WORKDIR` are handled elsewhere.

mod duration;
mod ports;

use super::copy::joined;
use duration::Duration;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use xtask_model::spec::dockerfile::{Command, DEFAULT_PATH, Healthcheck, Kind};
use xtask_model::spec::oci::{Config, Execution, History, RootFs};
use xtask_model::spec::reference::Platform;

pub const CREATED: &str = "2026-01-01T00:00:00Z";

const COMMENT: &str = "xtask.native.v1";

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Description {
    pub(super) config: Config,
    /// True if this stage has a `CMD`. If not, `ENTRYPOINT` removes the inherited one.
    said_cmd: bool,
    /// Bytes of history from its instructions and from the stages below.
    pub(super) history_bytes: usize,
}

/// Limit on the history of a stage, in bytes, with the stages below. One `EXPOSE` of all ports needs 800,000.
const HISTORY: usize = 1_000_000;

impl Description {
    pub(super) fn scratch(platform: &Platform) -> Self {
        let config = Config {
            created: None,
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os: platform.os.clone(),
            config: Execution {
                env: vec![format!("PATH={DEFAULT_PATH}")],
                working_dir: "/".to_owned(),
                ..Execution::default()
            },
            rootfs: RootFs::new(Vec::new()),
            history: Vec::new(),
            other: BTreeMap::new(),
        };
        Self { config, said_cmd: false, history_bytes: 0 }
    }

    /// For a stage on an image: keeps what BuildKit keeps.
    pub(super) fn over(image: &Config) -> Self {
        let mut config = image.clone();
        config.rootfs = RootFs::new(Vec::new());
        config.other.retain(|key, _| ["author", "os.version", "os.features"].contains(&key.as_str()));
        let kept = ["Healthcheck", "Shell", "ArgsEscaped"];
        config.config.other.retain(|key, value| kept.contains(&key.as_str()) && !value.is_null());
        if !config.config.env.iter().any(|entry| entry.starts_with("PATH=")) {
            config.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        Self { config, said_cmd: false, history_bytes: 0 }
    }

    /// For a stage on this one. Its triggers have already run.
    pub(super) fn next_stage(&self) -> Self {
        let mut config = self.config.clone();
        config.config.other.remove("OnBuild");
        Self { config, said_cmd: false, history_bytes: self.history_bytes }
    }

    pub(super) fn working_dir(&self) -> &str {
        &self.config.config.working_dir
    }

    /// Applies an instruction that changes only the configuration; `text` is the instruction on one line. Returns false
    /// for any other instruction; the error is one lowercase phrase.
    pub(super) fn apply(&mut self, kind: &Kind, text: &str) -> Result<bool, String> {
        let execution = &mut self.config.config;
        let created_by = match kind {
            // Without the value that was given, which may be private. A trigger's text is its `ONBUILD`.
            Kind::Arg(_) if text.starts_with("ARG ") => text.to_owned(),
            Kind::Arg(pairs) => {
                let names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
                format!("ARG {}", names.join(" "))
            }
            Kind::Env(pairs) => {
                pairs.iter().for_each(|(name, value)| set_env(&mut execution.env, name, value));
                format!("ENV {}", assignments(pairs))
            }
            Kind::Label(pairs) => {
                execution.labels.extend(pairs.iter().cloned());
                format!("LABEL {}", assignments(pairs))
            }
            Kind::User(user) => {
                execution.user.clone_from(user);
                format!("USER {user}")
            }
            Kind::Expose(words) => {
                let ports = ports::exposed(words)?;
                let shown: Vec<String> = ports.iter().map(|port| format!("{port}:{{}}")).collect();
                execution.exposed_ports.extend(ports.into_iter().map(|port| (port, json!({}))));
                format!("EXPOSE map[{}]", shown.join(" "))
            }
            Kind::Volume(paths) => {
                if paths.iter().any(String::is_empty) {
                    return Err("`VOLUME` names an empty path".to_owned());
                }
                execution.volumes.extend(paths.iter().map(|path| (path.clone(), json!({}))));
                format!("VOLUME [{}]", paths.join(" "))
            }
            Kind::Stopsignal(signal) => {
                if !is_signal(signal) {
                    return Err(format!("`{signal}` is not a signal"));
                }
                execution.stop_signal.clone_from(signal);
                format!("STOPSIGNAL {signal}")
            }
            Kind::Shell(words) => {
                execution.other.insert("Shell".to_owned(), json!(words));
                format!("SHELL [{}]", words.join(" "))
            }
            Kind::Healthcheck(check) => {
                let (value, shown) = healthcheck(check.as_ref())?;
                execution.other.insert("Healthcheck".to_owned(), value);
                format!("HEALTHCHECK {shown}")
            }
            Kind::Cmd(command) => {
                let words = command_words(command, execution);
                let shown = format!("CMD {}", quoted(&words));
                execution.cmd = Some(words);
                execution.other.insert("ArgsEscaped".to_owned(), json!(true));
                self.said_cmd = true;
                shown
            }
            Kind::Entrypoint(command) => {
                let words = command_words(command, execution);
                let shown = format!("ENTRYPOINT {}", quoted(&words));
                // An empty list removes the inherited program.
                execution.entrypoint = Some(words).filter(|words| !words.is_empty());
                if !self.said_cmd {
                    execution.cmd = None;
                }
                shown
            }
            Kind::Maintainer(author) => {
                self.config.other.insert("author".to_owned(), json!(author));
                format!("MAINTAINER {author}")
            }
            Kind::Onbuild(_) => {
                let trigger = text.split_once(' ').map_or("", |(_, trigger)| trigger);
                let triggers = execution.other.entry("OnBuild".to_owned()).or_insert_with(|| json!([]));
                if let Value::Array(triggers) = triggers {
                    triggers.push(json!(trigger));
                }
                return Ok(true);
            }
            Kind::Copy(_) | Kind::Add(_) | Kind::Run(_) | Kind::Workdir(_) => return Ok(false),
        };
        self.remember(created_by, false);
        match self.history_bytes {
            0..=HISTORY => Ok(true),
            _ => Err(format!("the history of the image has more than {HISTORY} bytes, the limit of a Dockerfile")),
        }
    }

    pub(super) fn set_working_dir(&mut self, written: &str) -> String {
        let folder = match written.starts_with('/') {
            true => written.to_owned(),
            false => joined(self.working_dir(), written),
        };
        self.config.config.working_dir.clone_from(&folder);
        folder
    }

    pub(super) fn label(&mut self, labels: &BTreeMap<String, String>) {
        self.config.config.labels.extend(labels.iter().map(|(name, value)| (name.clone(), value.clone())));
    }

    pub(super) fn remember(&mut self, created_by: String, with_layer: bool) {
        self.history_bytes += created_by.len();
        self.config.history.push(History {
            created: Some(CREATED.to_owned()),
            created_by: Some(created_by),
            comment: Some(COMMENT.to_owned()),
            empty_layer: !with_layer,
            other: BTreeMap::new(),
        });
    }

    pub(super) fn finish(mut self) -> Config {
        self.config.created = Some(CREATED.to_owned());
        self.config
    }
}

fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    let same = |known: &&mut String| known.split('=').next() == Some(name);
    match env.iter_mut().find(same) {
        Some(known) => *known = entry,
        None => env.push(entry),
    }
}

fn assignments(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

/// Words of a command; the shell form is prefixed with the shell.
fn command_words(command: &Command, execution: &Execution) -> Vec<String> {
    match command {
        Command::Exec(words) => words.clone(),
        Command::Shell(text) => {
            let shell = execution.other.get("Shell").and_then(|shell| serde_json::from_value(shell.clone()).ok());
            let shell: Vec<String> = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
            shell.into_iter().chain([text.clone()]).collect()
        }
    }
}

fn quoted(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| Value::from(word.as_str()).to_string()).collect();
    format!("[{}]", quoted.join(" "))
}

fn healthcheck(check: Option<&Healthcheck>) -> Result<(Value, String), String> {
    let Some(check) = check else {
        return Ok((json!({"Test": ["NONE"]}), quoted(&["NONE".to_owned()])));
    };
    let test: Vec<String> = match &check.command {
        Command::Exec(words) if words.is_empty() => return Err("`HEALTHCHECK CMD` needs a command".to_owned()),
        Command::Exec(words) => ["CMD".to_owned()].into_iter().chain(words.iter().cloned()).collect(),
        Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
    };
    let mut value = serde_json::Map::new();
    let shown = quoted(&test);
    value.insert("Test".to_owned(), json!(test));
    let mut options = Vec::new();
    for (name, text) in &check.options {
        let (key, nanoseconds) = match name.as_str() {
            "interval" => ("Interval", span(name, text)?),
            "timeout" => ("Timeout", span(name, text)?),
            "start-period" => ("StartPeriod", span(name, text)?),
            "start-interval" => ("StartInterval", span(name, text)?),
            _ => {
                let wrong = || format!("`--retries={text}` is not a valid number");
                let tries = if text.is_empty() { 0 } else { text.parse::<u32>().map_err(|_| wrong())? };
                ("Retries", i64::from(i32::try_from(tries).map_err(|_| wrong())?))
            }
        };
        if nanoseconds != 0 {
            value.insert(key.to_owned(), json!(nanoseconds));
            options.push(format!("--{name}={text}"));
        }
    }
    options.push(shown);
    Ok((Value::Object(value), options.join(" ")))
}

/// A health check's duration in nanoseconds: zero, or at least one millisecond.
fn span(name: &str, text: &str) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let Duration(nanoseconds) =
        duration::parse(text).ok_or_else(|| format!("`--{name}={text}` is not a duration such as `30s` or `1m30s`"))?;
    match nanoseconds {
        0 | 1_000_000.. => Ok(nanoseconds),
        _ => Err(format!("`--{name}={text}` is shorter than a millisecond")),
    }
}

const SIGNALS: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let between = |text: &str, most: u32| text.parse::<u32>().is_ok_and(|number| (1..=most).contains(&number));
    SIGNALS.contains(&name)
        || name.strip_prefix("RTMIN+").is_some_and(|number| between(number, 15))
        || name.strip_prefix("RTMAX-").is_some_and(|number| between(number, 14))
}

#[cfg(test)]
mod tests {
    use super::*;
    use xtask_model::spec::dockerfile::Dockerfile;

    fn described(text: &str) -> Result<Config, String> {
        let file = Dockerfile::parse("Dockerfile", &format!("FROM scratch\n{text}\n")).unwrap();
        let expanded = file.expand(&BTreeMap::new(), &Platform::host()).unwrap();
        let mut description = Description::scratch(&Platform::host());
        for instruction in &expanded.stages.last().unwrap().instructions {
            let text = file.instruction_text(instruction.line).unwrap();
            if !description.apply(&instruction.kind, text)? {
                if let Kind::Workdir(folder) = &instruction.kind {
                    description.set_working_dir(folder);
                }
            }
        }
        Ok(description.finish())
    }

    #[track_caller]
    fn gives(text: &str, key: &str, expected: Value) {
        let config = serde_json::to_value(described(text).unwrap().config).unwrap();
        assert_eq!(config.get(key).cloned().unwrap_or_default(), expected, "{text}");
    }

    #[track_caller]
    fn refuses(text: &str, expected: &str) {
        assert_eq!(described(text).map(|_| ()), Err(expected.to_owned()), "{text}");
    }

    #[track_caller]
    fn remembers(text: &str, expected: &[&str]) {
        let history = described(text).unwrap().history;
        let said: Vec<&str> = history.iter().filter_map(|entry| entry.created_by.as_deref()).collect();
        assert_eq!(said, expected, "{text}");
    }

    #[test]
    fn env_keeps_its_order_and_is_replaced_in_place() {
        let path = format!("PATH={DEFAULT_PATH}");
        gives("ENV A=1 B=2\nENV A=3 C=$A", "Env", json!([path, "A=3", "B=2", "C=1"]));
        gives("ENV PATH=/x:$PATH", "Env", json!([format!("PATH=/x:{DEFAULT_PATH}")]));
        gives("ENV A b  c", "Env", json!([path, "A=b  c"]));
    }

    #[test]
    fn commands_have_two_forms() {
        gives("CMD a b", "Cmd", json!(["/bin/sh", "-c", "a b"]));
        gives("CMD [\"a\", \"b\"]", "Cmd", json!(["a", "b"]));
        gives("SHELL [\"/x\", \"-y\"]\nCMD a b", "Cmd", json!(["/x", "-y", "a b"]));
        gives("CMD a\nENTRYPOINT [\"b\"]", "Cmd", json!(["/bin/sh", "-c", "a"]));
        gives("ENTRYPOINT [\"b\"]\nENTRYPOINT []", "Entrypoint", Value::Null);
        gives("CMD a", "ArgsEscaped", json!(true));
        gives("ENTRYPOINT a", "ArgsEscaped", Value::Null);
    }

    #[test]
    fn an_entrypoint_removes_an_inherited_cmd() {
        let mut base =
            described("CMD [\"a\"]").map(|config| Description { config, said_cmd: true, history_bytes: 0 }).unwrap();
        let mut on_it = base.next_stage();
        let entrypoint = Kind::Entrypoint(Command::Exec(vec!["b".to_owned()]));
        on_it.apply(&entrypoint, "").unwrap();
        assert_eq!(on_it.config.config.cmd, None);
        base.apply(&entrypoint, "").unwrap();
        assert_eq!(base.config.config.cmd, Some(vec!["a".to_owned()]));
    }

    #[test]
    fn health_checks() {
        let test = json!(["CMD-SHELL", "x $Y"]);
        gives("HEALTHCHECK CMD x $Y", "Healthcheck", json!({"Test": test}));
        gives("HEALTHCHECK NONE", "Healthcheck", json!({"Test": ["NONE"]}));
        gives(
            "HEALTHCHECK --interval=1m30s --timeout=3s --start-period=0s --start-interval=10ms --retries=3 CMD [\"x\"]",
            "Healthcheck",
            json!({
                "Test": ["CMD", "x"], "Interval": 90_000_000_000_i64, "Timeout": 3_000_000_000_i64,
                "StartInterval": 10_000_000, "Retries": 3,
            }),
        );
        refuses("HEALTHCHECK --interval=1us CMD x", "`--interval=1us` is shorter than a millisecond");
        refuses("HEALTHCHECK --timeout=3 CMD x", "`--timeout=3` is not a duration such as `30s` or `1m30s`");
        refuses("HEALTHCHECK --retries=-1 CMD x", "`--retries=-1` is not a valid number");
    }

    #[test]
    fn the_rest() {
        gives("EXPOSE 80 90-91/udp", "ExposedPorts", json!({"80/tcp": {}, "90/udp": {}, "91/udp": {}}));
        gives("VOLUME /a b", "Volumes", json!({"/a": {}, "b": {}}));
        gives("VOLUME [\"/a b\"]", "Volumes", json!({"/a b": {}}));
        gives("WORKDIR /a\nWORKDIR b\nWORKDIR ../c", "WorkingDir", json!("/a/c"));
        gives("USER a:b", "User", json!("a:b"));
        gives("STOPSIGNAL sigrtmin+3", "StopSignal", json!("sigrtmin+3"));
        gives("STOPSIGNAL 9", "StopSignal", json!("9"));
        gives("LABEL a=b \"c d\"=\"e f\"\nLABEL a=c", "Labels", json!({"a": "c", "c d": "e f"}));
        gives("ONBUILD COPY a \\\n /b\nONBUILD run x", "OnBuild", json!(["COPY a  /b", "run x"]));
        assert_eq!(described("MAINTAINER me").unwrap().other["author"], "me");
        refuses("STOPSIGNAL 0", "`0` is not a signal");
        refuses("STOPSIGNAL SIGNONE", "`SIGNONE` is not a signal");
    }

    #[test]
    fn each_instruction_has_a_history_entry() {
        remembers("ARG A=1 B\nARG D=$A\nENV C=2\nLABEL d=e", &["ARG A=1 B", "ARG D=$A", "ENV C=2", "LABEL d=e"]);
        remembers("CMD a \"b\"\nENTRYPOINT [\"c\"]", &[r#"CMD ["/bin/sh" "-c" "a \"b\""]"#, "ENTRYPOINT [\"c\"]"]);
        remembers("EXPOSE 1 2/udp\nVOLUME a b", &["EXPOSE map[1/tcp:{} 2/udp:{}]", "VOLUME [a b]"]);
        remembers("HEALTHCHECK --retries=2 CMD x", &["HEALTHCHECK --retries=2 [\"CMD-SHELL\" \"x\"]"]);
        remembers("ONBUILD RUN x\nSHELL [\"a\", \"b\"]", &["SHELL [a b]"]);
    }
}
