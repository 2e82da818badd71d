//! The lookup and the execution of the program, with runc's texts for errors.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};

use crate::error::{Error, ErrorKind, Result};
use brig_sys::process;

use super::context::Init;
use super::executable;

/// Finds `args[0]`: by its path if it has a slash, else in the directories of the container's PATH.
///
/// # Errors
/// [`ErrorKind::Executable`]: not found, a directory, or not executable by this user.
pub(super) fn lookup(init: &Init) -> Result<CString> {
    let process = &init.plan.process;
    let path = process.env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    find(process.args.first().map_or("", String::as_str), path)
}

fn find(name: &str, path: &str) -> Result<CString> {
    if name.is_empty() {
        return Err(Error::new(ErrorKind::Executable, "exec: \"\": executable file not found in $PATH"));
    }
    if name.contains('/') {
        return check(Path::new(name))
            .map_err(|reason| Error::new(ErrorKind::Executable, format!("exec: {name:?}: {reason}")))
            .and_then(|()| c_string(name));
    }
    for directory in path.split(':') {
        // An empty element is the working directory; a program found by a relative one is refused, as Go does.
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        if check(&candidate).is_ok() {
            if !candidate.is_absolute() {
                let reason = "cannot run executable found relative to current directory";
                return Err(Error::new(ErrorKind::Executable, format!("exec: {name:?}: {reason}")));
            }
            return c_string(&candidate.to_string_lossy());
        }
    }
    Err(Error::new(ErrorKind::Executable, format!("exec: {name:?}: executable file not found in $PATH")))
}

fn check(path: &Path) -> Result<(), String> {
    let stat = rustix::fs::stat(path).map_err(|error| format!("stat {}: {}", path.display(), describe(error)))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
        return Err("is a directory".to_owned());
    }
    match rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        // faccessat2 came with 5.8; all ids of this process are equal by now, and therefore the real ones suffice.
        Err(rustix::io::Errno::NOSYS) => rustix::fs::access(path, Access::EXEC_OK),
        other => other,
    }
    .map_err(|error| match error {
        rustix::io::Errno::ACCESS => format!("{}{}", describe(error), executable::why_denied(path, &stat)),
        _ => describe(error),
    })
}

/// The text of an errno in Go's syscall package, on which runc's callers match.
fn describe(error: rustix::io::Errno) -> String {
    let text = brig_sys::errno_text(error);
    let mut characters = text.chars();
    characters.next().map(|first| first.to_ascii_lowercase().to_string() + characters.as_str()).unwrap_or_default()
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new(ErrorKind::InvalidConfig, format!("{text:?} holds a NUL byte")))
}

/// Executes the program; returns the reason of a failure, with the defect in `flaw`.
pub(super) fn execute(init: &Init) -> Result<Infallible> {
    let args = init.plan.process.args.iter().map(|text| c_string(text)).collect::<Result<Vec<CString>>>()?;
    let env = init.environment().map(|text| c_string(&text)).collect::<Result<Vec<CString>>>()?;
    let args: Vec<&CStr> = args.iter().map(CString::as_c_str).collect();
    let env: Vec<&CStr> = env.iter().map(CString::as_c_str).collect();
    let path = init.program.as_deref().ok_or_else(|| Error::other("the program was not looked up"))?;
    let error = process::exec(path, &args, &env);
    let reason = describe(error.errno());
    let flaw = init.program_flaw.as_ref().map(|flaw| format!(": {flaw}")).unwrap_or_default();
    Err(Error::new(ErrorKind::Executable, format!("exec {}: {reason}{flaw}", path.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_by_a_shell() {
        assert_eq!(find("sh", "/nowhere:/bin").unwrap().to_str(), Ok("/bin/sh"));
        assert_eq!(find("/bin/sh", "").unwrap().to_str(), Ok("/bin/sh"));
    }

    #[test]
    fn errors_of_the_lookup_have_runcs_text() {
        let text = |name| find(name, "/bin").unwrap_err().to_string();
        assert_eq!(text("nosuch"), "exec: \"nosuch\": executable file not found in $PATH");
        assert_eq!(text("/nosuch"), "exec: \"/nosuch\": stat /nosuch: no such file or directory");
        assert_eq!(text("/etc"), "exec: \"/etc\": is a directory");
        let denied = "exec: \"/etc/passwd\": permission denied: /etc/passwd has no execute permission (mode 0644)";
        assert_eq!(text("/etc/passwd"), denied);
        assert_eq!(find("", "/bin").unwrap_err().kind(), ErrorKind::Executable);
    }
}
