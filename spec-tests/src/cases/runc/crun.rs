//! crun's options that are worth having beside runc's.

use std::fs;
use std::process::Stdio;

use anyhow::ensure;

use crate::harness::{Case, Fixture, Level};

const fn case(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, "crun: options", Level::Runc, run)
}

/// None of them is runc's.
pub const CASES: &[Case] = &[
    case("create and run take a configuration from elsewhere", config),
    case("kill and delete take a regular expression", regex),
    case("a cgroup manager is chosen by name", manager),
    case("without a cgroup manager no cgroup is made", no_cgroup),
];

fn config(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let place = bundle.path().to_string_lossy().into_owned();
    bundle.args(&["/probe", "exit", "5"]).write()?;
    fs::rename(bundle.path().join("config.json"), bundle.path().join("other.json"))?;
    for config in [format!("{place}/other.json"), "other.json".to_owned()] {
        for flag in ["-f", "--config"] {
            let mut command = fixture.command(&["run", flag, &config, "--bundle", &place, &fixture.id()]);
            // Ours is the line to the reports.
            command.current_dir(bundle.path()).stdout(Stdio::null()).stderr(Stdio::null());
            let status = command.status()?;
            ensure!(status.code() == Some(5), "run {flag} {config}: expected its program's 5, found {status}");
        }
    }
    let id = fixture.id();
    fixture.call(&["create", "--config", &format!("{place}/other.json"), "-b", &place, &id])?.ok()?;
    fixture.call(&["delete", "-f", &id])?.ok()?;
    fixture.call(&["create", "--config", &format!("{place}/none.json"), "-b", &place, &id])?.refused()?;
    Ok(())
}

fn regex(fixture: &Fixture) -> anyhow::Result<()> {
    let containers = [
        fixture.start(&mut fixture.bundle()?)?,
        fixture.start(&mut fixture.bundle()?)?,
        fixture.start(&mut fixture.bundle()?)?,
    ];
    let pattern = format!("^({}|{})$", containers[0].id(), containers[2].id());
    fixture.call(&["delete", "--regex", &pattern])?.refused()?;
    fixture.call(&["kill", "--regex", &pattern, "KILL"])?.ok()?;
    for container in [&containers[0], &containers[2]] {
        let code = container.wait()?;
        ensure!(code == 137, "{}: expected 137 after KILL, found {code}", container.id());
    }
    let status = containers[1].status()?;
    ensure!(status == "running", "{} is not matched by {pattern}, but it is {status}", containers[1].id());
    fixture.call(&["delete", "--regex", &pattern])?.ok()?;
    let left = fixture.call(&["list", "-q"])?.ok()?.stdout;
    ensure!(left.trim() == containers[1].id(), "expected {} to be left, found {left:?}", containers[1].id());
    fixture.call(&["delete", "-f", "--regex", containers[1].id()])?.ok()?;
    fixture.call(&["delete", "--regex", "a("])?.refused().map(drop)
}

fn manager(fixture: &Fixture) -> anyhow::Result<()> {
    let bundle = fixture.bundle()?;
    bundle.write()?;
    let place = bundle.path().to_string_lossy().into_owned();
    if !fixture.systemd() {
        fixture.call(&["--cgroup-manager", "cgroupfs", "run", "-b", &place, &fixture.id()])?.ok()?;
        fixture.call(&["--cgroup-manager=cgroupfs", "run", "-b", &place, &fixture.id()])?.ok()?;
    }
    fixture.call(&["--cgroup-manager", "bogus", "run", "-b", &place, &fixture.id()])?.refused().map(drop)
}

fn no_cgroup(fixture: &Fixture) -> anyhow::Result<()> {
    let bundle = fixture.bundle()?;
    bundle.write()?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let place = bundle.path().to_string_lossy().into_owned();
    let done = fixture.call(&["--cgroup-manager", "disabled", "run", "-b", &place, &fixture.id()])?.ok()?;
    let facts = crate::facts::Facts::parse(&done.stdout)?;
    let own: Vec<&str> = own.lines().collect();
    ensure!(facts.cgroups == own, "expected the caller's cgroups {own:?}, found {:?}", facts.cgroups);
    Ok(())
}
