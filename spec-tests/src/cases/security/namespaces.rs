//! A namespace that is given by path may be the host's own, and has many paths.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::json;

use crate::harness::{Case, Fixture, HostMount, Level};

const fn case(name: &'static str, section: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, section, Level::Security, run)
}

/// In the order of data/requirements.
pub const CASES: &[Case] = &[
    case("a sysctl of the host's network namespace is refused by each of its paths", "paths of namespaces", network),
    case("a sysctl of the host's IPC namespace is refused by each of its paths", "paths of namespaces", ipc),
    case("names of the host's UTS namespace are refused by each of its paths", "paths of namespaces", uts),
    case("a container that joins its caller's own namespaces by path runs in them", "paths of namespaces", own),
];

/// Paths of the caller's own namespace of a kind, by its name in /proc/PID/ns. The mount is one of them while it is
/// held.
fn paths(fixture: &Fixture, name: &str) -> anyhow::Result<(Vec<PathBuf>, HostMount)> {
    let own = PathBuf::from(format!("/proc/{}/ns/{name}", std::process::id()));
    let (link, bound) =
        (fixture.directory().join(format!("link-{name}")), fixture.directory().join(format!("bound-{name}")));
    symlink(&own, &link)?;
    fs::write(&bound, "")?;
    let mount = HostMount::bind(&own, bound.clone())?;
    let plain = ["/proc/self/ns/", "/proc/thread-self/ns/", "/proc//self/./ns/"]
        .map(|path| PathBuf::from(format!("{path}{name}")));
    Ok((plain.into_iter().chain([own, link, bound]).collect(), mount))
}

/// Each is set to the value that it has, so that a runtime that fails here changes nothing.
fn sysctl_is_refused(fixture: &Fixture, kind: &str, name: &str, sysctl: &str) -> anyhow::Result<()> {
    let file = Path::new("/proc/sys").join(sysctl.replace('.', "/"));
    let value = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let (paths, _mount) = paths(fixture, name)?;
    for path in paths {
        let mut bundle = fixture.bundle()?;
        bundle.namespace(kind, Some(&path.to_string_lossy())).remove("/hostname");
        bundle.set("/linux/sysctl", json!({ sysctl: value.trim() }));
        fixture.refused(&bundle).with_context(|| format!("{kind} namespace {}, {sysctl}", path.display()))?;
    }
    Ok(())
}

fn network(fixture: &Fixture) -> anyhow::Result<()> {
    sysctl_is_refused(fixture, "network", "net", "net.core.somaxconn")
}

fn ipc(fixture: &Fixture) -> anyhow::Result<()> {
    for sysctl in ["kernel.shmmni", "fs.mqueue.queues_max"] {
        sysctl_is_refused(fixture, "ipc", "ipc", sysctl)?;
        fs::remove_file(fixture.directory().join("link-ipc"))?;
    }
    Ok(())
}

fn uts(fixture: &Fixture) -> anyhow::Result<()> {
    sysctl_is_refused(fixture, "uts", "uts", "kernel.domainname")?;
    let host = rustix::system::uname();
    let names = [("/hostname", host.nodename()), ("/domainname", host.domainname())];
    for (pointer, name) in names {
        for path in
            [format!("/proc/{}/ns/uts", std::process::id()), fixture.directory().join("link-uts").display().to_string()]
        {
            let mut bundle = fixture.bundle()?;
            bundle.namespace("uts", Some(&path)).remove("/hostname").set(pointer, json!(name.to_string_lossy()));
            fixture.refused(&bundle).with_context(|| format!("UTS namespace {path}, {pointer}"))?;
        }
    }
    Ok(())
}

fn own(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.remove("/hostname");
    let kinds = [("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
    for (kind, name) in kinds {
        bundle.namespace(kind, Some(&format!("/proc/{}/ns/{name}", std::process::id())));
    }
    let container = fixture.start(&mut bundle)?;
    for (kind, name) in kinds {
        let expected = fs::read_link(format!("/proc/self/ns/{name}"))?;
        let found = container.exec_facts(&[])?.namespaces.get(name).cloned().unwrap_or_default();
        ensure!(Path::new(&found) == expected, "{kind} namespace: expected {}, found {found}", expected.display());
    }
    Ok(())
}
