//! One worker process: started, asked, stopped.
//!
//! Every wait has a deadline, every line a length limit. After any trouble but a refusal the process is in an unknown
//! state: drop it, which kills it. Restarting is the supervisor's.

use crate::failure::{Failure, Kind};
use crate::home::PYTHON_VARIABLE;
use crate::protocol::{
    self, Answer, Backtest, Hello, Message, Question, Refusal, Renewal, Report, Request, Rolled, Rolling,
};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

// The longest forecast is some 250 kB; a worker that writes more without a line's end is not ours.
const LONGEST_LINE: u64 = 16 << 20;
const STDERR_LINES: usize = 20;
// A worker has nothing to save: this is for Python's own exit.
const FAREWELL: Duration = Duration::from_secs(2);

/// Start command of a worker.
#[derive(Clone, Debug)]
pub struct Launch {
    pub python: PathBuf,
    /// The folder that contains the `forecaster` package.
    pub home: PathBuf,
    /// Time limit for the hello: importing the packages from a cold disk takes seconds.
    pub hello_within: Duration,
}

impl Launch {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.python);
        command.args(["-m", "forecaster"]);
        for (name, value) in self.environment() {
            command.env(name, value);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C on a terminal goes to the whole group; we end the worker ourselves, in order.
        command.process_group(0).kill_on_drop(true);
        command
    }

    fn environment(&self) -> Vec<(&'static str, OsString)> {
        let mut variables = vec![
            ("PYTHONPATH", self.home.clone().into_os_string()),
            // The image's root file system is read-only.
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
            // Neither the working folder nor a home folder may slip a module in.
            ("PYTHONSAFEPATH", "1".into()),
            ("PYTHONNOUSERSITE", "1".into()),
            ("PYTHONUNBUFFERED", "1".into()),
            ("PYTHONUTF8", "1".into()),
        ];
        // numpy sizes its pools by the node's cores, not by the container's quota.
        for name in [
            "OMP_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
            "MKL_NUM_THREADS",
            "NUMEXPR_NUM_THREADS",
            "VECLIB_MAXIMUM_THREADS",
        ] {
            variables.push((name, "1".into()));
        }
        variables
    }
}

/// Failure of a worker.
#[derive(Clone, Debug)]
pub enum Trouble {
    Spawn {
        program: PathBuf,
        cause: String,
    },
    /// The process ended by itself.
    Exited {
        /// Exit status, if known.
        status: Option<ExitStatus>,
        /// The end of what it said on stderr.
        last_words: Vec<String>,
    },
    /// It wrote something that is not the protocol.
    Garbage {
        /// Beginning of the line.
        line: String,
        /// Error in the line.
        cause: String,
    },
    /// It speaks another version of the protocol.
    Version {
        /// Version that the worker uses.
        theirs: u32,
    },
    /// It did not answer in time.
    Late {
        /// Time that we waited.
        after: Duration,
    },
    /// A pipe to the process failed.
    Pipe {
        cause: String,
    },
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Spawn { program, cause } => {
                write!(f, "cannot run `{}`: {cause}", program.display())
            }
            Trouble::Exited { status, last_words } => {
                match status {
                    Some(status) => write!(f, "the worker ended with {status}")?,
                    None => write!(f, "the worker closed its output")?,
                }
                match last_words.last() {
                    Some(line) => write!(f, "; last line on stderr: {line}"),
                    None => write!(f, " without output on stderr"),
                }
            }
            Trouble::Garbage { line, cause } => {
                write!(f, "the worker wrote an invalid line `{line}`: {cause}")
            }
            Trouble::Version { theirs } => {
                write!(f, "the worker has protocol version {theirs}, this binary has version {}", protocol::VERSION)
            }
            Trouble::Late { after } => write!(f, "the worker did not answer within {after:?}"),
            Trouble::Pipe { cause } => write!(f, "cannot talk to the worker: {cause}"),
        }
    }
}

/// Reason that there is no answer.
#[derive(Clone, Debug)]
pub enum WorkerError {
    Start(Trouble),
    /// The worker broke while it was asked.
    Ask(Trouble),
    /// The worker is fine, the request was refused.
    Refused(Refusal),
    /// Too many restarts; no other is tried for a while.
    Resting {
        /// Time until the next start.
        again_in: Duration,
        /// Failure of the last start or request.
        last: String,
    },
    /// It had others to answer for all that time.
    Busy {
        /// Time that the request waited.
        after: Duration,
    },
}

impl WorkerError {
    /// Returns true if the process cannot be used any more.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, WorkerError::Refused(_) | WorkerError::Busy { .. })
    }
}

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkerError::Start(trouble) | WorkerError::Ask(trouble) => write!(f, "{trouble}"),
            WorkerError::Refused(refusal) => write!(f, "{}", refusal.message),
            WorkerError::Busy { after } => write!(f, "the worker was busy for {after:.1?}"),
            WorkerError::Resting { again_in, last } if again_in.is_zero() => {
                write!(f, "no worker is running; last error: {last}")
            }
            WorkerError::Resting { again_in, last } => {
                write!(f, "the next worker starts in {again_in:.1?} at the earliest; last error: {last}")
            }
        }
    }
}

impl std::error::Error for WorkerError {}

impl From<WorkerError> for Failure {
    fn from(error: WorkerError) -> Failure {
        match error {
            WorkerError::Start(trouble) => {
                let failure = Failure::new(Kind::Worker, "cannot start the forecasting worker").cause(&trouble);
                match trouble {
                    Trouble::Spawn { .. } => {
                        failure.hint(format!("name a Python with `--python` or {PYTHON_VARIABLE}"))
                    }
                    Trouble::Exited { .. } => {
                        failure.hint("that Python needs the packages of `requirements-enhanced.txt`")
                    }
                    Trouble::Version { .. } => {
                        failure.hint("install the binary and `forecaster/` from the same revision")
                    }
                    Trouble::Garbage { .. } | Trouble::Late { .. } | Trouble::Pipe { .. } => failure,
                }
            }
            WorkerError::Ask(trouble) => {
                let failure = Failure::new(Kind::Forecast, "cannot forecast").cause(&trouble);
                match trouble {
                    Trouble::Late { .. } => failure.hint("raise `--deadline`, or give a shorter history"),
                    _ => failure,
                }
            }
            WorkerError::Refused(refusal) => {
                let kind = match refusal.code.as_str() {
                    "bug" => Kind::Bug,
                    "bad-request" => Kind::Input,
                    _ => Kind::Forecast,
                };
                let failure = Failure::new(kind, "cannot forecast").cause(&refusal.message);
                match refusal.hint {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                }
            }
            WorkerError::Resting { .. } | WorkerError::Busy { .. } => {
                Failure::new(Kind::Worker, "cannot forecast now").cause(error)
            }
        }
    }
}

/// A running worker that has said hello.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    last_words: Arc<Mutex<VecDeque<String>>>,
    talk: JoinHandle<()>,
    hello: Hello,
    last_id: u64,
}

impl Worker {
    /// Starts a worker and waits for its hello.
    pub async fn start(launch: &Launch) -> Result<Worker, WorkerError> {
        let spawned = launch.command().spawn();
        let mut child = spawned.map_err(|cause| {
            WorkerError::Start(Trouble::Spawn { program: launch.python.clone(), cause: cause.to_string() })
        })?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(WorkerError::Start(Trouble::Pipe { cause: "no pipes".to_owned() }));
        };
        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&last_words);
        let talk = tokio::spawn(async move {
            let mut stderr = BufReader::new(stderr);
            while let Ok(Some(line)) = read_line(&mut stderr).await {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if line.is_empty() {
                    continue;
                }
                tracing::info!(target: "worker", "{line}");
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == STDERR_LINES {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
        });
        let hello = Hello { protocol: 0, python: String::new(), packages: Default::default() };
        let mut worker = Worker { child, stdin, stdout: BufReader::new(stdout), last_words, talk, hello, last_id: 0 };
        let first = timeout(launch.hello_within, worker.receive()).await;
        worker.hello = match first {
            Err(_) => {
                return Err(WorkerError::Start(Trouble::Late { after: launch.hello_within }));
            }
            Ok(Err(trouble)) => return Err(WorkerError::Start(trouble)),
            Ok(Ok(Message::Hello(hello))) if hello.protocol == protocol::VERSION => hello,
            Ok(Ok(Message::Hello(hello))) => {
                return Err(WorkerError::Start(Trouble::Version { theirs: hello.protocol }));
            }
            Ok(Ok(other)) => {
                return Err(WorkerError::Start(unexpected(&other, "its first line is not a hello")));
            }
        };
        Ok(worker)
    }

    /// Returns the identity of the worker.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// The process's id; none once it has ended.
    pub fn process_id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Asks for a forecast, and waits until the deadline.
    pub async fn ask(&mut self, question: &Question, within: Duration) -> Result<Answer, WorkerError> {
        self.renew(question, None, within).await
    }

    /// Asks for a forecast that carries an earlier one's fit on, and waits until the deadline.
    pub async fn renew(
        &mut self,
        question: &Question,
        renewal: Option<&Renewal>,
        within: Duration,
    ) -> Result<Answer, WorkerError> {
        let request = |id, deadline_ms| Request::Forecast { id, deadline_ms, question, renewal };
        match self.exchange(request, within).await? {
            (id, Message::Forecast(reply)) if reply.id == id => {
                let answer = reply.answer;
                let lengths = [answer.mean.len(), answer.lower.len(), answer.upper.len()];
                if lengths.iter().any(|length| *length != question.horizon as usize) {
                    return Err(garbled(format!("a forecast of {lengths:?} values for {} steps", question.horizon)));
                }
                Ok(answer)
            }
            (_, other) => Err(WorkerError::Ask(unexpected(&other, "no answer to this request"))),
        }
    }

    /// Asks for a backtest, and waits until the deadline.
    pub async fn backtest(&mut self, backtest: &Backtest, within: Duration) -> Result<Report, WorkerError> {
        let request = |id, deadline_ms| Request::Backtest { id, deadline_ms, backtest };
        match self.exchange(request, within).await? {
            (id, Message::Backtest(reply)) if reply.id == id => {
                let report = reply.answer;
                let mut wanted = backtest.leads.clone();
                wanted.sort_unstable();
                wanted.dedup();
                if !report.leads.iter().map(|lead| lead.lead).eq(wanted.iter().copied()) {
                    return Err(garbled(format!("a backtest of {} leads for {}", report.leads.len(), wanted.len())));
                }
                Ok(report)
            }
            (_, other) => Err(WorkerError::Ask(unexpected(&other, "no answer to this request"))),
        }
    }

    /// Asks for the forecasts from many origins, and waits until the deadline.
    pub async fn roll(&mut self, rolling: &Rolling, within: Duration) -> Result<Rolled, WorkerError> {
        let request = |id, deadline_ms| Request::Rolling { id, deadline_ms, rolling };
        match self.exchange(request, within).await? {
            (id, Message::Rolling(reply)) if reply.id == id => {
                let rolled = reply.answer;
                let count = rolled.origins.len();
                let horizon = rolling.question.horizon as usize;
                let whole = [rolled.mean.len(), rolled.upper.len(), rolled.skilled.len(), rolled.members.len()]
                    .iter()
                    .all(|length| *length == count)
                    && rolled.mean.iter().chain(&rolled.upper).all(|line| line.len() == horizon);
                if !whole {
                    return Err(garbled(format!("{count} rolling forecasts that are not of {horizon} steps each")));
                }
                Ok(rolled)
            }
            (_, other) => Err(WorkerError::Ask(unexpected(&other, "no answer to this request"))),
        }
    }

    /// Sends a request and waits for a message; a refusal of this request is an error.
    async fn exchange<'a>(
        &mut self,
        request: impl FnOnce(u64, u64) -> Request<'a>,
        within: Duration,
    ) -> Result<(u64, Message), WorkerError> {
        self.last_id += 1;
        let id = self.last_id;
        // The worker hears of a sooner end: to refuse in time spares it the kill and us the restart.
        let deadline_ms = u64::try_from(within.as_millis() * 9 / 10).unwrap_or(u64::MAX).max(1);
        let request = request(id, deadline_ms);
        let mut line = serde_json::to_vec(&request)
            .map_err(|cause| WorkerError::Ask(Trouble::Pipe { cause: cause.to_string() }))?;
        line.push(b'\n');
        // The sending counts too: a worker that does not read would block it for ever.
        let deadline = Instant::now() + within;
        let message = timeout_at(deadline, async {
            self.send(&line).await?;
            self.receive().await
        })
        .await
        .map_err(|_| WorkerError::Ask(Trouble::Late { after: within }))?
        .map_err(WorkerError::Ask)?;
        match message {
            Message::Error(refusal) if refusal.id == Some(id) => Err(WorkerError::Refused(refusal)),
            message => Ok((id, message)),
        }
    }

    /// Returns the exit status, if the process has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Lets the worker end by itself, and kills it when it does not.
    pub async fn stop(self) {
        let Worker { mut child, stdin, .. } = self;
        drop(stdin);
        if timeout(FAREWELL, child.wait()).await.is_err() {
            // The worker may have ended in between, which is what was wanted.
            let _ = child.kill().await;
        }
    }

    /// Kills the worker, and waits for its end.
    pub async fn kill(mut self) {
        // It may have ended by itself.
        let _ = self.child.kill().await;
    }

    async fn send(&mut self, line: &[u8]) -> Result<(), Trouble> {
        let sent = async {
            self.stdin.write_all(line).await?;
            self.stdin.flush().await
        };
        match sent.await {
            Ok(()) => Ok(()),
            // A broken pipe is how its end looks from here.
            Err(cause) if cause.kind() == std::io::ErrorKind::BrokenPipe => Err(self.ended().await),
            Err(cause) => Err(Trouble::Pipe { cause: cause.to_string() }),
        }
    }

    async fn receive(&mut self) -> Result<Message, Trouble> {
        let line = match read_line(&mut self.stdout).await {
            Ok(Some(line)) => line,
            Ok(None) => return Err(self.ended().await),
            Err(cause) => {
                return Err(Trouble::Pipe { cause: cause.to_string() });
            }
        };
        serde_json::from_slice(&line).map_err(|cause| Trouble::Garbage { line: shown(&line), cause: cause.to_string() })
    }

    async fn ended(&mut self) -> Trouble {
        let status = timeout(FAREWELL, self.child.wait()).await.ok().and_then(Result::ok);
        // Its last words travel through a task of their own; a grandchild may keep that one waiting.
        let _ = timeout(FAREWELL, &mut self.talk).await;
        let last_words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        Trouble::Exited { status, last_words: last_words.iter().cloned().collect() }
    }
}

/// A line without a limit would be memory without a limit. `None` at the end of the stream.
async fn read_line(from: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    from.take(LONGEST_LINE).read_until(b'\n', &mut line).await?;
    Ok((!line.is_empty()).then_some(line))
}

/// An answer to the question that is none.
fn garbled(cause: String) -> WorkerError {
    WorkerError::Ask(Trouble::Garbage { line: "…".to_owned(), cause })
}

fn unexpected(message: &Message, cause: &str) -> Trouble {
    let line = match message {
        Message::Hello(_) => "hello".to_owned(),
        Message::Forecast(reply) => format!("forecast {}", reply.id),
        Message::Backtest(reply) => format!("backtest {}", reply.id),
        Message::Rolling(reply) => format!("rolling {}", reply.id),
        Message::Pong { id } => format!("pong {id}"),
        Message::Error(refusal) => format!("error: {}", refusal.message),
    };
    Trouble::Garbage { line, cause: cause.to_owned() }
}

fn shown(line: &[u8]) -> String {
    const LENGTH: usize = 80;
    let text = String::from_utf8_lossy(&line[..line.len().min(4 * LENGTH)]);
    let text = text.trim_end();
    let short: String = text.chars().take(LENGTH).flat_map(char::escape_debug).collect();
    if text.chars().count() > LENGTH { format!("{short}…") } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_shown_short_and_harmless() {
        assert_eq!(shown(b"\x1b[31mred\n"), "\\u{1b}[31mred");
        assert_eq!(shown("é".repeat(500).as_bytes()).chars().count(), 81);
    }

    #[test]
    fn the_kind_of_failure_decides_the_exit_code() {
        let refused = |code: &str| {
            let refusal = Refusal { id: Some(1), code: code.to_owned(), message: "no".to_owned(), hint: None };
            Failure::from(WorkerError::Refused(refusal)).kind.exit_code()
        };
        assert_eq!(refused("bug"), 1);
        assert_eq!(refused("bad-request"), 2);
        assert_eq!(refused("not-enough-history"), 4);
        let late = || Trouble::Late { after: Duration::from_secs(1) };
        assert_eq!(Failure::from(WorkerError::Start(late())).kind.exit_code(), 3);
        assert_eq!(Failure::from(WorkerError::Ask(late())).kind.exit_code(), 4);
    }

    #[test]
    fn the_worker_cannot_write_and_has_one_thread() {
        let launch = Launch { python: "python3".into(), home: "/app".into(), hello_within: FAREWELL };
        let environment = launch.environment();
        for name in ["PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"] {
            assert!(environment.iter().any(|(found, value)| *found == name && value == "1"), "{name}");
        }
    }
}
