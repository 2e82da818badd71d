//! A run: every case against one runtime on this machine, by a few workers.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use anyhow::{Context, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::getppid;

use super::leaks::Baseline;
use super::shelter::Shelter;
use super::{Case, Ground, Report, Verdict, command, watch};

/// The options of a run: its cases, and the runtime under test.
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
    /// This process is a worker, of this number: it does the cases whose places it reads from its stdin, one a line.
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
    // Who is done with a case takes the next, so that nobody idles while another waits for something slow.
    let next = Arc::new(Mutex::new(0..chosen.len()));
    let workers: Vec<_> = (0..options.workers)
        .map(|number| {
            let (sender, options, next) = (sender.clone(), options.clone(), Arc::clone(&next));
            std::thread::spawn(move || attend(&options, number, &next, &sender))
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

/// Starts a worker, hands it case after case, and passes on what it reports.
fn attend(
    options: &Options,
    number: usize,
    next: &Mutex<Range<usize>>,
    sender: &mpsc::Sender<Report>,
) -> anyhow::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--runtime").arg(&options.runtime).arg("--probe").arg(&options.probe);
    command.args(["--worker", &number.to_string()]);
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
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("a worker")?;
    let mut orders = child.stdin.take().context("a worker has a stdin")?;
    let mut reports = BufReader::new(child.stdout.take().context("a worker has a stdout")?).lines();
    let take = || next.lock().unwrap_or_else(PoisonError::into_inner).next();
    while let Some(place) = take() {
        // A worker that has died says more by its status than by a broken pipe.
        let Ok(()) = writeln!(orders, "{place}") else { break };
        let Some(line) = reports.next() else { break };
        sender.send(serde_json::from_str(&line?).context("a worker's line")?)?;
    }
    drop(orders);
    let status = child.wait()?;
    if !status.success() {
        bail!("worker {number} ended with {status}");
    }
    Ok(())
}

/// The worker itself: the cases that it is told to do, one after the other.
fn work(options: &Options, number: usize, cases: &[Case], tell: &mut impl FnMut(&Report)) -> anyhow::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    let orders = own_stdin()?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let shelter = Shelter::take(&[&options.runtime, options.probe.parent().context("the probe is in a directory")?])?;
    let directory = place("brig-spec-")?;
    let devices = own_null(directory.path())?;
    // The keeper is our parent; it finds our cgroups by this.
    let name = format!("{}-{number}", getppid());
    let ground = Ground::new(options.clone(), directory.path().to_owned(), &name)?;
    first_container(&ground)?;
    for place in BufReader::new(orders).lines() {
        let place: usize = place?.parse().context("a case's place")?;
        tell(&judge(cases.get(place).context("a case's place")?, &ground, &shelter));
    }
    umount2("/dev/null", MntFlags::MNT_DETACH)?;
    umount2(&devices, MntFlags::MNT_DETACH)?;
    directory.close().context("the worker's directory")
}

/// Runs a container that is judged by nobody. What a runtime makes with the first one for all that follow, and keeps as
/// long as the host is up, is then there before any case, and none is blamed for it. What fails here fails in the cases
/// too.
fn first_container(ground: &Ground) -> anyhow::Result<()> {
    let mut bundle = ground.bundle()?;
    bundle.args(&["/probe", "exit", "0"]);
    let _ = ground.run(&bundle);
    ground.clean_up()?;
    ground.sweep()
}

/// A new directory in the shelter. Users of a container's user namespace have to get through it to their root file
/// system.
pub(super) fn place(prefix: &str) -> anyhow::Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::Builder::new().prefix(prefix).tempdir_in("/tmp")?;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711))?;
    Ok(directory)
}

/// Takes the file of standard input, and puts /dev/null there: no process of a case may read the orders.
fn own_stdin() -> anyhow::Result<File> {
    let stdin = std::io::stdin();
    let orders = stdin.as_fd().try_clone_to_owned()?;
    nix::unistd::dup2(File::open("/dev/null")?.as_raw_fd(), stdin.as_raw_fd())?;
    Ok(orders.into())
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
        None => {
            verdict(case, ground, shelter).unwrap_or_else(|error| Verdict::Failed(format!("the harness: {error:#}")))
        }
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
    // What it left has to go even when the runtime cannot be started any more.
    faults.extend(ground.clean_up().unwrap_or_else(|error| vec![format!("the harness: {error:#}")]));
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
