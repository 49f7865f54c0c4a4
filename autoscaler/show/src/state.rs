//! State that the operator keeps between two decisions and shows on its pages: samples, forecasts, decisions.
//!
//! It is a cache that can be rebuilt. A rollback never depends on it: the original minimum is in the cluster (`minimum`). So
//! nothing here fails: an unusable file is set aside, a full disk is a warning, and callers get the data that is available.
//! It never blocks for long: one connection, short transactions, and no waiting.

mod file;
mod parts;

use autoscaler_floor::decide::{Decision, Memory, Mode, Reason};
use autoscaler_floor::units::{Replicas, Unit};
use autoscaler_forecast::history::History;
use autoscaler_forecast::span::Span;
use autoscaler_forecast::{Forecast, Quantile};
use jiff::Timestamp;
use parts::{Grid, Part};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time after the last failure from which on the state counts as kept again.
const CALM: Duration = Duration::from_secs(600);

/// A PredictiveScaler's place in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ScalerName {
    pub namespace: String,
    pub name: String,
}

impl ScalerName {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> ScalerName {
        ScalerName { namespace: namespace.into(), name: name.into() }
    }

    /// A number from 0 to 1 that is this scaler's own, to have its turn by.
    pub fn share(&self) -> f64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        (hasher.finish() % 10_000) as f64 / 10_000.0
    }
}

impl fmt::Display for ScalerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Description of a scaler from its spec and status, for the pages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// The object's uid: another one under the same name inherits nothing.
    pub uid: String,
    /// Name of the HorizontalPodAutoscaler.
    pub hpa: String,
    /// Object that the HorizontalPodAutoscaler scales, such as `Deployment/web`, if it is known.
    pub target: Option<String>,
    /// Query of the demand.
    pub query: String,
    /// Unit of the demand.
    pub unit: Unit,
    /// Demand that one pod serves, as text.
    pub capacity: String,
    pub mode: Mode,
    /// True if a person asked for a pause.
    pub paused: bool,
    /// The distance of two samples, and of two decisions.
    pub step: Span,
    /// Time after which demand repeats.
    pub season: Span,
    /// Time between a decision for pods and the demand that they serve.
    pub lead_time: Span,
    /// Quantile of the upper line.
    pub quantile: Quantile,
    pub max_floor: Replicas,
    /// The autoscaler's own maximum, where it is known.
    pub max_replicas: Option<Replicas>,
    /// Floor in the status, for a replica that knows no decisions: another replica makes them.
    #[serde(default, alias = "stands")] // written by older versions
    pub floor_status: Option<FloorStatus>,
    /// Conditions of the status.
    pub conditions: Vec<Condition>,
    /// Reason that there is no forecast: `needs 576 samples, has 210`.
    pub missing: Option<String>,
}

/// Floor in the status of a scaler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloorStatus {
    /// Minimum of the owner.
    pub original: Replicas,
    pub floor: Replicas,
    /// Floor that the forecast alone asks for.
    pub recommended: Option<Replicas>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Its type: `Ready`, `ForecastSkilled`, `MetricsFresh`, `Conflict`.
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Reason in one word.
    pub reason: String,
    /// Reason for people.
    pub message: String,
    /// Time of the last change.
    pub since: Timestamp,
}

impl Condition {
    /// Returns true if the condition is as it should be; none if it is unknown.
    pub fn good(&self) -> Option<bool> {
        // `Conflict` alone is good when it is false.
        let wanted = self.kind != "Conflict";
        match self.status.as_str() {
            "True" => Some(wanted),
            "False" => Some(!wanted),
            _ => None,
        }
    }
}

/// A decision and what was seen with it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decided {
    pub at: Timestamp,
    pub mode: Mode,
    /// Minimum of the owner.
    pub original: Replicas,
    /// The floor after it; in `Mode::Recommend`, what it would be.
    pub floor: Replicas,
    /// Floor that the forecast alone asks for.
    pub recommended: Option<Replicas>,
    /// Number of running pods.
    pub replicas: Option<Replicas>,
    /// The newest sample of the demand.
    pub demand: Option<f64>,
    /// The highest demand until the lead time, at the quantile.
    pub peak: Option<f64>,
    /// The minimum before and after, where it was changed.
    pub changed: Option<(Replicas, Replicas)>,
    /// Reason that the change could not be written.
    pub failed: Option<String>,
    /// Reasons for the decision. Empty for one that was like the one before it, once another has followed.
    pub reasons: Vec<Said>,
}

/// A reason, as its name and as a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Name, such as `CoolingDown`.
    pub name: String,
    pub text: String,
}

impl Decided {
    /// A decision as it is remembered.
    pub fn new(at: Timestamp, mode: Mode, original: Replicas, decision: &Decision) -> Decided {
        let peak = decision.reasons.iter().find_map(|reason| match reason {
            Reason::Forecast { peak, .. } => Some(peak.value()),
            _ => None,
        });
        let said = |reason: &Reason| Said { name: reason.name().to_owned(), text: reason.to_string() };
        Decided {
            at,
            mode,
            original,
            floor: decision.floor,
            recommended: decision.recommended,
            replicas: None,
            demand: None,
            peak,
            changed: decision.change.map(|change| (change.from(), change.to())),
            failed: None,
            reasons: decision.reasons.iter().map(said).collect(),
        }
    }

    /// Returns true if a person would want to read it: it changed something, could not, or had other reasons than `before`.
    fn is_notable(&self, before: Option<&Decided>) -> bool {
        let names = |decided: &Decided| decided.reasons.iter().map(|said| said.name.clone()).collect::<Vec<_>>();
        self.changed.is_some() || self.failed.is_some() || before.is_none_or(|before| names(before) != names(self))
    }
}

/// Limits of the data that is kept of each scaler. Counted from its newest entry and never by the clock, which may jump.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Time span of the samples.
    pub samples: Span,
    /// And how many there are at least, however far that is: long seasons have long steps.
    pub least: u32,
    /// Number of decisions.
    pub decisions: u32,
}

impl Default for Retention {
    fn default() -> Retention {
        const FOUR_WEEKS: Span = Span::from_seconds(28 * 86_400).unwrap();
        // A week of five-minute steps.
        Retention { samples: FOUR_WEEKS, least: 8_192, decisions: 2_016 }
    }
}

/// Location of the state, and whether writes succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// The state is in its file.
    Kept,
    /// In memory: no file was wanted, or none can be used, for this reason.
    InMemory(Option<String>),
    /// It could not always be written in the last minutes, for this reason.
    Unwritten(String),
}

/// Data of a scaler's page.
#[derive(Clone, Debug)]
pub struct StoredWorkload {
    pub profile: Profile,
    /// History of the demand.
    pub history: Option<History>,
    pub forecast: Option<Forecast>,
    /// Decisions, the newest first.
    pub decisions: Vec<Decided>,
}

/// Data of a scaler in a list.
#[derive(Clone, Debug)]
pub struct Listed {
    pub name: ScalerName,
    pub profile: Profile,
    pub forecast: Option<Forecast>,
    /// Last decision.
    pub last: Option<Decided>,
}

/// The state. Cheap to clone: all clones share it.
#[derive(Clone, Debug)]
pub struct State(Arc<Mutex<Slot>>);

#[derive(Debug)]
struct Slot {
    connection: Connection,
    /// None in memory.
    path: Option<PathBuf>,
    retention: Retention,
    /// Reason that the state is in memory although a file was given.
    without: Option<String>,
    /// Reason that a write failed, and the time of the last failure.
    unwritten: Option<(String, Instant)>,
    failures: u64,
}

/// A row of the table `scaler`.
struct Series {
    id: i64,
    query: Option<String>,
    grid: Option<Grid>,
}

impl State {
    /// Opens the state in a file, and creates or migrates the file. Never fails: a file of a newer version, of another program or
    /// one that cannot be read is set aside, and without a usable file the state is in memory, each with a warning.
    pub fn open(path: &Path, retention: Retention) -> State {
        let (connection, without) = match file::open(path) {
            Ok(connection) => (Ok(connection), None),
            Err(cause) => {
                tracing::warn!(path = %path.display(), cause, "cannot keep the state in a file: in memory");
                (file::in_memory(), Some(cause))
            }
        };
        let path = without.is_none().then(|| path.to_owned());
        State::ensure_worker(connection, path, retention, without)
    }

    /// Opens the state in an existing file, to show it. Nothing is set aside: a file that cannot be used is an error.
    pub fn open_existing(path: &Path, retention: Retention) -> Result<State, String> {
        if !path.is_file() {
            return Err("no such file".to_owned());
        }
        let connection = file::open_strict(path)?;
        Ok(State::ensure_worker(Ok(connection), Some(path.to_owned()), retention, None))
    }

    /// A state that ends with the process.
    pub fn in_memory(retention: Retention) -> State {
        State::ensure_worker(file::in_memory(), None, retention, None)
    }

    fn ensure_worker(
        connection: rusqlite::Result<Connection>,
        path: Option<PathBuf>,
        retention: Retention,
        without: Option<String>,
    ) -> State {
        let connection = connection.expect("a database in memory needs nothing but memory");
        State(Arc::new(Mutex::new(Slot { connection, path, retention, without, unwritten: None, failures: 0 })))
    }

    /// Returns the location of the state, and whether writes succeed.
    pub fn health(&self) -> Health {
        let slot = self.slot();
        match (&slot.unwritten, &slot.path) {
            (Some((cause, _)), _) => Health::Unwritten(cause.clone()),
            (None, Some(_)) => Health::Kept,
            (None, None) => Health::InMemory(slot.without.clone()),
        }
    }

    /// Returns the number of failed writes.
    pub fn failures(&self) -> u64 {
        self.slot().failures
    }

    /// Stores the profile of a scaler. A scaler with another uid than before inherits nothing. Data about its autoscaler that is
    /// missing now stays as it was.
    pub fn note(&self, name: &ScalerName, profile: &Profile) {
        self.write("the profile", |db, _| {
            let known: Option<Option<String>> = db
                .prepare_cached("SELECT profile FROM scaler WHERE namespace = ?1 AND name = ?2")?
                .query_row(params![name.namespace, name.name], |row| row.get(0))
                .optional()?;
            let before: Option<Profile> = json("a profile", known.flatten().as_deref());
            let mut profile = profile.clone();
            match before {
                Some(before) if before.uid != profile.uid => forget(db, name)?,
                Some(before) if before.hpa == profile.hpa => {
                    profile.target = profile.target.or(before.target);
                    profile.max_replicas = profile.max_replicas.or(before.max_replicas);
                }
                Some(_) | None => {}
            }
            // Types of our own: nothing in it can fail to be JSON.
            let text = serde_json::to_string(&profile).unwrap_or_default();
            db.prepare_cached(
                "INSERT INTO scaler (namespace, name, profile) VALUES (?1, ?2, ?3)
                 ON CONFLICT (namespace, name) DO UPDATE SET profile = ?3",
            )?
            .execute(params![name.namespace, name.name, text])?;
            Ok(())
        });
    }

    /// Adds samples of a query to those there are: a sample that is missing takes none away, another value replaces.
    /// Those of another query, or off the grid of those before, take their place.
    pub fn remember_samples(&self, name: &ScalerName, query: &str, history: &History) {
        let grid = Grid::of(history);
        self.write("the samples", |db, retention| {
            let series = series(db, name)?;
            if series.query.as_deref() != Some(query) || series.grid != Some(grid) {
                db.prepare_cached("DELETE FROM samples WHERE scaler = ?1")?.execute([series.id])?;
                db.prepare_cached(
                    "UPDATE scaler SET query = ?2, step = ?3, phase = ?4, forecast = NULL, choice = NULL WHERE id = ?1",
                )?
                .execute(params![series.id, query, grid.step, grid.phase])?;
            }
            let mut select = db.prepare_cached("SELECT data FROM samples WHERE scaler = ?1 AND part = ?2")?;
            let known = |part| {
                let bytes: rusqlite::Result<Vec<u8>> = select.query_row(params![series.id, part], |row| row.get(0));
                bytes.ok().and_then(|bytes| Part::read(&bytes))
            };
            let parts = grid.lay(history, known);
            let mut insert =
                db.prepare_cached("INSERT OR REPLACE INTO samples (scaler, part, data) VALUES (?1, ?2, ?3)")?;
            for (part, samples) in &parts {
                insert.execute(params![series.id, part, samples.bytes()])?;
            }
            if let Some(newest) = parts.keys().last() {
                let kept = grid.parts(retention.samples).max(Grid::parts_of(retention.least));
                db.prepare_cached("DELETE FROM samples WHERE scaler = ?1 AND part < ?2")?
                    .execute(params![series.id, newest - kept])?;
            }
            Ok(())
        });
    }

    /// The samples of a query, from the first that is kept to the newest; none of another query or another step.
    pub fn samples(&self, name: &ScalerName, query: &str, step: Span) -> Option<History> {
        self.read("the samples", |db| {
            let Some(series) = find(db, name)?.filter(|series| series.query.as_deref() == Some(query)) else {
                return Ok(None);
            };
            let grid = series.grid.filter(|grid| grid.step == i64::from(step.seconds()));
            grid.map_or(Ok(None), |grid| history(db, series.id, grid, i64::MIN))
        })
        .flatten()
    }

    /// Remembers the forecast in place of the one before.
    pub fn remember_forecast(&self, name: &ScalerName, forecast: &Forecast) {
        let Ok(text) = serde_json::to_string(forecast) else { return };
        self.write("the forecast", |db, _| {
            let series = series(db, name)?;
            db.prepare_cached("UPDATE scaler SET forecast = ?2 WHERE id = ?1")?.execute(params![series.id, text])?;
            Ok(())
        });
    }

    /// Returns the last forecast.
    pub fn forecast(&self, name: &ScalerName) -> Option<Forecast> {
        let text = self.read("the forecast", |db| {
            db.prepare_cached("SELECT forecast FROM scaler WHERE namespace = ?1 AND name = ?2")?
                .query_row(params![name.namespace, name.name], |row| row.get::<_, Option<String>>(0))
                .optional()
        });
        json("the forecast", text??.as_deref())
    }

    /// Remembers what carries a forecast on, as whoever reads it again wrote it.
    pub fn remember_fit(&self, name: &ScalerName, fit: &str) {
        self.write("the fit", |db, _| {
            let series = series(db, name)?;
            db.prepare_cached("UPDATE scaler SET fit = ?2 WHERE id = ?1")?.execute(params![series.id, fit])?;
            Ok(())
        });
    }

    /// Returns the fit with which a forecast is updated.
    pub fn fit(&self, name: &ScalerName) -> Option<String> {
        self.read("the fit", |db| {
            db.prepare_cached("SELECT fit FROM scaler WHERE namespace = ?1 AND name = ?2")?
                .query_row(params![name.namespace, name.name], |row| row.get::<_, Option<String>>(0))
                .optional()
        })??
    }

    /// Remembers what a floor is made of, as the reader wrote it.
    pub fn remember_choice(&self, name: &ScalerName, choice: &str) {
        self.write("the choice", |db, _| {
            let series = series(db, name)?;
            db.prepare_cached("UPDATE scaler SET choice = ?2 WHERE id = ?1")?.execute(params![series.id, choice])?;
            Ok(())
        });
    }

    /// Returns the stored choice of a floor.
    pub fn choice(&self, name: &ScalerName) -> Option<String> {
        self.read("the choice", |db| {
            db.prepare_cached("SELECT choice FROM scaler WHERE namespace = ?1 AND name = ?2")?
                .query_row(params![name.namespace, name.name], |row| row.get::<_, Option<String>>(0))
                .optional()
        })??
    }

    /// Remembers a decision and what the next one has to know.
    pub fn remember_decision(&self, name: &ScalerName, decided: &Decided, memory: &Memory) {
        let (Ok(reasons), Ok(memory)) = (serde_json::to_string(&decided.reasons), serde_json::to_string(memory)) else {
            return;
        };
        self.write("the decision", |db, retention| {
            let series = series(db, name)?;
            let before = db
                .prepare_cached(&format!("{DECISIONS} WHERE scaler = ?1 ORDER BY seq DESC LIMIT 1"))?
                .query_row([series.id], decision)
                .optional()?;
            let seq = before.as_ref().map_or(1, |before| before.seq + 1);
            let notable = decided.is_notable(before.as_ref().map(|before| &before.decided));
            if let Some(quiet) = before.filter(|before| !before.notable) {
                // It only said again what the one before it had said.
                db.prepare_cached("UPDATE decision SET reasons = NULL WHERE scaler = ?1 AND seq = ?2")?
                    .execute(params![series.id, quiet.seq])?;
            }
            db.prepare_cached(
                "INSERT INTO decision (scaler, seq, at, enforced, original, floor, recommended, replicas, demand, peak,
                                       changed_from, changed_to, failed, reasons, stands_out)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            )?
            .execute(params![
                series.id,
                seq,
                decided.at.as_second(),
                decided.mode == Mode::Enforce,
                decided.original.0,
                decided.floor.0,
                decided.recommended.map(|pods| pods.0),
                decided.replicas.map(|pods| pods.0),
                decided.demand,
                decided.peak,
                decided.changed.map(|(from, _)| from.0),
                decided.changed.map(|(_, to)| to.0),
                decided.failed,
                reasons,
                notable,
            ])?;
            db.prepare_cached("DELETE FROM decision WHERE scaler = ?1 AND seq <= ?2")?
                .execute(params![series.id, seq - i64::from(retention.decisions)])?;
            db.prepare_cached("UPDATE scaler SET memory = ?2 WHERE id = ?1")?.execute(params![series.id, memory])?;
            Ok(())
        });
    }

    /// Returns the memory that the last decision left, for the first decision after a start.
    pub fn memory(&self, name: &ScalerName) -> Option<Memory> {
        let text = self.read("the memory", |db| {
            db.prepare_cached("SELECT memory FROM scaler WHERE namespace = ?1 AND name = ?2")?
                .query_row(params![name.namespace, name.name], |row| row.get::<_, Option<String>>(0))
                .optional()
        });
        json("the memory", text??.as_deref())
    }

    /// Forgets a scaler that is gone.
    pub fn forget(&self, name: &ScalerName) {
        self.write("the end of a scaler", |db, _| forget(db, name));
    }

    /// Forgets all scalers but these: the others were deleted while no operator ran.
    pub fn keep_only(&self, names: &[ScalerName]) {
        self.write("the end of scalers", |db, _| {
            let mut statement = db.prepare_cached("SELECT namespace, name FROM scaler")?;
            let known = statement
                .query_map([], |row| Ok(ScalerName::new(row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
            let known: Vec<ScalerName> = known.collect::<rusqlite::Result<_>>()?;
            known.iter().filter(|name| !names.contains(name)).try_for_each(|name| forget(db, name))
        });
    }

    /// All scalers, by namespace and name.
    pub fn list(&self) -> Vec<Listed> {
        let listed = self.read("the list", |db| {
            let mut last = db.prepare_cached(&format!("{DECISIONS} WHERE scaler = ?1 ORDER BY seq DESC LIMIT 1"))?;
            let mut statement = db.prepare_cached(
                "SELECT id, namespace, name, profile, forecast FROM scaler WHERE profile IS NOT NULL
                 ORDER BY namespace, name",
            )?;
            let mut rows = statement.query([])?;
            let mut listed = Vec::new();
            while let Some(row) = rows.next()? {
                let name = ScalerName::new(row.get::<_, String>(1)?, row.get::<_, String>(2)?);
                let Some(profile) = json("a profile", row.get_ref(3)?.as_str_or_null()?) else { continue };
                let forecast = json("a forecast", row.get_ref(4)?.as_str_or_null()?);
                let last = last.query_row([row.get::<_, i64>(0)?], decision).optional()?.map(|row| row.decided);
                listed.push(Listed { name, profile, forecast, last });
            }
            Ok(listed)
        });
        listed.unwrap_or_default()
    }

    /// Returns the data of one scaler: its samples of the last `past`, and at most `most` decisions.
    pub fn workload(&self, name: &ScalerName, past: Span, most: u32) -> Option<StoredWorkload> {
        self.read("a scaler", |db| {
            let texts = db
                .prepare_cached("SELECT profile, forecast FROM scaler WHERE namespace = ?1 AND name = ?2")?
                .query_row(params![name.namespace, name.name], |row| {
                    Ok((row.get::<_, Option<String>>(0)?, row.get::<_, Option<String>>(1)?))
                })
                .optional()?;
            let (Some(series), Some((profile, forecast))) = (find(db, name)?, texts) else { return Ok(None) };
            let Some(profile) = json("a profile", profile.as_deref()) else { return Ok(None) };
            let history = match series.grid {
                Some(grid) => {
                    let newest: Option<i64> = db
                        .prepare_cached("SELECT max(part) FROM samples WHERE scaler = ?1")?
                        .query_row([series.id], |row| row.get(0))?;
                    let from = newest.map_or(i64::MIN, |newest| newest.saturating_sub(grid.parts(past)));
                    history(db, series.id, grid, from)?
                }
                None => None,
            };
            let mut statement =
                db.prepare_cached(&format!("{DECISIONS} WHERE scaler = ?1 ORDER BY seq DESC LIMIT ?2"))?;
            let rows = statement.query_map(params![series.id, most], decision)?;
            let decisions = rows.map(|row| row.map(|row| row.decided)).collect::<rusqlite::Result<_>>()?;
            Ok(Some(StoredWorkload { profile, history, forecast: json("a forecast", forecast.as_deref()), decisions }))
        })
        .flatten()
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, what: &str, work: impl Fn(&Connection) -> rusqlite::Result<T>) -> Option<T> {
        let mut slot = self.slot();
        let first = work(&slot.connection);
        match slot.mended(first, |connection| work(connection)) {
            Ok(value) => Some(value),
            Err(cause) => {
                tracing::warn!(%cause, "cannot read {what} from the state");
                None
            }
        }
    }

    fn write(&self, what: &str, work: impl Fn(&Connection, Retention) -> rusqlite::Result<()>) {
        let mut slot = self.slot();
        let retention = slot.retention;
        let whole = |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            work(&transaction, retention)?;
            transaction.commit()
        };
        let first = whole(&mut slot.connection);
        match slot.mended(first, whole) {
            Ok(()) => {
                // On a disk that is nearly full small writes pass where large ones fail.
                if slot.unwritten.as_ref().is_some_and(|(_, last)| last.elapsed() >= CALM) {
                    slot.unwritten = None;
                    tracing::info!("the state is written again");
                }
            }
            Err(cause) => {
                slot.failures += 1;
                let cause = cause.to_string();
                // Once for each cause, not once for each scaler and step.
                if slot.unwritten.as_ref().is_none_or(|(before, _)| *before != cause) {
                    tracing::warn!(cause, "cannot write {what} to the state: continuing without it");
                }
                slot.unwritten = Some((cause, Instant::now()));
            }
        }
    }
}

impl Slot {
    /// The result; where the file turned out to be broken, that of another try with a new file.
    fn mended<T>(
        &mut self,
        result: rusqlite::Result<T>,
        again: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let Err(error) = &result else { return result };
        let broken = matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase));
        let Some(path) = self.path.clone().filter(|_| broken) else { return result };
        let cause = error.to_string();
        // Closed first: what is open would be written on.
        self.connection = file::in_memory()?;
        match file::set_aside(&path, &cause).and_then(|()| file::open(&path)) {
            Ok(connection) => self.connection = connection,
            Err(cause) => {
                tracing::warn!(path = %path.display(), cause, "cannot keep the state in a file: in memory");
                self.path = None;
                self.without = Some(cause);
            }
        }
        again(&mut self.connection)
    }
}

/// A scaler's row, made where there is none.
fn series(db: &Connection, name: &ScalerName) -> rusqlite::Result<Series> {
    if let Some(series) = find(db, name)? {
        return Ok(series);
    }
    db.prepare_cached("INSERT INTO scaler (namespace, name) VALUES (?1, ?2)")?
        .execute(params![name.namespace, name.name])?;
    Ok(Series { id: db.last_insert_rowid(), query: None, grid: None })
}

fn find(db: &Connection, name: &ScalerName) -> rusqlite::Result<Option<Series>> {
    db.prepare_cached("SELECT id, query, step, phase FROM scaler WHERE namespace = ?1 AND name = ?2")?
        .query_row(params![name.namespace, name.name], |row| {
            let (step, phase): (Option<i64>, Option<i64>) = (row.get(2)?, row.get(3)?);
            let grid = step.zip(phase).map(|(step, phase)| Grid { step, phase });
            Ok(Series { id: row.get(0)?, query: row.get(1)?, grid: grid.filter(|grid| grid.step > 0) })
        })
        .optional()
}

fn forget(db: &Connection, name: &ScalerName) -> rusqlite::Result<()> {
    // Samples and decisions go with it.
    db.prepare_cached("DELETE FROM scaler WHERE namespace = ?1 AND name = ?2")?
        .execute(params![name.namespace, name.name])?;
    Ok(())
}

fn history(db: &Connection, id: i64, grid: Grid, from: i64) -> rusqlite::Result<Option<History>> {
    let mut statement =
        db.prepare_cached("SELECT part, data FROM samples WHERE scaler = ?1 AND part >= ?2 ORDER BY part")?;
    let mut rows = statement.query(params![id, from])?;
    let mut parts = BTreeMap::new();
    while let Some(row) = rows.next()? {
        if let Some(part) = Part::read(row.get_ref(1)?.as_blob()?) {
            parts.insert(row.get(0)?, part);
        }
    }
    Ok(grid.history(&parts))
}

const DECISIONS: &str = "SELECT seq, at, enforced, original, floor, recommended, replicas, demand, peak, changed_from, \
                         changed_to, failed, reasons, stands_out FROM decision";

struct StoredDecision {
    seq: i64,
    notable: bool,
    decided: Decided,
}

fn decision(row: &Row<'_>) -> rusqlite::Result<StoredDecision> {
    let pods =
        |index: usize| -> rusqlite::Result<Option<Replicas>> { Ok(row.get::<_, Option<u32>>(index)?.map(Replicas)) };
    let reasons: Option<Vec<Said>> = json("reasons", row.get_ref(12)?.as_str_or_null()?);
    let decided = Decided {
        at: Timestamp::from_second(row.get(1)?).unwrap_or_default(),
        mode: if row.get(2)? { Mode::Enforce } else { Mode::Recommend },
        original: pods(3)?.unwrap_or_default(),
        floor: pods(4)?.unwrap_or_default(),
        recommended: pods(5)?,
        replicas: pods(6)?,
        demand: row.get(7)?,
        peak: row.get(8)?,
        changed: pods(9)?.zip(pods(10)?),
        failed: row.get(11)?,
        reasons: reasons.unwrap_or_default(),
    };
    Ok(StoredDecision { seq: row.get(0)?, notable: row.get(13)?, decided })
}

/// Parses a text; none, with a warning, if this version cannot read it.
fn json<T: for<'a> Deserialize<'a>>(what: &str, text: Option<&str>) -> Option<T> {
    serde_json::from_str(text?)
        .map_err(|cause| tracing::warn!(%cause, "cannot understand {what} in the state: passed over"))
        .ok()
}

#[cfg(test)]
pub(crate) mod tests;
