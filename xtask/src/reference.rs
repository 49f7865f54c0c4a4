//! The generated parts of the documents: policy keys, commands, exit codes, JSON output, the policy's JSON Schema, the terminal picture.
//!
//! Takes the texts of the files, and returns those that are out of date. Hand-written parts of a document stay as they are: a generated part is
//! between a line `<!-- generated: NAME -->` and a line `<!-- end -->`.

mod command_line;
mod picture;
mod policy;
mod schema;

use crate::documents;
use crate::flags::Flags;
use clap::CommandFactory as _;
use xtask_model::fault::Exit;

/// The document with generated parts.
pub const PATH: &str = "docs/reference.md";
/// The schema of `images.toml`.
pub const SCHEMA: &str = "docs/images.schema.json";
/// The recorded session that the pictures show.
pub const SESSION: &str = "docs/images/terminal.txt";

/// A generated file.
#[derive(Debug, PartialEq, Eq)]
pub struct Generated {
    /// From the root.
    pub path: &'static str,
    pub text: String,
}

/// Every generated file with the text that it should have. `read` returns the text of a file of the repository. Empty for a
/// repository without [`PATH`].
pub fn files<'t>(read: &dyn Fn(&str) -> Option<&'t str>) -> Vec<Generated> {
    let Some(reference) = read(PATH) else { return Vec::new() };
    let mut files = vec![
        Generated { path: PATH, text: filled(reference, &part) },
        Generated { path: SCHEMA, text: format!("{:#}\n", schema::schema()) },
    ];
    if let Some(session) = read(SESSION) {
        let picture = |path, theme| Generated { path, text: picture::svg(session, theme) };
        files.push(picture("docs/images/terminal-light.svg", &picture::LIGHT));
        files.push(picture("docs/images/terminal-dark.svg", &picture::DARK));
    }
    files
}

/// The generated part of this name.
fn part(name: &str) -> Option<String> {
    match name {
        "policy" => Some(policy::tables()),
        "commands" => Some(command_line::commands(&Flags::command())),
        "exit codes" => Some(exit_codes()),
        "documents" => Some(documents::markdown()),
        _ => None,
    }
}

/// The text with every generated part replaced; a part of an unknown name stays, and `tidy` finds its marker.
fn filled(text: &str, part: &dyn Fn(&str) -> Option<String>) -> String {
    let mut filled = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        filled += &format!("{line}\n");
        let name = line.strip_prefix("<!-- generated: ").and_then(|rest| rest.strip_suffix(" -->"));
        if let Some(part) = name.and_then(part) {
            filled += &format!("\n{}\n\n<!-- end -->\n", part.trim());
            lines.by_ref().find(|line| *line == "<!-- end -->");
        }
    }
    filled
}

fn exit_codes() -> String {
    let row = |(exit, meaning): (Exit, &str)| format!("| {} | {meaning} |\n", exit as u8);
    let rows: String = Exit::MEANINGS.into_iter().map(row).collect();
    format!("| code | meaning |\n|---|---|\n| 0 | done |\n{rows}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_part_is_replaced_and_the_rest_stays() {
        let part = |name: &str| (name == "a").then(|| "new".to_owned());
        let text = "x\n<!-- generated: a -->\nold\n<!-- end -->\ny\n<!-- generated: b -->\nz\n<!-- end -->\n";
        let expected = "x\n<!-- generated: a -->\n\nnew\n\n<!-- end -->\ny\n<!-- generated: b -->\nz\n<!-- end -->\n";
        assert_eq!(filled(text, &part), expected);
        assert_eq!(filled(expected, &part), expected);
    }

    #[test]
    fn a_repository_without_a_reference_has_no_generated_files() {
        assert_eq!(files(&|_| None), []);
    }

    #[test]
    fn every_generated_part_is_in_the_reference() {
        let text = include_str!("../../docs/reference.md");
        for name in ["policy", "commands", "exit codes", "documents"] {
            assert!(text.contains(&format!("<!-- generated: {name} -->\n")), "{name}");
            assert!(part(name).is_some(), "{name}");
        }
    }
}
