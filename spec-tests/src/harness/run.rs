//! A run: every case against one runtime on this machine, by a few workers.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::getppid;

use super::leaks::Baseline;
use super::shelter::Shelter;
use super::{Case, Ground, Report, Verdict, command, watch};

/// What to run, and against what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The runtime under test.
    pub runtime: PathBuf,
    /// The static probe.
    pub probe: PathBuf,
    /// `--systemd-cgroup`.
    pub systemd: bool,
    /// Only cases whose name or section holds one of these; all when there are none.
    pub only: Vec<String>,
    /// Only cases whose name stands in this file, one a line.
    pub cases: Option<PathBuf>,
    /// How many processes share the cases.
    pub workers: usize,
    /// This process is worker K of `workers`.
    pub worker: Option<usize>,
}

impl Options {
    fn chosen(&self, cases: &'static [&'static [Case]]) -> anyhow::Result<Vec<Case>> {
        let all = || cases.iter().copied().flatten().copied();
        let mut listed = None;
        if let Some(path) = &self.cases {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let names: BTreeSet<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
            if let Some(name) = names.iter().find(|name| !all().any(|case| case.name == **name)) {
                bail!("{}: no case is called {name:?}; --list prints their names", path.display());
            }
            listed = Some(names);
        }
        let wanted = |case: &Case| {
            self.only.is_empty() || self.only.iter().any(|word| case.name.contains(word) || case.section.contains(word))
        };
        let is_listed = |case: &Case| listed.as_ref().is_none_or(|names| names.contains(case.name));
        Ok(all().filter(|case| wanted(case) && is_listed(case)).collect())
    }
}

/// Runs the cases; each report goes to `tell` as soon as it is there. Returns them in the order of the cases.
///
/// # Errors
/// When there is no such case, or a worker dies.
pub fn run(
    options: &Options,
    cases: &'static [&'static [Case]],
    mut tell: impl FnMut(&Report),
) -> anyhow::Result<Vec<Report>> {
    let chosen = options.chosen(cases)?;
    if chosen.is_empty() {
        bail!("no case was chosen: none holds {:?} in its name or section, or the list is empty", options.only);
    }
    if let Some(number) = options.worker {
        work(options, number, &chosen, &mut tell)?;
        return Ok(Vec::new());
    }
    let (sender, receiver) = mpsc::channel();
    let workers: Vec<_> = (0..options.workers)
        .map(|number| {
            let sender = sender.clone();
            let options = options.clone();
            std::thread::spawn(move || attend(&options, number, &sender))
        })
        .collect();
    drop(sender);
    let mut reports = Vec::new();
    for report in receiver {
        tell(&report);
        reports.push(report);
    }
    for worker in workers {
        worker.join().map_err(|_| anyhow::anyhow!("a worker's thread panicked"))??;
    }
    if reports.len() != chosen.len() {
        bail!("{} cases were to run, and {} did", chosen.len(), reports.len());
    }
    let place = |report: &Report| chosen.iter().position(|case| case.name == report.case);
    reports.sort_by_key(place);
    Ok(reports)
}

/// Starts a worker, and passes on what it reports.
fn attend(options: &Options, number: usize, sender: &mpsc::Sender<Report>) -> anyhow::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--runtime").arg(&options.runtime).arg("--probe").arg(&options.probe);
    command.args(["--workers", &options.workers.to_string(), "--worker", &number.to_string()]);
    if options.systemd {
        command.arg("--systemd");
    }
    for word in &options.only {
        command.args(["--only", word]);
    }
    if let Some(path) = &options.cases {
        command.arg("--cases").arg(path);
    }
    command.args(["--deadline", &command::deadline().as_secs().to_string()]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("a worker")?;
    let out = child.stdout.take().context("a worker has a stdout")?;
    for line in BufReader::new(out).lines() {
        sender.send(serde_json::from_str(&line?).context("a worker's line")?)?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("worker {number} ended with {status}");
    }
    Ok(())
}

/// The worker itself: its share of the cases, one after the other.
fn work(options: &Options, number: usize, cases: &[Case], tell: &mut impl FnMut(&Report)) -> anyhow::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let shelter = Shelter::take(&[&options.runtime, options.probe.parent().context("the probe is in a directory")?])?;
    let directory = place("brig-spec-")?;
    let devices = own_null(directory.path())?;
    // The keeper is our parent; it finds our cgroups by this.
    let name = format!("{}-{number}", getppid());
    let ground = Ground::new(options.clone(), directory.path().to_owned(), &name)?;
    for case in cases.iter().skip(number).step_by(options.workers) {
        tell(&judge(case, &ground, &shelter));
    }
    umount2("/dev/null", MntFlags::MNT_DETACH)?;
    umount2(&devices, MntFlags::MNT_DETACH)?;
    directory.close().context("the worker's directory")
}

/// A new directory in the shelter. Users of a container's user namespace have to get through it to their root file system.
pub(super) fn place(prefix: &str) -> anyhow::Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::Builder::new().prefix(prefix).tempdir_in("/tmp")?;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711))?;
    Ok(directory)
}

/// Covers /dev/null by a device of our own, and gives back the mount point that holds it: some runtimes hand the owner
/// of a container's standard streams to its user, and the host's must not become somebody's.
fn own_null(place: &std::path::Path) -> anyhow::Result<PathBuf> {
    let devices = place.join("dev");
    std::fs::create_dir(&devices)?;
    mount(Some("spec"), &devices, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    let null = devices.join("null");
    mknod(&null, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3))?;
    std::fs::set_permissions(&null, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    mount(Some(&null), "/dev/null", None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(devices)
}

fn judge(case: &Case, ground: &Ground, shelter: &Shelter) -> Report {
    let begin = Instant::now();
    let verdict = match case.lacks(ground.host()) {
        Some(what) => Verdict::Absent(what),
        None => verdict(case, ground, shelter).unwrap_or_else(|error| Verdict::Failed(format!("the harness: {error:#}"))),
    };
    Report {
        case: case.name.to_owned(),
        section: case.section.to_owned(),
        level: case.level,
        verdict,
        milliseconds: begin.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
    }
}

fn verdict(case: &Case, ground: &Ground, shelter: &Shelter) -> anyhow::Result<Verdict> {
    let baseline = Baseline::take(ground, shelter)?;
    // A case is a few commands and waits, each with a deadline of its own.
    let limit = command::deadline() * 5;
    let (outcome, late) = watch::within(limit, || catch_unwind(AssertUnwindSafe(|| (case.run)(ground))));
    let mut faults = match outcome {
        Ok(Ok(())) => Vec::new(),
        Ok(Err(error)) => vec![format!("{error:#}")],
        Err(_) => vec!["the case panicked".to_owned()],
    };
    faults.extend(late.then(|| format!("it was not done after {} s: its processes were killed", limit.as_secs())));
    faults.extend(ground.clean_up()?);
    faults.extend(baseline.leaks(ground)?.into_iter().map(|leak| format!("left behind: {leak}")));
    ground.sweep()?;
    Ok(match faults.is_empty() {
        true => Verdict::Passed,
        false => Verdict::Failed(faults.join("\n")),
    })
}

/// Writes a report as a line of JSON, as a worker does for its parent.
///
/// # Errors
/// When stdout is gone.
pub fn tell_as_json(report: &Report) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, report)?;
    Ok(writeln!(out)?)
}
