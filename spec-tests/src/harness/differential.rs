//! The same commands to the runtime under test and to runc, each with bundles, ids and files of its own.
//!
//! In the arguments of a command `{id}`, `{id2}`, `{bundle}`, `{dir}` and `{pid}` stand for the values of each side.
//! The outcomes are normalised (those values, times and the runtime's name), and must be equal, except for
//! data/differences.json. A case continues after a difference, and its verdict names all of them.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::sys::wait::waitpid;

use super::command;
use super::differences::{self, Cgroups, Difference};
use super::normal::{Known, loose};
use super::{Bundle, Done, Fixture, wait_until};

/// One of the two runtimes, with its own bundle, ids and files.
#[derive(Debug)]
pub struct Side<'a> {
    /// The fixture of this runtime.
    pub fixture: &'a Fixture,
    pub bundle: Bundle,
    ids: [String; 2],
    directory: PathBuf,
}

/// A differential run: both sides, and the differences found so far.
#[derive(Debug)]
pub struct Differential<'a> {
    sides: [Side<'a>; 2],
    same_program: bool,
    differences: Vec<Difference>,
    faults: RefCell<Vec<String>>,
}

impl<'a> Side<'a> {
    fn new(fixture: &'a Fixture) -> anyhow::Result<Side<'a>> {
        let bundle = fixture.bundle()?;
        let directory = fixture.directory().join("side");
        fs::create_dir_all(&directory)?;
        Ok(Side { fixture, bundle, ids: [fixture.id(), fixture.id()], directory })
    }

    /// The id that `{id}` stands for.
    pub fn id(&self) -> &str {
        &self.ids[0]
    }

    /// The directory that `{dir}` stands for, where commands are run.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Init's pid, from the pid file `{dir}/pid`.
    pub fn pid(&self) -> anyhow::Result<i32> {
        self.pid_in("pid")
    }

    fn pid_in(&self, file: &str) -> anyhow::Result<i32> {
        let text = fs::read_to_string(self.directory.join(file)).context("the pid file")?;
        text.parse().with_context(|| format!("the pid file holds {text:?}"))
    }

    /// The argument with this side's values.
    pub fn expand(&self, arg: &str) -> String {
        let pid = self.pid().map(|pid| pid.to_string()).unwrap_or_default();
        let bundle = self.bundle.path().to_string_lossy();
        arg.replace("{id}", &self.ids[0])
            .replace("{id2}", &self.ids[1])
            .replace("{bundle}", &bundle)
            .replace("{dir}", &self.directory.to_string_lossy())
            .replace("{pid}", &pid)
    }

    /// A command of the runtime with `args`, in this side's directory.
    pub fn command(&self, args: &[&str]) -> Command {
        let args: Vec<String> = args.iter().map(|arg| self.expand(arg)).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = self.fixture.command(&args);
        command.current_dir(&self.directory);
        command
    }

    /// Runs the runtime with `args`, in this side's directory.
    pub fn call(&self, args: &[&str]) -> anyhow::Result<Done> {
        command::run(self.command(args), None)
    }

    /// Runs a prepared command of any program, with `stdin`.
    pub fn run(&self, command: Command, stdin: Option<Stdio>) -> anyhow::Result<Done> {
        command::run(command, stdin)
    }

    /// A file of init's cgroup in the hierarchy of this controller, trimmed; or the error of reading it.
    pub fn cgroup_file(&self, controller: &str, file: &str) -> anyhow::Result<String> {
        let path = self.fixture.host().cgroup_of(self.pid()?, controller)?.join(file);
        Ok(fs::read_to_string(&path).map_or_else(|error| error.to_string(), |text| text.trim_end().to_owned()))
    }

    /// Waits until init has exited, and returns its exit code (128 + N after signal N).
    pub fn wait(&self) -> anyhow::Result<i32> {
        self.wait_for("pid")
    }

    /// Waits for the process of another pid file in `{dir}`. Processes that exec started in a container's pid namespace
    /// must be waited for first: init's exit waits for theirs, and this process is their subreaper.
    pub fn wait_for(&self, file: &str) -> anyhow::Result<i32> {
        let pid = self.pid_in(file)?;
        if !command::has_exited(pid, command::deadline())? {
            bail!("the process of {file} still runs after {} s", command::deadline().as_secs());
        }
        match waitpid(nix::unistd::Pid::from_raw(pid), None)? {
            nix::sys::wait::WaitStatus::Exited(_, code) => Ok(code),
            nix::sys::wait::WaitStatus::Signaled(_, signal, _) => Ok(128 + signal as i32),
            other => bail!("the process of {file}: {other:?}"),
        }
    }

    /// The text with names in the place of this side's own values.
    pub fn normal(&self, text: &str) -> String {
        let pair = |known: &Path, name: &str| (known.to_string_lossy().into_owned(), name.to_owned());
        let bundle = self.bundle.path().file_name().unwrap_or_default().to_string_lossy();
        let mut texts = vec![
            pair(&self.directory, "DIR"),
            pair(self.bundle.path(), "BUNDLE"),
            pair(&self.fixture.directory(), "CASE"),
            pair(&self.fixture.root(), "ROOT"),
            pair(self.fixture.runtime(), "RUNTIME"),
            (self.fixture.cgroup_place(&bundle), "CGROUP".to_owned()),
            (format!("{}/", self.fixture.cgroup_parent()), "CGROUPS/".to_owned()),
        ];
        let before_ids = texts.len();
        // An id may be a prefix of the other.
        texts.extend([(self.ids[1].clone(), "ID2".to_owned()), (self.ids[0].clone(), "ID".to_owned())]);
        texts[before_ids..].sort_by_key(|(id, _)| std::cmp::Reverse(id.len()));
        let name = self.fixture.runtime().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut words = vec![(name, "RUNTIME".to_owned()), ("runc".to_owned(), "RUNTIME".to_owned())];
        for (file, name) in [("pid", "PID"), ("pid2", "PID2")] {
            words.extend(self.pid_in(file).ok().map(|pid| (pid.to_string(), name.to_owned())));
        }
        Known { texts, words }.normal(text)
    }
}

impl<'a> Differential<'a> {
    pub(super) fn new(fixture: &'a Fixture, reference: &'a Fixture) -> anyhow::Result<Differential<'a>> {
        let mut cgroups = vec![if fixture.host().is_v2() { Cgroups::V2 } else { Cgroups::V1 }];
        cgroups.extend(fixture.systemd().then_some(Cgroups::Systemd));
        Ok(Differential {
            sides: [Side::new(fixture)?, Side::new(reference)?],
            same_program: fixture.runtime() == reference.runtime(),
            differences: differences::all(&cgroups)?,
            faults: RefCell::default(),
        })
    }

    /// Changes both bundles, and writes their config.json.
    pub fn bundle(&mut self, mut change: impl FnMut(&mut Bundle)) -> anyhow::Result<&mut Self> {
        for side in &mut self.sides {
            change(&mut side.bundle);
            side.bundle.write()?;
        }
        Ok(self)
    }

    /// Performs an action on both sides, without a comparison.
    pub fn each(&self, mut act: impl FnMut(&Side) -> anyhow::Result<()>) -> anyhow::Result<&Self> {
        self.sides.iter().try_for_each(&mut act).map_err(|error| self.with_faults(error))?;
        Ok(self)
    }

    /// Runs a command line, split at white space, on both sides; code, stdout and stderr must be equal.
    pub fn line(&self, line: &str) -> anyhow::Result<&Self> {
        self.call(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs several command lines.
    pub fn lines(&self, lines: &[&str]) -> anyhow::Result<&Self> {
        lines.iter().try_for_each(|line| self.line(line).map(drop))?;
        Ok(self)
    }

    /// Runs a command on both sides; code, stdout and stderr must be equal.
    pub fn call(&self, args: &[&str]) -> anyhow::Result<&Self> {
        self.done(&args.join(" "), |side| side.call(args))
    }

    /// Runs a command on both sides with a text on stdin.
    pub fn call_with(&self, args: &[&str], stdin: &str) -> anyhow::Result<&Self> {
        self.done(&args.join(" "), |side| {
            let path = side.directory.join("stdin");
            fs::write(&path, stdin)?;
            command::run(side.command(args), Some(fs::File::open(path)?.into()))
        })
    }

    /// Runs a command whose stdout is a table. The number of blanks between columns may differ.
    pub fn table(&self, line: &str) -> anyhow::Result<&Self> {
        let args: Vec<&str> = line.split_whitespace().collect();
        self.done(line, |side| {
            let done = side.call(&args)?;
            Ok(Done { stdout: loose(&done.stdout), ..done })
        })
    }

    /// Runs a command of any form; `name` is its name in differences.json.
    pub fn done(&self, name: &str, mut run: impl FnMut(&Side) -> anyhow::Result<Done>) -> anyhow::Result<&Self> {
        let mut outcomes = Vec::new();
        for side in &self.sides {
            let done = run(side).with_context(|| name.to_owned()).map_err(|error| self.with_faults(error))?;
            outcomes.push([done.code.to_string(), side.normal(&done.stdout), side.normal(&done.stderr)]);
        }
        if makes_or_removes_a_cgroup(name) {
            outcomes[1][2] = without_timing_warnings(&outcomes[1][2]);
            if self.same_program {
                outcomes[0][2] = without_timing_warnings(&outcomes[0][2]);
            }
        }
        for (index, field) in ["code", "stdout", "stderr"].into_iter().enumerate() {
            self.compare(name, field, &outcomes[0][index], &outcomes[1][index]);
        }
        Ok(self)
    }

    /// Compares an effect of a command, as a text.
    pub fn see(&self, what: &str, mut observe: impl FnMut(&Side) -> anyhow::Result<String>) -> anyhow::Result<&Self> {
        let mut seen = Vec::new();
        for side in &self.sides {
            let text = observe(side)
                .with_context(|| format!("{what}, by {}", side.fixture.runtime().display()))
                .map_err(|error| self.with_faults(error))?;
            seen.push(side.normal(&text));
        }
        self.compare(what, "seen", &seen[0], &seen[1]);
        Ok(self)
    }

    /// Creates a container from the bundle, with `{dir}/pid` for its pid file.
    pub fn create(&self) -> anyhow::Result<&Self> {
        self.line("create --bundle {bundle} --pid-file {dir}/pid {id}")
    }

    /// Creates and starts a container whose program waits for ever.
    pub fn started(&mut self) -> anyhow::Result<&Self> {
        self.bundle(|bundle| {
            bundle.args(&["/probe", "wait"]);
        })?;
        self.create()?.line("start {id}")?;
        // runc's start does not wait for the program: a signal could reach runc's own process instead.
        self.each(|side| {
            let pid = side.pid()?;
            wait_until("the program of the container", || {
                let cmdline = fs::read(format!("/proc/{pid}/cmdline"));
                let cmdline = cmdline.with_context(|| format!("{}: pid {pid}", side.fixture.runtime().display()))?;
                Ok(cmdline.starts_with(b"/probe\0").then_some(()))
            })
        })
    }

    /// Waits until init exits; its exit code must be equal on both sides.
    pub fn wait(&self) -> anyhow::Result<&Self> {
        self.see("init's exit code", |side| Ok(side.wait()?.to_string()))
    }

    /// Kills init and waits until it has exited.
    pub fn stopped(&self) -> anyhow::Result<&Self> {
        self.line("kill {id} KILL")?.wait()
    }

    /// The verdict.
    ///
    /// # Errors
    /// When the sides differed; names each difference.
    pub fn equal(&self) -> anyhow::Result<()> {
        let faults = self.faults.take();
        if faults.is_empty() {
            return Ok(());
        }
        bail!("{} differences from runc\n{}", faults.len(), faults.join("\n"))
    }

    /// The error that stopped a case, with the differences until then, which are usually its cause.
    fn with_faults(&self, error: anyhow::Error) -> anyhow::Error {
        let faults = self.faults.take();
        match faults.is_empty() {
            true => error,
            false => anyhow::anyhow!("{error:#}, after {} differences from runc\n{}", faults.len(), faults.join("\n")),
        }
    }

    fn compare(&self, command: &str, field: &str, here: &str, runc: &str) {
        let concerned = || self.differences.iter();
        let fault = match here == runc {
            true if self.same_program => None,
            true => concerned()
                .find(|one| one.promises(command, field))
                .map(|_| format!("`{command}`: {field} is equal to runc's: remove it from data/differences.json")),
            false => {
                let wanted = concerned().fold(runc.to_owned(), |text, one| one.rewrite(command, field, text));
                let explained = wanted == here
                    || continues(here, &wanted)
                    || concerned().any(|one| one.explains(command, field, &wanted, here));
                (!explained).then(|| {
                    let (runc, here) = excerpts(&wanted, here);
                    format!("`{command}`: {field}: expected, as from runc, {runc:?}; found {here:?}")
                })
            }
        };
        self.faults.borrow_mut().extend(fault);
    }
}

/// Whether each line begins with runc's text. Callers match that text, and a container, a root or a reason may follow.
fn continues(here: &str, runc: &str) -> bool {
    let one = |(here, runc): (&str, &str)| {
        let same = here.bytes().zip(runc.bytes()).take_while(|(a, b)| a == b).count();
        // runc's message ends there: at the end of the line, or at the quote around it.
        let rest = runc.get(same..).filter(|rest| rest.is_empty() || rest.starts_with(['"', '\\']));
        let more = rest.and_then(|rest| here.get(same..)?.strip_suffix(rest));
        here == runc || more.is_some_and(|more| more.starts_with(": "))
    };
    here.lines().count() == runc.lines().count() && here.lines().zip(runc.lines()).all(one)
}

/// Whether the command has a verb with which runc prints timing-dependent warnings.
fn makes_or_removes_a_cgroup(command: &str) -> bool {
    command.split_whitespace().any(|word| matches!(word, "create" | "run" | "delete"))
}

/// The output of runc without the lines that depend on timing.
///
/// On a busy machine runc fails to remove a cgroup whose last process is still exiting, and finds that cgroup again at
/// the next create. With systemd it reads a cgroup that systemd has usually removed with its last process, and skips
/// devices whose modules are not loaded yet.
fn without_timing_warnings(text: &str) -> String {
    const WARNINGS: [&str; 6] = [
        "device or resource busy",
        "level=error msg=\"Failed to remove paths: map[",
        "container's cgroup is not empty",
        "in a non-empty cgroup",
        "level=warning msg=\"freezer not supported: openat2 /sys/fs/cgroup/CGROUP/cgroup.freeze: no such file or directory\"",
        "level=warning msg=\"lstat /sys/fs/cgroup/CGROUP: no such file or directory\"",
    ];
    let skips_a_device =
        |line: &str| line.contains("msg=\"skipping device /dev/") && line.contains(" for systemd: stat ");
    let is_warning = |line: &&str| WARNINGS.iter().any(|warning| line.contains(warning)) || skips_a_device(line);
    text.split_inclusive('\n').filter(|line| !is_warning(line)).collect()
}

/// An excerpt of both texts, from shortly before the first difference.
fn excerpts(one: &str, other: &str) -> (String, String) {
    const CONTEXT_LEN: usize = 60;
    const MAX_EXCERPT_LEN: usize = 300;
    let common = one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count();
    let cut = |text: &str| -> String {
        let skipped = if text.chars().count() <= MAX_EXCERPT_LEN { 0 } else { common.saturating_sub(CONTEXT_LEN) };
        let part: String = text.chars().skip(skipped).take(MAX_EXCERPT_LEN).collect();
        let mark = |is: bool| if is { "..." } else { "" };
        format!("{}{part}{}", mark(skipped > 0), mark(text.chars().count() > skipped + MAX_EXCERPT_LEN))
    };
    (cut(one), cut(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_may_follow_runcs_message_in_each_line() {
        assert!(continues("msg=\"none: web (--root /run)\"\n", "msg=\"none\"\n"));
        assert!(continues("{\"msg\":\"none: web\",\"time\":\"T\"}\n", "{\"msg\":\"none\",\"time\":\"T\"}\n"));
        assert!(!continues("{\"msg\":\"none: web\",\"time\":\"U\"}\n", "{\"msg\":\"none\",\"time\":\"T\"}\n"));
        assert!(continues("a\nb: c\n", "a\nb\n"));
        for other in ["msg=\"no: none\"\n", "msg=\"none, web\"\n", "msg=\"none\"\nmore\n", "msg=\"non\"\n"] {
            assert!(!continues(other, "msg=\"none\"\n"), "{other}");
        }
    }

    #[test]
    fn timing_dependent_warnings_of_runc_are_left_out() {
        let busy = "msg=\"rmdir /sys/fs/cgroup/x: device or resource busy\"\n";
        assert_eq!(without_timing_warnings(&format!("one\n{busy}two")), "one\ntwo");
        let device =
            "level=warning msg=\"skipping device /dev/char/10:200 for systemd: stat /sys/dev/char/10:200: none\"\n";
        assert_eq!(without_timing_warnings(&format!("{device}one\n")), "one\n");
        let paths = "time=\"TIME\" level=error msg=\"Failed to remove paths: map[cpu:/sys/fs/cgroup/cpu/CGROUP]\"\n";
        assert_eq!(without_timing_warnings(&format!("{paths}one\n")), "one\n");
        assert_eq!(without_timing_warnings("one\ntwo\n"), "one\ntwo\n");
        assert!(makes_or_removes_a_cgroup("--debug delete --force {id}"));
        assert!(!makes_or_removes_a_cgroup("kill {id} KILL"));
    }

    #[test]
    fn long_texts_are_shown_where_they_differ() {
        assert_eq!(excerpts("a", "b"), ("a".into(), "b".into()));
        let (one, other) = excerpts(&("x".repeat(1000) + "one"), &("x".repeat(1000) + "two"));
        assert!(one.ends_with("xone") && other.ends_with("xtwo") && one.len() < 100, "{one}");
    }
}
