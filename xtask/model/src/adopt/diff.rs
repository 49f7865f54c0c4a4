//! The lines in which two texts differ, as a unified diff prints them.
//!
//! Pure. For files of some hundred lines: its time and memory grow with the product of their lengths.

use std::fmt::Write as _;

/// Unchanged lines around a change.
const CONTEXT: usize = 2;
/// Lines beyond which only the counts are compared.
const LARGE: usize = 4_000;

/// The difference of two texts; empty where there is none.
pub fn unified(path: &str, old: &str, new: &str) -> String {
    if old == new {
        return String::new();
    }
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let mut text = format!("--- {path}\n+++ {path}\n");
    if a.len() > LARGE || b.len() > LARGE {
        let _ = writeln!(text, "@@ {} lines become {} @@", a.len(), b.len());
        return text;
    }
    let script = script(&a, &b);
    let near = |at: usize| {
        let (from, to) = (at.saturating_sub(CONTEXT), (at + CONTEXT + 1).min(script.len()));
        script[from..to].iter().any(|(sign, _)| *sign != ' ')
    };
    let mut skipped = true;
    for (at, (sign, line)) in script.iter().enumerate() {
        if !near(at) {
            skipped = true;
            continue;
        }
        if skipped {
            text += "@@\n";
        }
        skipped = false;
        let plain: String = line.chars().filter(|c| !c.is_control() || *c == '\t').collect();
        let _ = writeln!(text, "{sign}{plain}");
    }
    text
}

/// Every line with its sign: kept, removed, added.
fn script<'t>(a: &[&'t str], b: &[&'t str]) -> Vec<(char, &'t str)> {
    // Length of the longest common part of what is left.
    let mut longest = vec![vec![0u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i][j] =
                if a[i] == b[j] { longest[i + 1][j + 1] + 1 } else { longest[i + 1][j].max(longest[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut found) = (0, 0, Vec::new());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            found.push((' ', a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || i < a.len() && longest[i + 1][j] >= longest[i][j + 1] {
            found.push(('-', a[i]));
            i += 1;
        } else {
            found.push(('+', b[j]));
            j += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_shown_with_its_surroundings() {
        let old = "a\nb\nc\nd\ne\nf\n";
        let shown = unified("x", old, "a\nb\nc\nD\ne\nf\n");
        assert_eq!(shown, "--- x\n+++ x\n@@\n b\n c\n-d\n+D\n e\n f\n");
        assert_eq!(unified("x", old, old), "");
        assert_eq!(unified("x", "", "one\n"), "--- x\n+++ x\n@@\n+one\n");
    }
}
