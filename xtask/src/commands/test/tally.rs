//! Numbers of tests that passed, failed and were skipped, read from the closing lines of the runners.
//!
//! Pure: lines in, numbers out.

/// The numbers of all runners so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
    /// Tests that found a tool missing; those that a filter left out do not count.
    pub(super) skipped: u64,
}

impl Tally {
    /// Takes a line of a runner's output, without colours.
    pub(super) fn read(&mut self, line: &str) {
        // nextest indents what a test itself printed, the closing line of its harness among it.
        let summary = line.trim_start().starts_with("Summary [");
        let line = if summary { line.trim() } else { line.trim_end() };
        if line.starts_with("skipped:") {
            self.skipped += 1;
        } else if line.starts_with("test result: ") || (line.starts_with("Summary [") && line.contains(" run: ")) {
            self.passed += count(line, "passed");
            self.failed += count(line, "failed") + count(line, "timed out");
        } else if is_pytest(line) {
            self.passed += count(line, "passed");
            self.failed += count(line, "failed") + count(line, "error") + count(line, "errors");
            self.skipped += count(line, "skipped");
        }
    }
}

/// `57 passed, 1 skipped in 12.34s`
fn is_pytest(line: &str) -> bool {
    let Some((counts, seconds)) = line.trim_matches(['=', ' ']).rsplit_once(" in ") else { return false };
    let seconds = seconds.split_whitespace().next().unwrap_or_default();
    let each = |part: &str| part.split_once(' ').is_some_and(|(number, _)| number.parse::<u64>().is_ok());
    seconds.ends_with('s') && seconds.starts_with(|c: char| c.is_ascii_digit()) && counts.split(", ").all(each)
}

/// The number in front of a word.
fn count(line: &str, word: &str) -> u64 {
    let words: Vec<&str> = line.split([' ', ',', ';', '(', ')', ':']).filter(|word| !word.is_empty()).collect();
    let parts: Vec<&str> = word.split(' ').collect();
    let found = words.windows(parts.len() + 1).find(|window| window[1..] == parts[..]);
    found.and_then(|window| window[0].parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &[&str], passed: u64, failed: u64, skipped: u64) {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.read(line));
        assert_eq!(tally, Tally { passed, failed, skipped });
    }

    #[test]
    fn each_runner_closes_in_its_own_words() {
        check(
            &["test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 9 filtered out; finished in 0.1s"],
            12,
            0,
            0,
        );
        check(&["test result: FAILED. 12 passed; 2 failed; 0 ignored; 0 measured"], 12, 2, 0);
        check(&["     Summary [   3.512s] 40 tests run: 38 passed (1 slow), 2 failed, 5 skipped"], 38, 2, 0);
        check(&["     Summary [   3.512s] 40/90 tests run: 38 passed, 1 failed, 1 timed out, 5 skipped"], 38, 2, 0);
        check(&["57 passed in 12.34s"], 57, 0, 0);
        check(&["=== 1 failed, 56 passed, 2 skipped in 72.34s (0:01:12) ==="], 56, 1, 2);
        check(&["1 error in 0.34s"], 0, 1, 0);
    }

    #[test]
    fn runners_add_up_and_other_lines_do_not_count() {
        check(&["test result: ok. 1 passed; 0 failed", "2 passed in 0.10s", "was built in 3s", "12 passed"], 3, 0, 0);
        check(&["skipped: no `openssl` on the PATH"], 0, 0, 1);
        check(&["    test result: ok. 1 passed; 0 failed"], 0, 0, 0);
    }
}
