//! Values of log lines as logrus, the log library of runc and containerd, writes them.

use std::fmt::Write as _;

/// Quotes a value where logrus does: when it has more than letters, digits and a few signs. The quotes are Go's.
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
    fn a_hostile_message_stays_in_its_line() {
        assert_eq!(quoted("plain/word"), "plain/word");
        assert_eq!(quoted("a\n\"b\"\\\x1b[0m ü"), "\"a\\n\\\"b\\\"\\\\\\x1b[0m ü\"");
    }
}
