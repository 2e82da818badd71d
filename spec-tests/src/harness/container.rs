//! A container that was created, seen through the runtime's verbs.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, bail};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::Value;

use super::command;
use super::{Bundle, Done, Fixture, wait_until};
use crate::facts::Facts;

/// A container of the runtime under test. It is deleted after the case, in any state.
#[derive(Debug)]
pub struct Container<'a> {
    fixture: &'a Fixture,
    id: String,
    pid: i32,
    stdout: File,
    stderr: File,
}

impl<'a> Container<'a> {
    pub(super) fn create(fixture: &'a Fixture, bundle: &Bundle, flags: &[&str]) -> anyhow::Result<Container<'a>> {
        bundle.write()?;
        let id = fixture.id();
        let pid_file = fixture.directory().join(format!("{id}.pid"));
        let (bundle_path, pid_path) = (bundle.path().to_string_lossy(), pid_file.to_string_lossy());
        let mut words = vec!["create", "--bundle", &*bundle_path, "--pid-file", &*pid_path];
        words.extend(flags);
        words.push(&id);
        let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let mut command = fixture.command(&words);
        command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        let mut child = command.spawn().with_context(|| format!("unable to run {}", fixture.runtime().display()))?;
        let status = command::wait(&mut child, command::deadline()).context("create")?;
        if !status.success() {
            let (out, err) = (command::read_all(&stdout)?, command::read_all(&stderr)?);
            bail!("create: expected exit code 0, found {}\n{out}{err}", command::code_of(status));
        }
        let text = fs::read_to_string(&pid_file).context("create wrote no pid file")?;
        let pid = text.trim().parse().with_context(|| format!("the pid file holds {text:?}"))?;
        Ok(Container { fixture, id, pid, stdout, stderr })
    }

    pub(super) fn adopt(fixture: &'a Fixture, id: &str, pid: i32) -> anyhow::Result<Container<'a>> {
        Ok(Container { fixture, id: id.to_owned(), pid, stdout: tempfile::tempfile()?, stderr: tempfile::tempfile()? })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Init's pid, from the pid file.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// A path in init's /proc, such as `ns/mnt` or `root/etc`.
    pub fn proc(&self, inside: &str) -> String {
        format!("/proc/{}/{inside}", self.pid)
    }

    /// Calls a verb with the id and `words`.
    pub fn call(&self, verb: &str, words: &[&str]) -> anyhow::Result<Done> {
        self.fixture.call(&[&[verb, &self.id], words].concat())
    }

    /// The same with flags before the id.
    pub fn call_with_flags(&self, verb: &str, flags: &[&str]) -> anyhow::Result<Done> {
        self.fixture.call(&[&[verb], flags, &[&self.id]].concat())
    }

    /// The verb `start`.
    pub fn start(&self) -> anyhow::Result<()> {
        self.call("start", &[])?.ok().map(drop)
    }

    /// The output of the verb `state`.
    pub fn state(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.call("state", &[])?.ok()?.stdout)?)
    }

    /// The status in it.
    pub fn status(&self) -> anyhow::Result<String> {
        Ok(self.state()?["status"].as_str().context("state has no status")?.to_owned())
    }

    /// Sends a signal by the verb `kill`.
    pub fn kill(&self, signal: &str) -> anyhow::Result<()> {
        self.call("kill", &[signal])?.ok().map(drop)
    }

    /// The verb `delete`, which wants it stopped.
    pub fn delete(&self) -> anyhow::Result<()> {
        self.call("delete", &[])?.ok().map(drop)
    }

    /// Runs a program in it, in the foreground.
    pub fn exec(&self, words: &[&str]) -> anyhow::Result<Done> {
        self.fixture.call(&[&["exec", &self.id], words].concat())
    }

    /// The same with flags before the id.
    pub fn exec_with(&self, flags: &[&str], words: &[&str]) -> anyhow::Result<Done> {
        self.fixture.call(&[&["exec"], flags, &[&self.id], words].concat())
    }

    /// The result of each operation when an exec tries them in turn; see [`Fixture::attempts`].
    pub fn attempts(&self, operations: &[&str]) -> anyhow::Result<Vec<String>> {
        let done = self.exec(&super::fixture::attempt_args(operations))?.ok()?;
        super::fixture::attempt_lines(&done, operations)
    }

    /// The probe's facts in an exec with these flags.
    pub fn exec_facts(&self, flags: &[&str]) -> anyhow::Result<Facts> {
        Facts::parse(&self.exec_with(flags, &["/probe", "facts"])?.ok()?.stdout)
    }

    /// Waits until init has exited, and returns its exit code. This process is its subreaper, and so its parent once the
    /// runtime's process has exited.
    pub fn wait(&self) -> anyhow::Result<i32> {
        if !command::has_exited(self.pid, command::deadline())? {
            bail!("init still runs after {} s; it wrote: {}", command::deadline().as_secs(), self.output()?);
        }
        let status = waitpid(Pid::from_raw(self.pid), None).context("init is nobody's child that can be waited for")?;
        match status {
            nix::sys::wait::WaitStatus::Exited(_, code) => Ok(code),
            nix::sys::wait::WaitStatus::Signaled(_, signal, _) => {
                Ok(command::code_of(ExitStatus::from_raw(signal as i32)))
            }
            other => bail!("init: {other:?}"),
        }
    }

    /// Waits until `state` says this.
    pub fn wait_status(&self, wanted: &str) -> anyhow::Result<()> {
        wait_until(&format!("the status {wanted}"), || Ok((self.status()? == wanted).then_some(())))
    }

    /// Init's output on stdout and stderr so far.
    pub fn output(&self) -> anyhow::Result<String> {
        Ok(self.stdout()? + &command::read_all(&self.stderr)?)
    }

    /// The same of stdout alone: what create warns of stands on stderr too.
    pub fn stdout(&self) -> anyhow::Result<String> {
        command::read_all(&self.stdout)
    }

    /// The facts that the probe printed on init's stdout, once it has exited.
    pub fn facts(&self) -> anyhow::Result<Facts> {
        self.wait()?;
        Facts::parse(&self.stdout()?)
    }

    /// The container's cgroup in the hierarchy of a v1 controller, or on v2 (where `controller` does not matter).
    pub fn cgroup(&self, controller: &str) -> anyhow::Result<std::path::PathBuf> {
        self.fixture.host().cgroup_of(self.pid, controller)
    }

    /// A file of the container's cgroup, trimmed.
    pub fn cgroup_file(&self, controller: &str, file: &str) -> anyhow::Result<String> {
        let path = self.cgroup(controller)?.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        Ok(text.trim_end().to_owned())
    }
}
