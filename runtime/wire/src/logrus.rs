//! Values of log lines in the form of logrus, the log library of runc and containerd.

use std::fmt::Write as _;

/// Quotes a value as logrus does: when it has characters other than letters, digits and `-._/@^+`. The escapes are
/// those of Go's strconv.Quote.
pub fn quoted(text: &str) -> String {
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/@^+".contains(&byte)) {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            control if u32::from(control) < 0x20 || control == '\x7f' => {
                // Writing to a String does not fail.
                let _ = write!(quoted, "\\x{:02x}", u32::from(control));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_the_message_stays_on_one_line() {
        assert_eq!(quoted("plain/word"), "plain/word");
        assert_eq!(quoted("a\n\"b\"\\\x1b[0m ü"), "\"a\\n\\\"b\\\"\\\\\\x1b[0m ü\"");
    }
}
