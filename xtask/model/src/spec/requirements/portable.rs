//! A requirement file as every version of uv reads it: options that only pip knows are left out.
//!
//! Pure. What the left out options mean has been read by then, and reaches uv as arguments.

use super::{lines, options};
use std::fmt::Write as _;

/// Options that pip reads in a file and uv only on its command line.
const PIP_ONLY: [&str; 2] = ["--all-releases", "--only-final"];

/// The file without pip's own options; `None` where it has none, and can be used as it is.
pub fn portable(source: &str) -> Option<String> {
    if !PIP_ONLY.iter().any(|option| source.contains(option)) {
        return None;
    }
    let mut text = String::new();
    for line in lines::logical(source) {
        let kept = without(line.text.trim()).unwrap_or(line.text);
        let _ = writeln!(text, "{kept}");
    }
    Some(text)
}

/// A line of options without pip's own; `None` where it has none.
fn without(line: &str) -> Option<String> {
    let written = options::read(line).ok().filter(|_| line.starts_with('-'))?;
    if !written.iter().any(|option| PIP_ONLY.contains(&option.name)) {
        return None;
    }
    let kept = written.iter().filter(|option| !PIP_ONLY.contains(&option.name));
    let words: Vec<String> = kept
        .map(|option| match option.value.as_str() {
            "" => option.name.to_owned(),
            value => format!("{} {value}", option.name),
        })
        .collect();
    Some(words.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_options_that_pip_alone_reads_are_left_out() {
        assert_eq!(portable("--pre\na>=1\n"), None);
        assert_eq!(portable("--all-releases a,b\na \\\n  >=1 # x\n").unwrap(), "\na   >=1 \n");
        assert_eq!(portable("--pre --only-final=:all: -c c.txt\na").unwrap(), "--pre\n--constraint c.txt\na\n");
    }
}
