//! Normalisation of outputs: values that differ between two runs of a command are replaced by names.

/// The values of one run, and their names.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Texts and their names; the first match at a place wins, so longer ones come first.
    pub texts: Vec<(String, String)>,
    /// Words (no letter, digit, `.`, `/`, `-` or `_` beside them) and their names.
    pub words: Vec<(String, String)>,
}

impl Known {
    /// The text with everything known replaced by its name, and every time by `TIME`.
    pub fn normal(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (known, name) in &self.texts {
            text = text.replace(known.as_str(), name);
        }
        for (known, name) in &self.words {
            text = replace_word(&text, known, name);
        }
        without_numbers(&without_times(&text), "nsexec[")
    }
}

fn replace_word(text: &str, word: &str, name: &str) -> String {
    let beside = |sign: Option<char>| sign.is_some_and(|sign| sign.is_alphanumeric() || "./-_".contains(sign));
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        let previous = before.chars().next_back().or_else(|| done.chars().next_back());
        // A full stop may end a sentence: only the character after it decides.
        let mut following = after.chars();
        let next = following.next();
        let next = if next == Some('.') { following.next() } else { next };
        done.push_str(before);
        done.push_str(if beside(previous) || beside(next) { word } else { name });
        rest = after;
    }
    done + rest
}

/// Every time of RFC 3339 (`2026-11-22T10:48:27.123Z`, with a zone or without) becomes `TIME`.
fn without_times(text: &str) -> String {
    const FORM: &[u8] = b"dddd-dd-ddTdd:dd:dd";
    let fits = |bytes: &[u8]| {
        bytes.len() >= FORM.len()
            && FORM
                .iter()
                .zip(bytes)
                .all(|(form, byte)| if *form == b'd' { byte.is_ascii_digit() } else { form == byte })
    };
    let mut done = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(sign) = text[at..].chars().next() {
        if !fits(&text.as_bytes()[at..]) {
            done.push(sign);
            at += sign.len_utf8();
            continue;
        }
        at += FORM.len();
        let fraction = text[at..].bytes().take_while(|byte| *byte == b'.' || byte.is_ascii_digit()).count();
        at += fraction;
        let zone = &text[at..];
        at += match zone.as_bytes() {
            [b'Z', ..] => 1,
            [b'+' | b'-', rest @ ..] if rest.len() >= 5 => 6,
            _ => 0,
        };
        done.push_str("TIME");
    }
    done
}

/// The number after each such word becomes `N`.
fn without_numbers(text: &str, word: &str) -> String {
    let mut parts = text.split(word);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |done, part| done + word + "N" + part.trim_start_matches(|sign: char| sign.is_ascii_digit()))
}

/// Runs of blanks become one: for tables whose columns are as wide as what they hold.
pub(super) fn loose(text: &str) -> String {
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Whether the pattern, in which `*` stands for anything, fits all of the text.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_are_replaced_by_their_names() {
        let pair = |known: &str, name: &str| (known.to_owned(), name.to_owned());
        let known = Known {
            texts: vec![pair("/tmp/x/cases", "DIR"), pair("spec-1-10", "ID2"), pair("spec-1-1", "ID")],
            words: vec![pair("runc", "RUNTIME"), pair("417", "PID")],
        };
        let normal = |text: &str| known.normal(text);
        assert_eq!(normal("runc run failed: /tmp/x/cases/a"), "RUNTIME run failed: DIR/a");
        assert_eq!(normal("spec-1-10 spec-1-1"), "ID2 ID");
        assert_eq!(normal("\"pid\": 417, 4170 1.417 org.runc.x runc."), "\"pid\": PID, 4170 1.417 org.runc.x RUNTIME.");
        assert_eq!(normal("at 2026-11-22T10:48:27.1234Z, 2026-11-22T10:48:27+01:00"), "at TIME, TIME");
    }

    #[test]
    fn patterns_fit_whole_texts() {
        assert!(fits("kill *", "kill ID KILL") && fits("*", "") && fits("a*b*c", "a1b2b3c") && fits("a", "a"));
        assert!(!fits("kill *", "kill") && !fits("a*b", "abc") && !fits("a*a", "a") && !fits("a", "ab"));
    }

    #[test]
    fn tables_lose_their_widths() {
        assert_eq!(loose("ID    PID\nx      1 \n"), "ID PID\nx 1");
    }
}
