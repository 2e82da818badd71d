//! Commands with a deadline. Their output goes to files, because a container could hold a pipe open.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

static LIMIT: OnceLock<Duration> = OnceLock::new();

/// How long one command, or one wait, may take: a minute unless [`set_deadline`] has changed it. Virtual machines
/// without hardware support are about twenty times slower than others.
pub(super) fn deadline() -> Duration {
    *LIMIT.get_or_init(|| Duration::from_secs(60))
}

/// Sets how long one command, or one wait, may take.
///
/// # Errors
/// When the deadline has been set or read before.
pub fn set_deadline(limit: Duration) -> anyhow::Result<()> {
    LIMIT.set(limit).map_err(|_| anyhow::anyhow!("the deadline is set once, before the first case"))
}

/// The result of a command.
#[derive(Debug)]
pub struct Done {
    /// The command line, for messages.
    pub what: String,
    /// The exit status; 128 + N after signal N.
    pub code: i32,
    /// The output on stdout so far (a process that the command left behind may write more).
    pub stdout: String,
    /// The output on stderr so far.
    pub stderr: String,
}

impl Done {
    /// The result of a successful command; else an error that shows the output.
    pub fn ok(self) -> anyhow::Result<Done> {
        self.ended_with(0)
    }

    /// The result of a command with this exit code; else an error that shows the output.
    pub fn ended_with(self, code: i32) -> anyhow::Result<Done> {
        if self.code != code {
            bail!("{}: expected exit code {code}, found {}\n{}{}", self.what, self.code, self.stdout, self.stderr);
        }
        Ok(self)
    }

    /// The stderr of a command that fails, which must give a reason.
    pub fn refused(self) -> anyhow::Result<String> {
        if self.code == 0 {
            let printed: String = self.stdout.chars().take(300).collect();
            bail!("{}: expected an error, but it succeeded\n{printed}{}", self.what, self.stderr);
        }
        if self.stderr.trim().is_empty() {
            bail!("{}: it failed with {} without a message on stderr", self.what, self.code);
        }
        Ok(self.stderr)
    }
}

/// Runs a command until it exits, with `stdin` or /dev/null.
pub(super) fn run(mut command: Command, stdin: Option<Stdio>) -> anyhow::Result<Done> {
    let what = command_line(&command);
    let (out, err) = outputs()?;
    command.stdin(stdin.unwrap_or(Stdio::null())).stdout(out.try_clone()?).stderr(err.try_clone()?);
    let mut child = command.spawn().with_context(|| format!("unable to run {what}"))?;
    let status = wait(&mut child, deadline()).with_context(|| what.clone());
    let (stdout, stderr) = (read_all(&out)?, read_all(&err)?);
    match status {
        Ok(status) => Ok(Done { what, code: code_of(status), stdout, stderr }),
        Err(error) => Err(error.context(format!("it wrote: {stdout}{stderr}"))),
    }
}

/// Files for stdout and stderr. Stderr appends: a log on /dev/stderr is the same file through another open file
/// description, whose offset is its own, so that each would overwrite what the other has written.
fn outputs() -> anyhow::Result<(File, File)> {
    let (out, err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    fcntl_setfl(&err, fcntl_getfl(&err)? | OFlags::APPEND)?;
    Ok((out, err))
}

/// Runs a command, and reaps every other child that exits: the exit of a container's first process waits for the
/// processes that were started in its pid namespace from outside, and those are children of this process.
pub(super) fn run_and_reap(mut command: Command) -> anyhow::Result<Done> {
    let what = command_line(&command);
    let (out, err) = outputs()?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?);
    let child = command.spawn().with_context(|| format!("unable to run {what}"))?;
    let child = i32::try_from(child.id())?;
    let code = wait_until(&what, || {
        Ok(match waitpid(None, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Exited(pid, code) if pid.as_raw() == child => Some(code),
            WaitStatus::Signaled(pid, signal, _) if pid.as_raw() == child => Some(128 + signal as i32),
            _ => None,
        })
    })?;
    Ok(Done { what, code, stdout: read_all(&out)?, stderr: read_all(&err)? })
}

/// Waits for a child until the deadline, and kills it then.
pub(super) fn wait(child: &mut Child, limit: Duration) -> anyhow::Result<ExitStatus> {
    if !has_exited(i32::try_from(child.id())?, limit)? {
        child.kill()?;
        child.wait()?;
        bail!("it still ran after {} s, and was killed", limit.as_secs());
    }
    Ok(child.wait()?)
}

/// Waits until the process has exited (it may be a zombie then); false when it still runs at the deadline.
pub(super) fn has_exited(pid: i32, limit: Duration) -> anyhow::Result<bool> {
    let pid = Pid::from_raw(pid).context("a pid is a positive number")?;
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    let timeout = Timespec { tv_sec: i64::try_from(limit.as_secs())?, tv_nsec: limit.subsec_nanos().into() };
    Ok(poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(&timeout))? > 0)
}

/// The exit code as in a shell: 0 to 255, or 128 + N after signal N.
pub(super) fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Polls until the condition returns a value, where the kernel has no event.
///
/// # Errors
/// The condition's own error; or a timeout, which names `what`.
pub fn wait_until<T>(what: &str, mut condition: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let end = Instant::now() + deadline();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() > end {
            bail!("timeout after {} s, waiting for: {what}", deadline().as_secs());
        }
        // No descriptors: a pause of 2 ms.
        poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 2_000_000 }))?;
    }
}

/// The whole content of the file. The offset of the open file description does not change, because the writer shares
/// it: a change would make the next line overwrite the first.
pub(super) fn read_all(file: &File) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let mut block = [0; 4096];
    loop {
        match file.read_at(&mut block, bytes.len() as u64) {
            Ok(0) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(count) => bytes.extend_from_slice(&block[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The path of a program in PATH.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

fn command_line(command: &Command) -> String {
    let mut args = vec![command.get_program().to_string_lossy().into_owned()];
    args.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    args.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_on_stderr_and_stderr_itself_are_both_kept() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo a log >>/dev/stderr; echo an error >&2; echo more >>/dev/stderr"]);
        assert_eq!(run(shell, None).unwrap().stderr, "a log\nan error\nmore\n");
    }
}
