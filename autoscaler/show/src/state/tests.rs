//! The state as the operator uses it, with files that are not what they should be and a disk that is full.

use super::*;
use crate::tests_support::flat;
use autoscaler_floor::decide::{Missing, Outlook, Policy, Seen, decide};
use autoscaler_floor::minimum::Minimum;
use autoscaler_floor::units::Seconds;
use std::process::Command;

fn name(text: &str) -> ScalerName {
    ScalerName::new("shop", text)
}

pub(crate) fn profile(uid: &str) -> Profile {
    Profile {
        uid: uid.to_owned(),
        hpa: "web".to_owned(),
        target: Some("Deployment/web".to_owned()),
        query: "sum(rate(requests[1m]))".to_owned(),
        unit: Unit::PerSecond,
        capacity: "70/s".to_owned(),
        mode: Mode::Enforce,
        paused: false,
        step: "5m".parse().unwrap(),
        season: "1d".parse().unwrap(),
        lead_time: "15m".parse().unwrap(),
        quantile: "0.9".parse().unwrap(),
        max_floor: Replicas(40),
        max_replicas: Some(Replicas(50)),
        floor_status: None,
        conditions: Vec::new(),
        missing: None,
    }
}

pub(crate) fn condition(kind: &str, status: &str, reason: &str) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: format!("it is {reason}"),
        since: Timestamp::UNIX_EPOCH,
    }
}

pub(crate) fn history(from: i64, values: &[f64]) -> History {
    History {
        start: Timestamp::from_second(from * 300).unwrap(),
        step: "5m".parse().unwrap(),
        samples: values.iter().map(|value| value.is_finite().then_some(*value)).collect(),
    }
}

fn step() -> Span {
    "5m".parse().unwrap()
}

/// A decision at a time, of an outlook whose upper line is level.
pub(crate) fn decided(at: i64, upper: Option<f64>, before: Option<&Memory>) -> (Decided, Memory) {
    let policy = Policy {
        mode: Mode::Enforce,
        capacity: "70/s".parse().unwrap(),
        step: step(),
        lead_time: "10m".parse().unwrap(),
        max_floor: Replicas(40),
        max_step_up: Replicas(10),
        scale_down_delay: Seconds(600),
        stale_after: Seconds(1_800),
    };
    let now = Timestamp::from_second(at * 300).unwrap();
    let outlook = upper.map(|upper| Outlook::new(now, step(), Unit::PerSecond, &[upper; 6], true));
    let missing = || Missing::NoForecast { cause: "none was made".to_owned() };
    let seen = Seen {
        now,
        minimum: &Minimum::of_owner(before.map_or(Replicas(2), Memory::floor)),
        max_replicas: Replicas(50),
        desired: None,
        paused: false,
        outlook: outlook.as_ref().ok_or_else(missing),
    };
    let decision = decide(&policy, before, &seen);
    (Decided::new(now, policy.mode, Replicas(2), &decision), decision.memory)
}

fn filled(state: &State) {
    state.note(&name("web"), &profile("1"));
    state.remember_samples(&name("web"), "q", &history(0, &[1.0, 2.0, 3.0]));
    state.remember_forecast(&name("web"), &flat(&history(0, &[1.0, 2.0, 3.0]), 4, 7.0));
    let (decided, memory) = decided(3, Some(300.0), None);
    state.remember_decision(&name("web"), &decided, &memory);
}

#[track_caller]
fn check_filled(state: &State) {
    let stored = state.workload(&name("web"), "1d".parse().unwrap(), 10).expect("the scaler is known");
    assert_eq!(stored.profile, profile("1"));
    assert_eq!(stored.history, Some(history(0, &[1.0, 2.0, 3.0])));
    assert_eq!(stored.forecast.unwrap().points.len(), 4);
    assert_eq!(stored.decisions.len(), 1);
    assert_eq!(stored.decisions[0].changed, Some((Replicas(2), Replicas(5))));
    assert_eq!(state.memory(&name("web")).unwrap().floor(), Replicas(5));
}

#[test]
fn what_is_remembered_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/state.db");
    filled(&State::open(&path, Retention::default()));
    let state = State::open(&path, Retention::default());
    assert_eq!(state.health(), Health::Kept);
    check_filled(&state);
    assert_eq!(state.list().len(), 1);
}

#[test]
fn samples_of_the_same_query_are_laid_over_each_other() {
    let state = State::in_memory(Retention::default());
    let web = name("web");
    state.remember_samples(&web, "q", &history(0, &[1.0, 2.0, f64::NAN]));
    state.remember_samples(&web, "q", &history(1, &[f64::NAN, 3.0, 4.0]));
    assert_eq!(state.samples(&web, "q", step()), Some(history(0, &[1.0, 2.0, 3.0, 4.0])));
    assert_eq!(state.samples(&web, "another", step()), None);
    assert_eq!(state.samples(&web, "q", "1m".parse().unwrap()), None);
    assert_eq!(state.samples(&name("other"), "q", step()), None);
    state.remember_samples(&web, "another", &history(9, &[5.0]));
    assert_eq!(state.samples(&web, "another", step()), Some(history(9, &[5.0])));
    assert_eq!(state.samples(&web, "q", step()), None);
}

#[test]
fn another_object_of_the_same_name_inherits_nothing() {
    let state = State::in_memory(Retention::default());
    filled(&state);
    state.note(&name("web"), &profile("2"));
    let stored = state.workload(&name("web"), "1d".parse().unwrap(), 10).unwrap();
    assert!(stored.history.is_none() && stored.forecast.is_none() && stored.decisions.is_empty());
    assert!(state.memory(&name("web")).is_none());
}

#[test]
fn what_is_not_known_of_the_autoscaler_now_stays_as_it_was() {
    let state = State::in_memory(Retention::default());
    state.note(&name("web"), &profile("1"));
    state.note(&name("web"), &Profile { target: None, max_replicas: None, paused: true, ..profile("1") });
    assert_eq!(state.list()[0].profile, Profile { paused: true, ..profile("1") });
    let other = Profile { hpa: "other".to_owned(), target: None, max_replicas: None, ..profile("1") };
    state.note(&name("web"), &other);
    assert_eq!(state.list()[0].profile, other);
}

#[test]
fn what_is_gone_is_forgotten() {
    let state = State::in_memory(Retention::default());
    for scaler in ["a", "b", "c"] {
        state.note(&name(scaler), &profile(scaler));
        state.remember_samples(&name(scaler), "q", &history(0, &[1.0]));
    }
    state.forget(&name("a"));
    state.keep_only(&[name("c")]);
    let left: Vec<String> = state.list().into_iter().map(|listed| listed.name.to_string()).collect();
    assert_eq!(left, ["shop/c"]);
    let rows = state.read("a count", |db| db.query_row("SELECT count(*) FROM samples", [], |row| row.get::<_, i64>(0)));
    assert_eq!(rows, Some(1));
}

#[test]
fn retention_counts_from_the_newest_and_not_by_the_clock() {
    let state = State::in_memory(Retention { samples: "2d".parse().unwrap(), least: 0, decisions: 5 });
    let web = name("web");
    state.note(&web, &profile("1"));
    let week: Vec<f64> = (0..7 * 288).map(f64::from).collect();
    state.remember_samples(&web, "q", &history(0, &week));
    let kept = state.samples(&web, "q", step()).unwrap();
    assert_eq!(kept.samples.last(), Some(&Some(2_015.0)));
    assert!((576..576 + 2 * 256).contains(&kept.samples.len()), "{}", kept.samples.len());

    let mut memory = None;
    // The clock jumps by years, and back.
    for at in [3, 4, 1_000_000, 1_000_001, 5, 6, 7] {
        let (decided, next) = decided(at, Some(300.0), memory.as_ref());
        state.remember_decision(&web, &decided, &next);
        memory = Some(next);
    }
    let decisions = state.workload(&web, step(), 99).unwrap().decisions;
    let times: Vec<i64> = decisions.iter().map(|decided| decided.at.as_second() / 300).collect();
    assert_eq!(times, [7, 6, 5, 1_000_001, 1_000_000]);
}

#[test]
fn long_seasons_keep_their_samples() {
    let state = State::in_memory(Retention::default());
    // Four months, a sample every six hours, of which four weeks would be 112.
    let months = History { step: "6h".parse().unwrap(), samples: vec![Some(1.0); 480], ..history(0, &[]) };
    state.remember_samples(&name("web"), "q", &months);
    assert_eq!(state.samples(&name("web"), "q", months.step), Some(months));
}

#[test]
fn a_decision_like_the_one_before_leaves_numbers_only() {
    let state = State::in_memory(Retention::default());
    let web = name("web");
    state.note(&web, &profile("1"));
    let mut memory = None;
    let raised_then_none = [Some(300.0), Some(300.0), Some(300.0), Some(300.0), None, None, None];
    for (at, upper) in raised_then_none.into_iter().enumerate() {
        let (decided, next) = decided(at as i64, upper, memory.as_ref());
        state.remember_decision(&web, &decided, &next);
        memory = Some(next);
    }
    let decisions = state.workload(&web, step(), 99).unwrap().decisions;
    let names: Vec<Vec<&str>> =
        decisions.iter().map(|decided| decided.reasons.iter().map(|said| said.name.as_str()).collect()).collect();
    // The newest says all; before it, what was the first of its kind.
    let none: Vec<&str> = Vec::new();
    assert_eq!(
        names,
        [vec!["Held"], none.clone(), vec!["Held"], none.clone(), none, vec!["Forecast"], vec!["Began", "Forecast"]]
    );
    assert!(decisions.iter().all(|decided| decided.floor == Replicas(5)));
}

#[track_caller]
fn set_aside(bytes: &[u8], cause: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    std::fs::write(&path, bytes).unwrap();
    let state = State::open(&path, Retention::default());
    assert_eq!(state.health(), Health::Kept, "{cause}");
    filled(&state);
    check_filled(&state);
    // Nothing is thrown away.
    let aside = folder.path().join("state.db.set-aside");
    assert!(std::fs::read(aside).is_ok_and(|kept| kept == bytes), "{cause}");
}

/// A database as another program, or another version of this one, would have left it.
fn database(sql: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(sql).unwrap();
    drop(connection);
    std::fs::read(path).unwrap()
}

#[test]
fn a_file_that_cannot_be_used_is_set_aside() {
    set_aside(
        b"this is a text, and not a database of any kind; it is long enough to be taken for a header of one.",
        "text",
    );
    set_aside(
        &database("PRAGMA application_id = 1096991596; PRAGMA user_version = 99; CREATE TABLE later (x)"),
        "newer",
    );
    set_aside(
        &database("PRAGMA application_id = 1096991596; PRAGMA user_version = -1; CREATE TABLE t (x)"),
        "below zero",
    );
    set_aside(&database("CREATE TABLE bookmarks (x)"), "of another program");
}

#[test]
fn a_file_that_breaks_while_it_is_used_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    {
        let state = State::open(&path, Retention::default());
        for scaler in 0..200 {
            state.note(&name(&format!("s{scaler:03}")), &profile("1"));
            state.remember_samples(&name(&format!("s{scaler:03}")), "q", &history(0, &[1.0, 2.0]));
        }
    }
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() > 200_000, "{}", bytes.len());
    // The header and the schema stay: it opens.
    for byte in bytes.iter_mut().skip(16 << 10) {
        *byte = 0xa5;
    }
    std::fs::write(&path, bytes).unwrap();
    let state = State::open(&path, Retention::default());
    assert!(!folder.path().join("state.db.set-aside").exists());
    assert!(state.list().is_empty());
    assert!(folder.path().join("state.db.set-aside").exists());
    filled(&state);
    check_filled(&state);
    assert_eq!(state.health(), Health::Kept);
}

#[test]
fn where_no_file_can_be_had_the_state_is_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    for path in [folder.path().to_owned(), folder.path().join("file/state.db"), PathBuf::from("/proc/none/state.db")] {
        let state = State::open(&path, Retention::default());
        assert!(matches!(state.health(), Health::InMemory(Some(_))), "{}", path.display());
        filled(&state);
        check_filled(&state);
    }
}

#[test]
fn a_file_that_another_process_has_is_left_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let first = State::open(&path, Retention::default());
    filled(&first);
    let second = State::open(&path, Retention::default());
    assert_eq!(second.health(), Health::InMemory(Some("another process has the file open".to_owned())));
    filled(&second);
    check_filled(&first);
}

#[test]
fn an_older_file_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    filled(&State::open(&path, Retention::default()));
    let two: Vec<&str> =
        file::MIGRATIONS.iter().copied().chain(["ALTER TABLE scaler ADD COLUMN more INTEGER DEFAULT 7"]).collect();
    let more = |connection: &Connection| {
        connection
            .query_row("SELECT more, name FROM scaler", [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
    };
    {
        let connection = file::try_open(&path, &two).unwrap();
        assert_eq!(more(&connection).unwrap(), (7, "web".to_owned()));
    }
    // And this binary sets the newer one aside.
    assert!(State::open(&path, Retention::default()).list().is_empty());
    assert!(folder.path().join("state.db.set-aside").exists());
}

#[test]
fn a_migration_that_fails_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    filled(&State::open(&path, Retention::default()));
    let broken: Vec<&str> =
        file::MIGRATIONS.iter().copied().chain(["ALTER TABLE scaler ADD COLUMN more INTEGER; nonsense"]).collect();
    let refused = file::try_open(&path, &broken).unwrap_err();
    assert!(format!("{refused:?}").contains("it cannot be brought up to date"), "{refused:?}");
    check_filled(&State::open(&path, Retention::default()));
}

#[test]
fn a_full_disk_is_a_warning_and_what_was_known_stays() {
    const MARK: &str = "STATE_TEST_FULL_DISK";
    if let Some(folder) = std::env::var_os(MARK) {
        return on_a_full_disk(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let test = std::env::current_exe().unwrap();
    // A disk of its own, 512 KiB large, that is gone with the process.
    let script = "mount -t tmpfs -o size=512k none \"$1\" && exec \"$2\" --exact --nocapture \"$3\"";
    let ran = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .args([folder.path(), &test])
        .arg("state::tests::a_full_disk_is_a_warning_and_what_was_known_stays")
        .env(MARK, folder.path())
        .output();
    let ran = ran.expect("`unshare` is part of util-linux");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    if !ran.status.success() && !said.contains("running 1 test") {
        assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "{said}");
        println!("skipped: no disk of our own can be mounted: {said}");
        return;
    }
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

fn on_a_full_disk(folder: &Path) {
    let path = folder.join("state.db");
    let state = State::open(&path, Retention::default());
    filled(&state);
    std::fs::write(folder.join("other"), vec![0; 100 << 10]).unwrap();
    let lots: Vec<f64> = (0..8_064).map(f64::from).collect();
    let mut scaler = 0;
    while state.health() == Health::Kept {
        assert!(scaler < 1_000, "the disk never fills");
        state.remember_samples(&name(&format!("s{scaler}")), "q", &history(0, &lots));
        scaler += 1;
    }
    let Health::Unwritten(cause) = state.health() else { panic!("{:?}", state.health()) };
    assert!(cause.contains("full") || cause.contains("I/O"), "{cause}");
    assert!(state.failures() > 0);
    // It continues: what was known is known, and every further write is tried.
    check_filled(&state);
    let (decided, memory) = decided(4, Some(500.0), None);
    state.remember_decision(&name("web"), &decided, &memory);
    std::fs::remove_file(folder.join("other")).unwrap();
    state.remember_decision(&name("web"), &decided, &memory);
    // Not for a while: that one write has passed says little of the next.
    assert!(matches!(state.health(), Health::Unwritten(_)));
    drop(state);
    let again = State::open(&path, Retention::default());
    assert_eq!(again.health(), Health::Kept);
    assert!(again.workload(&name("web"), step(), 9).unwrap().decisions.len() >= 2);
}

#[test]
fn sqlite_is_compiled_without_what_nobody_uses() {
    let connection = Connection::open_in_memory().unwrap();
    let mut query = connection.prepare("PRAGMA compile_options").unwrap();
    let options: Vec<String> = query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert!(options.contains(&"THREADSAFE=1".to_owned()), "{options:?}");
    // By `.cargo/config.toml`, which a build without it misses.
    for unused in ["FTS", "RTREE", "STAT4", "DBSTAT", "API_ARMOR", "COLUMN_METADATA"] {
        assert!(!options.iter().any(|option| option.contains(unused)), "{unused}: {options:?}");
    }
}
