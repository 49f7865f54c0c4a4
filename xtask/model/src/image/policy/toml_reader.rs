//! Reads a TOML document key by key, remembers the position of each, and collects every problem instead of ending at the first.
//!
//! [`keys`] describes every table: ranges and defaults come from there, and [`Section::finish`] calls every other key unknown and names
//! the nearest known one.

use super::keys::{self, Default, Table, ValueKind};
use serde_json::Value;
use std::fmt::Display;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// A problem, its position, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    at: usize,
    what: String,
    hint: Option<String>,
}

/// A value with its place in the text.
#[derive(Clone, Debug)]
pub(crate) struct Spanned<T> {
    pub value: T,
    /// Its bytes in the document.
    pub at: Range<usize>,
}

/// The document's problems, as they are found.
pub(crate) struct Problems<'a> {
    file: &'a str,
    text: &'a str,
    found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(crate) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, found: Vec::new() }
    }

    pub(crate) fn add(&mut self, at: &Range<usize>, what: impl Into<String>, hint: Option<String>) {
        self.found.push(Problem { at: at.start, what: what.into(), hint });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// `file:line:column` of a value.
    pub(crate) fn place(&self, at: &Range<usize>) -> String {
        let before = &self.text[..at.start.min(self.text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        format!("{}:{line}:{column}", self.file)
    }

    /// All problems in the order of the text, each as `file:line:column: what` with its hint below.
    pub(crate) fn listed(mut self) -> Vec<String> {
        self.found.sort_by_key(|problem| problem.at);
        // What several tables take from one is read for each.
        self.found.dedup();
        self.found
            .iter()
            .map(|problem| {
                let hint = problem.hint.as_ref().map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
                format!("{}: {}{hint}", self.place(&(problem.at..problem.at)), problem.what)
            })
            .collect()
    }
}

/// A table that is being read.
pub(crate) struct Section<'t> {
    name: String,
    table: &'t DeTable<'t>,
    /// Table with the values of keys that this one does not have.
    defaults: Option<&'t DeTable<'t>>,
    at: Range<usize>,
    described: &'static Table,
    asked: Vec<&'static str>,
    /// Keys without a description are someone else's.
    open: bool,
}

impl<'t> Section<'t> {
    /// A table that the document does not have: every key has its default.
    pub(crate) fn absent(name: &str, empty: &'t DeTable<'t>) -> Self {
        Self::new(name.to_owned(), empty, 0..0)
    }

    /// The whole document.
    pub(crate) fn document(table: &'t DeTable<'t>) -> Self {
        Self::new(String::new(), table, 0..0)
    }

    fn new(name: String, table: &'t DeTable<'t>, at: Range<usize>) -> Self {
        let described = keys::table(&name);
        Self { name, table, defaults: None, at, described, asked: Vec::new(), open: false }
    }

    fn get(&mut self, key: &'static str) -> Option<(&'t DeValue<'t>, Range<usize>)> {
        self.ask(key);
        let item = self.item(key)?;
        Some((item.get_ref(), item.span()))
    }

    fn item(&self, key: &str) -> Option<&'t toml::Spanned<DeValue<'t>>> {
        self.table.get(key).or_else(|| self.defaults?.get(key))
    }

    fn ask(&mut self, key: &'static str) {
        self.kind(key);
        self.asked.push(key);
    }

    /// The described type of a key.
    fn kind(&self, key: &str) -> ValueKind {
        self.described.key(key).expect("every key that is read has a description").kind
    }

    /// The described default of a key that has a text.
    pub(crate) fn default_text(&self, key: &str) -> Option<&'static str> {
        match self.described.key(key)?.default {
            Default::Text(text) => Some(text),
            _ => None,
        }
    }

    fn full(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// Position of the section in the file.
    pub(crate) fn at(&self) -> &Range<usize> {
        &self.at
    }

    /// Place of a key's value, if present.
    pub(crate) fn place_of(&self, key: &str) -> Option<Range<usize>> {
        self.item(key).map(toml::Spanned::span)
    }

    /// The keys without a description, which are valid then: name, value and place of each.
    pub(crate) fn others(&mut self) -> Vec<(String, Value, Range<usize>)> {
        self.open = true;
        let known = |key: &str| self.described.key(key).is_some();
        let others = self.table.iter().filter(|(name, _)| !known(name.get_ref()));
        others.map(|(name, item)| (name.get_ref().to_string(), json(item.get_ref()), name.span())).collect()
    }

    /// A table below this one, if present.
    pub(crate) fn section(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<Section<'t>> {
        let (item, at) = self.get(key)?;
        let name = self.full(key);
        match item.as_table() {
            Some(table) => Some(Section::new(name, table, at)),
            None => {
                problems.add(&at, format!("`{name}` is a {}, not a table", item.type_str()), None);
                None
            }
        }
    }

    /// The tables of `[key.NAME]`, by name; each takes the values that it does not have from `defaults`.
    pub(crate) fn named(
        &mut self,
        key: &'static str,
        defaults: Option<&Section<'t>>,
        problems: &mut Problems<'_>,
    ) -> Vec<(Spanned<String>, Section<'t>)> {
        let Some(all) = self.get(key) else { return Vec::new() };
        let Some(tables) = all.0.as_table() else {
            problems.add(&all.1, format!("`{key}` is a {}, not a table", all.0.type_str()), None);
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, item) in tables.iter() {
            let name = Spanned { value: name.get_ref().to_string(), at: name.span() };
            let full = format!("{}.{}", self.full(key), name.value);
            match item.get_ref().as_table() {
                Some(table) => {
                    let section = Section::new(full, table, item.span());
                    found.push((name, Section { defaults: defaults.map(|section| section.table), ..section }));
                }
                None => problems.add(&item.span(), format!("`{full}` is not a table"), None),
            }
        }
        found
    }

    /// True if a key holds a table, where it may hold a text too.
    pub(crate) fn holds_table(&self, key: &str) -> bool {
        self.item(key).is_some_and(|item| item.get_ref().as_table().is_some())
    }

    /// The tables of `[[key]]`.
    pub(crate) fn sections(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Vec<Section<'t>> {
        let Some((item, at)) = self.get(key) else { return Vec::new() };
        let name = self.full(key);
        // An array in place begins with one bracket.
        let array = item.as_array().filter(|_| problems.text[at.start..].starts_with("[["));
        let tables: Option<Vec<_>> = array
            .and_then(|array| array.iter().map(|table| Some((table.get_ref().as_table()?, table.span()))).collect());
        let Some(tables) = tables else {
            problems.add(&at, format!("`{name}` is written `[[{name}]]`, once for each"), None);
            return Vec::new();
        };
        tables.into_iter().map(|(table, at)| Section::new(name.clone(), table, at)).collect()
    }

    /// A text that must not be empty.
    pub(crate) fn text(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<Spanned<String>> {
        let (item, at) = self.get(key)?;
        match item.as_str() {
            Some("") => {
                problems.add(
                    &at,
                    format!("`{}` is empty", self.full(key)),
                    Some("write a value, or remove the key".into()),
                );
                None
            }
            Some(text) => Some(Spanned { value: text.to_owned(), at }),
            None => {
                problems.add(&at, format!("`{}` is a {}, not a text", self.full(key), item.type_str()), None);
                None
            }
        }
    }

    /// A required text.
    pub(crate) fn required(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<Spanned<String>> {
        if self.item(key).is_none() {
            self.ask(key);
            problems.add(&self.at.clone(), format!("`{}` is missing", self.full(key)), None);
            return None;
        }
        self.text(key, problems)
    }

    /// A text that parses into `T`.
    pub(crate) fn parsed<T: std::str::FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
        problems: &mut Problems<'_>,
    ) -> Option<Spanned<T>> {
        let text = self.text(key, problems)?;
        self.parse(key, text, problems)
    }

    /// Reads a text that was found at a key.
    pub(crate) fn parse<T: std::str::FromStr<Err: Display>>(
        &self,
        key: &str,
        text: Spanned<String>,
        problems: &mut Problems<'_>,
    ) -> Option<Spanned<T>> {
        match text.value.parse() {
            Ok(value) => Some(Spanned { value, at: text.at }),
            Err(error) => {
                problems.add(&text.at, format!("`{}`: {error}", self.full(key)), None);
                None
            }
        }
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
        problems: &mut Problems<'_>,
    ) -> Option<T> {
        if let ValueKind::Choice(words) | ValueKind::ForEach(words) = self.kind(key) {
            debug_assert_eq!(words, choices.iter().map(|(word, _)| *word).collect::<Vec<_>>(), "words of `{key}`");
        }
        let text = self.text(key, problems)?;
        let found = choices.iter().find(|(name, _)| *name == text.value).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<_> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
            let what = format!("`{}` is `{}`, not one of {}", self.full(key), text.value, names.join(", "));
            problems.add(&text.at, what, nearest(&text.value, choices.iter().map(|(name, _)| *name)));
        }
        found
    }

    /// A number that is not smaller than the described one.
    pub(crate) fn at_least(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<f64> {
        let ValueKind::AtLeast(least) = self.kind(key) else { panic!("`{key}` is described as another type") };
        let (item, at) = self.get(key)?;
        let good = number(item).filter(|number| number.is_finite() && *number >= least);
        if good.is_none() {
            problems.add(&at, format!("`{}` is not a number of at least {least}", self.full(key)), None);
        }
        good
    }

    /// A number from 0 to 1.
    pub(crate) fn share(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<f64> {
        assert!(self.kind(key) == ValueKind::Share, "`{key}` is described as another type");
        let (item, at) = self.get(key)?;
        let good = number(item).filter(|number| (0.0..=1.0).contains(number));
        if good.is_none() {
            problems.add(&at, format!("`{}` is not a number from 0 to 1", self.full(key)), None);
        }
        good
    }

    /// A whole number in the described range.
    pub(crate) fn number(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<i64> {
        let ValueKind::Whole(least, most) = self.kind(key) else { panic!("`{key}` is described as another type") };
        let (item, at) = self.get(key)?;
        match whole(item) {
            Some(number) if (least..=most).contains(&number) => Some(number),
            _ => {
                problems.add(&at, format!("`{}` is not a whole number from {least} to {most}", self.full(key)), None);
                None
            }
        }
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<bool> {
        let (item, at) = self.get(key)?;
        let value = item.as_bool();
        if value.is_none() {
            problems.add(&at, format!("`{}` is a {}, not `true` or `false`", self.full(key), item.type_str()), None);
        }
        value
    }

    /// A list of texts.
    pub(crate) fn texts(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<Vec<Spanned<String>>> {
        let (item, at) = self.get(key)?;
        let Some(array) = item.as_array() else {
            problems.add(&at, format!("`{}` is a {}, not a list", self.full(key), item.type_str()), None);
            return None;
        };
        let mut texts = Vec::new();
        for value in array {
            let at = value.span();
            match value.get_ref().as_str() {
                Some(text) => texts.push(Spanned { value: text.to_owned(), at }),
                None => problems.add(
                    &at,
                    format!("`{}` holds a {}, not a text", self.full(key), value.get_ref().type_str()),
                    None,
                ),
            }
        }
        Some(texts)
    }

    /// A text, or a list of them.
    pub(crate) fn text_or_texts(
        &mut self,
        key: &'static str,
        problems: &mut Problems<'_>,
    ) -> Option<Vec<Spanned<String>>> {
        let is_list = self.item(key).is_some_and(|item| item.get_ref().as_array().is_some());
        if is_list { self.texts(key, problems) } else { self.text(key, problems).map(|text| vec![text]) }
    }

    /// A list of texts, each of which parses into `T`.
    pub(crate) fn list<T: std::str::FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
        problems: &mut Problems<'_>,
    ) -> Option<Vec<T>> {
        let texts = self.texts(key, problems)?;
        Some(texts.into_iter().filter_map(|text| Some(self.parse(key, text, problems)?.value)).collect())
    }

    /// A table of texts: `args = { NAME = "value" }`.
    pub(crate) fn map(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Vec<(String, String)> {
        let Some((item, at)) = self.get(key) else { return Vec::new() };
        let Some(table) = item.as_table() else {
            problems.add(&at, format!("`{}` is a {}, not a table", self.full(key), item.type_str()), None);
            return Vec::new();
        };
        let mut pairs = Vec::new();
        for (name, item) in table.iter() {
            match item.get_ref().as_str() {
                Some(text) => pairs.push((name.get_ref().to_string(), text.to_owned())),
                None => {
                    problems.add(&item.span(), format!("`{}.{}` is not a text", self.full(key), name.get_ref()), None)
                }
            }
        }
        pairs
    }

    /// A whole number in the described range, by default the described one.
    pub(crate) fn number_or_default(&mut self, key: &'static str, problems: &mut Problems<'_>) -> i64 {
        let Some(Default::Number(default)) = self.described.key(key).map(|key| key.default) else {
            panic!("`{key}` is described without a number as its default")
        };
        self.number(key, problems).unwrap_or(default)
    }

    /// Calls every key without a description unknown.
    pub(crate) fn finish(self, problems: &mut Problems<'_>) {
        let known = || self.described.keys.iter().map(|key| key.name);
        debug_assert!(
            known().all(|key| self.asked.contains(&key)),
            "`[{}]`: not every described key is read",
            self.name
        );
        self.only_known(problems);
    }

    /// Calls every key without a description unknown, in a table whose values were read elsewhere.
    pub(crate) fn only_known(&self, problems: &mut Problems<'_>) {
        let known = || self.described.keys.iter().map(|key| key.name);
        for name in self.table.keys() {
            let key = name.get_ref().as_ref();
            if self.open || known().any(|known| known == key) {
                continue;
            }
            let place = if self.name.is_empty() { String::new() } else { format!(" in `[{}]`", self.name) };
            let hint = nearest(key, known()).or_else(|| {
                Some(format!("known here: {}", known().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")))
            });
            problems.add(&name.span(), format!("unknown key `{key}`{place}"), hint);
        }
    }
}

/// A value as JSON has it. A moment is a text there.
fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(_) => whole(value).map_or(Value::Null, Value::from),
        DeValue::Float(float) => float.as_str().parse::<f64>().map_or(Value::Null, Value::from),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(moment) => Value::String(moment.to_string()),
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect(),
        DeValue::Table(table) => {
            table.iter().map(|(name, item)| (name.get_ref().to_string(), json(item.get_ref()))).collect()
        }
    }
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    let float = value.as_float().and_then(|float| float.as_str().parse::<f64>().ok());
    float.or_else(|| whole(value).map(|whole| whole as f64))
}

fn whole(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// "did you mean …?" for the nearest of the known words, where one is near.
pub(crate) fn nearest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<String> {
    known
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min()
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}
