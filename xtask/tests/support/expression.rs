//! GitHub's expressions, as far as the generated workflows use them; anything else is a panic, never a guess.

use serde_json::Value;

/// Status of the jobs before, for `success()` and its kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    pub success: bool,
    pub failure: bool,
}

/// The functions that replace the silent `success() &&` before every condition.
pub(crate) fn asks_status(text: &str) -> bool {
    ["always()", "cancelled()", "failure()", "success()"].iter().any(|name| text.contains(name))
}

/// Replaces every `${{ … }}` of a text.
pub(crate) fn interpolate(text: &str, context: &Value) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${{") {
        let end = start + rest[start..].find("}}").expect("an expression ends");
        out += &rest[..start];
        let status = Status { success: true, failure: false };
        match evaluate(&rest[start + 3..end], context, status) {
            Value::String(text) => out += &text,
            Value::Null => {}
            other => out += &other.to_string(),
        }
        rest = &rest[end + 2..];
    }
    out + rest
}

/// Returns true if a value counts as true.
pub(crate) fn truthy(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false)) && value != "" && value != 0
}

/// The value of an expression.
pub(crate) fn evaluate(text: &str, context: &Value, status: Status) -> Value {
    let mut reader = Reader { text, at: 0, context, status };
    let value = reader.or();
    reader.blanks();
    assert!(reader.at == text.len(), "`{}` is left of `{text}`", &text[reader.at..]);
    value
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    context: &'a Value,
    status: Status,
}

impl Reader<'_> {
    fn blanks(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn takes(&mut self, token: &str) -> bool {
        self.blanks();
        let found = self.text[self.at..].starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn or(&mut self) -> Value {
        let mut left = self.and();
        while self.takes("||") {
            let right = self.and();
            left = if truthy(&left) { left } else { right };
        }
        left
    }

    fn and(&mut self) -> Value {
        let mut left = self.comparison();
        while self.takes("&&") {
            let right = self.comparison();
            left = if truthy(&left) { right } else { left };
        }
        left
    }

    fn comparison(&mut self) -> Value {
        let left = self.unary();
        if self.takes("==") {
            let right = self.unary();
            return Value::Bool(equal(&left, &right));
        }
        if self.takes("!=") {
            let right = self.unary();
            return Value::Bool(!equal(&left, &right));
        }
        left
    }

    fn unary(&mut self) -> Value {
        self.blanks();
        if self.text[self.at..].starts_with('!') && !self.text[self.at..].starts_with("!=") {
            self.at += 1;
            return Value::Bool(!truthy(&self.unary()));
        }
        self.primary()
    }

    fn primary(&mut self) -> Value {
        if self.takes("(") {
            let value = self.or();
            assert!(self.takes(")"), "`{}` lacks a bracket", self.text);
            return value;
        }
        if self.takes("'") {
            let end = self.at + self.text[self.at..].find('\'').expect("a text ends");
            let value = Value::from(&self.text[self.at..end]);
            self.at = end + 1;
            return value;
        }
        self.blanks();
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "._-*".contains(c))).unwrap_or(rest.len());
        let word = &rest[..end];
        assert!(!word.is_empty(), "`{rest}` is not an expression");
        self.at += end;
        if self.takes("(") { self.call(word) } else { look_up(self.context, word) }
    }

    fn call(&mut self, name: &str) -> Value {
        let mut arguments = Vec::new();
        while !self.takes(")") {
            arguments.push(self.or());
            self.takes(",");
        }
        Value::Bool(match (name, arguments.as_slice()) {
            ("always", []) => true,
            // A job of the test may be cancelled, a run is not.
            ("cancelled", []) => false,
            ("success", []) => self.status.success,
            ("failure", []) => self.status.failure,
            ("startsWith", [Value::String(text), Value::String(start)]) => {
                text.to_lowercase().starts_with(&start.to_lowercase())
            }
            ("contains", [Value::Array(items), item]) => items.iter().any(|other| equal(other, item)),
            ("contains", [Value::String(text), Value::String(part)]) => {
                text.to_lowercase().contains(&part.to_lowercase())
            }
            // The repositories of the tests have none of the files that are asked for.
            ("hashFiles", [_]) => return Value::String(String::new()),
            _ => panic!("`{name}` with {arguments:?} is not known here"),
        })
    }
}

fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::String(left), Value::String(right)) => left.eq_ignore_ascii_case(right),
        _ => left == right,
    }
}

/// `needs.plan.outputs.decision`, `needs.*.result`. The first name has to be a context; a missing field is null.
fn look_up(context: &Value, path: &str) -> Value {
    let mut names = path.split('.');
    let first = names.next().unwrap_or_default();
    let mut values = vec![context.get(first).unwrap_or_else(|| panic!("there is no context `{first}`")).clone()];
    let mut many = false;
    for name in names {
        values = if name == "*" {
            many = true;
            values.iter().filter_map(Value::as_object).flat_map(|object| object.values().cloned()).collect()
        } else {
            values.iter().map(|value| value.get(name).cloned().unwrap_or_default()).collect()
        };
    }
    if many { Value::Array(values) } else { values.remove(0) }
}
