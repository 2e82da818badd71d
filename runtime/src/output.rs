//! Standard output: text, tables and JSON in runc's shapes.

use std::io::Write;

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use brig_engine::error::{Context, Result};

/// Writes `text` to standard output. An error means a full disk or a closed pipe.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write to standard output")
}

/// Width of the terminal at standard error, in columns; 100 when it is not a terminal.
pub fn columns() -> usize {
    use std::os::fd::AsFd;
    const UNKNOWN: usize = 100;
    let size = brig_sys::tty::size(std::io::stderr().as_fd());
    size.map_or(UNKNOWN, |(_, columns)| usize::from(columns).max(UNKNOWN / 2))
}

/// Formats JSON on one line, with a newline at its end.
pub fn json_line(value: &impl Serialize) -> Result<String> {
    let mut text = serde_json::to_string(value).context("encode JSON")?;
    text.push('\n');
    Ok(text)
}

/// Formats JSON over several lines, indented by `indent`, without a newline at its end.
pub fn json_indented(value: &impl Serialize, indent: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let formatter = PrettyFormatter::with_indent(indent.as_bytes());
    value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter)).context("encode JSON")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Formats columns like runc's list: at least 12 wide, three blanks between, none after the last.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    const MINIMUM: usize = 12;
    const BETWEEN: usize = 3;
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = MINIMUM.max(cell.chars().count() + BETWEEN).max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
            text.push_str(cell);
            if index + 1 < N {
                let blanks = width - cell.chars().count();
                text.extend(std::iter::repeat_n(' ', blanks));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_laid_out_like_runcs() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let text = table(&[row(["ID", "PID", "OWNER"]), row(["a-rather-long-name", "1", "root"])]);
        assert_eq!(text, "ID                   PID         OWNER\na-rather-long-name   1           root\n");
    }

    #[test]
    fn json_is_indented_by_the_given_text() {
        assert_eq!(json_indented(&serde_json::json!({"a": [1]}), "  ").unwrap(), "{\n  \"a\": [\n    1\n  ]\n}");
    }
}
