//! The same commands to the runtime under test and to runc, each with bundles, ids and files of its own.
//!
//! In the words of a command `{id}`, `{id2}`, `{bundle}`, `{dir}` and `{pid}` stand for the twin's own. What each twin
//! answers is normalised (those values, times and the runtime's name) and must be equal, but for
//! data/differences.json. A case goes on after a difference: its verdict names them all.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::sys::wait::waitpid;

use super::command;
use super::differences::{self, Cgroups, Difference};
use super::normal::{Known, loose};
use super::{Bundle, Done, Ground, wait_until};

/// One of the two.
#[derive(Debug)]
pub struct Twin<'a> {
    /// Where it works.
    pub ground: &'a Ground,
    pub bundle: Bundle,
    ids: [String; 2],
    directory: PathBuf,
}

/// Both, and what was found to differ so far.
#[derive(Debug)]
pub struct Twins<'a> {
    twins: [Twin<'a>; 2],
    same_program: bool,
    differences: Vec<Difference>,
    faults: RefCell<Vec<String>>,
}

impl<'a> Twin<'a> {
    fn new(ground: &'a Ground) -> anyhow::Result<Twin<'a>> {
        let bundle = ground.bundle()?;
        let directory = ground.directory().join("twin");
        fs::create_dir_all(&directory)?;
        Ok(Twin { ground, bundle, ids: [ground.id(), ground.id()], directory })
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

    /// A word with its own values in it.
    pub fn expand(&self, word: &str) -> String {
        let pid = self.pid().map(|pid| pid.to_string()).unwrap_or_default();
        let bundle = self.bundle.path().to_string_lossy();
        word.replace("{id}", &self.ids[0])
            .replace("{id2}", &self.ids[1])
            .replace("{bundle}", &bundle)
            .replace("{dir}", &self.directory.to_string_lossy())
            .replace("{pid}", &pid)
    }

    /// The runtime with these words, in its directory.
    pub fn command(&self, words: &[&str]) -> Command {
        let words: Vec<String> = words.iter().map(|word| self.expand(word)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = self.ground.command(&words);
        command.current_dir(&self.directory);
        command
    }

    /// Runs that.
    pub fn call(&self, words: &[&str]) -> anyhow::Result<Done> {
        command::run(self.command(words), None)
    }

    /// Runs a prepared command, whatever its program, with this stdin.
    pub fn run(&self, command: Command, stdin: Option<Stdio>) -> anyhow::Result<Done> {
        command::run(command, stdin)
    }

    /// A file of init's cgroup in the hierarchy of this controller, trimmed; what it says if it cannot be read.
    pub fn cgroup_file(&self, controller: &str, file: &str) -> anyhow::Result<String> {
        let path = self.ground.host().cgroup_of(self.pid()?, controller)?.join(file);
        Ok(fs::read_to_string(&path).map_or_else(|error| error.to_string(), |text| text.trim_end().to_owned()))
    }

    /// Waits until init has ended, and returns its exit code (128 + N after signal N).
    pub fn wait(&self) -> anyhow::Result<i32> {
        self.wait_for("pid")
    }

    /// The same for the process of another pid file in `{dir}`. What was started by exec in a container's pid namespace
    /// has to be waited for first: init's end waits for theirs, and we are their subreaper.
    pub fn wait_for(&self, file: &str) -> anyhow::Result<i32> {
        let pid = self.pid_in(file)?;
        if !command::has_ended(pid, command::deadline())? {
            bail!("the process of {file} still runs after {} s", command::deadline().as_secs());
        }
        match waitpid(nix::unistd::Pid::from_raw(pid), None)? {
            nix::sys::wait::WaitStatus::Exited(_, code) => Ok(code),
            nix::sys::wait::WaitStatus::Signaled(_, signal, _) => Ok(128 + signal as i32),
            other => bail!("the process of {file}: {other:?}"),
        }
    }

    /// The text with names in place of what is this twin's own.
    pub fn normal(&self, text: &str) -> String {
        let pair = |known: &Path, name: &str| (known.to_string_lossy().into_owned(), name.to_owned());
        let bundle = self.bundle.path().file_name().unwrap_or_default().to_string_lossy();
        let mut texts = vec![
            pair(&self.directory, "DIR"),
            pair(self.bundle.path(), "BUNDLE"),
            pair(&self.ground.directory(), "CASE"),
            pair(&self.ground.root(), "ROOT"),
            pair(self.ground.runtime(), "RUNTIME"),
            (self.ground.cgroup_place(&bundle), "CGROUP".to_owned()),
            (format!("{}/", self.ground.cgroup_parent()), "CGROUPS/".to_owned()),
        ];
        let before_ids = texts.len();
        // One id may begin another.
        texts.extend([(self.ids[1].clone(), "ID2".to_owned()), (self.ids[0].clone(), "ID".to_owned())]);
        texts[before_ids..].sort_by_key(|(id, _)| std::cmp::Reverse(id.len()));
        let name = self.ground.runtime().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut words = vec![(name, "RUNTIME".to_owned()), ("runc".to_owned(), "RUNTIME".to_owned())];
        for (file, name) in [("pid", "PID"), ("pid2", "PID2")] {
            words.extend(self.pid_in(file).ok().map(|pid| (pid.to_string(), name.to_owned())));
        }
        Known { texts, words }.normal(text)
    }
}

impl<'a> Twins<'a> {
    pub(super) fn new(ground: &'a Ground, peer: &'a Ground) -> anyhow::Result<Twins<'a>> {
        let mut cgroups = vec![if ground.host().is_v2() { Cgroups::V2 } else { Cgroups::V1 }];
        cgroups.extend(ground.systemd().then_some(Cgroups::Systemd));
        Ok(Twins {
            twins: [Twin::new(ground)?, Twin::new(peer)?],
            same_program: ground.runtime() == peer.runtime(),
            differences: differences::all(&cgroups)?,
            faults: RefCell::default(),
        })
    }

    /// Changes both bundles, and writes their config.json.
    pub fn bundle(&mut self, mut change: impl FnMut(&mut Bundle)) -> anyhow::Result<&mut Self> {
        for twin in &mut self.twins {
            change(&mut twin.bundle);
            twin.bundle.write()?;
        }
        Ok(self)
    }

    /// Does something on both sides that is no observation.
    pub fn each(&self, mut act: impl FnMut(&Twin) -> anyhow::Result<()>) -> anyhow::Result<&Self> {
        self.twins.iter().try_for_each(&mut act).map_err(|error| self.with_faults(error))?;
        Ok(self)
    }

    /// One command line, its words parted by blanks, to both; code, stdout and stderr have to be equal.
    pub fn line(&self, line: &str) -> anyhow::Result<&Self> {
        self.call(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Several command lines.
    pub fn lines(&self, lines: &[&str]) -> anyhow::Result<&Self> {
        lines.iter().try_for_each(|line| self.line(line).map(drop))?;
        Ok(self)
    }

    /// The same from words.
    pub fn call(&self, words: &[&str]) -> anyhow::Result<&Self> {
        self.done(&words.join(" "), |twin| twin.call(words))
    }

    /// The same with this text on stdin.
    pub fn call_with(&self, words: &[&str], stdin: &str) -> anyhow::Result<&Self> {
        self.done(&words.join(" "), |twin| {
            let path = twin.directory.join("stdin");
            fs::write(&path, stdin)?;
            command::run(twin.command(words), Some(fs::File::open(path)?.into()))
        })
    }

    /// A command whose stdout is a table: blanks between its columns do not count.
    pub fn table(&self, line: &str) -> anyhow::Result<&Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.done(line, |twin| {
            let done = twin.call(&words)?;
            Ok(Done { stdout: loose(&done.stdout), ..done })
        })
    }

    /// A command in a form of its own; `name` is what differences.json calls it.
    pub fn done(&self, name: &str, mut run: impl FnMut(&Twin) -> anyhow::Result<Done>) -> anyhow::Result<&Self> {
        let mut outcomes = Vec::new();
        for twin in &self.twins {
            let done = run(twin).with_context(|| name.to_owned()).map_err(|error| self.with_faults(error))?;
            outcomes.push([done.code.to_string(), twin.normal(&done.stdout), twin.normal(&done.stderr)]);
        }
        if makes_or_removes_a_cgroup(name) {
            outcomes[1][2] = without_chance(&outcomes[1][2]);
            if self.same_program {
                outcomes[0][2] = without_chance(&outcomes[0][2]);
            }
        }
        for (index, field) in ["code", "stdout", "stderr"].into_iter().enumerate() {
            self.compare(name, field, &outcomes[0][index], &outcomes[1][index]);
        }
        Ok(self)
    }

    /// Something that a command did, as a text.
    pub fn see(&self, what: &str, mut look: impl FnMut(&Twin) -> anyhow::Result<String>) -> anyhow::Result<&Self> {
        let mut seen = Vec::new();
        for twin in &self.twins {
            let text = look(twin)
                .with_context(|| format!("{what}, by {}", twin.ground.runtime().display()))
                .map_err(|error| self.with_faults(error))?;
            seen.push(twin.normal(&text));
        }
        self.compare(what, "seen", &seen[0], &seen[1]);
        Ok(self)
    }

    /// Creates a container from the bundle, with `{dir}/pid` for its pid file.
    pub fn create(&self) -> anyhow::Result<&Self> {
        self.line("create --bundle {bundle} --pid-file {dir}/pid {id}")
    }

    /// Creates and starts one whose program waits for ever.
    pub fn started(&mut self) -> anyhow::Result<&Self> {
        self.bundle(|bundle| {
            bundle.args(&["/probe", "wait"]);
        })?;
        self.create()?.line("start {id}")?;
        // runc's start does not wait for the program: a signal would meet runc's own process.
        self.each(|twin| {
            let pid = twin.pid()?;
            wait_until("the program of the container", || {
                let words = fs::read(format!("/proc/{pid}/cmdline"));
                let words = words.with_context(|| format!("{}: pid {pid}", twin.ground.runtime().display()))?;
                Ok(words.starts_with(b"/probe\0").then_some(()))
            })
        })
    }

    /// Waits for init's end; its exit code has to be the same.
    pub fn wait(&self) -> anyhow::Result<&Self> {
        self.see("init's exit code", |twin| Ok(twin.wait()?.to_string()))
    }

    /// Kills init and waits for its end.
    pub fn stopped(&self) -> anyhow::Result<&Self> {
        self.line("kill {id} KILL")?.wait()
    }

    /// The verdict.
    ///
    /// # Errors
    /// When the two differed; names each place.
    pub fn equal(&self) -> anyhow::Result<()> {
        let faults = self.faults.take();
        if faults.is_empty() {
            return Ok(());
        }
        bail!("{} differences from runc\n{}", faults.len(), faults.join("\n"))
    }

    /// The error that ended a case, after the differences until then, which are mostly its cause.
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
                .map(|_| format!("`{command}`: {field} is as runc's: take it out of data/differences.json")),
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

/// Whether each line says what runc's does, and more after its words: callers match those, and a container, a root or a
/// reason may follow them.
fn continues(here: &str, runc: &str) -> bool {
    let one = |(here, runc): (&str, &str)| {
        let same = here.bytes().zip(runc.bytes()).take_while(|(a, b)| a == b).count();
        // The message ends there: at the end of the line, or at the quote around it.
        let rest = runc.get(same..).filter(|rest| rest.is_empty() || rest.starts_with(['"', '\\']));
        let more = rest.and_then(|rest| here.get(same..)?.strip_suffix(rest));
        here == runc || more.is_some_and(|more| more.starts_with(": "))
    };
    here.lines().count() == runc.lines().count() && here.lines().zip(runc.lines()).all(one)
}

/// Whether one of a command's words is a verb of which runc warns by chance.
fn makes_or_removes_a_cgroup(command: &str) -> bool {
    command.split_whitespace().any(|word| matches!(word, "create" | "run" | "delete"))
}

/// The output of runc without the lines that depend on chance.
///
/// On a busy machine it gives up on removing a cgroup whose last process the kernel is still ending, and meets that
/// cgroup again at the next create. Below systemd it looks for processes in a cgroup that is mostly gone with its last
/// one, and misses devices whose modules nobody has loaded yet.
fn without_chance(text: &str) -> String {
    const CHANCES: [&str; 6] = [
        "device or resource busy",
        "level=error msg=\"Failed to remove paths: map[",
        "container's cgroup is not empty",
        "in a non-empty cgroup",
        "level=warning msg=\"freezer not supported: openat2 /sys/fs/cgroup/CGROUP/cgroup.freeze: no such file or directory\"",
        "level=warning msg=\"lstat /sys/fs/cgroup/CGROUP: no such file or directory\"",
    ];
    let skips_a_device =
        |line: &str| line.contains("msg=\"skipping device /dev/") && line.contains(" for systemd: stat ");
    let by_chance = |line: &&str| CHANCES.iter().any(|chance| line.contains(chance)) || skips_a_device(line);
    text.split_inclusive('\n').filter(|line| !by_chance(line)).collect()
}

/// Both texts from a little before where they part, and no more than a few lines of each.
fn excerpts(one: &str, other: &str) -> (String, String) {
    const BEFORE: usize = 60;
    const LONGEST: usize = 300;
    let common = one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count();
    let cut = |text: &str| -> String {
        let skipped = if text.chars().count() <= LONGEST { 0 } else { common.saturating_sub(BEFORE) };
        let part: String = text.chars().skip(skipped).take(LONGEST).collect();
        let mark = |is: bool| if is { "..." } else { "" };
        format!("{}{part}{}", mark(skipped > 0), mark(text.chars().count() > skipped + LONGEST))
    };
    (cut(one), cut(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_may_follow_runcs_words_in_each_line() {
        assert!(continues("msg=\"none: web (--root /run)\"\n", "msg=\"none\"\n"));
        assert!(continues("{\"msg\":\"none: web\",\"time\":\"T\"}\n", "{\"msg\":\"none\",\"time\":\"T\"}\n"));
        assert!(!continues("{\"msg\":\"none: web\",\"time\":\"U\"}\n", "{\"msg\":\"none\",\"time\":\"T\"}\n"));
        assert!(continues("a\nb: c\n", "a\nb\n"));
        for other in ["msg=\"no: none\"\n", "msg=\"none, web\"\n", "msg=\"none\"\nmore\n", "msg=\"non\"\n"] {
            assert!(!continues(other, "msg=\"none\"\n"), "{other}");
        }
    }

    #[test]
    fn what_runc_says_by_chance_is_left_out_by_the_line() {
        let busy = "msg=\"rmdir /sys/fs/cgroup/x: device or resource busy\"\n";
        assert_eq!(without_chance(&format!("one\n{busy}two")), "one\ntwo");
        let device =
            "level=warning msg=\"skipping device /dev/char/10:200 for systemd: stat /sys/dev/char/10:200: none\"\n";
        assert_eq!(without_chance(&format!("{device}one\n")), "one\n");
        let paths = "time=\"TIME\" level=error msg=\"Failed to remove paths: map[cpu:/sys/fs/cgroup/cpu/CGROUP]\"\n";
        assert_eq!(without_chance(&format!("{paths}one\n")), "one\n");
        assert_eq!(without_chance("one\ntwo\n"), "one\ntwo\n");
        assert!(makes_or_removes_a_cgroup("--debug delete --force {id}"));
        assert!(!makes_or_removes_a_cgroup("kill {id} KILL"));
    }

    #[test]
    fn long_texts_are_shown_where_they_part() {
        assert_eq!(excerpts("a", "b"), ("a".into(), "b".into()));
        let (one, other) = excerpts(&("x".repeat(1000) + "one"), &("x".repeat(1000) + "two"));
        assert!(one.ends_with("xone") && other.ends_with("xtwo") && one.len() < 100, "{one}");
    }
}
