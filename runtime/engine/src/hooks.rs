//! Execution of hooks: the state on standard input, a timeout, and the standard error of a failed hook in the error.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::OFlags;

use crate::error::{Context, Error, Result};
use crate::handshake::{Filter, INIT_VARIABLE};
use brig_plan::hooks::Hook;
use brig_plan::process::dedup_env;
use brig_sys::{command, inherited, process, seal, seccomp};

/// Limit of a failed hook's standard error in the message, in bytes.
const STDERR_LIMIT: u64 = 4096;

/// The setting that all hooks of one list share.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    /// The container's state, which a hook reads from standard input.
    pub state: &'a [u8],
    /// The working directory; `None` for that of this process.
    pub directory: Option<&'a Path>,
    /// The environment of a hook that gives none; `None` for that of this process.
    pub environment: Option<&'a [String]>,
    /// A seccomp filter, which each hook's process installs before it executes the hook.
    pub filter: Option<&'a Filter>,
    /// The container's init, as a pidfd: a hook is killed when init exits, because its work is then in vain, and a
    /// delete that kills init must not wait for a hook that hangs.
    pub init: Option<BorrowedFd<'a>>,
}

impl<'a> Setting<'a> {
    /// Hooks that run in the runtime namespace, in this directory.
    pub fn beside(state: &'a [u8], directory: &'a Path) -> Setting<'a> {
        Setting { state, directory: Some(directory), environment: None, filter: None, init: None }
    }

    /// Limits the hooks to the lifetime of `init`, a pidfd.
    pub fn while_runs(self, init: BorrowedFd<'a>) -> Setting<'a> {
        Setting { init: Some(init), ..self }
    }
}

/// Runs the hooks in order; the first failure stops the list.
///
/// # Errors
/// The hook's place and path, with its exit status, or that it was killed at its timeout, and its standard error.
pub fn run(hooks: &[Hook], setting: Setting) -> Result<()> {
    hooks.iter().try_for_each(|hook| {
        tracing::debug!("run {} {}", hook.place, hook.path.display());
        run_one(hook, setting).with_context(|| format!("error running {} {}", hook.place, hook.path.display()))
    })
}

/// Runs the poststop hooks in the bundle, or in the caller's directory if the bundle was removed. Every hook runs,
/// regardless of the others, and a failure is a warning (runtime.md, Lifecycle).
pub fn run_poststop(hooks: &[Hook], state: &[u8], bundle: &Path) {
    let setting =
        Setting { directory: Some(bundle).filter(|bundle| bundle.is_dir()), ..Setting::beside(state, bundle) };
    let failed = hooks.iter().filter_map(|hook| run(std::slice::from_ref(hook), setting).err());
    failed.for_each(|error| tracing::warn!("{error}"));
}

fn run_one(hook: &Hook, setting: Setting) -> Result<()> {
    // Memory files rather than pipes: a hook that does not read, or writes endlessly, cannot block the runtime.
    let stdin = seal::memory_file(c"hook", setting.state)?;
    let mut stderr = File::from(seal::memory_file(c"hook", b"")?);
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    // A hook may be another program that embeds the engine, and must not be diverted to the init stage.
    command.env_remove(INIT_VARIABLE).env_remove(inherited::VARIABLE);
    let env = hook.env.as_deref().or(setting.environment);
    if let Some(env) = env {
        command.env_clear().envs(env.iter().filter_map(|entry| entry.split_once('=')));
    }
    if let Some(directory) = setting.directory {
        command.current_dir(directory);
    }
    command.stdin(stdin).stdout(Stdio::null());
    command.stderr(stderr.try_clone().context("unable to copy an fd")?);
    let [to_stdout, to_stderr] = &hook.outputs;
    if let Some(path) = to_stdout {
        command.stdout(append(path)?);
    }
    if let Some(path) = to_stderr {
        command.stderr(append(path)?);
    }
    if let Some(filter) = setting.filter {
        seccomp::install_before_exec(&mut command, filter.instructions.clone(), filter.flags);
    }
    // After the filter, because it executes the hook.
    if let Some(env) = env.filter(|env| env.iter().any(|entry| !entry.contains('='))) {
        exec_with(&mut command, hook, env)?;
    }
    let mut child = command.spawn().context("unable to start it")?;
    let pidfd = process::pidfd_open(rustix::process::Pid::from_child(&child).as_raw_pid())?;
    let exited = match setting.init {
        Some(init) => process::readable_before_exit(pidfd.as_fd(), init, hook.timeout)?,
        None => process::wait_exited(pidfd.as_fd(), hook.timeout)?.then_some(true),
    };
    if exited != Some(true) {
        child.kill().and_then(|()| child.wait()).context("unable to stop it")?;
        if exited == Some(false) {
            return Err(Error::other("it was killed, because the container's init exited while it ran"));
        }
        let seconds = hook.timeout.unwrap_or_default().as_secs_f64();
        return Err(Error::other(format!("it ran longer than its timeout of {seconds} s, and was killed")));
    }
    let status = child.wait().context("unable to wait for it")?;
    if status.success() {
        return Ok(());
    }
    let mut output = Vec::new();
    stderr
        .rewind()
        .and_then(|()| stderr.take(STDERR_LIMIT).read_to_end(&mut output))
        .context("unable to read its stderr")?;
    let how = match status.signal() {
        Some(libc::SIGSYS) if setting.filter.is_some() => "killed by the filter of linux.seccomp".to_owned(),
        Some(signal) => format!("killed by signal {signal}"),
        None => format!("exit status {}", status.code().unwrap_or_default()),
    };
    let output = String::from_utf8_lossy(&output);
    Err(Error::other(format!("{how}, stderr: {}", output.trim())))
}

/// Executes the hook with an environment that `Command` cannot express: entries without `=`. runc passes these on
/// unchanged, unless they are empty.
fn exec_with(child: &mut Command, hook: &Hook, env: &[String]) -> Result<()> {
    let text = |text: &[u8]| CString::new(text).map_err(|_| Error::other("its configuration contains a NUL byte"));
    let path = text(hook.path.as_os_str().as_bytes())?;
    let args = hook.args.iter().map(|word| text(word.as_bytes())).collect::<Result<_>>()?;
    let env = dedup_env(env).into_iter().filter(|entry| !entry.is_empty());
    let env = env.map(|entry| text(entry.as_bytes())).collect::<Result<_>>()?;
    command::replace_exec(child, path, args, env);
    Ok(())
}

/// Opens a file for the hooks' output. A FIFO without a reader is an error (ENXIO), because create would block on it
/// under the container's lock.
fn append(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let opened = options.open(path).and_then(|file| {
        rustix::fs::fcntl_setfl(&file, OFlags::APPEND)?;
        Ok(file)
    });
    opened.with_context(|| format!("unable to open {} for what hooks write", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use brig_plan::Finished;
    use serde_json::{Value, json};
    use std::time::{Duration, Instant};

    fn run(hooks: &[Value], state: &[u8]) -> Result<()> {
        super::run(&planned(hooks), Setting::beside(state, Path::new("/")))
    }

    fn planned(hooks: &[Value]) -> Finished<Vec<Hook>> {
        serde_json::from_value(hooks.into()).unwrap()
    }

    /// A hook as a plan has it, in JSON.
    fn hook(script: &str) -> Value {
        json!({
            "place": "hooks.poststop[0]",
            "path": "/bin/sh",
            "args": ["sh", "-c", script],
            "env": ["NAME=value"],
            "timeout": null,
            "outputs": [null, null],
        })
    }

    fn with(mut hook: Value, field: &str, value: Value) -> Value {
        hook[field] = value;
        hook
    }

    #[test]
    fn a_hook_gets_the_state_and_its_environment() {
        run(&[hook("test \"$(cat)\" = state && test $NAME = value && test -z \"$HOME\"")], b"state").unwrap();
        run(&[hook("exit 0")], &[b'x'; 30_000]).unwrap();
    }

    #[test]
    fn environment_entries_without_an_equals_sign_are_passed_on() {
        let env = json!(["NAME=old", "word", "", "=x", "NAME=value"]);
        let script = "test \"$(tr '\\0' , </proc/$$/environ)\" = 'NAME=value,word,=x,' && test $0 = sh";
        run(&[with(hook(script), "env", env)], b"").unwrap();
    }

    #[test]
    fn poststop_hooks_run_in_the_bundle_or_in_the_callers_directory() {
        let directory = tempfile::tempdir().unwrap();
        let mark = directory.path().join("mark");
        let hooks = planned(&[hook(&format!("pwd >>{}", mark.display()))]);
        run_poststop(&hooks, b"", Path::new("/usr"));
        run_poststop(&hooks, b"", &directory.path().join("removed"));
        let caller = std::env::current_dir().unwrap();
        assert_eq!(std::fs::read_to_string(&mark).unwrap(), format!("/usr\n{}\n", caller.display()));
    }

    #[test]
    fn a_failure_stops_the_list_and_names_the_hook_its_status_and_its_stderr() {
        let directory = tempfile::tempdir().unwrap();
        let mark = directory.path().join("mark");
        let hooks = [hook("echo no such luck >&2; exit 3"), hook(&format!("touch {}", mark.display()))];
        let error = run(&hooks, b"").unwrap_err().to_string();
        assert_eq!(error, "error running hooks.poststop[0] /bin/sh: exit status 3, stderr: no such luck");
        assert!(!mark.exists());
        run_poststop(&planned(&hooks), b"", Path::new("/"));
        assert!(mark.exists());
    }

    #[test]
    fn hook_output_is_appended_to_the_configured_files() {
        let directory = tempfile::tempdir().unwrap();
        let outputs = ["out", "err"].map(|name| Some(directory.path().join(name)));
        let hook = with(hook("echo said; echo complained >&2"), "outputs", json!(outputs));
        run(&[hook.clone(), hook], b"").unwrap();
        let read = |place: usize| std::fs::read_to_string(outputs[place].as_ref().unwrap()).unwrap();
        assert_eq!([read(0), read(1)], ["said\nsaid\n", "complained\ncomplained\n"]);
    }

    #[test]
    fn a_hook_is_killed_at_its_timeout() {
        let hook = with(hook("exec sleep 100"), "timeout", json!(Duration::from_millis(50)));
        let started = Instant::now();
        assert!(run(&[hook], b"").unwrap_err().to_string().contains("timeout"));
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
