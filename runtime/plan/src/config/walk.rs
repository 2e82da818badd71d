//! Validation of a JSON value against the schema: every fault is reported, and the rest is what the typed model
//! accepts.

use serde_json::{Map, Value};

use super::schema::{Field, Need, Type};
use crate::process::capability_named;
use crate::{Findings, nearest};

/// Reports the faults of `value`, and returns it without unknown keys, nulls and unknown capabilities.
pub(super) fn clean(ty: &Type, value: Value, findings: &mut Findings) -> Value {
    let mut walk = Walk { path: String::new(), findings };
    walk.value(ty, value).unwrap_or(Value::Null)
}

struct Walk<'a> {
    path: String,
    findings: &'a mut Findings,
}

impl Walk<'_> {
    /// Checks one value; `None` drops it.
    fn value(&mut self, ty: &Type, value: Value) -> Option<Value> {
        match (ty, value) {
            (Type::Bool, Value::Bool(value)) => Some(Value::Bool(value)),
            (Type::Int(low, high), Value::Number(number)) => self.number(*low, *high, number),
            (Type::Str, Value::String(text)) => Some(Value::String(text)),
            (Type::Enum(names), Value::String(text)) => self.name(names, text),
            (Type::CpuList, Value::String(text)) => self.cpus(text),
            (Type::List(item), Value::Array(items)) => {
                Some(Value::Array(self.items(items, |walk, value| walk.value(item, value))))
            }
            (Type::Capabilities, Value::Array(items)) => Some(Value::Array(self.items(items, Walk::capability))),
            (Type::Map(item), Value::Object(fields)) => Some(self.map(item, fields)),
            (Type::Object(known), Value::Object(fields)) => Some(self.object(known, fields)),
            (Type::Seccomp(known), Value::Object(fields)) => {
                let blank = |name| match fields.get(name) {
                    None | Some(Value::Null) => true,
                    Some(Value::String(text)) => text.is_empty(),
                    Some(Value::Array(items)) => items.is_empty(),
                    Some(_) => false,
                };
                let nothing = blank("defaultAction") && blank("syscalls");
                if nothing { None } else { Some(self.object(known, fields)) }
            }
            (Type::Pids(known), Value::Object(fields)) => {
                let limited = self.object(known, fields);
                limited.get("limit").is_some().then_some(limited)
            }
            (Type::Foreign, Value::Object(_)) => {
                self.findings.warn(format!("{}: ignored on Linux", self.path));
                None
            }
            (ty, value) => {
                self.deny(format!("expected {}, found {}", wanted(ty), found(&value)));
                None
            }
        }
    }

    fn deny(&mut self, reason: String) {
        let path = if self.path.is_empty() { "the document" } else { &self.path };
        self.findings.deny(path, reason, "");
    }

    /// Runs `walk` with `part` appended to the path.
    fn at<T>(&mut self, part: std::fmt::Arguments<'_>, walk: impl FnOnce(&mut Self) -> T) -> T {
        use std::fmt::Write;
        let length = self.path.len();
        // Writing to a String does not fail.
        let _ = self.path.write_fmt(part);
        let result = walk(self);
        self.path.truncate(length);
        result
    }

    fn number(&mut self, low: i64, high: u64, number: serde_json::Number) -> Option<Value> {
        let fits = match (number.as_u64(), number.as_i64()) {
            (Some(value), _) => value <= high,
            (None, Some(value)) => value >= low,
            (None, None) => {
                self.deny(format!("expected a whole number from {low} to {high}, found {number}"));
                return None;
            }
        };
        if !fits {
            self.deny(format!("{number} is out of range: expected {low} to {high}"));
            return None;
        }
        Some(Value::Number(number))
    }

    fn name(&mut self, names: &[(&str, &str)], text: String) -> Option<Value> {
        if let Some((_, model)) = names.iter().find(|(name, _)| *name == text) {
            return Some(Value::String((*model).to_owned()));
        }
        let known: Vec<&str> = names.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
        self.deny(format!("unknown value {text:?}: expected one of {}", known.join(", ")));
        None
    }

    fn cpus(&mut self, text: String) -> Option<Value> {
        let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let range = |part: &str| match part.split_once('-') {
            Some((first, last)) => number(first) && number(last),
            None => number(part),
        };
        // Blanks and empty parts are accepted, as by runc.
        let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
        if parts.is_empty() {
            return None;
        }
        if !parts.iter().all(|part| range(part)) {
            self.deny(format!("{text:?} is no cpu list: expected numbers and ranges such as 0-3,7"));
            return None;
        }
        Some(Value::String(parts.join(",")))
    }

    fn capability(&mut self, value: Value) -> Option<Value> {
        let Value::String(name) = value else {
            self.deny(format!("expected a string, found {}", found(&value)));
            return None;
        };
        if capability_named(&name).is_none() {
            let upper = name.to_ascii_uppercase();
            let meant = [format!("CAP_{upper}"), upper].into_iter().find(|full| capability_named(full).is_some());
            let hint = meant.map_or_else(String::new, |full| format!(" (did you mean {full:?}?)"));
            // One warning for all five sets: the path of the set is cut off.
            let sets = self.path.rsplit_once('.').map_or("", |(sets, _)| sets);
            self.findings.warn(format!("{sets}: ignoring unknown or unavailable capability {name}{hint}"));
            return None;
        }
        Some(Value::String(name))
    }

    fn items(&mut self, items: Vec<Value>, mut walk: impl FnMut(&mut Self, Value) -> Option<Value>) -> Vec<Value> {
        let mut kept = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            kept.extend(self.at(format_args!("[{index}]"), |this| walk(this, item)));
        }
        kept
    }

    fn map(&mut self, item: &Type, fields: Map<String, Value>) -> Value {
        let mut kept = Map::new();
        for (key, value) in fields {
            // Keys contain dots (sysctls, cgroup files), so the path quotes them.
            if let Some(value) = self.at(format_args!("[{key:?}]"), |this| this.value(item, value)) {
                kept.insert(key, value);
            }
        }
        Value::Object(kept)
    }

    fn object(&mut self, known: &[Field], mut fields: Map<String, Value>) -> Value {
        let mut kept = Map::new();
        for field in known {
            let value = fields.remove(field.name).filter(|value| !value.is_null());
            let dot = if self.path.is_empty() { "" } else { "." };
            let value = self.at(format_args!("{dot}{}", field.name), |this| match (value, &field.need) {
                (Some(value), _) => this.value(&field.ty, value),
                (None, Need::Optional) => None,
                (None, Need::Required) => {
                    this.deny(format!("missing: expected {}", wanted(&field.ty)));
                    None
                }
                (None, Need::Default(json)) => serde_json::from_str(json).ok(),
            });
            if let Some(value) = value {
                kept.insert(field.name.to_owned(), value);
            }
        }
        self.unknown(known, &fields);
        Value::Object(kept)
    }

    /// config.md, Extensibility: an unknown key is not an error. It may be a misspelled one, so the warning suggests
    /// the nearest known key.
    fn unknown(&mut self, known: &[Field], left: &Map<String, Value>) {
        for (key, _) in left.iter().filter(|(_, value)| !value.is_null()) {
            let hint = nearest::hint(key, known.iter().map(|field| field.name));
            let dot = if self.path.is_empty() { "" } else { "." };
            let key: String = key.chars().take(MAX_KEY_LEN).collect();
            self.findings.warn(format!("{}{dot}{}: unknown key, ignored{hint}", self.path, key.escape_debug()));
        }
    }
}

/// Limit of a key's length in messages, in characters.
const MAX_KEY_LEN: usize = 100;

fn wanted(ty: &Type) -> &'static str {
    match ty {
        Type::Bool => "true or false",
        Type::Int(..) => "a number",
        Type::Str | Type::Enum(_) | Type::CpuList => "a string",
        Type::List(_) | Type::Capabilities => "an array",
        Type::Map(_) | Type::Object(_) | Type::Seccomp(_) | Type::Pids(_) | Type::Foreign => "an object",
    }
}

fn found(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
