//! `spec-tests --runtime PATH [OPTION...]`: tests a runtime against the runtime specification, on this machine. The last
//! line is `spec: N passed, N failed`, and the exit status says the same.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use brig_spec_tests::{ALL, Host, Options, Report, Verdict, delay_exit, run, set_deadline, supervise, write_as_json};
use lexopt::{Arg, ValueExt};

const HELP: &str = "\
spec-tests --runtime PATH [OPTION...]: tests an OCI runtime against the runtime specification, on this machine, as root

  --runtime PATH   the runtime under test (or RUNTIME in the environment)
  --only WORDS     only cases whose name or section contains the words; may be repeated
  --cases FILE     only cases whose name is a line of the file
  --systemd        use systemd's cgroup driver (--systemd-cgroup)
  --workers N      the number of worker processes (default: the number of CPUs)
  --probe PATH     the static program that runs in containers (default: beside this program)
  --deadline S     timeout in seconds of a command of the runtime, and of a wait (default: 60)
  --json FILE      writes the reports to FILE, as a JSON array
  --list           prints the cases as JSON, with what this machine lacks for each, and runs none";

fn main() -> anyhow::Result<ExitCode> {
    let Some((options, json)) = arguments()? else { return Ok(ExitCode::SUCCESS) };
    if options.worker.is_some() {
        let mut broken = None;
        run(&options, ALL, |report| broken = write_as_json(report).err())?;
        return broken.map_or(Ok(ExitCode::SUCCESS), Err);
    }
    if let Some(status) = supervise()? {
        return Ok(status);
    }
    let outcome = run(&options, ALL, show);
    let _end = delay_exit();
    let reports = outcome?;
    if let Some(path) = json {
        std::fs::write(&path, serde_json::to_vec_pretty(&reports)?).with_context(|| path.display().to_string())?;
    }
    let count = |wanted: fn(&Verdict) -> bool| reports.iter().filter(|report| wanted(&report.verdict)).count();
    let absent = count(|verdict| matches!(verdict, Verdict::Absent(_)));
    let (passed, failed) =
        (count(|verdict| *verdict == Verdict::Passed), count(|verdict| matches!(verdict, Verdict::Failed(_))));
    println!("{absent} cases need what this machine lacks");
    println!("spec: {passed} passed, {failed} failed");
    Ok(ExitCode::from(u8::from(failed > 0 || passed == 0)))
}

fn show(report: &Report) {
    let line = match &report.verdict {
        Verdict::Passed => format!("ok   {} [{}] ({} ms)", report.case, report.section, report.milliseconds),
        Verdict::Failed(why) => format!("FAIL {} [{}]\n  {}", report.case, report.section, why.replace('\n', "\n  ")),
        Verdict::Absent(what) => format!("     {} [{}]: this machine lacks {what}", report.case, report.section),
    };
    // A caller that closed stdout still gets the exit status.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// The options and the file of --json; `None` after --list or --help.
fn arguments() -> anyhow::Result<Option<(Options, Option<PathBuf>)>> {
    let mut runtime = std::env::var_os("RUNTIME").map(PathBuf::from);
    let beside = std::env::current_exe()?.with_file_name("probe");
    let workers = std::thread::available_parallelism().map_or(1, Into::into);
    let mut options = Options {
        runtime: PathBuf::new(),
        probe: beside,
        systemd: false,
        only: Vec::new(),
        cases: None,
        workers,
        worker: None,
    };
    let mut json = None;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("runtime") => runtime = Some(parser.value()?.into()),
            Arg::Long("only") => options.only.push(parser.value()?.string()?),
            Arg::Long("cases") => options.cases = Some(parser.value()?.into()),
            Arg::Long("deadline") => set_deadline(Duration::from_secs(parser.value()?.parse()?))?,
            Arg::Long("systemd") => options.systemd = true,
            Arg::Long("workers") => options.workers = parser.value()?.parse()?,
            Arg::Long("worker") => options.worker = Some(parser.value()?.parse()?),
            Arg::Long("probe") => options.probe = parser.value()?.into(),
            Arg::Long("json") => json = Some(parser.value()?.into()),
            Arg::Long("list") => {
                list()?;
                return Ok(None);
            }
            Arg::Long("help") | Arg::Short('h') => {
                println!("{HELP}");
                return Ok(None);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    options.runtime = runtime.context("which runtime? --runtime PATH, or RUNTIME in the environment")?;
    options.runtime = std::fs::canonicalize(&options.runtime)
        .with_context(|| format!("{} is not there", options.runtime.display()))?;
    anyhow::ensure!(options.probe.is_file(), "the probe is not at {}; --probe names another", options.probe.display());
    Ok(Some((options, json)))
}

fn list() -> anyhow::Result<()> {
    let host = Host::find()?;
    let entries: Vec<_> = ALL
        .iter()
        .copied()
        .flatten()
        .map(|case| {
            let lacks = case.lacks(&host);
            serde_json::json!({ "case": case.name, "section": case.section, "level": case.level, "lacks": lacks })
        })
        .collect();
    println!("{}", serde_json::to_string_pretty(&entries)?);
    Ok(())
}
