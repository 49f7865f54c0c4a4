//! A scan as text, Markdown and SARIF 2.1.0.

use super::{Gate, Scan, Vulnerability};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Place of a component in the repository: path and line.
pub type Locate<'a> = dyn Fn(&Vulnerability) -> (String, usize) + 'a;

impl Scan {
    /// One line.
    pub fn summary(&self) -> String {
        let dismissed = self.vulnerabilities.iter().filter(|one| one.dismissed.is_some()).count();
        let open = self.vulnerabilities.len() - dismissed;
        let mut counts: BTreeMap<_, usize> = BTreeMap::new();
        for one in self.vulnerabilities.iter().filter(|one| one.dismissed.is_none()) {
            *counts.entry(one.severity).or_default() += 1;
        }
        let counts: Vec<String> = counts.iter().rev().map(|(severity, count)| format!("{count} {severity}")).collect();
        let what = match open {
            0 => "no known vulnerability".to_owned(),
            1 => format!("1 vulnerability ({})", counts.join(", ")),
            _ => format!("{open} vulnerabilities ({})", counts.join(", ")),
        };
        let dismissed = if dismissed > 0 { format!(", {dismissed} dismissed") } else { String::new() };
        format!("{what} in {} components{dismissed}", self.components)
    }

    /// A table for a terminal, with what stops the image marked.
    pub fn text(&self, gate: &Gate) -> String {
        let mut lines = vec![["", "SEVERITY", "VULNERABILITY", "COMPONENT", "FIXED IN", "SUMMARY"].map(str::to_owned)];
        lines.extend(self.vulnerabilities.iter().map(|one| {
            let mark = if gate.stops(one) { "!" } else { "" };
            let summary = one.dismissed.as_ref().map_or_else(|| one.summary.clone(), |why| format!("dismissed: {why}"));
            [
                mark.to_owned(),
                one.score.map_or_else(|| one.severity.to_string(), |score| format!("{} {score:.1}", one.severity)),
                one.id.clone(),
                format!("{} {}", one.name, one.version),
                fixed(one).to_owned(),
                summary,
            ]
        }));
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..6).map(width).collect();
        let row = |line: &[String; 6]| {
            let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            format!("{}\n", cells.join("  ").trim_end())
        };
        let table = if self.vulnerabilities.is_empty() { String::new() } else { lines.iter().map(row).collect() };
        format!("{table}{}\n", self.footer("", "`"))
    }

    fn footer(&self, start: &str, quote: &str) -> String {
        let mut lines = vec![format!("{}, by {quote}{}{quote}", self.summary(), self.database)];
        if !self.unchecked.is_empty() {
            lines.push(format!("{} components are of a kind that was not looked up", self.unchecked.len()));
        }
        lines.extend(self.notes.iter().cloned());
        lines.iter().map(|line| format!("{start}{line}")).collect::<Vec<_>>().join("\n")
    }

    /// A table for a pull request.
    pub fn markdown(&self, gate: &Gate) -> String {
        let mut out = format!("### Vulnerabilities of `{}`\n\n{}\n", self.image, self.footer("- ", "`"));
        if self.vulnerabilities.is_empty() {
            return out;
        }
        out += "\n| severity | vulnerability | component | fixed in | summary |\n|---|---|---|---|---|\n";
        for one in &self.vulnerabilities {
            let cell = |text: &str| text.replace('|', "\\|").replace('<', "&lt;");
            let severity = if gate.stops(one) { format!("**{}**", one.severity) } else { one.severity.to_string() };
            let summary = one.dismissed.as_ref().map_or_else(|| one.summary.clone(), |why| format!("dismissed: {why}"));
            out += &format!(
                "| {severity} | [{}]({}) | {} {} | {} | {} |\n",
                one.id,
                link(&one.id),
                cell(&one.name),
                cell(&one.version),
                cell(fixed(one)),
                cell(&summary)
            );
        }
        out
    }

    /// For code scanning: each finding at the line that brought the component.
    pub fn sarif(&self, gate: &Gate, version: &str, place: &Locate<'_>) -> String {
        let mut rules: BTreeMap<&str, Value> = BTreeMap::new();
        for one in &self.vulnerabilities {
            let score = one.score.map_or_else(
                || ["0.0", "2.0", "5.0", "8.0", "9.5"][one.severity as usize].to_owned(),
                |score| format!("{score:.1}"),
            );
            let summary = if one.summary.is_empty() { &one.id } else { &one.summary };
            rules.entry(&one.id).or_insert_with(|| {
                json!({
                    "id": one.id,
                    "shortDescription": {"text": summary},
                    "helpUri": link(&one.id),
                    "properties": {"security-severity": score, "tags": ["security", "vulnerability"]},
                })
            });
        }
        let at: BTreeMap<&str, usize> = rules.keys().enumerate().map(|(at, id)| (*id, at)).collect();
        let result = |one: &Vulnerability| {
            let (path, line) = place(one);
            let fix = one
                .fixed
                .as_ref()
                .map_or_else(|| "no version fixes it".to_owned(), |fixed| format!("fixed in {fixed}"));
            let mut result = json!({
                "ruleId": one.id,
                "ruleIndex": at[one.id.as_str()],
                "level": if gate.stops(one) { "error" } else { "warning" },
                "message": {"text": format!("{} {} has {}: {fix}", one.name, one.version, one.id)},
                "locations": [{
                    "physicalLocation": {"artifactLocation": {"uri": path}, "region": {"startLine": line}},
                    "logicalLocations": [{"fullyQualifiedName": one.purl}],
                }],
                "partialFingerprints": {"vulnerability/v1": format!("{} {}", one.id, one.purl.split('@').next().unwrap_or_default())},
            });
            if let Some(why) = &one.dismissed {
                result["suppressions"] = json!([{"kind": "external", "status": "accepted", "justification": why}]);
            }
            result
        };
        let document = json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{
                "tool": {"driver": {"name": "xtask scan", "version": version, "rules": rules.values().collect::<Vec<_>>()}},
                "automationDetails": {"id": format!("xtask-scan/{}", self.platform)},
                "results": self.vulnerabilities.iter().map(result).collect::<Vec<_>>(),
            }],
        });
        serde_json::to_string(&document).expect("the document is valid JSON")
    }
}

fn fixed(one: &Vulnerability) -> &str {
    one.fixed.as_deref().unwrap_or("-")
}

fn link(id: &str) -> String {
    format!("https://osv.dev/vulnerability/{id}")
}

#[cfg(test)]
mod tests {
    use super::super::tests::of;
    use super::*;

    fn gate() -> Gate {
        Gate::new("high", false).unwrap()
    }

    #[test]
    fn a_scan_is_read_by_people() {
        let scan = of(&[]);
        let text = scan.text(&gate());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6, "{text}");
        assert!(
            lines[1].starts_with("!  critical 9.8")
                && lines[1].contains("scipy 1.16.3  ")
                && lines[1].contains("  1.16.4  "),
            "{text}"
        );
        assert!(lines[3].starts_with("   medium"), "{text}");
        assert_eq!(lines[5], "4 vulnerabilities (1 critical, 1 high, 1 medium, 1 unknown) in 6 components, by `test`");
        let markdown = scan.markdown(&gate());
        assert!(markdown.contains("| **critical** | [CVE-2026-1001](https://osv.dev/vulnerability/CVE-2026-1001) | scipy 1.16.3 | 1.16.4 |"), "{markdown}");
    }

    #[test]
    fn a_scan_is_read_by_code_scanning() {
        let text = of(&[]).sarif(&gate(), "1.0", &|one| (format!("{}.lock", one.name), 7));
        let document: Value = serde_json::from_str(&text).unwrap();
        let run = &document["runs"][0];
        let (rules, results) = (&run["tool"]["driver"]["rules"], run["results"].as_array().unwrap());
        for result in results {
            let rule = &rules[usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap()];
            assert_eq!(rule["id"], result["ruleId"]);
        }
        assert_eq!(results[0]["level"], "error");
        assert_eq!(results[2]["level"], "warning");
        assert_eq!(results[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], "scipy.lock");
        assert!(results[0]["suppressions"].is_null());
    }
}
