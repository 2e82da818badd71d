//! crun's options that are worth having beside runc's.

use std::fs;
use std::process::Stdio;

use anyhow::ensure;

use crate::harness::{Case, Ground, Level};

const fn case(name: &'static str, run: fn(&Ground) -> anyhow::Result<()>) -> Case {
    Case::new(name, "crun: options", Level::Runc, run)
}

/// None of them is runc's.
pub const CASES: &[Case] = &[
    case("create and run take a configuration from elsewhere", config),
    case("kill and delete take a regular expression", regex),
    case("a cgroup manager is chosen by name", manager),
    case("without a cgroup manager no cgroup is made", no_cgroup),
];

fn config(ground: &Ground) -> anyhow::Result<()> {
    let mut bundle = ground.bundle()?;
    let place = bundle.path().to_string_lossy().into_owned();
    bundle.args(&["/probe", "exit", "5"]).write()?;
    fs::rename(bundle.path().join("config.json"), bundle.path().join("other.json"))?;
    for config in [format!("{place}/other.json"), "other.json".to_owned()] {
        for flag in ["-f", "--config"] {
            let mut command = ground.command(&["run", flag, &config, "--bundle", &place, &ground.id()]);
            // Ours is the line to the reports.
            command.current_dir(bundle.path()).stdout(Stdio::null()).stderr(Stdio::null());
            let status = command.status()?;
            ensure!(status.code() == Some(5), "run {flag} {config}: expected its program's 5, found {status}");
        }
    }
    let id = ground.id();
    ground.call(&["create", "--config", &format!("{place}/other.json"), "-b", &place, &id])?.ok()?;
    ground.call(&["delete", "-f", &id])?.ok()?;
    ground.call(&["create", "--config", &format!("{place}/none.json"), "-b", &place, &id])?.refused()?;
    Ok(())
}

fn regex(ground: &Ground) -> anyhow::Result<()> {
    let containers = [
        ground.start(&mut ground.bundle()?)?,
        ground.start(&mut ground.bundle()?)?,
        ground.start(&mut ground.bundle()?)?,
    ];
    let pattern = format!("^({}|{})$", containers[0].id(), containers[2].id());
    ground.call(&["delete", "--regex", &pattern])?.refused()?;
    ground.call(&["kill", "--regex", &pattern, "KILL"])?.ok()?;
    for container in [&containers[0], &containers[2]] {
        let code = container.wait()?;
        ensure!(code == 137, "{}: expected 137 after KILL, found {code}", container.id());
    }
    let status = containers[1].status()?;
    ensure!(status == "running", "{} is not matched by {pattern}, but it is {status}", containers[1].id());
    ground.call(&["delete", "--regex", &pattern])?.ok()?;
    let left = ground.call(&["list", "-q"])?.ok()?.stdout;
    ensure!(left.trim() == containers[1].id(), "expected {} to be left, found {left:?}", containers[1].id());
    ground.call(&["delete", "-f", "--regex", containers[1].id()])?.ok()?;
    ground.call(&["delete", "--regex", "a("])?.refused().map(drop)
}

fn manager(ground: &Ground) -> anyhow::Result<()> {
    let bundle = ground.bundle()?;
    bundle.write()?;
    let place = bundle.path().to_string_lossy().into_owned();
    if !ground.systemd() {
        ground.call(&["--cgroup-manager", "cgroupfs", "run", "-b", &place, &ground.id()])?.ok()?;
        ground.call(&["--cgroup-manager=cgroupfs", "run", "-b", &place, &ground.id()])?.ok()?;
    }
    ground.call(&["--cgroup-manager", "bogus", "run", "-b", &place, &ground.id()])?.refused().map(drop)
}

fn no_cgroup(ground: &Ground) -> anyhow::Result<()> {
    let bundle = ground.bundle()?;
    bundle.write()?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let place = bundle.path().to_string_lossy().into_owned();
    let done = ground.call(&["--cgroup-manager", "disabled", "run", "-b", &place, &ground.id()])?.ok()?;
    let facts = crate::facts::Facts::parse(&done.stdout)?;
    let own: Vec<&str> = own.lines().collect();
    ensure!(facts.cgroups == own, "expected the caller's cgroups {own:?}, found {:?}", facts.cgroups);
    Ok(())
}
