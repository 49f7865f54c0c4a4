//! Input of the template for the list of workloads.

use crate::page::forecast::{At, percent};
use crate::page::workload::amount;
use crate::page::{About, Notice, encoded, path};
use crate::state::Listed;
use autoscaler_floor::decide::Mode;
use autoscaler_floor::units::Replicas;
use autoscaler_forecast::choice::Choice;
use serde::Serialize;
use std::collections::BTreeMap;

pub const TEMPLATE: &str = "list.html";

const SKILLED: &str = "ForecastSkilled";

/// Number of rows on a page.
const ROWS: usize = 100;

/// The list, ready for a template.
#[derive(Debug, Serialize)]
pub struct ListPage {
    pub about: About,
    pub notices: Vec<Notice>,
    /// Search text.
    pub search: String,
    /// Numbers of workloads by kind: label, number, true if someone should look.
    pub counts: Vec<(&'static str, usize, bool)>,
    /// Number of workloads found.
    pub found: usize,
    /// Rows of this page.
    pub rows: Vec<ListRow>,
    /// Number of this page, from one.
    pub page: usize,
    /// Number of pages.
    pub pages: usize,
    /// URL of the previous page.
    pub before: Option<String>,
    /// URL of the next page.
    pub next: Option<String>,
}

/// A workload, as text.
#[derive(Debug, Serialize)]
pub struct ListRow {
    /// Path of the workload's page.
    pub path: String,
    pub namespace: String,
    pub name: String,
    /// Name of the autoscaler.
    pub hpa: String,
    /// State as text, and whether it is good.
    pub state: (String, bool),
    /// Value of the newest sample.
    pub demand: String,
    /// The highest demand until the lead time, at the quantile.
    pub peak: String,
    /// Minimum of the owner.
    pub original: String,
    pub floor: String,
    /// True if the floor is above the original.
    pub raised: bool,
    /// Number of running pods.
    pub replicas: String,
    /// The shortage prevented on the last weeks, or the error saved where nothing is replayed, in percent.
    pub skill: String,
    /// Time of the last decision.
    pub decided: Option<At>,
}

/// Query of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// A part of a namespace, a name or an autoscaler.
    pub search: String,
    /// Number of the page, from one.
    pub page: usize,
}

impl Asked {
    /// Reads the query of a URL. Unknown pairs are ignored.
    pub fn read(query: &str) -> Asked {
        let mut pairs = BTreeMap::new();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.insert(name, value);
        }
        let search = decoded(pairs.get("q").copied().unwrap_or_default()).trim().chars().take(100).collect();
        let page = pairs.get("page").and_then(|page| page.parse().ok()).unwrap_or(1).max(1);
        Asked { search, page }
    }
}

/// A value of a query, as a form writes it.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = (*first == b'%').then(|| tail.get(..2)).flatten();
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        rest = if byte.is_some() { &tail[2..] } else { tail };
        bytes.push(byte.unwrap_or(if *first == b'+' { b' ' } else { *first }));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl ListPage {
    /// The page that was asked for.
    pub fn new(listed: &[Listed], asked: &Asked, about: About, notices: Vec<Notice>) -> ListPage {
        let count = |of: &dyn Fn(&Listed) -> bool| listed.iter().filter(|listed| of(listed)).count();
        let troubled = count(&|listed| trouble(listed).is_some());
        let counts = vec![
            ("workloads", listed.len(), false),
            ("floors raised", count(&raised), false),
            ("enforced", count(&|listed| listed.profile.mode == Mode::Enforce && !listed.profile.paused), false),
            ("need attention", troubled, troubled > 0),
        ];
        let wanted = asked.search.to_lowercase();
        let found: Vec<&Listed> = listed
            .iter()
            .filter(|listed| {
                let name = format!("{} {}", listed.name, listed.profile.hpa).to_lowercase();
                wanted.split_whitespace().all(|word| name.contains(word))
            })
            .collect();
        let pages = found.len().div_ceil(ROWS).max(1);
        let page = asked.page.min(pages);
        let rows = found.iter().skip((page - 1) * ROWS).take(ROWS).map(|listed| row(listed)).collect();
        let to = |page: usize| {
            let search = if asked.search.is_empty() { String::new() } else { format!("&q={}", encoded(&asked.search)) };
            format!("/?page={page}{search}")
        };
        ListPage {
            about,
            notices,
            search: asked.search.clone(),
            counts,
            found: found.len(),
            rows,
            page,
            pages,
            before: (page > 1).then(|| to(page - 1)),
            next: (page < pages).then(|| to(page + 1)),
        }
    }
}

fn raised(listed: &Listed) -> bool {
    listed.profile.mode == Mode::Enforce && current_floor(listed).is_some_and(|(original, floor)| floor > original)
}

/// Returns the owner's minimum and the floor: from the last decision, or from the status if another replica decides.
fn current_floor(listed: &Listed) -> Option<(Replicas, Replicas)> {
    let decided = listed.last.as_ref().map(|last| (last.original, last.floor));
    decided.or_else(|| listed.profile.floor_status.map(|status| (status.original, status.floor)))
}

fn unskilled(listed: &Listed) -> bool {
    listed.profile.conditions.iter().any(|condition| condition.kind == SKILLED && condition.good() == Some(false))
}

/// Returns the problem that a person should look at, in a word or two.
fn trouble(listed: &Listed) -> Option<String> {
    if listed.last.as_ref().is_some_and(|last| last.failed.is_some()) {
        return Some("cannot write".to_owned());
    }
    let bad = listed.profile.conditions.iter().filter(|condition| condition.good() == Some(false));
    // A workload that cannot be forecast is nobody's fault; a conflict is why others fail, too.
    const WORST_FIRST: [&str; 2] = ["Conflict", "MetricsFresh"];
    let worst = bad.filter(|condition| condition.kind != SKILLED).min_by_key(|condition| {
        WORST_FIRST.iter().position(|kind| *kind == condition.kind).unwrap_or(WORST_FIRST.len())
    })?;
    Some(if worst.reason.is_empty() { worst.kind.clone() } else { worst.reason.clone() })
}

fn row(listed: &Listed) -> ListRow {
    let last = listed.last.as_ref();
    let unit = listed.profile.unit;
    let none = || "–".to_owned();
    ListRow {
        path: path(&listed.name),
        namespace: listed.name.namespace.clone(),
        name: listed.name.name.clone(),
        hpa: listed.profile.hpa.clone(),
        state: match (trouble(listed), listed.profile.paused, listed.profile.mode) {
            (Some(trouble), _, _) => (trouble, false),
            (None, true, _) => ("paused".to_owned(), false),
            (None, false, _) if unskilled(listed) => ("no skill".to_owned(), false),
            (None, false, Mode::Enforce) => ("enforced".to_owned(), true),
            (None, false, Mode::Recommend) => ("recommended".to_owned(), true),
        },
        demand: last.and_then(|last| last.demand).map_or_else(none, |demand| amount(demand, unit)),
        peak: last.and_then(|last| last.peak).map_or_else(none, |peak| amount(peak, unit)),
        original: current_floor(listed).map_or_else(none, |(original, _)| original.to_string()),
        floor: current_floor(listed).map_or_else(none, |(_, floor)| floor.to_string()),
        raised: raised(listed),
        replicas: last.and_then(|last| last.replicas).map_or_else(none, |pods| pods.to_string()),
        skill: match &listed.forecast {
            Some(forecast) if forecast.skilled => {
                let chosen = forecast.choice.as_ref().and_then(Choice::chosen);
                let prevented = chosen.map(|chosen| (100.0 * (1.0 - chosen.short)).round() as i64);
                prevented.or_else(|| percent(forecast)).map_or_else(none, |percent| format!("{percent} %"))
            }
            Some(_) => "none".to_owned(),
            None => none(),
        },
        decided: last.map(|last| last.at.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::render;
    use crate::page::tests_support::ours;
    use crate::state::tests::{condition, decided, profile};
    use crate::state::{FloorStatus, ScalerName};
    use crate::tests_support::flat;
    use autoscaler_forecast::history::History;

    fn listed(name: &str) -> Listed {
        let history = History::parse("a.csv", b"timestamp,value\n0,1\n300,2\n", None).unwrap();
        Listed {
            name: ScalerName::new("shop", name),
            profile: profile("1"),
            forecast: Some(flat(&history, 3, 300.0)),
            last: Some(decided(4, Some(300.0), None).0),
        }
    }

    fn page(listed: &[Listed], query: &str) -> ListPage {
        ListPage::new(listed, &Asked::read(query), About::new(None, None), Vec::new())
    }

    #[test]
    fn the_list_renders_and_markup_stays_text() {
        let mut hostile = listed("<script>alert(1)</script>");
        hostile.profile.hpa = "\"><img src=x onerror=alert(1)>".to_owned();
        hostile.profile.conditions = vec![condition("Conflict", "True", "<b>FieldOwned</b>")];
        let html = render(&ours(), TEMPLATE, &page(&[listed("web"), hostile], "q=%3Cb%3E")).unwrap();
        assert!(html.contains("value=\"&lt;b&gt;\"") && !html.contains("<b>"), "{html}");
        let html =
            render(&ours(), TEMPLATE, &page(&[listed("web"), listed("<i>")], "")).unwrap().replace("&#x2f;", "/");
        for part in ["/scalers/shop/web", "/scalers/shop/%3Ci%3E", "&lt;i&gt;", "2 → <b>5</b>", "25 %", "300.0/s"] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
        assert!(!html.contains("<i>") && !html.contains("<script") && !html.contains("//"), "{html}");
    }

    #[test]
    fn an_empty_list_says_what_to_do() {
        let html = render(&ours(), TEMPLATE, &page(&[], "")).unwrap();
        assert!(html.contains("kind: PredictiveScaler"), "{html}");
    }

    #[test]
    fn a_long_list_has_pages_and_is_searched() {
        let all: Vec<Listed> = (0..250).map(|index| listed(&format!("web-{index:03}"))).collect();
        let first = page(&all, "");
        assert_eq!((first.rows.len(), first.page, first.pages, first.found), (100, 1, 3, 250));
        let last = page(&all, "page=99");
        assert_eq!((last.rows.len(), last.page), (50, 3));
        assert_eq!((last.before.as_deref(), last.next.as_deref()), (Some("/?page=2"), None));
        assert_eq!(page(&all, "q=web+%26").next, None);
        assert_eq!(page(&all, "q=web-").next.as_deref(), Some("/?page=2&q=web-"));
        let found = page(&all, "q=SHOP+24");
        let names: Vec<&str> = found.rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!((names.len(), names[0]), (13, "web-024"));
        assert_eq!(page(&all, "q=nothing&page=x").rows.len(), 0);
    }

    #[test]
    fn what_someone_should_look_at_comes_first_in_the_row() {
        let mut both = listed("web");
        both.profile.conditions = vec![
            condition("MetricsFresh", "False", "Stale"),
            condition("Conflict", "True", "FieldOwned"),
            condition("Ready", "True", "Decided"),
        ];
        assert_eq!(row(&both).state, ("FieldOwned".to_owned(), false));
        assert_eq!(page(&[both, listed("other")], "").counts[3], ("need attention", 1, true));
        assert_eq!(row(&listed("web")).state, ("enforced".to_owned(), true));
    }

    #[test]
    fn the_floor_comes_from_the_status_if_another_replica_decides() {
        let mut standby = listed("web");
        standby.last = None;
        standby.profile.floor_status =
            Some(FloorStatus { original: Replicas(2), floor: Replicas(7), recommended: None });
        let row = row(&standby);
        assert_eq!((row.original.as_str(), row.floor.as_str(), row.raised), ("2", "7", true));
    }

    #[test]
    fn forms_are_read() {
        assert_eq!(Asked::read("q=a+b%2Fc%zz%C3%A9&page=7&x"), Asked { search: "a b/c%zzé".to_owned(), page: 7 });
        assert_eq!(Asked::read(""), Asked { search: String::new(), page: 1 });
        assert_eq!(Asked::read("page=0&q=%").page, 1);
    }
}
