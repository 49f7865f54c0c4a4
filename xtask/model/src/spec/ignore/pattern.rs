//! One pattern of an ignore file, or one glob of a `COPY`, against one path.
//!
//! Pure. Matching takes time bounded by pattern × path: no pattern can make it explode.

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(char),
    /// `?`: one character, not a slash.
    Any,
    /// `*`: characters, not slashes.
    Many,
    /// `**` at the end: everything.
    Everything,
    /// `**/` within: nothing, or everything up to a slash.
    Folders,
    /// `[…]`; a negated one matches a slash too.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// A bare `^` with a wildcard: BuildKit's regular expression reads it as an anchor.
    Never,
}

/// Way to compare a pattern, as BuildKit chooses it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Matcher {
    Exact(Vec<u8>),
    /// `dir/**`.
    Prefix(Vec<u8>),
    /// `**/name`, `**name`.
    Suffix(Vec<u8>),
    Pieces(Vec<Piece>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    how: Matcher,
    literal: Vec<u8>,
}

impl Pattern {
    /// Reads a cleaned pattern of an ignore file; the error is one lowercase phrase.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let pieces = pieces(text, true)?;
        let plain = |text: &str| !text.contains(['*', '?', '[', ']', '\\']);
        let how = if plain(text) {
            Matcher::Exact(text.into())
        } else if let Some(suffix) = text.strip_prefix("**").filter(|suffix| plain(suffix)) {
            Matcher::Suffix(suffix.into())
        } else if let Some(prefix) = text.strip_suffix("**").filter(|prefix| plain(prefix)) {
            Matcher::Prefix(prefix.into())
        } else {
            Matcher::Pieces(pieces)
        };
        Ok(Self { how, literal: literal(text) })
    }

    /// Reads a glob of `COPY`: no `**`, every wildcard stays within a folder.
    pub(crate) fn glob(text: &str) -> Result<Self, String> {
        Ok(Self { how: Matcher::Pieces(pieces(text, false)?), literal: literal(text) })
    }

    pub fn matches(&self, path: &[u8]) -> bool {
        match &self.how {
            Matcher::Exact(text) => path == text,
            Matcher::Prefix(prefix) => path.starts_with(prefix),
            Matcher::Suffix(suffix) => path.ends_with(suffix) || suffix.strip_prefix(b"/") == Some(path),
            Matcher::Pieces(pieces) => path.starts_with(&self.literal) && matches(pieces, path),
        }
    }

    /// True if something below the folder could match. May say yes too often, never no.
    pub(crate) fn may_match_below(&self, folder: &[u8]) -> bool {
        let inside = [folder, b"/"].concat();
        match &self.how {
            Matcher::Exact(text) => text.starts_with(&inside),
            Matcher::Suffix(_) => true,
            Matcher::Prefix(_) => self.may_lead(&inside),
            Matcher::Pieces(pieces) => {
                self.may_lead(&inside) && deepest(pieces).is_none_or(|most| slashes(&inside) <= most)
            }
        }
    }
}

/// A condition on one part of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameRule {
    Equals(Vec<u8>),
    EndsWith(Vec<u8>),
}

impl Pattern {
    /// The condition that the last part of each matching path meets; `None` where any part may.
    pub(super) fn name_rule(&self) -> Option<NameRule> {
        let end: Vec<u8> = match &self.how {
            Matcher::Exact(text) => [b"/", text.as_slice()].concat(),
            Matcher::Suffix(suffix) => suffix.clone(),
            Matcher::Prefix(_) => return None,
            Matcher::Pieces(pieces) => {
                let literals = pieces.iter().rev().map_while(|piece| match piece {
                    Piece::Literal(c) => Some(*c),
                    _ => None,
                });
                let literals: Vec<char> = literals.collect();
                // After `**/` at the start of a part they begin a part too; after `a**/`, which matches `a`, they do not.
                let mut before = pieces[..pieces.len() - literals.len()].iter().rev();
                let begins = matches!(before.find(|piece| **piece != Piece::Folders), None | Some(Piece::Literal('/')));
                let text: String = literals.into_iter().rev().collect();
                if begins { format!("/{text}").into_bytes() } else { text.into_bytes() }
            }
        };
        match end.iter().rposition(|byte| *byte == b'/') {
            Some(at) if at + 1 < end.len() => Some(NameRule::Equals(end[at + 1..].to_vec())),
            None if !end.is_empty() => Some(NameRule::EndsWith(end)),
            _ => None,
        }
    }

    fn may_lead(&self, inside: &[u8]) -> bool {
        self.literal.starts_with(inside) || inside.starts_with(&self.literal)
    }
}

fn slashes(path: &[u8]) -> usize {
    path.iter().filter(|b| **b == b'/').count()
}

/// Number of slashes that a match can have; `None` for any number.
fn deepest(pieces: &[Piece]) -> Option<usize> {
    pieces.iter().try_fold(0, |count, piece| match piece {
        Piece::Everything | Piece::Folders | Piece::Class { .. } => None,
        Piece::Literal('/') => Some(count + 1),
        _ => Some(count),
    })
}

fn literal(text: &str) -> Vec<u8> {
    text.split(['*', '?', '[', ']', '\\', '^']).next().unwrap_or_default().into()
}

fn pieces(text: &str, double_star: bool) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        pieces.push(match c {
            '*' if double_star && chars.peek() == Some(&'*') => {
                chars.next();
                chars.next_if_eq(&'/');
                if chars.peek().is_none() { Piece::Everything } else { Piece::Folders }
            }
            '*' => Piece::Many,
            '?' => Piece::Any,
            '[' => class(&mut chars, double_star)?,
            '\\' => Piece::Literal(escaped(&mut chars, double_star)?),
            '^' if double_star => Piece::Never,
            c => Piece::Literal(c),
        });
    }
    Ok(pieces)
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// The character behind a backslash. In an ignore file BuildKit hands it to a regular expression, where a letter would mean
/// something else or nothing: that is refused.
fn escaped(chars: &mut Chars<'_>, strict: bool) -> Result<char, String> {
    match chars.next() {
        None => Err("the pattern ends with an escape".to_owned()),
        Some(c) if strict && (c.is_ascii_alphanumeric() || !c.is_ascii()) => Err(format!("`\\{c}` cannot be escaped")),
        Some(c) => Ok(c),
    }
}

fn class(chars: &mut Chars<'_>, strict: bool) -> Result<Piece, String> {
    let open = || "a character class has no end".to_owned();
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        match chars.peek().copied() {
            None => return Err(open()),
            Some(']') if !ranges.is_empty() => {
                chars.next();
                return Ok(Piece::Class { negated, ranges });
            }
            Some('[') if strict && chars.clone().nth(1) == Some(':') => {
                return Err("a named character class cannot be used".to_owned());
            }
            Some(_) => {}
        }
        let low = member(chars, strict)?;
        let high = match chars.next_if_eq(&'-') {
            Some(_) => member(chars, strict)?,
            None => low,
        };
        if strict && low > high {
            return Err(format!("`{low}-{high}` is a range that runs backwards"));
        }
        ranges.push((low, high));
    }
}

fn member(chars: &mut Chars<'_>, strict: bool) -> Result<char, String> {
    match chars.next() {
        None => Err("a character class has no end".to_owned()),
        Some(c @ ('-' | ']')) => Err(format!("`{c}` in a character class needs a `\\`")),
        Some('\\') => escaped(chars, strict),
        Some(c) => Ok(c),
    }
}

/// The first character and its length; a byte that is not UTF-8 counts as one replacement character.
fn first(path: &[u8]) -> Option<(char, usize)> {
    let head = &path[..path.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default(),
    };
    match valid.chars().next() {
        Some(c) => Some((c, c.len_utf8())),
        None if path.is_empty() => None,
        None => Some((char::REPLACEMENT_CHARACTER, 1)),
    }
}

/// `*` never stops within a character: what follows it would see half of one.
fn begins_character(path: &[u8], at: usize) -> bool {
    path.get(at).is_none_or(|byte| byte & 0b1100_0000 != 0b1000_0000)
}

fn matches(pieces: &[Piece], path: &[u8]) -> bool {
    let mut reached = vec![false; path.len() + 1];
    reached[0] = true;
    for piece in pieces {
        let mut after = vec![false; path.len() + 1];
        for at in (0..=path.len()).filter(|&at| reached[at]).collect::<Vec<_>>() {
            step(piece, path, at, &mut after);
        }
        if !after.contains(&true) {
            return false;
        }
        reached = after;
    }
    reached[path.len()]
}

fn step(piece: &Piece, path: &[u8], at: usize, after: &mut [bool]) {
    let rest = &path[at..];
    match piece {
        Piece::Literal(c) => {
            let mut buffer = [0; 4];
            let text = c.encode_utf8(&mut buffer).as_bytes();
            if rest.starts_with(text) {
                after[at + text.len()] = true;
            }
        }
        Piece::Any => {
            if let Some((_, length)) = first(rest).filter(|(c, _)| *c != '/') {
                after[at + length] = true;
            }
        }
        Piece::Class { negated, ranges } => {
            if let Some((c, length)) = first(rest)
                && ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            {
                after[at + length] = true;
            }
        }
        Piece::Many => {
            let end = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
            for end in (at..=at + end).filter(|&end| begins_character(path, end)) {
                after[end] = true;
            }
        }
        Piece::Everything => {
            let end = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
            after[at..=at + end].fill(true);
        }
        Piece::Folders => {
            after[at] = true;
            let end = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
            for slash in (0..end).filter(|&index| rest[index] == b'/') {
                after[at + slash + 1] = true;
            }
        }
        Piece::Never => {}
    }
}
