//! Arguments in the form that runc accepts: Go's flag package, with flags allowed after the container's id.
//!
//! One dash and two are equivalent; a value follows as `--name value` or `--name=value`; a boolean flag takes a value
//! only in the second form; short flags are not grouped; `--` ends the flags.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use brig_engine::error::{Error, ErrorKind, Result};

/// A flag of the command line.
pub struct Flag {
    /// The long name.
    pub name: &'static str,
    /// The one-letter name; empty without one.
    pub short: &'static str,
    /// Name of the value in the help text; empty for a boolean flag.
    pub value: &'static str,
    /// The help text; empty for a hidden flag.
    pub help: &'static str,
    /// The value must be a whole number; any other value is a usage error, before the verb runs.
    pub number: bool,
}

impl Flag {
    pub const fn switch(name: &'static str, short: &'static str, help: &'static str) -> Flag {
        Flag { name, short, value: "", help, number: false }
    }

    /// A flag with a value.
    pub const fn value(name: &'static str, short: &'static str, value: &'static str, help: &'static str) -> Flag {
        Flag { name, short, value, help, number: false }
    }

    /// A flag whose value is a whole number.
    pub const fn number(name: &'static str, short: &'static str, value: &'static str, help: &'static str) -> Flag {
        Flag { name, short, value, help, number: true }
    }
}

/// The positions in which flags are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Before, between and after the arguments.
    Anywhere,
    /// Before the first argument: the rest belongs to the command to run.
    First,
}

/// A parsed command line.
#[derive(Debug, Default)]
pub struct Args {
    flags: Vec<(&'static str, OsString)>,
    /// The arguments that are not flags.
    pub rest: Vec<OsString>,
    /// `--help` or `-h` was among the flags.
    pub help: bool,
}

/// Parses `args` into flags of `known` and arguments.
pub fn parse(known: &'static [Flag], order: Order, args: impl IntoIterator<Item = OsString>) -> Result<Args> {
    let mut args = args.into_iter();
    let mut parsed = Args::default();
    while let Some(arg) = args.next() {
        let bytes = arg.as_bytes();
        if bytes == b"--" {
            parsed.rest.extend(args);
            break;
        }
        let Some(body) = bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-")).filter(|body| !body.is_empty())
        else {
            parsed.rest.push(arg);
            if order == Order::First {
                parsed.rest.extend(args);
                break;
            }
            continue;
        };
        let (name, inline) = match body.iter().position(|byte| *byte == b'=') {
            Some(at) => (&body[..at], Some(OsString::from_vec(body[at + 1..].to_vec()))),
            None => (body, None),
        };
        if name == b"help" || name == b"h" {
            parsed.help = true;
            continue;
        }
        let shown = String::from_utf8_lossy(name);
        let flag = known
            .iter()
            .find(|flag| flag.name.as_bytes() == name || (!flag.short.is_empty() && flag.short.as_bytes() == name))
            .ok_or_else(|| usage(format!("flag provided but not defined: -{shown}")))?;
        let value = match inline {
            Some(value) => value,
            None if flag.value.is_empty() => "true".into(),
            None => args.next().ok_or_else(|| usage(format!("flag needs an argument: -{shown}")))?,
        };
        if flag.value.is_empty() && boolean(&value).is_none() {
            return Err(usage(format!("invalid boolean value {value:?} for -{shown}: parse error")));
        }
        if flag.number && value.to_str().is_none_or(|text| text.parse::<i64>().is_err()) {
            return Err(usage(format!("invalid value {value:?} for flag -{shown}: parse error")));
        }
        parsed.flags.push((flag.name, value));
    }
    Ok(parsed)
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

/// The spellings of Go's strconv.ParseBool.
fn boolean(value: &OsStr) -> Option<bool> {
    match value.as_bytes() {
        b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Some(true),
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Some(false),
        _ => None,
    }
}

impl Args {
    pub fn value(&self, name: &str) -> Option<&OsStr> {
        self.flags.iter().rev().find(|(flag, _)| *flag == name).map(|(_, value)| value.as_os_str())
    }

    /// Every value of a flag, in order.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &OsStr> {
        self.flags.iter().filter(move |(flag, _)| *flag == name).map(|(_, value)| value.as_os_str())
    }

    /// Whether a boolean flag is set.
    pub fn is_on(&self, name: &str) -> bool {
        self.value(name).and_then(boolean).unwrap_or(false)
    }

    /// The value of a flag as a path; an empty one counts as absent.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.value(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// The value of a flag as text; an empty one counts as absent.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        self.value(name).filter(|value| !value.is_empty()).map(|value| text(value, name)).transpose()
    }

    /// Every value of a flag as text.
    pub fn texts(&self, name: &str) -> Result<Vec<String>> {
        self.values(name).map(|value| text(value, name)).collect()
    }

    /// The value of a flag as a number.
    pub fn number<T: FromStr<Err = std::num::ParseIntError>>(&self, name: &str) -> Result<Option<T>> {
        let Some(value) = self.text(name)? else { return Ok(None) };
        number(&value).map(Some).map_err(|error| usage(format!("invalid value {value:?} for flag -{name}: {error}")))
    }

    /// The argument at `index` as text, which container ids are.
    pub fn argument(&self, index: usize) -> Result<&str> {
        let argument = self.rest.get(index).map_or(OsStr::new(""), OsString::as_os_str);
        // An id is ASCII, so an argument that is not UTF-8 cannot be one.
        argument.to_str().ok_or_else(|| Error::new(ErrorKind::InvalidId, "invalid container ID format"))
    }
}

/// Parses a decimal number, with or without a sign.
pub fn number<T: FromStr<Err = std::num::ParseIntError>>(text: &str) -> Result<T> {
    text.parse().map_err(|error: std::num::ParseIntError| usage(error.to_string()))
}

fn text(value: &OsStr, name: &str) -> Result<String> {
    let invalid = || usage(format!("invalid value {value:?} for flag -{name}: it is not UTF-8"));
    value.to_str().map(str::to_owned).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    static FLAGS: &[Flag] = &[
        Flag::value("bundle", "b", "DIR", ""),
        Flag::switch("no-pivot", "", ""),
        Flag::value("env", "e", "NAME=VALUE", ""),
        Flag::number("fds", "", "N", ""),
    ];

    fn args(order: Order, args: &[&str]) -> Result<Args> {
        parse(FLAGS, order, args.iter().map(OsString::from))
    }

    #[test]
    fn flags_stand_anywhere_with_one_dash_or_two() {
        for line in [
            ["--bundle", "/b", "-no-pivot", "id"],
            ["id", "-b", "/b", "--no-pivot"],
            ["-bundle", "/b", "id", "--no-pivot=true"],
        ] {
            let args = args(Order::Anywhere, &line).unwrap();
            assert_eq!(args.path("bundle"), Some(PathBuf::from("/b")));
            assert!(args.is_on("no-pivot"));
            assert_eq!(args.rest, ["id"]);
        }
        let args = args(Order::Anywhere, &["id", "--bundle=/x=y", "--", "-b", "-"]).unwrap();
        assert_eq!(args.path("bundle"), Some(PathBuf::from("/x=y")));
        assert_eq!(args.rest, ["id", "-b", "-"]);
    }

    #[test]
    fn flags_after_the_first_argument_belong_to_the_command() {
        let args = args(Order::First, &["-e", "A=1", "--env=B=2", "id", "sh", "-e", "--help"]).unwrap();
        assert_eq!(args.texts("env").unwrap(), ["A=1", "B=2"]);
        assert_eq!(args.rest, ["id", "sh", "-e", "--help"]);
        assert!(!args.help);
    }

    #[test]
    fn usage_errors_have_runcs_text() {
        let fault = |line: &[&str]| args(Order::Anywhere, line).unwrap_err().to_string();
        assert_eq!(fault(&["--bogus"]), "flag provided but not defined: -bogus");
        assert_eq!(fault(&["--fds", "many"]), "invalid value \"many\" for flag -fds: parse error");
        assert_eq!(fault(&["id", "--bundle"]), "flag needs an argument: -bundle");
        assert_eq!(fault(&["--no-pivot=maybe"]), "invalid boolean value \"maybe\" for -no-pivot: parse error");
        let args = args(Order::Anywhere, &["-b", "x"]).unwrap();
        assert!(
            args.number::<u32>("bundle").unwrap_err().to_string().starts_with("invalid value \"x\" for flag -bundle")
        );
    }

    #[test]
    fn the_last_value_of_a_flag_wins() {
        let args = args(Order::Anywhere, &["-b", "x", "-b", "y", "--no-pivot", "--no-pivot=false", "-h"]).unwrap();
        assert_eq!(args.value("bundle"), Some(OsStr::new("y")));
        assert!(!args.is_on("no-pivot") && args.help);
    }

    proptest! {
        #[test]
        fn arbitrary_arguments_are_parsed_or_refused(line in proptest::collection::vec("[-a-z=]{0,6}", 0..6)) {
            let line: Vec<OsString> = line.iter().map(OsString::from).collect();
            if let Ok(args) = parse(FLAGS, Order::Anywhere, line.clone()) {
                prop_assert!(args.rest.len() <= line.len());
            }
        }
    }
}
