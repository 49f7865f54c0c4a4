//! Rules about `Cargo.toml`: every version is written once, in the workspace, with its reason.
//!
//! Pure.

use super::{Files, Violation};

/// Every dependency without a reason, and every version outside the workspace's table.
pub(super) fn check(files: &Files) -> Vec<Violation> {
    let mut found = files.text("Cargo.toml").map(|text| reasons("Cargo.toml", text)).unwrap_or_default();
    // A package outside the workspace has nobody to take a version from.
    let member = |path: &str, text: &str| {
        path.ends_with("/Cargo.toml")
            && !text.lines().any(|line| line == "[workspace]")
            && !path.starts_with("examples/")
    };
    for (path, text) in files.texts().filter(|(path, text)| member(path, text)) {
        found.extend(versions(path, text));
    }
    found
}

/// The lines of a manifest with the table that each is in.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    let mut table = "";
    text.lines().enumerate().map(move |(index, line)| {
        if line.starts_with('[') {
            table = line.split('#').next().unwrap_or_default().trim().trim_matches(['[', ']']);
        }
        (index + 1, table, line)
    })
}

fn entry(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim();
    (!name.is_empty() && !name.starts_with(['#', '[', ' '])).then_some((name, value))
}

fn reasons(path: &str, text: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut comment = false;
    for (number, table, line) in lines(text) {
        if let Some((name, value)) = entry(line).filter(|_| table == "workspace.dependencies") {
            if !comment && !value.contains(" # ") {
                let what = format!("`{name}` has no reason");
                found.push(Violation::new(path, number, what, "say in a comment what it is for"));
            }
        }
        // A heading over a group is no reason for any one of it.
        comment = line.starts_with("# ") && !line.starts_with("# ---");
    }
    found
}

fn versions(path: &str, text: &str) -> Vec<Violation> {
    let in_dependencies = |table: &str| table.ends_with("dependencies") || table.contains("dependencies.");
    let find = |(number, table, line): (usize, &str, &str)| {
        let (name, value) = entry(line).filter(|_| in_dependencies(table))?;
        let value = value.trim();
        // A table of one dependency (`[dependencies.name]`) has its keys on lines of their own.
        let ours = match table.rsplit_once("dependencies.") {
            Some(_) => !matches!(name, "version" | "git" | "path" | "registry"),
            None => (name.ends_with(".workspace") && value.starts_with("true")) || value.contains("workspace = true"),
        };
        let repair = "write the version in the root's `[workspace.dependencies]`, and `workspace = true` here";
        (!ours).then(|| {
            Violation::new(path, number, format!("`{name}` does not take its version from the workspace"), repair)
        })
    };
    lines(text).filter_map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn finds(path: &str, text: &str, expected: &[&str]) {
        let found: Vec<String> = check(&Files::made_up(&[(path, text)]))
            .into_iter()
            .map(|violation| format!("{}: {}", violation.line, violation.what))
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn every_dependency_has_its_reason() {
        let good =
            "[workspace.dependencies]\n# --- group ---\na = \"1\" # why\n# why\nb = \"1\"\n[profile.dev]\ndebug = 1\n";
        finds("Cargo.toml", good, &[]);
        finds("Cargo.toml", "[workspace.dependencies]\n# --- group ---\na = \"1\"\n", &["3: `a` has no reason"]);
        finds("Cargo.toml", "[workspace.dependencies]\n# why\na = \"1\"\nb = \"1\"\n", &["4: `b` has no reason"]);
    }

    #[test]
    fn versions_are_written_once() {
        let good =
            "[dependencies]\na.workspace = true\nb = { workspace = true, features = [\"c\"] }\n[features]\nd = []\n";
        finds("xtask/Cargo.toml", good, &[]);
        let what = "`a` does not take its version from the workspace";
        finds("xtask/Cargo.toml", "[dependencies]\na = \"1\"\n", &[&format!("2: {what}")]);
        finds("xtask/Cargo.toml", "[dev-dependencies]\na = { version = \"1\" }\n", &[&format!("2: {what}")]);
        finds("xtask/Cargo.toml", "[target.'cfg(unix)'.dependencies]\na = \"1\"\n", &[&format!("2: {what}")]);
        finds(
            "xtask/Cargo.toml",
            "[dependencies.a]\nversion = \"1\"\n",
            &["2: `version` does not take its version from the workspace"],
        );
    }
}
