//! The context of a case: the runtime under test, and a directory of its own.

use std::cell::{Cell, OnceCell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use super::{Bundle, Container, Done, Host, Options, Twins, command};
use crate::facts::Facts;

/// The runtime under test, and where it does its work for one worker.
#[derive(Debug)]
pub struct Ground {
    options: Options,
    host: Host,
    place: PathBuf,
    cgroup_parent: String,
    next: Cell<u32>,
    made: RefCell<Vec<String>>,
    peer: OnceCell<Box<Peer>>,
}

/// The same for a runtime to compare with.
#[derive(Debug)]
struct Peer {
    ground: Ground,
    // Removed with the ground.
    _place: tempfile::TempDir,
}

impl Ground {
    /// `place` is the worker's directory; `name` makes ids and cgroups unique on the host.
    pub(super) fn new(options: Options, place: PathBuf, name: &str) -> anyhow::Result<Ground> {
        fs::create_dir_all(place.join("cases"))?;
        let host = Host::find()?;
        Ok(Ground {
            options,
            host,
            place,
            cgroup_parent: format!("spec-{name}"),
            next: Cell::new(0),
            made: RefCell::default(),
            peer: OnceCell::new(),
        })
    }

    /// The same with another runtime, for a comparison; what it makes is cleaned up and looked after too. Its paths and
    /// ids are as long as ours, so that tables are too.
    pub fn peer(&self, runtime: &Path) -> anyhow::Result<&Ground> {
        let peer = match self.peer.get() {
            Some(peer) => peer,
            None => {
                let place = super::run::place("peer-spec-")?;
                let options = Options { runtime: runtime.to_owned(), ..self.options.clone() };
                let name = self.cgroup_parent.replacen("spec", "peer", 1);
                let mut ground = Ground::new(options, place.path().to_owned(), "")?;
                ground.cgroup_parent = name;
                self.peer.get_or_init(|| Box::new(Peer { ground, _place: place }))
            }
        };
        peer.ground.next.set(self.next.get());
        Ok(&peer.ground)
    }

    /// The runtime under test beside runc.
    pub fn twins(&self) -> anyhow::Result<Twins<'_>> {
        let runc = command::program("runc").context("runc is not in PATH")?;
        let runc = fs::canonicalize(runc)?;
        Twins::new(self, self.peer(&runc)?)
    }

    /// Itself, and the peer's where a case asked for one.
    pub(super) fn all(&self) -> Vec<&Ground> {
        std::iter::once(self).chain(self.peer.get().map(|peer| &peer.ground)).collect()
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

    /// A directory of the case's own, which is removed after it.
    pub fn directory(&self) -> PathBuf {
        self.place.join("cases")
    }

    /// The worker's directory, which holds all that is the ground's.
    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    /// The runtime's `--root`.
    pub fn root(&self) -> PathBuf {
        self.place.join("root")
    }

    /// An id that no other case has; what has it is deleted after the case.
    pub fn id(&self) -> String {
        self.next.set(self.next.get() + 1);
        let id = format!("{}-{}", self.cgroup_parent, self.next.get());
        self.made.borrow_mut().push(id.clone());
        id
    }

    /// Takes note of an id of the case's own choice, so that what has it is deleted after the case.
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

    /// Where that cgroup is below the top of a hierarchy.
    pub(super) fn cgroup_place(&self, name: &str) -> String {
        match self.options.systemd {
            true => format!("system.slice/{}-{name}.scope", self.cgroup_parent),
            false => format!("{}/{name}", self.cgroup_parent),
        }
    }

    /// The name of the cgroup that is the parent of all of this worker's.
    pub(super) fn cgroup_parent(&self) -> &str {
        &self.cgroup_parent
    }

    /// A new bundle; see [`Bundle`] for how it begins.
    pub fn bundle(&self) -> anyhow::Result<Bundle> {
        self.next.set(self.next.get() + 1);
        let name = format!("bundle-{}", self.next.get());
        let path = self.directory().join(&name);
        Bundle::make(path, &self.options.probe, &self.cgroups_path(&name))
    }

    /// The runtime with its global flags and these words, to be run by the caller of this.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.options.runtime);
        command.arg("--root").arg(self.root());
        if self.options.systemd {
            command.arg("--systemd-cgroup");
        }
        command.args(words).current_dir(self.directory());
        command
    }

    /// Runs the runtime with these words.
    pub fn call(&self, words: &[&str]) -> anyhow::Result<Done> {
        command::run(self.command(words), None)
    }

    /// The same with this on its stdin.
    pub fn call_with(&self, words: &[&str], stdin: Stdio) -> anyhow::Result<Done> {
        command::run(self.command(words), Some(stdin))
    }

    /// The same from a shell that has done `prelude` before it becomes the runtime: for what a process inherits.
    pub fn call_after(&self, prelude: &str, words: &[&str]) -> anyhow::Result<Done> {
        let runtime = self.command(words);
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{prelude}\nexec \"$@\"")).arg("sh").arg(runtime.get_program());
        command.args(runtime.get_args()).current_dir(self.directory());
        command::run(command, None)
    }

    /// Runs any other program.
    pub fn tool(&self, program: &str, words: &[&str]) -> anyhow::Result<Done> {
        let mut command = Command::new(program);
        command.args(words).current_dir(self.directory());
        command::run(command, None)
    }

    /// Writes the bundle's config.json, runs it in the foreground and deletes what may be left.
    pub fn run(&self, bundle: &Bundle) -> anyhow::Result<Done> {
        bundle.write()?;
        let id = self.id();
        self.call(&["run", "--bundle", &bundle.path().to_string_lossy(), &id])
    }

    /// Runs the bundle with the probe's `try` and these words; a line for each operation, as the probe printed it.
    pub fn tries(&self, bundle: &mut Bundle, words: &[&str]) -> anyhow::Result<Vec<String>> {
        bundle.args(&[&["/probe", "try"], words].concat());
        Ok(self.run(bundle)?.ok()?.stdout.lines().map(|line| line.trim_end().to_owned()).collect())
    }

    /// Runs the bundle, whose program has to be the probe's `facts`, and reads what it prints.
    pub fn facts(&self, bundle: &Bundle) -> anyhow::Result<Facts> {
        Facts::parse(&self.run(bundle)?.ok()?.stdout)
    }

    /// Writes config.json and creates a container.
    pub fn create(&self, bundle: &Bundle) -> anyhow::Result<Container<'_>> {
        Container::create(self, bundle, &[])
    }

    /// The same with more flags for `create`.
    pub fn create_with(&self, bundle: &Bundle, flags: &[&str]) -> anyhow::Result<Container<'_>> {
        Container::create(self, bundle, flags)
    }

    /// The same from a shell that has done `prelude` before it becomes the runtime.
    pub fn facts_after(&self, prelude: &str, bundle: &Bundle) -> anyhow::Result<Facts> {
        bundle.write()?;
        let id = self.id();
        let done = self.call_after(prelude, &["run", "--bundle", &bundle.path().to_string_lossy(), &id])?;
        Facts::parse(&done.ok()?.stdout)
    }

    /// A container that a case has created by [`Ground::call`]; what it writes went to that call.
    pub fn container(&self, id: &str, pid: i32) -> anyhow::Result<Container<'_>> {
        Container::adopt(self, id, pid)
    }

    /// Creates and starts a container whose program is the probe's `wait`; for execs, signals and looks from outside.
    pub fn start(&self, bundle: &mut Bundle) -> anyhow::Result<Container<'_>> {
        bundle.args(&["/probe", "wait"]);
        let container = self.create(bundle)?;
        container.start()?;
        Ok(container)
    }

    /// The result of each operation (`write /etc/x text`; see the probe) when the bundle's program tries them in
    /// turn: `ok TEXT` or the name of an error.
    pub fn attempts(&self, bundle: &mut Bundle, operations: &[&str]) -> anyhow::Result<Vec<String>> {
        let done = self.run(bundle.args(&attempt_words(operations)))?.ok()?;
        attempt_lines(&done, operations)
    }

    /// Copies a program that stands beside the probe (`syscalls`) to the top of the bundle's root file system.
    pub fn install(&self, bundle: &Bundle, program: &str) -> anyhow::Result<()> {
        let source = self.beside_probe(program);
        fs::copy(&source, bundle.rootfs(program)).with_context(|| format!("{}", source.display()))?;
        Ok(())
    }

    /// Where a program stands that is built together with the probe.
    pub fn beside_probe(&self, program: &str) -> PathBuf {
        self.options.probe.with_file_name(program)
    }

    /// The message of a runtime that refuses this bundle, and leaves nothing behind.
    ///
    /// # Errors
    /// When it takes it, or leaves a container on record.
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

    /// Deletes what the case made; what the runtime cannot delete is returned as text.
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
        if let Some(peer) = self.peer.get() {
            faults.extend(peer.ground.clean_up()?);
        }
        Ok(faults)
    }

    /// Empties the case's directory.
    pub(super) fn sweep(&self) -> anyhow::Result<()> {
        for ground in self.all() {
            fs::remove_dir_all(ground.directory()).context("the case's directory")?;
            fs::create_dir_all(ground.directory())?;
        }
        Ok(())
    }
}

/// The probe's command line that tries these operations.
pub(super) fn attempt_words<'a>(operations: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["/probe", "try"];
    for (place, operation) in operations.iter().enumerate() {
        words.extend((place > 0).then_some(","));
        words.extend(operation.split(' '));
    }
    words
}

/// The probe's answer to each of these operations.
pub(super) fn attempt_lines(done: &Done, operations: &[&str]) -> anyhow::Result<Vec<String>> {
    let lines: Vec<String> = done.stdout.lines().map(|line| line.trim_end().to_owned()).collect();
    let (expected, found) = (operations.len(), lines.len());
    anyhow::ensure!(expected == found, "expected {expected} answers, found {found}: {}{}", done.stdout, done.stderr);
    Ok(lines)
}
