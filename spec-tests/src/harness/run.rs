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
use super::sandbox::Sandbox;
use super::{Case, Fixture, Report, Verdict, command, watch};

/// The options of a run: its cases, and the runtime under test.
#[derive(Clone, Debug)]
pub struct Options {
    /// The runtime under test.
    pub runtime: PathBuf,
    /// The static probe.
    pub probe: PathBuf,
    /// `--systemd-cgroup`.
    pub systemd: bool,
    /// Only cases whose name or section contains one of these; all cases when empty.
    pub only: Vec<String>,
    /// Only cases whose name is a line of this file.
    pub cases: Option<PathBuf>,
    /// The number of worker processes.
    pub workers: usize,
    /// The number of this worker process, which reads the indices of its cases from stdin, one a line.
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
                bail!("{}: no case has the name {name:?}; --list prints the names", path.display());
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

/// Runs the cases. Passes each report to `report_to` as soon as its case is done, and returns all in the order of the
/// cases.
///
/// # Errors
/// When there is no such case, or a worker fails.
pub fn run(
    options: &Options,
    cases: &'static [&'static [Case]],
    mut report_to: impl FnMut(&Report),
) -> anyhow::Result<Vec<Report>> {
    let chosen = options.chosen(cases)?;
    if chosen.is_empty() {
        bail!("no case is selected: no name or section contains {:?}, or the list is empty", options.only);
    }
    if let Some(number) = options.worker {
        work(options, number, &chosen, &mut report_to)?;
        return Ok(Vec::new());
    }
    let (sender, receiver) = mpsc::channel();
    // Each worker takes the next case when it is done with one, so that none is idle while another runs a slow case.
    let next = Arc::new(Mutex::new(0..chosen.len()));
    let workers: Vec<_> = (0..options.workers)
        .map(|number| {
            let (sender, options, next) = (sender.clone(), options.clone(), Arc::clone(&next));
            std::thread::spawn(move || drive_worker(&options, number, &next, &sender))
        })
        .collect();
    drop(sender);
    let mut reports = Vec::new();
    for report in receiver {
        report_to(&report);
        reports.push(report);
    }
    for worker in workers {
        worker.join().map_err(|_| anyhow::anyhow!("a worker's thread panicked"))??;
    }
    if reports.len() != chosen.len() {
        bail!("expected reports of {} cases, found {}", chosen.len(), reports.len());
    }
    let place = |report: &Report| chosen.iter().position(|case| case.name == report.case);
    reports.sort_by_key(place);
    Ok(reports)
}

/// Starts a worker, sends it one case after the other, and passes on its reports.
fn drive_worker(
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
    let mut requests = child.stdin.take().context("a worker has a stdin")?;
    let mut reports = BufReader::new(child.stdout.take().context("a worker has a stdout")?).lines();
    let take = || next.lock().unwrap_or_else(PoisonError::into_inner).next();
    while let Some(place) = take() {
        // The status of a worker that has exited says more than a broken pipe.
        let Ok(()) = writeln!(requests, "{place}") else { break };
        let Some(line) = reports.next() else { break };
        sender.send(serde_json::from_str(&line?).context("a worker's line")?)?;
    }
    drop(requests);
    let status = child.wait()?;
    if !status.success() {
        bail!("worker {number} exited with {status}");
    }
    Ok(())
}

/// The worker process: runs the requested cases, one after the other.
fn work(options: &Options, number: usize, cases: &[Case], report_to: &mut impl FnMut(&Report)) -> anyhow::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    let requests = own_stdin()?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let sandbox = Sandbox::enter(&[&options.runtime, options.probe.parent().context("the probe is in a directory")?])?;
    let directory = temporary_directory("brig-spec-")?;
    let devices = own_null(directory.path())?;
    // The supervisor is this process's parent, and finds its cgroups by this name.
    let name = format!("{}-{number}", getppid());
    let fixture = Fixture::new(options.clone(), directory.path().to_owned(), &name)?;
    first_container(&fixture)?;
    for place in BufReader::new(requests).lines() {
        let place: usize = place?.parse().context("a case's place")?;
        report_to(&run_case(cases.get(place).context("a case's place")?, &fixture, &sandbox));
    }
    umount2("/dev/null", MntFlags::MNT_DETACH)?;
    umount2(&devices, MntFlags::MNT_DETACH)?;
    directory.close().context("the worker's directory")
}

/// Runs a container without a verdict. A runtime may create things with its first container that it keeps as long as the
/// host is up; no case must be blamed for them. A failure here repeats in the cases.
fn first_container(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "exit", "0"]);
    let _ = fixture.run(&bundle);
    fixture.clean_up()?;
    fixture.sweep()
}

/// A new directory in the sandbox. Its mode lets users of a container's user namespace reach their root file system.
pub(super) fn temporary_directory(prefix: &str) -> anyhow::Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::Builder::new().prefix(prefix).tempdir_in("/tmp")?;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711))?;
    Ok(directory)
}

/// Replaces standard input by /dev/null and returns its file: no process of a case may read the requests.
fn own_stdin() -> anyhow::Result<File> {
    let stdin = std::io::stdin();
    let requests = stdin.as_fd().try_clone_to_owned()?;
    nix::unistd::dup2(File::open("/dev/null")?.as_raw_fd(), stdin.as_raw_fd())?;
    Ok(requests.into())
}

/// Covers /dev/null by another device node, and returns the mount point that has it: some runtimes change the owner of a
/// container's standard streams, and must not change the host's device node.
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

fn run_case(case: &Case, fixture: &Fixture, sandbox: &Sandbox) -> Report {
    let begin = Instant::now();
    let verdict = match case.lacks(fixture.host()) {
        Some(what) => Verdict::Absent(what),
        None => {
            verdict(case, fixture, sandbox).unwrap_or_else(|error| Verdict::Failed(format!("the harness: {error:#}")))
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

fn verdict(case: &Case, fixture: &Fixture, sandbox: &Sandbox) -> anyhow::Result<Verdict> {
    let baseline = Baseline::take(fixture, sandbox)?;
    // A case is a few commands and waits, each with a deadline of its own.
    let limit = command::deadline() * 5;
    let (outcome, late) = watch::within(limit, || catch_unwind(AssertUnwindSafe(|| (case.run)(fixture))));
    let mut faults = match outcome {
        Ok(Ok(())) => Vec::new(),
        Ok(Err(error)) => vec![format!("{error:#}")],
        Err(_) => vec!["the case panicked".to_owned()],
    };
    faults.extend(late.then(|| format!("timeout after {} s: its processes were killed", limit.as_secs())));
    // The clean-up must continue even when the runtime cannot be started any more.
    faults.extend(fixture.clean_up().unwrap_or_else(|error| vec![format!("the harness: {error:#}")]));
    faults.extend(baseline.leaks(fixture)?.into_iter().map(|leak| format!("left behind: {leak}")));
    fixture.sweep()?;
    Ok(match faults.is_empty() {
        true => Verdict::Passed,
        false => Verdict::Failed(faults.join("\n")),
    })
}

/// Writes a report as a line of JSON to stdout, where a worker's parent reads it.
///
/// # Errors
/// When stdout is closed.
pub fn write_as_json(report: &Report) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, report)?;
    Ok(writeln!(out)?)
}
