//! Statistics as one page: text, tables and drawings in one file, without a script and without anything from elsewhere. Pure.

use super::chart::{saved, seconds, together};
use super::{MachineStats, Saved, Stats, median};
use crate::quantity;
use crate::record::ledger::{BuildKind, Record};
use crate::time::Timestamp;
use std::fmt::Write as _;

const DAYS: usize = 45;

const ROWS: usize = 25;

/// The page. `title` is what was built.
pub fn print(stats: &Stats, title: &str) -> String {
    let day = |time: Timestamp| time.date();
    let (since, until) = (day(stats.since), day(stats.until));
    let mut body = String::new();
    if stats.builds == 0 {
        body += "<p class=\"empty\">No build was recorded in this period.</p>";
    } else {
        body += &tiles(stats);
        body +=
            &section("Time by kind of build", "Median; the thin line reaches to the slowest.", &on_each(stats, kinds));
        body += &section(
            "Every build, by its time",
            "One point is one build; seconds on a logarithmic scale.",
            &times(stats),
        );
        body += &section("Builds a day", "By kind, in UTC.", &days(stats));
        body +=
            &section("Where a fast build's time goes", "Median seconds; phases may overlap.", &on_each(stats, phases));
        body += &section("The last builds", "", &table(stats));
    }
    let footer = "Written by <code>cargo xtask stats --html</code> from <code>target/ledger/builds.jsonl</code>.";
    document(&format!("Builds of {title}"), &format!("{since} to {until}, measured where they ran"), &body, footer)
}

/// A page. `title` and `below` are text, `body` and `footer` are HTML.
pub fn document(title: &str, below: &str, body: &str, footer: &str) -> String {
    let (title, below) = (escape(title), escape(below));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<main>\n<header><h1>{title}</h1><p>{below}</p></header>\n{body}\n\
         <footer>{footer}</footer>\n\
         </main>\n</body>\n</html>\n"
    )
}

const STYLE: &str = "
:root{--page:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#5c6675;--line:#dfe3ea;--reused:#9aa4b2;--fast:#0f9d76;--base:#d99a1c;\
--both:#e0702f;--enhanced:#8a55d7;--undecided:#c7ccd4;--bad:#cf3b4a}
@media(prefers-color-scheme:dark){:root{--page:#10141b;--card:#181e28;--ink:#e8ecf2;--soft:#9ba6b6;--line:#2b3340;--reused:#6d7888;\
--fast:#34d1a3;--base:#f0bd55;--both:#f5935a;--enhanced:#b08cf2;--undecided:#4a5464;--bad:#ff6f7d}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
main{max-width:60rem;margin:0 auto;padding:2rem 1rem}
header p,footer,.note{color:var(--soft);margin:.1rem 0}
h1{font-size:1.7rem;line-height:1.2;margin:0}
h2{font-size:1.05rem;margin:0}
h3{font-size:.85rem;font-weight:600;margin:.9rem 0 -.4rem}
section,.tile{background:var(--card);border:1px solid var(--line);border-radius:.75rem;padding:1rem 1.1rem}
section{margin-top:1rem}
.note{font-size:.85rem}
.sum{margin-top:.6rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(12.5rem,1fr));gap:1rem;margin-top:1.25rem}
.tile b{display:block;font-size:1.75rem;line-height:1.3;font-variant-numeric:tabular-nums}
.tile.main b{color:var(--fast)}
.tile span{color:var(--soft);font-size:.85rem}
.draw{overflow-x:auto;margin-top:.75rem}
svg{display:block;width:100%;min-width:34rem;height:auto;overflow:visible}
svg text{font-size:12px;fill:var(--soft)}
svg text.value{fill:var(--ink);font-weight:600}
svg line{stroke:var(--line)}
.rows{display:grid;grid-template-columns:max-content 1fr max-content;gap:.5rem .8rem;align-items:center;margin-top:.75rem}
.rows .value{font-variant-numeric:tabular-nums;text-align:right;white-space:nowrap;font-weight:600}
.rows .value small{color:var(--soft);font-weight:400;display:block;line-height:1.2}
.track{position:relative;height:1.1rem}
.track i,.track u{position:absolute;left:0}
.track i{top:0;bottom:0;border-radius:.25rem;min-width:3px}
.track u{top:calc(50% - 1px);height:2px;background:var(--soft);opacity:.6}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin-top:.5rem;color:var(--soft);font-size:.85rem}
.legend i,td i{display:inline-block;width:.7rem;height:.7rem;border-radius:.2rem;margin-right:.4rem}
table{border-collapse:collapse;width:100%;font-size:.88rem}
td,th{text-align:left;padding:.35rem .8rem .35rem 0;border-top:1px solid var(--line);vertical-align:top}
th{border:0;color:var(--soft);font-weight:500}
td.n{white-space:nowrap;font-variant-numeric:tabular-nums}
td.why{color:var(--soft);min-width:14rem;overflow-wrap:anywhere}
td.bad{color:var(--bad)}
@media(max-width:40rem){tr{display:flex;flex-wrap:wrap;border-top:1px solid var(--line)}tr:first-child{display:none}td{border:0;padding-bottom:0}\
td.why{flex-basis:100%;padding-bottom:.5rem}}
footer{margin-top:1.5rem;font-size:.85rem}
code{font-family:ui-monospace,'DejaVu Sans Mono',monospace;font-size:.92em}
";

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

fn colour(kind: BuildKind) -> &'static str {
    match kind {
        BuildKind::Reused => "var(--reused)",
        BuildKind::Fast => "var(--fast)",
        BuildKind::Base => "var(--base)",
        BuildKind::BaseFast => "var(--both)",
        BuildKind::Enhanced => "var(--enhanced)",
        BuildKind::Undecided => "var(--undecided)",
    }
}

fn section(title: &str, note: &str, content: &str) -> String {
    if content.is_empty() {
        return String::new();
    }
    let note = if note.is_empty() { String::new() } else { format!("<p class=\"note\">{note}</p>") };
    format!("<section><h2>{title}</h2>{note}{content}</section>\n")
}

fn tile(class: &str, value: &str, what: &str) -> String {
    format!("<div class=\"tile {class}\"><b>{}</b><span>{}</span></div>", escape(value), escape(what))
}

/// One drawing for each machine, with its name if there are several.
fn on_each(stats: &Stats, draw: fn(&MachineStats) -> String) -> String {
    match &stats.machines[..] {
        [on] => draw(on),
        several => {
            let drawn = several.iter().map(|on| (on.machine.to_string(), draw(on)));
            let named = drawn.filter(|(_, drawn)| !drawn.is_empty());
            named.map(|(name, drawn)| format!("<h3>{}</h3>{drawn}", escape(&name))).collect()
        }
    }
}

fn tiles(stats: &Stats) -> String {
    let mut tiles = String::from("<div class=\"tiles\">");
    match (&stats.machines[..], stats.saved) {
        ([MachineStats { saved: Saved::Measured { enhanced, fast, .. }, .. }], Some((total, builds))) => {
            let verb = if total < 0.0 { "lost" } else { "saved" };
            tiles += &tile("main", &seconds(total.abs()), &format!("{verb} by {builds} fast builds"));
            tiles += &tile("", &seconds(*fast), "median fast build");
            tiles += &tile("", &seconds(*enhanced), "last measured build from scratch");
        }
        ([on], _) => tiles += &tile("", "not known", &plain(&saved(&on.saved))),
        (_, Some((total, builds))) => {
            let verb = if total < 0.0 { "lost" } else { "saved" };
            tiles += &tile("main", &seconds(total.abs()), &format!("{verb} by {builds} fast builds"));
            tiles += &tile("", &stats.machines.len().to_string(), "kinds of machines, each compared with itself");
        }
        (_, None) => {
            tiles += &tile("", "not known", "time saved: on no machine is there a fast build and one from scratch")
        }
    }
    let failed = if stats.failed > 0 {
        format!("builds, {} of them failed", stats.failed)
    } else {
        "builds, none failed".to_owned()
    };
    tiles += &tile("", &stats.builds.to_string(), &failed);
    tiles += "</div>";
    let note = |text: &str| format!("<p class=\"note sum\">{}</p>", escape(&plain(text)));
    match &stats.machines[..] {
        [MachineStats { machine, saved: measured @ Saved::Measured { .. }, .. }] => {
            tiles += &note(&format!("{machine}: {}", saved(measured)));
        }
        [_] => {}
        several => {
            tiles += &together(stats).map(|all| note(&all)).unwrap_or_default();
            tiles +=
                &several.iter().map(|on| note(&format!("{}: {}", on.machine, saved(&on.saved)))).collect::<String>();
        }
    }
    tiles
}

fn plain(text: &str) -> String {
    text.replace('\n', "; ").replace('`', "").replace(" x ", " × ").replace(" - ", " − ")
}

/// One row: a name, a bar, an optional line beyond it, and what it says in words.
fn row(name: &str, colour: &str, share: f64, beyond: f64, value: &str, note: &str) -> String {
    let percent = |share: f64| (share.clamp(0.0, 1.0) * 1000.0).round() / 10.0;
    let note = if note.is_empty() { String::new() } else { format!("<small>{}</small>", escape(note)) };
    let line = if beyond > share { format!("<u style=\"width:{}%\"></u>", percent(beyond)) } else { String::new() };
    format!(
        "<span>{}</span><span class=\"track\">{line}<i style=\"width:{}%;background:{colour}\"></i></span>\
         <span class=\"value\">{}{note}</span>",
        escape(name),
        percent(share),
        escape(value),
    )
}

fn kinds(on: &MachineStats) -> String {
    let mut rows: Vec<(BuildKind, f64, f64, usize)> = Vec::new();
    for (kind, summary) in &on.kinds {
        if let (Some(median), Some(slowest)) = (summary.median, summary.slowest) {
            rows.push((*kind, median, slowest, summary.builds));
        }
    }
    let longest = rows.iter().map(|(_, _, slowest, _)| *slowest).fold(f64::MIN_POSITIVE, f64::max);
    let mut out = String::from("<div class=\"rows\">");
    for (kind, median, slowest, builds) in rows {
        let note = if builds == 1 { "1 build".to_owned() } else { format!("{builds} builds, to {}", seconds(slowest)) };
        out += &row(kind.as_str(), colour(kind), median / longest, slowest / longest, &seconds(median), &note);
    }
    out + "</div>"
}

fn phases(on: &MachineStats) -> String {
    let longest = on.fast_phases.iter().map(|(_, time)| *time).fold(f64::MIN_POSITIVE, f64::max);
    if on.fast_phases.is_empty() {
        return String::new();
    }
    let mut out = String::from("<div class=\"rows\">");
    for (name, time) in on.fast_phases.iter().take(8) {
        out += &row(name, colour(BuildKind::Fast), time / longest, 0.0, &seconds(*time), "");
    }
    out + "</div>"
}

fn legend(kinds: impl Iterator<Item = BuildKind>) -> String {
    let item = |kind: BuildKind| format!("<span><i style=\"background:{}\"></i>{kind}</span>", colour(kind));
    format!("<div class=\"legend\">{}</div>", kinds.map(item).collect::<String>())
}

fn days(stats: &Stats) -> String {
    let shown = &stats.days[stats.days.len().saturating_sub(DAYS)..];
    let count = |kinds: &std::collections::BTreeMap<BuildKind, usize>| kinds.values().sum::<usize>();
    let most = shown.iter().map(|day| count(&day.kinds)).max().unwrap_or(0).max(1);
    let (width, height) = (720.0, 150.0);
    // Few days are drawn narrow, from the left, as if there were a week.
    let step = width / shown.len().max(7) as f64;
    let mut out =
        String::from("<div class=\"draw\"><svg viewBox=\"-30 -8 760 190\" role=\"img\" aria-label=\"builds a day\">");
    for value in [0, most.div_ceil(2), most] {
        let y = height - height * value as f64 / most as f64;
        let _ = write!(
            out,
            "<line x1=\"0\" x2=\"{width}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"-8\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            y + 4.0
        );
    }
    let every = shown.len().div_ceil(7).max(1);
    for (index, day) in shown.iter().enumerate() {
        let x = step * index as f64 + step * 0.15;
        let mut y = height;
        for (kind, number) in &day.kinds {
            let tall = height * *number as f64 / most as f64;
            y -= tall;
            let _ = write!(
                out,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" rx=\"2\" fill=\"{}\"><title>{}: {number} {kind}</title></rect>",
                (step * 0.7).min(48.0),
                colour(*kind),
                day.date,
            );
        }
        if index % every == 0 {
            let label = day.date.short();
            let _ = write!(
                out,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                x + (step * 0.35).min(24.0),
                height + 20.0
            );
        }
    }
    let kinds = BuildKind::ALL.into_iter().filter(|kind| shown.iter().any(|day| day.kinds.contains_key(kind)));
    out + "</svg></div>" + &legend(kinds)
}

/// Every build as a point: time of day and date along, seconds upwards.
fn times(stats: &Stats) -> String {
    let points: Vec<&Record> = stats.records.iter().filter(|record| record.counts() && record.seconds > 0.0).collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return String::new() };
    let (width, height) = (720.0, 220.0);
    let (begin, end) = (first.when.as_second() as f64, last.when.as_second() as f64);
    let along = |record: &Record| match end > begin {
        true => 10.0 + (record.when.as_second() as f64 - begin) / (end - begin) * (width - 20.0),
        false => width / 2.0,
    };
    let least = points.iter().map(|record| record.seconds).fold(f64::MAX, f64::min).log10().floor();
    let most = points.iter().map(|record| record.seconds).fold(0.0, f64::max).log10().ceil().max(least + 1.0);
    let up = |time: f64| height - (time.log10() - least) / (most - least) * height;
    let mut out = String::from(
        "<div class=\"draw\"><svg viewBox=\"-48 -8 780 262\" role=\"img\" aria-label=\"every build by its time\">",
    );
    let mut decade = least;
    while decade <= most {
        let (y, time) = (up(10_f64.powf(decade)), 10_f64.powf(decade));
        let label = if time < 1.0 { format!("{time:.2} s") } else { format!("{time:.0} s") };
        let _ = write!(
            out,
            "<line x1=\"0\" x2=\"{width}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"-8\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            y + 4.0
        );
        decade += 1.0;
    }
    // One line for unlike machines would be the median of nothing.
    let middle = if stats.machines.len() > 1 {
        None
    } else {
        median(points.iter().filter(|record| record.decision == BuildKind::Fast).map(|record| record.seconds))
    };
    if let Some(middle) = middle {
        let y = up(middle);
        let _ = write!(
            out,
            "<line x1=\"0\" x2=\"{width}\" y1=\"{y:.1}\" y2=\"{y:.1}\" style=\"stroke:var(--fast)\" stroke-dasharray=\"5 4\"/>\
             <text class=\"value\" x=\"{width}\" y=\"{:.1}\" text-anchor=\"end\">fast, median {}</text>",
            y - 6.0,
            seconds(middle),
        );
    }
    for record in &points {
        let _ = write!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\" fill=\"{}\" fill-opacity=\".85\"><title>{}: {}, {}, {}</title></circle>",
            along(record),
            up(record.seconds),
            colour(record.decision),
            minute(record),
            record.decision,
            seconds(record.seconds),
            escape(&record.machine().to_string()),
        );
    }
    let _ = write!(
        out,
        "<text x=\"0\" y=\"{0}\">{1}</text><text x=\"{width}\" y=\"{0}\" text-anchor=\"end\">{2}</text>",
        height + 24.0,
        minute(first),
        minute(last),
    );
    let kinds = BuildKind::ALL.into_iter().filter(|kind| points.iter().any(|record| record.decision == *kind));
    out + "</svg></div>" + &legend(kinds)
}

fn minute(record: &Record) -> String {
    record.when.minute()
}

fn table(stats: &Stats) -> String {
    let several = stats.machines.len() > 1;
    let machine = if several { "<th>Where</th>" } else { "" };
    let mut out = format!(
        "<div class=\"draw\"><table><tr><th>When (UTC)</th><th>Build</th><th>Time</th><th>Pushed</th>{machine}<th>Why</th></tr>",
    );
    for record in stats.records.iter().rev().take(ROWS) {
        let pushed = record.bytes.pushed.map_or_else(|| "-".to_owned(), quantity::bytes);
        let (class, why) = match &record.failed {
            Some(failed) => ("why bad", format!("failed: {failed}")),
            None => ("why", record.reasons.join("; ")),
        };
        let machine =
            if several { format!("<td>{}</td>", escape(&record.machine().to_string())) } else { String::new() };
        let why = if why.is_empty() { "everything existed already".to_owned() } else { why };
        let _ = write!(
            out,
            "<tr><td class=\"n\">{}</td><td class=\"n\"><i style=\"background:{}\"></i>{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{pushed}</td>{machine}<td class=\"{class}\">{}</td></tr>",
            minute(record),
            colour(record.decision),
            record.decision,
            seconds(record.seconds),
            escape(&why),
        );
    }
    out + "</table></div>"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::stats::tests::{team, two_machines};

    #[test]
    fn a_page_needs_no_other_file() {
        let page = print(&team(), "autoscaler");
        for foreign in ["<script", "http:", "https:", "src=", "@import", "url(", "<link"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        for tag in ["section", "div", "svg", "table", "span", "title", "main", "td"] {
            let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn unlike_machines_are_drawn_apart() {
        let page = print(&two_machines(), "x");
        assert_eq!(page.matches("<h3>local, linux/amd64, 2 cores</h3>").count(), 2);
        assert_eq!(page.matches("<td>CI, linux/amd64, 4 cores</td>").count(), 3);
        assert!(!page.contains("fast, median"), "one line for both");
        assert!(page.contains("2 min 54 s</b><span>saved by 2 fast builds"), "{page}");
        let alone = print(&team(), "x");
        assert!(!alone.contains("<h3>") && alone.contains("fast, median"));
    }

    #[test]
    fn what_others_wrote_is_text() {
        let page = print(&team(), "<b>&\"'");
        assert!(page.contains("Builds of &lt;b&gt;&amp;&quot;&#39;") && page.contains("does &lt;not&gt; start"));
    }

    #[test]
    fn without_measurements_the_page_has_no_numbers() {
        let mut stats = team();
        (stats.machines[0].saved, stats.saved) = (Saved::NoYardstick, None);
        assert!(print(&stats, "x").contains("measure one: cargo xtask build-enhanced"));
        let none = super::super::sum(&[], stats.since, stats.until);
        assert!(print(&none, "x").contains("No build was recorded"));
        assert!(!print(&stats, "x").contains("NaN") && !print(&none, "x").contains("NaN"));
    }
}
