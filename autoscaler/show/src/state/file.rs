//! The file of the state: opening it, bringing it up to date, setting aside what cannot be used.
//!
//! Never deletes a file that is not ours, and never opens one that another process holds.

use rusqlite::{Connection, ErrorCode};
use std::path::{Path, PathBuf};

/// `AScl`: which program a database belongs to.
const APPLICATION: i32 = 0x4153_636c;

/// One text per version, each from the version before. Never edited once it was in a release.
pub(super) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE scaler (
        id INTEGER PRIMARY KEY,
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        profile TEXT,
        query TEXT,
        step INTEGER,
        phase INTEGER,
        forecast TEXT,
        memory TEXT,
        UNIQUE (namespace, name)
    ) STRICT;
    CREATE TABLE samples (
        scaler INTEGER NOT NULL REFERENCES scaler (id) ON DELETE CASCADE,
        part INTEGER NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (scaler, part)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE decision (
        scaler INTEGER NOT NULL REFERENCES scaler (id) ON DELETE CASCADE,
        seq INTEGER NOT NULL,
        at INTEGER NOT NULL,
        enforced INTEGER NOT NULL,
        original INTEGER NOT NULL,
        floor INTEGER NOT NULL,
        recommended INTEGER,
        replicas INTEGER,
        demand REAL,
        peak REAL,
        changed_from INTEGER,
        changed_to INTEGER,
        failed TEXT,
        reasons TEXT,
        stands_out INTEGER NOT NULL,
        PRIMARY KEY (scaler, seq)
    ) STRICT, WITHOUT ROWID;
",
    "
    ALTER TABLE scaler ADD COLUMN fit TEXT;
",
    "
    ALTER TABLE scaler ADD COLUMN choice TEXT;
",
];

/// Reason that a file was not opened.
#[derive(Debug)]
pub(super) enum Refused {
    /// It is not a state of this version, and another can take its place.
    Unusable(String),
    /// No file can be used at this path.
    Unavailable(String),
}

/// Opens the file, makes it, or sets an unusable one aside and makes another.
pub(super) fn open(path: &Path) -> Result<Connection, String> {
    match try_open(path, MIGRATIONS) {
        Ok(connection) => Ok(connection),
        Err(Refused::Unavailable(cause)) => Err(cause),
        Err(Refused::Unusable(cause)) => {
            set_aside(path, &cause)?;
            open_strict(path)
        }
    }
}

/// Opens a file without setting it aside, or returns the reason that it cannot be used.
pub(super) fn open_strict(path: &Path) -> Result<Connection, String> {
    try_open(path, MIGRATIONS).map_err(|refused| match refused {
        Refused::Unusable(cause) | Refused::Unavailable(cause) => cause,
    })
}

pub(super) fn in_memory() -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_in_memory()?;
    settle(&connection)?;
    migrate(&mut connection, MIGRATIONS, 0)?;
    Ok(connection)
}

/// Renames the file, and what SQLite left next to it, so that a person can look at it. One is kept, the last.
pub(super) fn set_aside(path: &Path, cause: &str) -> Result<(), String> {
    let aside = neighbour(path, ".set-aside");
    std::fs::rename(path, &aside).map_err(|error| format!("{cause}, and it cannot be set aside: {error}"))?;
    for suffix in ["-wal", "-journal"] {
        let left = neighbour(path, suffix);
        // It may be missing; one of an older file would be taken for this one's.
        let _ = std::fs::remove_file(neighbour(&aside, suffix));
        let _ = std::fs::rename(left, neighbour(&aside, suffix));
    }
    tracing::warn!(path = %path.display(), aside = %aside.display(), cause, "the state is set aside: beginning with an empty one");
    Ok(())
}

fn neighbour(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub(super) fn try_open(path: &Path, migrations: &[&str]) -> Result<Connection, Refused> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|cause| Refused::Unavailable(cause.to_string()))?;
    }
    let refused = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Refused::Unusable(error.to_string()),
        // Another process has it: a second writer would only make both wait.
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Refused::Unavailable("another process has the file open".to_owned())
        }
        _ => Refused::Unavailable(error.to_string()),
    };
    let mut connection = Connection::open(path).map_err(refused)?;
    connection.busy_timeout(std::time::Duration::ZERO).map_err(refused)?;
    // Before the first look at the file: an exclusive lock needs no memory shared with other processes.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(refused)?;
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(refused);
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(refused)?;
    if application != i64::from(APPLICATION) && (application != 0 || tables != 0) {
        return Err(Refused::Unusable("it is another program's database".to_owned()));
    }
    let done = match usize::try_from(version) {
        Ok(done) if done <= migrations.len() => done,
        _ => {
            let known = migrations.len();
            return Err(Refused::Unusable(format!("its version is {version}, and this binary knows up to {known}")));
        }
    };
    // Only now: it writes into the file.
    settle(&connection).map_err(refused)?;
    match migrate(&mut connection, migrations, done) {
        Ok(()) => Ok(connection),
        Err(error) => Err(match refused(error) {
            // A schema that is not what its version says.
            Refused::Unavailable(cause) if done > 0 => {
                Refused::Unusable(format!("it cannot be brought up to date: {cause}"))
            }
            other => other,
        }),
    }
}

fn settle(connection: &Connection) -> rusqlite::Result<()> {
    // It answers with the mode that it chose; in memory that is another.
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // What a power cut takes is fetched again.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cache_size", -4_096)?;
    // With a read-only root no other folder can be written.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // A log that a burst has made long is cut short at the next checkpoint.
    connection.pragma_update_and_check(None, "journal_size_limit", 8 << 20, |_| Ok(()))?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn migrate(connection: &mut Connection, migrations: &[&str], done: usize) -> rusqlite::Result<()> {
    for (index, migration) in migrations.iter().enumerate().skip(done) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", index as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}
