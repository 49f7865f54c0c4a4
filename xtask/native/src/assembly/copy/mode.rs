//! `--chmod`: octal, or the symbolic form of chmod(1) as BuildKit parses it.
//!
//! Pure. A clause without `u`, `g`, `o` or `a` is subject to umask 022, as in a container.

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mode {
    steps: Vec<Step>,
    octal: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Clear(u32),
    Set(u32),
    /// Applies to folders, and to files with any execute bit.
    SetIfExecutable(u32),
    /// Copies one class's bits to other classes.
    Copy {
        /// Shift of the source class: 6, 3 or 0.
        shift: u32,
        operator: char,
        /// Mask of the classes that receive the bits.
        classes: u32,
        mask: u32,
    },
}

const EVERYTHING: u32 = 0o6777;
const STICKY: u32 = 0o1000;
const MASK: u32 = !0o022;

impl Mode {
    /// The error is one lowercase phrase.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let wrong = || format!("`--chmod={text}` is not an octal number up to 7777");
            let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o7777).ok_or_else(wrong)?;
            return Ok(Self { steps: vec![Step::Clear(EVERYTHING | STICKY), Step::Set(bits)], octal: Some(bits) });
        }
        let mut steps = Vec::new();
        for clause in text.split(',') {
            self::clause(clause, &mut steps).ok_or_else(|| format!("`--chmod={text}` is not a mode"))?;
        }
        Ok(Self { steps, octal: None })
    }

    /// Mode of parent folders that a copy creates: the octal mode without set-id and sticky bits, as in BuildKit since
    /// 0.21.
    pub(crate) fn of_parents(&self) -> Option<u32> {
        self.octal.map(|bits| bits & 0o777)
    }

    pub(crate) fn apply(&self, before: u32, is_dir: bool) -> u32 {
        let mut mode = before;
        for step in &self.steps {
            match *step {
                Step::Clear(bits) => mode &= !bits,
                Step::Set(bits) => mode |= bits,
                Step::SetIfExecutable(bits) if is_dir || before & 0o111 != 0 => mode |= bits,
                Step::SetIfExecutable(_) => {}
                Step::Copy { shift, operator, classes, mask } => {
                    let value = mode >> shift & 0o7;
                    let spread = |bits: u32| (bits * 0o111) & classes & 0o777 & mask;
                    match operator {
                        '+' => mode |= spread(value),
                        '-' => mode &= !spread(value),
                        _ => mode = mode & !spread(0o7) | spread(value),
                    }
                }
            }
        }
        mode
    }
}

/// Parses `ugoa` followed by operators with their bits.
fn clause(text: &str, steps: &mut Vec<Step>) -> Option<()> {
    let at = text.find(['+', '-', '='])?;
    let mut who = 0;
    for class in text[..at].chars() {
        who |= match class {
            'a' => EVERYTHING,
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o007,
            _ => return None,
        };
    }
    let mut rest = text[at..].chars().peekable();
    while let Some(operator) = rest.next() {
        let mut change = Clause { who, operator, bits: 0, executable: false, done: false };
        while let Some(letter) = rest.next_if(|c| !['+', '-', '='].contains(c)) {
            change.letter(letter, steps)?;
        }
        change.end(steps);
    }
    Some(())
}

struct Clause {
    who: u32,
    operator: char,
    bits: u32,
    executable: bool,
    /// True if `=` has already cleared the bits.
    done: bool,
}

impl Clause {
    fn letter(&mut self, letter: char, steps: &mut Vec<Step>) -> Option<()> {
        let only_others = self.who != 0 && self.who & !0o007 == 0;
        match letter {
            'r' => self.bits |= 0o444,
            'w' => self.bits |= 0o222,
            'x' => self.bits |= 0o111,
            'X' => self.executable |= self.operator == '+',
            's' if only_others => {}
            't' if only_others => {}
            's' => self.bits |= 0o6000,
            't' => {
                self.who |= STICKY;
                self.bits |= STICKY;
            }
            'u' | 'g' | 'o' => {
                if self.bits != 0 {
                    self.flush(steps);
                }
                self.done |= self.operator == '=';
                self.flush_executable(steps);
                let shift = match letter {
                    'u' => 6,
                    'g' => 3,
                    _ => 0,
                };
                let (classes, mask) = if self.who == 0 { (0o777, MASK) } else { (self.who, u32::MAX) };
                steps.push(Step::Copy { shift, operator: self.operator, classes, mask });
            }
            _ => return None,
        }
        Some(())
    }

    fn end(&mut self, steps: &mut Vec<Step>) {
        if self.bits != 0 || self.operator == '=' && !self.done {
            self.flush(steps);
        }
        self.flush_executable(steps);
    }

    fn allowed(&self) -> u32 {
        if self.who == 0 { MASK } else { self.who }
    }

    fn flush(&mut self, steps: &mut Vec<Step>) {
        let bits = self.bits & self.allowed();
        match self.operator {
            '-' => steps.push(Step::Clear(bits)),
            '=' => {
                steps.push(Step::Clear(if self.who == 0 { EVERYTHING } else { self.who }));
                steps.push(Step::Set(bits));
                self.done = true;
            }
            _ => steps.push(Step::Set(bits)),
        }
        self.bits = 0;
    }

    fn flush_executable(&mut self, steps: &mut Vec<Step>) {
        if std::mem::take(&mut self.executable) {
            steps.push(Step::SetIfExecutable(0o111 & self.allowed()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn changes(text: &str, before: u32, after: u32) {
        assert_eq!(Mode::parse(text).unwrap().apply(before, false), after, "{text} of {before:o}");
    }

    #[track_caller]
    fn of_folder(text: &str, before: u32, after: u32) {
        assert_eq!(Mode::parse(text).unwrap().apply(before, true), after, "{text} of {before:o}");
    }

    #[test]
    fn octal_modes_are_absolute() {
        changes("755", 0o644, 0o755);
        changes("0755", 0o644, 0o755);
        changes("4755", 0o644, 0o4755);
        changes("0", 0o1777, 0);
        changes("1777", 0, 0o1777);
    }

    #[test]
    fn symbolic_modes_change_the_existing_bits() {
        changes("u+x", 0o644, 0o744);
        changes("+x", 0o644, 0o755);
        changes("a+x", 0o644, 0o755);
        changes("go-r", 0o644, 0o600);
        changes("u=rwx,go=rx", 0, 0o755);
        changes("u=rw,g=r,o=", 0o777, 0o640);
        changes("a=r", 0o4755, 0o444);
        changes("go=", 0o755, 0o700);
        changes("ug+s", 0o755, 0o6755);
        changes("+t", 0o755, 0o1755);
        changes("o+t", 0o755, 0o755);
        changes("u+rw-x", 0o100, 0o600);
        changes("+w", 0o444, 0o644);
        changes("a+w", 0o444, 0o666);
    }

    #[test]
    fn classes_are_copied() {
        changes("g=u", 0o750, 0o770);
        changes("go=u-w", 0o700, 0o755);
        changes("o=g", 0o750, 0o755);
        changes("g+o", 0o701, 0o711);
        changes("g-u", 0o670, 0o610);
    }

    #[test]
    fn capital_x_keeps_execution_bits() {
        changes("a+X", 0o644, 0o644);
        changes("a+X", 0o744, 0o755);
        of_folder("a+X", 0o600, 0o711);
        changes("u=rw,go=r,a+X", 0o755, 0o755);
        of_folder("=rw,+X", 0o700, 0o755);
    }

    #[track_caller]
    fn refuses(text: &str) {
        assert!(Mode::parse(text).is_err(), "{text}");
    }

    #[test]
    fn invalid_modes_are_rejected() {
        for text in ["", "9", "17777", "u", "z+x", "u+q", "u+x,", "rwx", "0o755", "u x"] {
            refuses(text);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_rejected(text in "[ugoa0-7rwxXst,=+-]{0,12}", before in 0_u32..0o10000, dir in any::<bool>()) {
            if let Ok(mode) = Mode::parse(&text) {
                prop_assert!(mode.apply(before, dir) <= 0o7777);
            }
        }

        #[test]
        fn a_number_and_its_letters_agree(bits in 0_u32..0o1000, before in 0_u32..0o1000) {
            let letters = |shift: u32| -> String {
                [(4, 'r'), (2, 'w'), (1, 'x')].iter().filter(|(bit, _)| bits >> shift & bit != 0).map(|(_, c)| *c).collect()
            };
            let text = format!("u={},g={},o={}", letters(6), letters(3), letters(0));
            prop_assert_eq!(Mode::parse(&text).unwrap().apply(before, false), bits);
        }
    }
}
