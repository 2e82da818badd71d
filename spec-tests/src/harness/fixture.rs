//! The context of a case: the runtime under test, and a directory of its own.

use std::cell::{Cell, OnceCell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use super::{Bundle, Container, Differential, Done, Host, Options, command};
use crate::facts::Facts;

/// The runtime under test, and the directory, the ids and the cgroups of one worker.
#[derive(Debug)]
pub struct Fixture {
    options: Options,
    host: Host,
    directory: PathBuf,
    cgroup_parent: String,
    next: Cell<u32>,
    made: RefCell<Vec<String>>,
    reference: OnceCell<Box<Reference>>,
}

/// The fixture of a reference runtime.
#[derive(Debug)]
struct Reference {
    fixture: Fixture,
    // Removed together with the fixture.
    _directory: tempfile::TempDir,
}

impl Fixture {
    /// `directory` is the worker's directory; `name` makes ids and cgroups unique on the host.
    pub(super) fn new(options: Options, directory: PathBuf, name: &str) -> anyhow::Result<Fixture> {
        fs::create_dir_all(directory.join("cases"))?;
        let host = Host::find()?;
        Ok(Fixture {
            options,
            host,
            directory,
            cgroup_parent: format!("spec-{name}"),
            next: Cell::new(0),
            made: RefCell::default(),
            reference: OnceCell::new(),
        })
    }

    /// A fixture of another runtime for a comparison, with the same clean-up and search for leaks. Its paths and ids have
    /// the length of this fixture's, so that tables have equal columns.
    pub fn reference(&self, runtime: &Path) -> anyhow::Result<&Fixture> {
        let reference = match self.reference.get() {
            Some(reference) => reference,
            None => {
                let directory = super::run::temporary_directory("base-spec-")?;
                let options = Options { runtime: runtime.to_owned(), ..self.options.clone() };
                let name = self.cgroup_parent.replacen("spec", "base", 1);
                let mut fixture = Fixture::new(options, directory.path().to_owned(), "")?;
                fixture.cgroup_parent = name;
                self.reference.get_or_init(|| Box::new(Reference { fixture, _directory: directory }))
            }
        };
        reference.fixture.next.set(self.next.get());
        Ok(&reference.fixture)
    }

    /// The runtime under test beside runc.
    pub fn differential(&self) -> anyhow::Result<Differential<'_>> {
        let runc = command::program("runc").context("runc is not in PATH")?;
        let runc = fs::canonicalize(runc)?;
        Differential::new(self, self.reference(&runc)?)
    }

    /// This fixture, and the reference runtime's where a case asked for one.
    pub(super) fn all(&self) -> Vec<&Fixture> {
        std::iter::once(self).chain(self.reference.get().map(|reference| &reference.fixture)).collect()
    }

    /// The host's properties.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The runtime's path.
    pub fn runtime(&self) -> &Path {
        &self.options.runtime
    }

    /// Whether containers are placed by systemd (`--systemd-cgroup`).
    pub fn systemd(&self) -> bool {
        self.options.systemd
    }

    /// The directory of the case, which is emptied after it.
    pub fn directory(&self) -> PathBuf {
        self.directory.join("cases")
    }

    /// The worker's directory, which holds every file of the fixture.
    pub(super) fn worker_directory(&self) -> &Path {
        &self.directory
    }

    /// The runtime's `--root`.
    pub fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// A new id. A container of this id is deleted after the case.
    pub fn id(&self) -> String {
        self.next.set(self.next.get() + 1);
        let id = format!("{}-{}", self.cgroup_parent, self.next.get());
        self.made.borrow_mut().push(id.clone());
        id
    }

    /// Registers an id of the case's own choice, so that a container of this id is deleted after the case.
    pub fn claim(&self, id: &str) {
        self.made.borrow_mut().push(id.to_owned());
    }

    /// The linux.cgroupsPath for a container of this name, for the cgroup driver in use.
    pub fn cgroups_path(&self, name: &str) -> String {
        match self.options.systemd {
            true => format!("system.slice:{}:{name}", self.cgroup_parent),
            false => format!("/{}/{name}", self.cgroup_parent),
        }
    }

    /// The path of that cgroup, relative to the root of a hierarchy.
    pub(super) fn cgroup_place(&self, name: &str) -> String {
        match self.options.systemd {
            true => format!("system.slice/{}-{name}.scope", self.cgroup_parent),
            false => format!("{}/{name}", self.cgroup_parent),
        }
    }

    /// The name of the parent of this worker's cgroups.
    pub(super) fn cgroup_parent(&self) -> &str {
        &self.cgroup_parent
    }

    /// A new bundle with the default configuration of [`Bundle`].
    pub fn bundle(&self) -> anyhow::Result<Bundle> {
        self.next.set(self.next.get() + 1);
        let name = format!("bundle-{}", self.next.get());
        let path = self.directory().join(&name);
        Bundle::make(path, &self.options.probe, &self.cgroups_path(&name))
    }

    /// A command of the runtime with its global flags and `args`, which the caller runs.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.options.runtime);
        command.arg("--root").arg(self.root());
        if self.options.systemd {
            command.arg("--systemd-cgroup");
        }
        command.args(args).current_dir(self.directory());
        command
    }

    /// Runs the runtime with `args`.
    pub fn call(&self, args: &[&str]) -> anyhow::Result<Done> {
        command::run(self.command(args), None)
    }

    /// Runs the runtime with `args` and `stdin`.
    pub fn call_with(&self, args: &[&str], stdin: Stdio) -> anyhow::Result<Done> {
        command::run(self.command(args), Some(stdin))
    }

    /// Runs the runtime from a shell that executes `prelude` first, for attributes that a process inherits.
    pub fn call_after(&self, prelude: &str, args: &[&str]) -> anyhow::Result<Done> {
        let runtime = self.command(args);
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{prelude}\nexec \"$@\"")).arg("sh").arg(runtime.get_program());
        command.args(runtime.get_args()).current_dir(self.directory());
        command::run(command, None)
    }

    /// Runs any other program.
    pub fn tool(&self, program: &str, args: &[&str]) -> anyhow::Result<Done> {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.directory());
        command::run(command, None)
    }

    /// Writes the bundle's config.json and runs it in the foreground.
    pub fn run(&self, bundle: &Bundle) -> anyhow::Result<Done> {
        bundle.write()?;
        let id = self.id();
        self.call(&["run", "--bundle", &bundle.path().to_string_lossy(), &id])
    }

    /// Runs the bundle with the probe's `try` and `args`. Returns the line that the probe printed for each operation.
    pub fn tries(&self, bundle: &mut Bundle, args: &[&str]) -> anyhow::Result<Vec<String>> {
        bundle.args(&[&["/probe", "try"], args].concat());
        Ok(self.run(bundle)?.ok()?.stdout.lines().map(|line| line.trim_end().to_owned()).collect())
    }

    /// Runs the bundle, whose program must be the probe's `facts`, and parses its output.
    pub fn facts(&self, bundle: &Bundle) -> anyhow::Result<Facts> {
        Facts::parse(&self.run(bundle)?.ok()?.stdout)
    }

    /// Writes config.json and creates a container.
    pub fn create(&self, bundle: &Bundle) -> anyhow::Result<Container<'_>> {
        Container::create(self, bundle, &[])
    }

    /// Writes config.json and creates a container with more `flags` for `create`.
    pub fn create_with(&self, bundle: &Bundle, flags: &[&str]) -> anyhow::Result<Container<'_>> {
        Container::create(self, bundle, flags)
    }

    /// As [`Fixture::facts`], from a shell that executes `prelude` before the runtime.
    pub fn facts_after(&self, prelude: &str, bundle: &Bundle) -> anyhow::Result<Facts> {
        bundle.write()?;
        let id = self.id();
        let done = self.call_after(prelude, &["run", "--bundle", &bundle.path().to_string_lossy(), &id])?;
        Facts::parse(&done.ok()?.stdout)
    }

    /// A container that a case has created by [`Fixture::call`], which has the container's output.
    pub fn container(&self, id: &str, pid: i32) -> anyhow::Result<Container<'_>> {
        Container::adopt(self, id, pid)
    }

    /// Creates and starts a container whose program is the probe's `wait`; for execs, signals and
    /// observations from outside.
    pub fn start(&self, bundle: &mut Bundle) -> anyhow::Result<Container<'_>> {
        bundle.args(&["/probe", "wait"]);
        let container = self.create(bundle)?;
        container.start()?;
        Ok(container)
    }

    /// Runs the bundle's program to try the operations (`write /etc/x text`; see the probe) in turn. Each result is
    /// `ok TEXT` or the name of an error.
    pub fn attempts(&self, bundle: &mut Bundle, operations: &[&str]) -> anyhow::Result<Vec<String>> {
        let done = self.run(bundle.args(&attempt_args(operations)))?.ok()?;
        attempt_lines(&done, operations)
    }

    /// Copies a program that is built beside the probe (`syscalls`) to the top of the bundle's root file system.
    pub fn install(&self, bundle: &Bundle, program: &str) -> anyhow::Result<()> {
        let source = self.beside_probe(program);
        fs::copy(&source, bundle.rootfs(program)).with_context(|| format!("{}", source.display()))?;
        Ok(())
    }

    /// The path of a program that is built beside the probe.
    pub fn beside_probe(&self, program: &str) -> PathBuf {
        self.options.probe.with_file_name(program)
    }

    /// The error message of a runtime that refuses this bundle and leaves nothing behind.
    ///
    /// # Errors
    /// When the runtime accepts the bundle, or keeps a record of the container.
    pub fn refused(&self, bundle: &Bundle) -> anyhow::Result<String> {
        bundle.write()?;
        let id = self.id();
        let done = self.call(&["create", "--bundle", &bundle.path().to_string_lossy(), &id])?;
        let text = done.refused()?;
        let state = self.call(&["state", &id])?;
        let known = &state.stdout;
        anyhow::ensure!(state.code != 0, "create failed with {text:?}, but state knows the container: {known}");
        Ok(text)
    }

    /// Deletes the case's containers. Returns the errors of those that the runtime cannot delete.
    pub(super) fn clean_up(&self) -> anyhow::Result<Vec<String>> {
        let mut faults = Vec::new();
        for id in self.made.take() {
            if !self.root().join(&id).exists() {
                continue;
            }
            let done = command::run_and_reap(self.command(&["delete", "--force", &id]))?;
            if done.code != 0 {
                faults.push(format!("delete --force {id}: {}", done.stderr.trim()));
            }
        }
        if let Some(reference) = self.reference.get() {
            faults.extend(reference.fixture.clean_up()?);
        }
        Ok(faults)
    }

    /// Empties the case's directory.
    pub(super) fn sweep(&self) -> anyhow::Result<()> {
        for fixture in self.all() {
            fs::remove_dir_all(fixture.directory()).context("the case's directory")?;
            fs::create_dir_all(fixture.directory())?;
        }
        Ok(())
    }
}

/// The probe's command line for these operations.
pub(super) fn attempt_args<'a>(operations: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["/probe", "try"];
    for (index, operation) in operations.iter().enumerate() {
        args.extend((index > 0).then_some(","));
        args.extend(operation.split(' '));
    }
    args
}

/// The probe's result of each of these operations.
pub(super) fn attempt_lines(done: &Done, operations: &[&str]) -> anyhow::Result<Vec<String>> {
    let lines: Vec<String> = done.stdout.lines().map(|line| line.trim_end().to_owned()).collect();
    let (expected, found) = (operations.len(), lines.len());
    anyhow::ensure!(expected == found, "expected {expected} answers, found {found}: {}{}", done.stdout, done.stderr);
    Ok(lines)
}
