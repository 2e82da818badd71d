//! Lines of /proc/PID/mountinfo.

use std::ffi::OsString;

/// Fields of one line of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// The directory of its file system that is mounted.
    pub root: OsString,
    /// The mount point, relative to the root of the process.
    pub target: OsString,
    /// The type of the file system.
    pub kind: String,
}

/// Parses the lines of a mountinfo file. Lines of another form are left out.
pub fn parse_mountinfo(text: &str) -> Vec<MountInfo> {
    text.lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut left = left.split(' ').skip(3);
            Some(MountInfo {
                root: unescape(left.next()?),
                target: unescape(left.next()?),
                kind: right.split(' ').next()?.to_owned(),
            })
        })
        .collect()
}

/// Replaces the octal escapes of /proc files (`\040` for a space).
fn unescape(text: &str) -> OsString {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 4).and_then(|d| std::str::from_utf8(d).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if bytes[at] == b'\\' => {
                plain.push(byte);
                at += 4;
            }
            _ => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    std::os::unix::ffi::OsStringExt::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_unescaped() {
        let lines = parse_mountinfo("29 26 0:26 / /a\\040b rw,relatime shared:3 - proc proc rw\nnonsense\n");
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].target, "/a b");
        assert_eq!(lines[0].kind, "proc");
    }
}
