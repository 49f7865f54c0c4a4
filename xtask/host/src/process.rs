//! The one way a program is run: an argument list, never a shell's text.
//!
//! Short calls whose output is wanted go through xshell ([`Command::output`]); long ones stream their lines through duct
//! ([`Command::stream`]) in a process group of their own, which Ctrl-C and SIGTERM reach whole.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use xtask_model::fault::{Exit, Fault};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    program: PathBuf,
    args: Vec<OsString>,
    /// Another program that is started in this one's place, with its first arguments; it starts this one.
    front: Option<(PathBuf, Vec<OsString>)>,
    env: BTreeMap<OsString, OsString>,
    removed: Vec<OsString>,
    clears_env: bool,
    cwd: Option<PathBuf>,
    stdin: Option<Vec<u8>>,
}

/// Names of the variables that cargo set about the package of this program.
fn of_own_package() -> &'static [OsString] {
    const BEGIN: [&str; 5] =
        ["CARGO_BIN_NAME", "CARGO_CRATE_NAME", "CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_PRIMARY_PACKAGE"];
    static NAMES: OnceLock<Vec<OsString>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let names = std::env::vars_os().map(|(name, _)| name);
        names.filter(|name| BEGIN.iter().any(|begin| name.to_string_lossy().starts_with(begin))).collect()
    })
}

impl Command {
    /// A call of `program` without arguments, and without the variables that `cargo run` sets about xtask's own package: build scripts
    /// that look at these would run again where the program is cargo, or starts it, and everything on them would be compiled again.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            front: None,
            env: BTreeMap::new(),
            removed: of_own_package().to_vec(),
            clears_env: false,
            cwd: None,
            stdin: None,
        }
    }

    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// Starts `front` with these arguments instead, followed by this program and its arguments. Messages name this program.
    #[must_use]
    pub fn wrapped_by<A: AsRef<OsStr>>(mut self, front: impl Into<PathBuf>, args: impl IntoIterator<Item = A>) -> Self {
        self.front = Some((front.into(), args.into_iter().map(|arg| arg.as_ref().to_owned()).collect()));
        self
    }

    fn started(&self) -> (&Path, Vec<&OsStr>) {
        let args = self.args.iter().map(OsString::as_os_str);
        match &self.front {
            None => (&self.program, args.collect()),
            Some((front, first)) => {
                let first = first.iter().map(OsString::as_os_str);
                (front, first.chain([self.program.as_os_str()]).chain(args).collect())
            }
        }
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable. Values are never shown: a secret may be in a variable, and never in an argument.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.removed.retain(|removed| removed != name.as_ref());
        self.env.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.remove(name.as_ref());
        self.removed.push(name.as_ref().to_owned());
        self
    }

    /// Starts from an empty environment, where the program is started by [`Command::start`] or [`Command::replace`].
    #[must_use]
    pub fn clear_env(mut self) -> Self {
        self.clears_env = true;
        self
    }

    #[must_use]
    pub fn current_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cwd = Some(folder.into());
        self
    }

    /// Gives [`Command::output`] and [`Command::read`] something to read on stdin, which is empty otherwise.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    pub fn argv(&self) -> Vec<String> {
        std::iter::once(self.program.as_os_str())
            .chain(self.args.iter().map(OsString::as_os_str))
            .map(|part| part.to_string_lossy().into_owned())
            .collect()
    }

    pub fn name(&self) -> String {
        self.program.file_name().unwrap_or(self.program.as_os_str()).to_string_lossy().into_owned()
    }

    /// Runs to the end and keeps what was printed; a non-zero exit is the caller's to judge.
    pub fn output(&self) -> Result<Output, Fault> {
        let cannot = |cause: &dyn fmt::Display| Fault::missing(format!("cannot run `{}`", self.name())).cause(cause);
        let shell = xshell::Shell::new().map_err(|error| cannot(&error))?;
        if let Some(cwd) = &self.cwd {
            shell.change_dir(cwd);
        }
        let (program, args) = self.started();
        let mut call = shell.cmd(program).args(args).envs(&self.env).quiet().ignore_status();
        for name in &self.removed {
            call = call.env_remove(name);
        }
        if let Some(bytes) = &self.stdin {
            call = call.stdin(bytes);
        }
        let output = call.output().map_err(|error| cannot(&error))?;
        interrupted()?;
        Ok(output)
    }

    /// Runs to the end; a non-zero exit is a fault that carries the program's own words. Returns stdout, trimmed.
    pub fn read(&self, exit: Exit) -> Result<String, Fault> {
        let output = self.output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = if said.trim().is_empty() { String::from_utf8_lossy(&output.stdout) } else { said };
            return Err(self.failed(exit, output.status).cause(said.trim()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Runs to the end, giving each line of stdout and stderr to `on_line` as it comes.
    pub fn stream(&self, mut on_line: impl FnMut(&str)) -> Result<ExitStatus, Fault> {
        interrupted()?;
        let cannot = |cause: &dyn fmt::Display| Fault::missing(format!("cannot run `{}`", self.name())).cause(cause);
        let (program, args) = self.started();
        let mut expression =
            duct::cmd(program.as_os_str(), args).stdin_null().stderr_to_stdout().unchecked().before_spawn(|command| {
                command.process_group(0);
                Ok(())
            });
        if let Some(cwd) = &self.cwd {
            expression = expression.dir(cwd);
        }
        for (name, value) in &self.env {
            expression = expression.env(name, value);
        }
        for name in &self.removed {
            expression = expression.env_remove(name);
        }
        let reader = expression.reader().map_err(|error| cannot(&error))?;
        let group = Group::enter(&reader.pids());
        let mut lines = std::io::BufReader::new(&reader);
        let mut line = Vec::new();
        // `lines()` on a duct reader repeats its last error for ever; reading by hand ends at the first.
        while read_line(&mut lines, &mut line).map_err(|error| cannot(&error))? {
            on_line(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
            line.clear();
        }
        drop(group);
        interrupted()?;
        match reader.try_wait().map_err(|error| cannot(&error))? {
            Some(output) => Ok(output.status),
            None => Err(cannot(&"it closed its output and kept running")),
        }
    }

    /// Starts a program that outlives this one, in a process group of its own, with both streams appended to `log`.
    /// Returns its process id.
    pub fn spawn(&self, log: &Path) -> Result<u32, Fault> {
        interrupted()?;
        let cannot = |cause: &dyn fmt::Display| Fault::missing(format!("cannot run `{}`", self.name())).cause(cause);
        let out = std::fs::File::options().create(true).append(true).open(log).map_err(|error| cannot(&error))?;
        let err = out.try_clone().map_err(|error| cannot(&error))?;
        let mut command = self.plain();
        command.process_group(0).stdin(Stdio::null()).stdout(out).stderr(err);
        Ok(command.spawn().map_err(|error| cannot(&error))?.id())
    }

    /// Starts a program that is asked on its stdin and answers on its stdout, for as long as the value lasts. What it says
    /// on stderr is dropped.
    pub fn start_piped(&self) -> Result<PipedProcess, Fault> {
        self.start_piped_with(Stdio::null())
    }

    /// The same with this for stderr.
    pub fn start_piped_with(&self, stderr: Stdio) -> Result<PipedProcess, Fault> {
        interrupted()?;
        let cannot = |error: std::io::Error| Fault::missing(format!("cannot run `{}`", self.name())).cause(error);
        let mut command = self.plain();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().map_err(cannot)?;
        let input = child.stdin.take();
        let output = Some(std::io::BufReader::new(child.stdout.take().expect("stdout was asked for")));
        Ok(PipedProcess { child, input, output })
    }

    /// Starts a program with these for stdin, stdout and stderr; the caller waits for it. Signals of the terminal reach it as
    /// they reach us.
    pub fn start(&self, [stdin, stdout, stderr]: [Stdio; 3]) -> std::io::Result<Child> {
        self.plain().stdin(stdin).stdout(stdout).stderr(stderr).spawn()
    }

    /// Starts a program in a process group of its own, with our outputs and nothing to read. The group ends with the value.
    pub fn start_group(&self) -> Result<ProcessGroup, Fault> {
        interrupted()?;
        let mut command = self.plain();
        command.process_group(0).stdin(Stdio::null());
        let child =
            command.spawn().map_err(|error| Fault::missing(format!("cannot run `{}`", self.name())).cause(error))?;
        let group = Group::enter(&[child.id()]);
        Ok(ProcessGroup { child, group })
    }

    /// Becomes the program: its exit is ours, and so is every signal. Comes back only where it cannot be run.
    pub fn replace(&self) -> std::io::Error {
        self.plain().exec()
    }

    fn plain(&self) -> std::process::Command {
        #[allow(clippy::disallowed_methods, reason = "this is the one way: duct and xshell wait for what they start")]
        let mut command = std::process::Command::new(self.started().0);
        if self.clears_env {
            command.env_clear();
        }
        command.args(self.started().1).envs(&self.env);
        for name in &self.removed {
            command.env_remove(name);
        }
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        command
    }

    /// The fault for a call that ended badly; the caller adds cause and hint.
    pub fn failed(&self, exit: Exit, status: ExitStatus) -> Fault {
        let subcommand = self.args.iter().find(|arg| !arg.to_string_lossy().starts_with('-'));
        let call = subcommand.map_or_else(|| self.name(), |sub| format!("{} {}", self.name(), sub.to_string_lossy()));
        Fault::new(exit, format!("`{call}` failed ({status})"))
    }
}

/// A running process group. Dropping it kills the group.
pub struct ProcessGroup {
    child: Child,
    group: Group,
}

impl ProcessGroup {
    /// Exit status of the program; `None` while it runs.
    pub fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for the end. Ctrl-C reaches the program too, which decides when it ends.
    pub fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Sends SIGINT to the group, and SIGKILL to what is left of it once the program has ended or this time has passed.
    pub fn end(mut self, grace: Duration) {
        self.group.signal(rustix::process::Signal::INT);
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < grace {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.group.signal(rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}

/// A running program with a pipe to its stdin and from its stdout. Dropping it closes stdin and waits for the exit.
#[derive(Debug)]
pub struct PipedProcess {
    child: Child,
    input: Option<std::process::ChildStdin>,
    output: Option<std::io::BufReader<std::process::ChildStdout>>,
}

impl PipedProcess {
    pub fn say(&mut self, question: &[u8]) -> std::io::Result<()> {
        let input = self.input.as_mut().expect("it lasts as long as the value");
        input.write_all(question)?;
        input.flush()
    }

    pub fn answers(&mut self) -> &mut impl std::io::BufRead {
        self.output.as_mut().expect("it lasts as long as the value")
    }
}

impl Drop for PipedProcess {
    fn drop(&mut self) {
        // The end of its input ends it; how it ended changes nothing that was answered.
        drop(self.input.take());
        // What it still says is not waited for.
        drop(self.output.take());
        let _ = self.child.wait();
    }
}

/// The call as a person would type it, quoted for a POSIX shell; environment values are not shown.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.argv().iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{}", quoted(part))?;
        }
        Ok(())
    }
}

pub fn quoted(word: &str) -> Cow<'_, str> {
    let plain = !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:=@,+%~^".contains(&b));
    if plain { Cow::Borrowed(word) } else { Cow::Owned(format!("'{}'", word.replace('\'', r"'\''"))) }
}

/// Path of a program, found as the system finds it, or a fault with what to install.
pub fn find(program: &str, needed_by: &str, hint: &str) -> Result<PathBuf, Fault> {
    which::which(program).map_err(|error| {
        Fault::missing(format!("`{program}` is not on `PATH`")).needed_by(needed_by).cause(error).hint(hint)
    })
}

/// True if `program` is on the PATH.
pub fn found(program: impl AsRef<Path>) -> Option<PathBuf> {
    which::which(program.as_ref()).ok()
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Number of calls of [`uninterrupted`] under way.
static HELD: AtomicUsize = AtomicUsize::new(0);
static GROUPS: OnceLock<Mutex<Vec<u32>>> = OnceLock::new();

fn groups() -> std::sync::MutexGuard<'static, Vec<u32>> {
    // A poisoned list of numbers is still a list of numbers.
    GROUPS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running child's process group, known to the signal thread while it lasts.
struct Group(Vec<u32>);

impl Group {
    fn enter(pids: &[u32]) -> Self {
        groups().extend(pids);
        if INTERRUPTED.load(Ordering::SeqCst) {
            signal_groups();
        }
        Self(pids.to_vec())
    }
}

impl Group {
    fn signal(&self, signal: rustix::process::Signal) {
        for pid in self.0.iter().filter_map(|pid| rustix::process::Pid::from_raw(i32::try_from(*pid).ok()?)) {
            // The group may have ended already.
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        groups().retain(|pid| !self.0.contains(pid));
    }
}

pub fn end_children() {
    signal_groups();
}

fn signal_groups() {
    for pid in groups().iter() {
        if let Some(pid) = i32::try_from(*pid).ok().and_then(rustix::process::Pid::from_raw) {
            // A group that has just ended is not an error.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::INT);
        }
    }
}

/// Makes Ctrl-C and SIGTERM end running children first; a second signal ends this process at once.
pub fn forward_signals() -> anyhow::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            if INTERRUPTED.swap(true, Ordering::SeqCst) {
                std::process::exit(Exit::Interrupted as i32);
            }
            signal_groups();
        }
    })?;
    Ok(())
}

/// An error once Ctrl-C or SIGTERM has come: called between steps, so that nothing new begins.
pub fn interrupted() -> Result<(), Fault> {
    if INTERRUPTED.load(Ordering::SeqCst) && HELD.load(Ordering::SeqCst) == 0 {
        return Err(Fault::new(Exit::Interrupted, "interrupted; nothing incomplete was published"));
    }
    Ok(())
}

/// Does something that must not end halfway, such as to move several tags: an interruption counts after it. A second one ends the process at once.
pub fn uninterrupted<T>(work: impl FnOnce() -> T) -> T {
    struct Held;
    impl Drop for Held {
        fn drop(&mut self) {
            HELD.fetch_sub(1, Ordering::SeqCst);
        }
    }
    HELD.fetch_add(1, Ordering::SeqCst);
    let _held = Held;
    work()
}

/// Reads a line, or the part of one that a carriage return ends: a bar of progress writes over itself. Returns false at the end.
fn read_line(from: &mut io::BufReader<impl io::Read>, line: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        let available = from.fill_buf()?;
        if available.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = available.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let used = end.map_or(available.len(), |at| at + 1);
        line.extend_from_slice(&available[..used]);
        // The newline of a pair is not waited for: what follows a bar of progress may take minutes.
        let pair = line.last() == Some(&b'\r') && available.get(used) == Some(&b'\n');
        from.consume(used + usize::from(pair));
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_of_progress_is_read_line_by_line() {
        let mut lines = Vec::new();
        let call = Command::new("printf").arg("one\r\n  1/2\r  2/2\rlast");
        assert!(call.stream(|line| lines.push(line.to_owned())).unwrap().success());
        assert_eq!(lines, ["one", "  1/2", "  2/2", "last"]);
    }

    #[test]
    fn a_program_does_not_see_what_cargo_says_of_the_package_of_this_one() {
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some() && std::env::var_os("CARGO_PKG_NAME").is_some());
        let seen = |output: &str| output.lines().filter(|line| line.starts_with("CARGO_")).map(str::to_owned).collect();
        let mut all: Vec<String> = seen(&Command::new("env").read(Exit::Build).unwrap());
        all.extend(seen(&Command::new("env").wrapped_by("env", ["A=1"]).read(Exit::Build).unwrap()));
        all.extend(seen(&String::from_utf8(Command::new("env").output().unwrap().stdout).unwrap()));
        assert!(!all.iter().any(|line| line.starts_with("CARGO_MANIFEST") || line.starts_with("CARGO_PKG")), "{all:?}");
        let set = Command::new("env").env("CARGO_PKG_NAME", "other").read(Exit::Build).unwrap();
        assert!(set.lines().any(|line| line == "CARGO_PKG_NAME=other"), "{set}");
    }

    #[test]
    fn arguments_are_never_split_or_expanded() {
        let odd = ["a b", "-x", "$HOME", "`id`", "é'\"", "*"];
        let output = Command::new("printf").arg("%s\n").args(odd).read(Exit::Build).unwrap();
        assert_eq!(output.lines().collect::<Vec<_>>(), odd);
    }

    #[test]
    fn a_program_behind_another_is_started_by_it_and_named_in_messages() {
        let call = Command::new("printf").args(["%s,", "a b", "-x"]).wrapped_by("env", ["A=1"]);
        assert_eq!(call.read(Exit::Build).unwrap(), "a b,-x,");
        assert_eq!((call.name(), call.to_string()), ("printf".to_owned(), "printf %s, 'a b' -x".to_owned()));
        let mut lines = Vec::new();
        call.stream(|line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["a b,-x,"]);
    }

    #[test]
    fn stdin_is_given_whole() {
        assert_eq!(Command::new("cat").stdin("one\ntwo").read(Exit::Build).unwrap(), "one\ntwo");
        assert_eq!(Command::new("cat").read(Exit::Build).unwrap(), "");
    }

    #[test]
    fn shown_commands_can_be_pasted() {
        let command =
            Command::new("/usr/bin/printf").arg("%s,").args(["a b", "it's", "", "x=y"]).env("TOKEN", "secret");
        assert_eq!(command.to_string(), r"/usr/bin/printf %s, 'a b' 'it'\''s' '' x=y");
        let shown = Command::new("sh").arg("-c").arg(command.to_string()).read(Exit::Build).unwrap();
        assert_eq!(shown, "a b,it's,,x=y,");
    }

    #[test]
    fn lines_come_from_both_streams_and_the_exit_is_kept() {
        let mut lines = Vec::new();
        let status = Command::new("sh")
            .args(["-c", "echo one; echo two >&2; printf three; exit 7"])
            .stream(|line| lines.push(line.to_owned()))
            .unwrap();
        assert_eq!(lines, ["one", "two", "three"]);
        assert_eq!(status.code(), Some(7));
    }

    #[test]
    fn a_spawned_program_writes_to_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let pid = Command::new("sh").args(["-c", "echo out; echo err >&2"]).spawn(&log).unwrap();
        assert!(pid > 1);
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while std::fs::read_to_string(&log).unwrap() != "out\nerr\n" {
            assert!(std::time::Instant::now() < limit, "nothing came");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    #[test]
    fn a_conversation_goes_back_and_forth_and_ends() {
        let mut talk = Command::new("cat").start_piped().unwrap();
        for question in ["one\n", "two\n"] {
            talk.say(question.as_bytes()).unwrap();
            let mut answer = String::new();
            talk.answers().read_line(&mut answer).unwrap();
            assert_eq!(answer, question);
        }
        drop(talk);
        assert_eq!(Command::new("no-such-program-here").start_piped().unwrap_err().exit, Exit::Missing);
    }

    #[test]
    fn a_missing_program_is_a_missing_tool() {
        let fault = Command::new("no-such-program-here").read(Exit::Build).unwrap_err();
        assert_eq!(fault.exit, Exit::Missing);
        let fault = Command::new("no-such-program-here").stream(|_| {}).unwrap_err();
        assert_eq!(fault.exit, Exit::Missing);
    }

    #[test]
    fn a_failed_call_carries_the_programs_own_words() {
        let fault = Command::new("sh").args(["-c", "echo broken >&2; exit 3"]).read(Exit::Network).unwrap_err();
        assert_eq!((fault.exit, fault.causes), (Exit::Network, vec!["broken".to_owned()]));
    }
}
