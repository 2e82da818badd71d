//! D-Bus values, and the text form in which annotations give them.
//!
//! The text is GLib's GVariant format, as far as unit properties need it: `true`, `123`, `uint64 123`, `1.5`,
//! `'text'`, `"text"`, `['a', 'b']`, `@as []`.

use serde::Serialize;

/// A D-Bus value (D-Bus Specification, Type System).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Value {
    /// `b`
    Bool(bool),
    /// `y`
    Byte(u8),
    /// `n`
    I16(i16),
    /// `q`
    U16(u16),
    /// `i`
    I32(i32),
    /// `u`
    U32(u32),
    /// `x`
    I64(i64),
    /// `t`
    U64(u64),
    /// `d`
    Double(f64),
    /// `s`
    Str(String),
    /// `o`
    Path(String),
    /// `a`, with the signature of its elements.
    Array(String, Vec<Value>),
    /// `(...)`
    Struct(Vec<Value>),
    /// `v`
    Variant(Box<Value>),
}

impl Value {
    /// A string (`s`).
    pub fn text(text: impl Into<String>) -> Value {
        Value::Str(text.into())
    }

    /// The value's type, as D-Bus writes types.
    pub fn signature(&self) -> String {
        match self {
            Value::Bool(_) => "b".into(),
            Value::Byte(_) => "y".into(),
            Value::I16(_) => "n".into(),
            Value::U16(_) => "q".into(),
            Value::I32(_) => "i".into(),
            Value::U32(_) => "u".into(),
            Value::I64(_) => "x".into(),
            Value::U64(_) => "t".into(),
            Value::Double(_) => "d".into(),
            Value::Str(_) => "s".into(),
            Value::Path(_) => "o".into(),
            Value::Array(element, _) => format!("a{element}"),
            Value::Struct(fields) => format!("({})", fields.iter().map(Value::signature).collect::<String>()),
            Value::Variant(_) => "v".into(),
        }
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// The syntax error of the text, as a phrase.
    pub fn parse(text: &str) -> Result<Value, String> {
        let mut reader = Reader { rest: text.trim() };
        let value = reader.value(None)?;
        match reader.peek() {
            None => Ok(value),
            Some(_) => Err(format!("unexpected {:?} after the value", reader.rest)),
        }
    }

    /// Seconds as microseconds, for properties that are written in seconds and sent as USec.
    ///
    /// # Errors
    /// A phrase, when the value is no number of seconds or does not fit.
    pub(crate) fn seconds_to_microseconds(&self) -> Result<Value, String> {
        const FACTOR: u64 = 1_000_000;
        let whole = |seconds: u64| seconds.checked_mul(FACTOR).map(Value::U64).ok_or("too large".to_owned());
        let signed = |seconds: i64| u64::try_from(seconds).map_err(|_| "negative".to_owned()).and_then(whole);
        match *self {
            Value::Byte(seconds) => whole(seconds.into()),
            Value::I16(seconds) => signed(seconds.into()),
            Value::U16(seconds) => whole(seconds.into()),
            Value::I32(seconds) => signed(seconds.into()),
            Value::U32(seconds) => whole(seconds.into()),
            Value::I64(seconds) => signed(seconds),
            Value::U64(seconds) => whole(seconds),
            Value::Double(seconds) if seconds >= 0.0 && seconds < u64::MAX as f64 / FACTOR as f64 => {
                // Without the sign of -0.
                let microseconds = (seconds * FACTOR as f64).trunc().abs();
                format!("{microseconds:.0}").parse().map(Value::U64).map_err(|_| "too large".to_owned())
            }
            _ => Err("not a number of seconds".to_owned()),
        }
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn take(&mut self, expected: char) -> bool {
        let found = self.peek() == Some(expected);
        if found {
            self.rest = &self.rest[expected.len_utf8()..];
        }
        found
    }

    /// A run of characters that belong to a word or a number.
    fn word(&mut self) -> &'a str {
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c)));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    fn value(&mut self, wanted: Option<&str>) -> Result<Value, String> {
        match self.peek() {
            None => Err("a value is missing".to_owned()),
            Some('\'' | '"') => self.string(wanted),
            Some('[') => self.array(wanted),
            Some('@') => {
                self.rest = &self.rest[1..];
                let end = self.rest.find(char::is_whitespace).ok_or("a value is missing after @")?;
                let (signature, rest) = self.rest.split_at(end);
                self.rest = rest;
                self.value(Some(signature))
            }
            Some(_) => {
                let word = self.word();
                match keyword(word) {
                    Some(signature) => self.value(Some(signature)),
                    None => scalar(word, wanted),
                }
            }
        }
    }

    fn string(&mut self, wanted: Option<&str>) -> Result<Value, String> {
        let mut characters = self.rest.chars();
        let quote = characters.next();
        let mut text = String::new();
        loop {
            match characters.next() {
                None => return Err("a quote is not closed".to_owned()),
                Some(c) if Some(c) == quote => break,
                Some('\\') => match characters.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(c) if !c.is_ascii_alphanumeric() => text.push(c),
                    other => return Err(format!("unknown escape \\{}", other.map_or(String::new(), String::from))),
                },
                Some(c) => text.push(c),
            }
        }
        self.rest = characters.as_str();
        match wanted {
            None | Some("s") => Ok(Value::Str(text)),
            Some("o") => Ok(Value::Path(text)),
            Some(other) => Err(format!("a string is not of type {other}")),
        }
    }

    fn array(&mut self, wanted: Option<&str>) -> Result<Value, String> {
        let element = match wanted {
            None => None,
            Some(signature) => {
                Some(signature.strip_prefix('a').ok_or_else(|| format!("an array is not of type {signature}"))?)
            }
        };
        self.take('[');
        let mut items: Vec<Value> = Vec::new();
        while !self.take(']') {
            if !items.is_empty() && !self.take(',') {
                return Err("a comma or ] is missing in an array".to_owned());
            }
            // The first element says what the others are.
            let of = element.map(str::to_owned).or_else(|| items.first().map(Value::signature));
            items.push(self.value(of.as_deref())?);
        }
        match element.map(str::to_owned).or_else(|| items.first().map(Value::signature)) {
            Some(signature) => Ok(Value::Array(signature, items)),
            None => Err("an empty array needs a type, such as @as []".to_owned()),
        }
    }
}

fn keyword(word: &str) -> Option<&'static str> {
    Some(match word {
        "boolean" => "b",
        "byte" => "y",
        "int16" => "n",
        "uint16" => "q",
        "int32" => "i",
        "uint32" => "u",
        "int64" => "x",
        "uint64" => "t",
        "double" => "d",
        "string" => "s",
        "objectpath" => "o",
        _ => return None,
    })
}

fn scalar(word: &str, wanted: Option<&str>) -> Result<Value, String> {
    fn number<T: std::str::FromStr>(word: &str, make: fn(T) -> Value, signature: &str) -> Result<Value, String> {
        word.parse().map(make).map_err(|_| format!("{word:?} is not of type {signature}"))
    }
    let signature = match (wanted, word) {
        (Some(signature), _) => signature,
        (None, "true" | "false") => "b",
        (None, _) if word.parse::<i32>().is_ok() => "i",
        (None, _) if word.parse::<i64>().is_ok() => "x",
        (None, _) if word.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => "d",
        (None, _) => return Err(format!("{word:?} is no value; write strings in quotes")),
    };
    match signature {
        "b" => number(word, Value::Bool, signature),
        "y" => number(word, Value::Byte, signature),
        "n" => number(word, Value::I16, signature),
        "q" => number(word, Value::U16, signature),
        "i" => number(word, Value::I32, signature),
        "u" => number(word, Value::U32, signature),
        "x" => number(word, Value::I64, signature),
        "t" => number(word, Value::U64, signature),
        "d" => number(word, Value::Double, signature),
        other => Err(format!("{word:?} is not of type {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_unit_properties() {
        let strings = vec![Value::text("a"), Value::text("b c")];
        for (text, value) in [
            ("true", Value::Bool(true)),
            ("30", Value::I32(30)),
            ("-3000000000", Value::I64(-3_000_000_000)),
            ("uint64 123456789", Value::U64(123_456_789)),
            ("1.5", Value::Double(1.5)),
            ("'inactive-or-failed'", Value::text("inactive-or-failed")),
            (r#""it's""#, Value::text("it's")),
            (r"'it\'s'", Value::text("it's")),
            ("['a', \"b c\"]", Value::Array("s".into(), strings)),
            ("@as []", Value::Array("s".into(), vec![])),
            ("[byte 1, 2]", Value::Array("y".into(), vec![Value::Byte(1), Value::Byte(2)])),
        ] {
            assert_eq!(Value::parse(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn texts_that_are_none() {
        for text in ["", "plain", "'open", "[]", "['a' 'b']", "['a', 1]", "uint32 -1", "1 2", r"'\q'", "@as"] {
            assert!(Value::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn seconds_become_microseconds() {
        assert_eq!(Value::I32(2).seconds_to_microseconds(), Ok(Value::U64(2_000_000)));
        assert_eq!(Value::Double(0.5).seconds_to_microseconds(), Ok(Value::U64(500_000)));
        assert!(Value::I32(-1).seconds_to_microseconds().is_err());
        assert!(Value::U64(u64::MAX).seconds_to_microseconds().is_err());
        assert!(Value::text("1").seconds_to_microseconds().is_err());
    }
}
