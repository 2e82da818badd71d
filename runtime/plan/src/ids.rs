//! User and group ids: valid numbers, and parsing.
//!
//! (uid_t)-1 is not an id: setresuid(2), chown(2) and related calls take it as "unchanged", so that a process
//! configured to run as 4294967295 would stay root.

/// The largest valid id.
pub const MAX: u32 = u32::MAX - 1;

/// The range of valid ids, for messages.
pub const RANGE: &str = "0 to 4294967294";

/// Parses a strict decimal id: digits alone, no sign, no leading zero, at most [`MAX`].
pub fn parse(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = text.len() == 1 || !text.starts_with('0');
    text.parse().ok().filter(|id| digits && canonical && *id <= MAX)
}

/// A user or group as a caller specifies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdOrName<'a> {
    /// A numeric id.
    Id(u32),
    /// A name, to be found in the container's own files.
    Name(&'a str),
}

/// Parses an id or a name. Text that cannot begin a name must be a number: the image, which chooses the names in its
/// passwd file, must not give a number another meaning (CVE-2016-3697).
///
/// # Errors
/// A message with the expected form.
pub(crate) fn parse_or_name(text: &str) -> Result<IdOrName<'_>, String> {
    if let Some(id) = parse(text) {
        return Ok(IdOrName::Id(id));
    }
    match text.chars().next() {
        Some(first) if first.is_alphabetic() || first == '_' => Ok(IdOrName::Name(text)),
        _ => Err(format!(
            "{text:?}: expected an id from {RANGE} in decimal without sign or leading zeros, or a name that begins with a letter"
        )),
    }
}

/// Whether a file system's option holds a number that is not a valid id. The kernel accepts such numbers in three
/// bases (kstrtouint, fs/fs_parser.c); text that is not a number is left to the file system to refuse.
pub(crate) fn is_out_of_range(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (digits, radix) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if digits.starts_with('0') => (digits, 8),
        None => (digits, 10),
    };
    match u64::from_str_radix(digits, radix) {
        Ok(number) => number > MAX.into() || text.starts_with('-') && number > 0,
        Err(error) => *error.kind() == std::num::IntErrorKind::PosOverflow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_IDS: [&str; 16] = [
        "",
        "-1",
        "+1",
        "01",
        "01000",
        " 1",
        "1 ",
        "0x1",
        "0x10",
        "1e3",
        "1_000",
        "-0",
        "4294967295",
        "4294967296",
        "99999999999",
        "\u{0661}",
    ];

    #[test]
    fn ids_are_strict_decimals_below_minus_one() {
        assert_eq!((parse("0"), parse("1000"), parse("4294967294")), (Some(0), Some(1000), Some(MAX)));
        for text in NOT_IDS {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_number_that_is_not_an_id_is_not_a_name() {
        for text in NOT_IDS {
            assert!(parse_or_name(text).is_err(), "{text:?}");
        }
        for name in ["web", "_apt", "ünal", "a1", "systemd-network"] {
            assert_eq!(parse_or_name(name), Ok(IdOrName::Name(name)));
        }
        assert_eq!(parse_or_name("7"), Ok(IdOrName::Id(7)));
    }

    #[test]
    fn file_system_options_take_ids_in_three_bases() {
        for text in ["4294967295", "4294967296", "-1", "0xffffffff", "037777777777", "99999999999999999999999"] {
            assert!(is_out_of_range(text), "{text}");
        }
        for text in ["0", "4294967294", "0x10", "010", "root", "", "-0"] {
            assert!(!is_out_of_range(text), "{text}");
        }
    }
}
