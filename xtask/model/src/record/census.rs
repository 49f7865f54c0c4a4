//! Work that a range of commits would have caused: what was built, tested and skipped, and the time saved compared with building everything
//! each time. Pure.
//!
//! Seconds are medians of this machine's ledger; where it has none for a kind, a time is assumed, and the row and the total say so.

use crate::image::change::Work;
use crate::image::key::EditKind;
use crate::quantity;
use crate::record::ledger::{BuildKind, Record};
use crate::record::stats::chart::seconds;
use crate::record::stats::{median, page};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Kind of a commit, by the work that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// No image changes.
    Nothing,
    /// Files that are copied into the app.
    Files,
    /// The app's program is compiled.
    Program,
    /// The base, and the app on it.
    Base,
    /// Everything from scratch: no base can be named.
    Everything,
    /// The commit's inputs cannot be read; it is not counted in sums.
    Unreadable,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Nothing, Self::Files, Self::Program, Self::Base, Self::Everything, Self::Unreadable];

    /// The class of a decision.
    pub fn of(work: Work, compiles: bool) -> Self {
        match (work, compiles) {
            (Work::Skip | Work::Rebase, _) => Self::Nothing,
            (Work::Fast, false) => Self::Files,
            (Work::Fast, true) => Self::Program,
            (Work::BaseFast, _) => Self::Base,
            (Work::Full, _) => Self::Everything,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no image changes",
            Self::Files => "files of the app",
            Self::Program => "program of the app",
            Self::Base => "base",
            Self::Everything => "base unreadable",
            Self::Unreadable => "cannot be read",
        }
    }

    fn builds(self) -> &'static str {
        match self {
            Self::Nothing | Self::Unreadable => "nothing",
            Self::Files => "app layers",
            Self::Program => "program and app",
            Self::Base => "base and app",
            Self::Everything => "everything",
        }
    }
}

/// One commit, replayed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReplayedCommit {
    /// Its full name.
    pub commit: String,
    /// First line of its message.
    pub subject: String,
    /// Its kind.
    pub class: Class,
    pub reasons: Vec<String>,
    /// Tests that it needs, as `plan` names them.
    pub tests: String,
}

/// Seconds of one build of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    pub seconds: f64,
    /// Number of builds of which it is the median, and of a sum the smallest number; 0 if it is assumed, or a part of it is.
    pub builds: usize,
}

/// Commits of one kind together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The kind.
    pub class: Class,
    /// Number of commits.
    pub commits: usize,
    /// Seconds of each.
    pub cost: Cost,
    /// Seconds of all of them.
    pub spent: f64,
    /// Seconds saved against building everything.
    pub saved: f64,
}

/// The result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Census {
    /// The range as it was asked for.
    pub range: String,
    /// The kinds that occur.
    pub classes: Vec<Row>,
    /// Number of commits by the tests that they need.
    pub tests: BTreeMap<String, usize>,
    /// Seconds of building everything once.
    pub everything: Cost,
    /// Seconds of all builds.
    pub spent: f64,
    /// Seconds saved against building everything for each commit.
    pub saved: f64,
    /// The commits, oldest first.
    pub commits: Vec<ReplayedCommit>,
}

/// The result for one of several apps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AppCensus {
    pub name: String,
    /// Name of its base, where the policy names several.
    #[serde(skip)]
    pub base: Option<String>,
    #[serde(flatten)]
    pub census: Census,
}

/// The result for several apps, and their sum.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Censuses {
    range: String,
    apps: Vec<AppCensus>,
    /// Seconds of all builds, with a base that several apps share counted once.
    spent: f64,
    /// Seconds saved against building every app from scratch for each commit.
    saved: f64,
}

impl Censuses {
    /// Sums up apps; `records` are those of this machine.
    pub fn of(range: &str, apps: Vec<AppCensus>, records: &[Record]) -> Self {
        let base_alone = (cost(records, Class::Base).seconds - cost(records, Class::Files).seconds).max(0.0);
        let mut built = BTreeSet::new();
        let mut again = 0;
        for app in &apps {
            for commit in app.census.commits.iter().filter(|commit| commit.class == Class::Base) {
                again += usize::from(!built.insert((&app.base, &commit.commit)));
            }
        }
        let shared = again as f64 * base_alone;
        let spent = apps.iter().map(|app| app.census.spent).sum::<f64>() - shared;
        let saved = apps.iter().map(|app| app.census.saved).sum::<f64>() + shared;
        Self { range: range.to_owned(), apps, spent, saved }
    }

    fn summary(&self) -> String {
        let all = self.spent + self.saved;
        let less = if all > 0.0 { 100.0 * self.saved / all } else { 0.0 };
        format!(
            "all apps: {} of builds instead of {}, {less:.1} % less{}; a base that several apps share is counted once",
            seconds(self.spent),
            seconds(all),
            listed(&self.apps.iter().flat_map(|app| app.census.assumed()).collect()),
        )
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let of = |app: &AppCensus| format!("app {}\n{}\n", app.name, app.census.text());
        self.apps.iter().map(of).collect::<String>() + &self.summary() + "\n"
    }

    /// As one HTML page. `title` is what is built.
    pub fn page(&self, title: &str) -> String {
        let of = |app: &AppCensus| app.census.sections(&format!(" of app {}", page::escape(&app.name)));
        let all =
            format!("<section><h2>All apps</h2><p class=\"note\">{}</p></section>\n", page::escape(&self.summary()));
        document(title, &self.range, &(all + &self.apps.iter().map(of).collect::<String>()))
    }
}

fn document(title: &str, range: &str, body: &str) -> String {
    let footer =
        "Written by <code>cargo xtask stats --replay</code> from git and <code>target/ledger/builds.jsonl</code>.";
    page::document(&format!("Commits of {title}"), range, body, footer)
}

/// Seconds that are assumed where the ledger has no build of a kind, from `docs/benchmarks.md`: the docker engine's rows, and the processor
/// time of compiling the program in full.
const ASSUMED: [(Class, f64); 4] =
    [(Class::Nothing, 0.2), (Class::Files, 0.6), (Class::Program, 44.0), (Class::Base, 14.1)];

/// Seconds of a cold base, from the same table.
const COLD_BASE: f64 = 32.0;

/// Median of the builds of a class on this machine, if there is any.
fn measured(records: &[Record], class: Class) -> Option<Cost> {
    let belongs = |record: &&Record| match class {
        Class::Nothing => record.decision == BuildKind::Reused,
        Class::Files => record.decision == BuildKind::Fast && record.change() == Some(EditKind::Files),
        Class::Program => record.decision == BuildKind::Fast && record.change() == Some(EditKind::Program),
        Class::Base => record.decision == BuildKind::BaseFast,
        Class::Everything => record.decision == BuildKind::Enhanced,
        Class::Unreadable => false,
    };
    let times: Vec<f64> =
        records.iter().filter(|record| record.counts()).filter(belongs).map(|record| record.seconds).collect();
    let builds = times.len();
    Some(Cost { seconds: median(times)?, builds })
}

/// Seconds of a build of one class, other than everything.
fn cost(records: &[Record], class: Class) -> Cost {
    let assumed = || {
        let known = ASSUMED.iter().find(|(of, _)| *of == class).map_or(0.0, |(_, seconds)| *seconds);
        // A part takes no longer than the whole does here.
        let whole = measured(records, Class::Everything).map_or(f64::INFINITY, |whole| whole.seconds);
        Cost { seconds: known.min(whole), builds: 0 }
    };
    measured(records, class).unwrap_or_else(assumed)
}

/// Seconds of building everything. Where it was not measured, they are those of a base with its app, and of the compiler if the app has a
/// program; a part that was measured on this machine is never assumed.
fn everything(records: &[Record], has_program: bool) -> Cost {
    if let Some(whole) = measured(records, Class::Everything) {
        return whole;
    }
    let base = measured(records, Class::Base).unwrap_or(Cost { seconds: COLD_BASE, builds: 0 });
    if !has_program {
        return base;
    }
    let program = cost(records, Class::Program);
    Cost { seconds: base.seconds + program.seconds, builds: base.builds.min(program.builds) }
}

/// Sums up. `records` are those of this machine; `has_program` says whether the app has a program that is compiled.
pub fn count(range: &str, commits: Vec<ReplayedCommit>, records: &[Record], has_program: bool) -> Census {
    let has_program = has_program || commits.iter().any(|commit| commit.class == Class::Program);
    let everything = everything(records, has_program);
    let mut classes = Vec::new();
    for class in Class::ALL {
        let number = commits.iter().filter(|commit| commit.class == class).count();
        if number > 0 {
            let cost = if class == Class::Everything { everything } else { cost(records, class) };
            let counted = if class == Class::Unreadable { 0.0 } else { number as f64 };
            let spent = counted * cost.seconds;
            classes.push(Row { class, commits: number, cost, spent, saved: counted * everything.seconds - spent });
        }
    }
    let mut tests = BTreeMap::new();
    for commit in commits.iter().filter(|commit| commit.class != Class::Unreadable) {
        *tests.entry(commit.tests.clone()).or_default() += 1;
    }
    let spent = classes.iter().map(|row| row.spent).sum();
    let saved = classes.iter().map(|row| row.saved).sum();
    Census { range: range.to_owned(), classes, tests, everything, spent, saved, commits }
}

/// Note of a sum about times that are assumed.
fn listed(assumed: &BTreeSet<&str>) -> String {
    match assumed.is_empty() {
        true => String::new(),
        false => format!(" (assumed times: {})", assumed.iter().copied().collect::<Vec<_>>().join(", ")),
    }
}

impl Cost {
    fn text(&self) -> String {
        let time = quantity::seconds(Duration::try_from_secs_f64(self.seconds).unwrap_or_default());
        match self.builds {
            0 => format!("{time} (assumed)"),
            1 => format!("{time} (1 build)"),
            builds => format!("{time} ({builds} builds)"),
        }
    }
}

impl Census {
    fn counted(&self) -> usize {
        self.commits.iter().filter(|commit| commit.class != Class::Unreadable).count()
    }

    fn share(&self, commits: usize) -> f64 {
        100.0 * commits as f64 / self.counted().max(1) as f64
    }

    fn without_base(&self) -> usize {
        let without = [Class::Nothing, Class::Files, Class::Program];
        self.commits.iter().filter(|commit| without.contains(&commit.class)).count()
    }

    /// The sentence about the whole.
    fn summary(&self) -> String {
        let all = self.spent + self.saved;
        let less = if all > 0.0 { 100.0 * self.saved / all } else { 0.0 };
        format!(
            "{} commits: {:.1} % need no base; {} of builds instead of {}, {less:.1} % less{}",
            self.counted(),
            self.share(self.without_base()),
            seconds(self.spent),
            seconds(all),
            listed(&self.assumed()),
        )
    }

    /// Names of the times in the sum that were not measured on this machine.
    fn assumed(&self) -> BTreeSet<&'static str> {
        let rows = self.classes.iter().filter(|row| row.class != Class::Unreadable && row.cost.builds == 0);
        let whole = (self.everything.builds == 0).then_some("everything");
        rows.map(|row| row.class.name()).chain(whole).collect()
    }

    fn tests_text(&self) -> String {
        self.tests.iter().map(|(tests, commits)| format!("{tests} {commits}")).collect::<Vec<_>>().join(", ")
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        if self.commits.is_empty() {
            return format!("no commit in `{}`\n", self.range);
        }
        let mut out = format!(
            "{:<20} {:>7} {:>7}  {:<16} {:<22} {:>12} {:>12}\n",
            "kind of commit", "commits", "share", "builds", "each", "all", "saved"
        );
        for row in &self.classes {
            if row.class == Class::Unreadable {
                out += &format!("{:<20} {:>7}  not counted\n", row.class.name(), row.commits);
                continue;
            }
            out += &format!(
                "{:<20} {:>7} {:>5.1} %  {:<16} {:<22} {:>12} {:>12}\n",
                row.class.name(),
                row.commits,
                self.share(row.commits),
                row.class.builds(),
                row.cost.text(),
                seconds(row.spent),
                seconds(row.saved),
            );
        }
        out += &format!("\neverything, for each commit: {}\n", self.everything.text());
        out += &format!("tests: {}\n{}\n", self.tests_text(), self.summary());
        out
    }

    /// As one HTML page. `title` is what is built.
    pub fn page(&self, title: &str) -> String {
        document(title, &self.range, &self.sections(""))
    }

    /// The sections of a page; `of` ends their titles.
    fn sections(&self, of: &str) -> String {
        let rows: String = self
            .classes
            .iter()
            .map(|row| {
                let cells = [
                    row.commits.to_string(),
                    format!("{:.1} %", self.share(row.commits)),
                    row.cost.text(),
                    seconds(row.spent),
                    seconds(row.saved),
                ];
                let cells: String = cells.iter().map(|cell| format!("<td class=\"n\">{cell}</td>")).collect();
                format!("<tr><td>{}</td><td>{}</td>{cells}</tr>", row.class.name(), row.class.builds())
            })
            .collect();
        let commits: String = self
            .commits
            .iter()
            .rev()
            .map(|commit| {
                format!(
                    "<tr><td class=\"n\"><code>{}</code></td><td>{}</td><td>{}</td><td>{}</td><td class=\"why\">{}</td></tr>",
                    &commit.commit[..12.min(commit.commit.len())],
                    page::escape(&commit.subject),
                    commit.class.name(),
                    page::escape(&commit.tests),
                    page::escape(&commit.reasons.join("; ")),
                )
            })
            .collect();
        format!(
            "<section><h2>Kinds of commits{of}</h2><p class=\"note\">{}</p><div class=\"draw\"><table><tr><th>kind</th><th>builds</th>\
             <th>commits</th><th>share</th><th>each</th><th>all</th><th>saved</th></tr>{rows}</table></div>\
             <p class=\"note\">Everything, for each commit: {}. Tests: {}.</p></section>\n\
             <section><h2>Commits{of}, newest first</h2><div class=\"draw\"><table><tr><th>commit</th><th>subject</th><th>kind</th>\
             <th>tests</th><th>why</th></tr>{commits}</table></div></section>\n",
            page::escape(&self.summary()),
            self.everything.text(),
            page::escape(&self.tests_text()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ledger::test_data::record;

    fn commit(class: Class, tests: &str) -> ReplayedCommit {
        let (subject, reasons) = ("<b> & more".to_owned(), vec!["app: `a<b` was edited".to_owned()]);
        ReplayedCommit { commit: "0123456789abcdef".to_owned(), subject, class, reasons, tests: tests.to_owned() }
    }

    fn census() -> Census {
        let files = |seconds| Record { change: Some(EditKind::Files), ..record(BuildKind::Fast, 1, seconds) };
        let failed = Record { failed: Some("x".to_owned()), ..files(500.0) };
        let records =
            [files(1.0), files(3.0), failed, record(BuildKind::Reused, 1, 0.5), record(BuildKind::Enhanced, 1, 100.0)];
        let commits = [
            commit(Class::Nothing, "documents"),
            commit(Class::Files, "pages"),
            commit(Class::Files, "all"),
            commit(Class::Program, "all"),
            commit(Class::Unreadable, "all"),
        ];
        count("a..b", commits.to_vec(), &records, true)
    }

    #[test]
    fn each_kind_is_costed_by_its_median_and_compared_with_everything() {
        let census = census();
        let rows: Vec<_> =
            census.classes.iter().map(|row| (row.class, row.commits, row.cost.builds, row.spent, row.saved)).collect();
        assert_eq!(
            rows,
            [
                (Class::Nothing, 1, 1, 0.5, 99.5),
                (Class::Files, 2, 2, 4.0, 196.0),
                (Class::Program, 1, 0, 44.0, 56.0),
                (Class::Unreadable, 1, 0, 0.0, 0.0),
            ]
        );
        assert_eq!((census.spent, census.saved), (48.5, 351.5));
        assert_eq!(census.tests_text(), "all 2, documents 1, pages 1");
        assert!(census.text().contains("44.0 s (assumed)"), "{}", census.text());
        assert!(
            census
                .text()
                .ends_with("4 commits: 100.0 % need no base; 48.5 s of builds instead of 6 min 40 s, 87.9 % less (assumed times: program of the app)\n"),
            "{}",
            census.text()
        );
    }

    #[test]
    fn a_base_of_several_apps_is_counted_once() {
        let files = Record { change: Some(EditKind::Files), ..record(BuildKind::Fast, 1, 2.0) };
        let records = [files, record(BuildKind::BaseFast, 1, 40.0), record(BuildKind::Enhanced, 1, 100.0)];
        let app = |name: &str, base: &str, classes: &[Class]| {
            let commits = classes.iter().enumerate();
            let commits = commits.map(|(at, class)| ReplayedCommit { commit: at.to_string(), ..commit(*class, "all") });
            let census = count("a..b", commits.collect(), &records, true);
            AppCensus { name: name.to_owned(), base: Some(base.to_owned()), census }
        };
        let web = app("web", "cpu", &[Class::Base, Class::Files, Class::Base]);
        let worker = app("worker", "cpu", &[Class::Base, Class::Base, Class::Files]);
        let train = app("train", "gpu", &[Class::Base, Class::Nothing, Class::Base]);
        let all = Censuses::of("a..b", vec![web.clone(), worker.clone(), train.clone()], &records);
        // Of the bases, the first commit's is that of two apps.
        let each = web.census.spent + worker.census.spent + train.census.spent;
        assert_eq!((each - all.spent).round(), 38.0);
        assert_eq!((all.spent + all.saved).round(), 900.0);
        assert!(all.text().contains("app worker\n") && all.text().contains("all apps: "), "{}", all.text());
        let page = all.page("app");
        assert_eq!(page.matches("Kinds of commits of app ").count(), 3, "{page}");
        let json = serde_json::to_value(&all).unwrap();
        assert_eq!(json["apps"][1]["name"], "worker");
        assert_eq!(json["apps"][1]["classes"][0]["class"], "files");
    }

    #[track_caller]
    fn whole(records: &[Record], has_program: bool, seconds: f64, builds: usize) {
        let census = count("a..b", vec![commit(Class::Base, "all")], records, has_program);
        assert_eq!(census.everything, Cost { seconds, builds });
        let says = census.text().lines().last().unwrap().contains("everything");
        assert_eq!(says, builds == 0, "{}", census.text());
    }

    #[test]
    fn everything_is_the_sum_of_its_parts_and_no_measured_part_is_assumed() {
        let base = || record(BuildKind::BaseFast, 1, 40.0);
        let program = || Record { change: Some(EditKind::Program), ..record(BuildKind::Fast, 1, 9.0) };
        whole(&[], true, 76.0, 0);
        whole(&[program()], true, 41.0, 0);
        whole(&[base()], true, 84.0, 0);
        whole(&[base(), base(), program()], true, 49.0, 1);
        // No program, no compiler.
        whole(&[], false, 32.0, 0);
        whole(&[base(), base()], false, 40.0, 2);
        whole(&[base(), record(BuildKind::Enhanced, 1, 100.0)], true, 100.0, 1);
        assert_eq!(count("a..b", Vec::new(), &[], true).text(), "no commit in `a..b`\n");
    }

    #[test]
    fn an_assumed_part_takes_no_longer_than_the_measured_whole() {
        let census = count("a..b", vec![commit(Class::Program, "all")], &[record(BuildKind::Enhanced, 1, 30.0)], true);
        assert_eq!((census.spent, census.saved), (30.0, 0.0));
        assert!(census.text().ends_with("(assumed times: program of the app)\n"), "{}", census.text());
    }

    #[test]
    fn no_text_of_a_commit_is_markup() {
        let page = census().page("app");
        assert!(page.contains("&lt;b&gt; &amp; more") && page.contains("`a&lt;b` was edited"), "{page}");
        assert!(!page.contains("<b> &"), "{page}");
    }
}
