//! A search for what the other processes of a pid namespace have of the host: CAP_SYS_PTRACE lets this process follow
//! the links of their /proc directories.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// More steps upwards than any directory is deep.
const UP: &str = "../../../../../../../../../../../../../../../..";

/// Looks for ever at every process but itself, for `marker`, the absolute path of a file that only the host has, and
/// for capabilities beyond `allowed`. Prints each line once: `looks` when it begins, `met PID` for each process,
/// `reached PID root|cwd|fd/N` where the marker was found, `more PID CAPABILITIES` for permitted ones that are too
/// many.
pub fn hunt(marker: &str, allowed: &str) -> anyhow::Result<()> {
    let allowed = u64::from_str_radix(allowed, 16)?;
    let marker = marker.trim_start_matches('/');
    let own = std::process::id().to_string();
    let mut found = BTreeSet::new();
    let mut report = |line: String| -> anyhow::Result<()> {
        if found.insert(line.clone()) {
            writeln!(std::io::stdout().lock(), "{line}")?;
        }
        Ok(())
    };
    report("looks".to_owned())?;
    loop {
        for pid in names("/proc").into_iter().filter(|pid| *pid != own) {
            let process = PathBuf::from("/proc").join(&pid);
            for link in ["root", "cwd"] {
                if leads_to(&process.join(link), marker) {
                    report(format!("reached {pid} {link}"))?;
                }
            }
            if let Some(permitted) = permitted(&process).filter(|permitted| permitted & !allowed != 0) {
                report(format!("more {pid} {permitted:x}"))?;
            }
            for number in names(process.join("fd")) {
                let fd = process.join("fd").join(&number);
                // A directory of the host, or a procfs in which the host's processes are.
                if leads_to(&fd, marker)
                    || leads_to(&fd.join("1/root"), marker)
                    || leads_to(&fd.join("self/root"), marker)
                {
                    report(format!("reached {pid} fd/{number}"))?;
                }
            }
            report(format!("met {pid}"))?;
        }
    }
}

fn leads_to(directory: &Path, marker: &str) -> bool {
    directory.join(marker).exists() || directory.join(UP).join(marker).exists()
}

/// CapPrm of its status; `None` when it has exited, because its memory and its capabilities are then out of reach.
fn permitted(process: &Path) -> Option<u64> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    if field("State")?.starts_with(['Z', 'X']) {
        return None;
    }
    u64::from_str_radix(field("CapPrm")?, 16).ok()
}

/// The names in a directory that are numbers; none when it cannot be read.
fn names(directory: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect()
}
