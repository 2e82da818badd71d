//! Extended attributes and ACLs of the host's device nodes: no process in a container can set them.
//!
//! The host's nodes are nodes of the case's own here, which cover /dev: setxattr(2) would change those of the host.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, ensure};
use nix::mount::MsFlags;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::host_nodes::{DEVICES, create_without_mknod, privileged, without_devices};
use super::{add_capability, unless_refused};
use crate::harness::{Bundle, Case, Container, Fixture, HostMount, Level};

const fn case(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, "host nodes", Level::Security, run)
}

/// By what reaches the container.
pub const CASES: &[Case] = &[
    case("attributes and ACLs of the host's null device cannot be set through masked files", masked),
    case("attributes and ACLs of the host's nodes cannot be set through the devices of a container", devices),
    case(
        "attributes and ACLs of the host's nodes cannot be set through the devices of a runtime without CAP_MKNOD",
        bound,
    ),
    case("attributes and ACLs of memory devices as streams cannot be set", |fixture| streams(fixture, privileged)),
    case("attributes and ACLs of memory devices as streams of a container without devices cannot be set", |fixture| {
        streams(fixture, without_devices)
    }),
];

/// The state of an inode that a container could change: mode, owner, change time, and the extended attributes' names.
#[derive(Debug, PartialEq, Eq)]
struct State {
    mode: u32,
    owner: (u32, u32),
    changed: (i64, i64),
    attributes: Vec<u8>,
}

/// Nodes of the memory devices and the terminal that cover the host's.
struct Nodes {
    /// Dropped before `directory`.
    covers: HostMount,
    directory: HostMount,
}

impl Nodes {
    fn make(fixture: &Fixture) -> anyhow::Result<Nodes> {
        let directory = HostMount::tmpfs(fixture.directory().join("nodes"), MsFlags::empty())?;
        for (path, (major, minor)) in DEVICES.iter().zip([(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)]) {
            let node = directory.path().join(path.trim_start_matches("/dev/"));
            mknod(&node, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor))
                .with_context(|| node.display().to_string())?;
        }
        let covers = HostMount::bind(directory.path(), "/dev".into())?;
        Ok(Nodes { covers, directory })
    }

    fn states(&self) -> anyhow::Result<BTreeMap<&'static str, State>> {
        let state = |path: &&'static str| -> anyhow::Result<(&'static str, State)> {
            let node = self.directory.path().join(path.trim_start_matches("/dev/"));
            let meta = fs::metadata(&node)?;
            let mut names = vec![0; 4096];
            let length = rustix::fs::listxattr(&node, &mut names[..]).context("listxattr")?;
            names.truncate(length);
            let changed = (meta.ctime(), meta.ctime_nsec());
            Ok((path, State { mode: meta.mode(), owner: (meta.uid(), meta.gid()), changed, attributes: names }))
        };
        DEVICES.iter().map(state).collect()
    }

    /// Checks the answers of the probe's `set-attributes`: where it found one of these nodes, it changed nothing.
    fn check(&self, lines: &[String], paths: &[&str]) -> anyhow::Result<()> {
        ensure!(lines.len() == paths.len(), "expected {} answers, found {lines:?}", paths.len());
        for (line, path) in lines.iter().zip(paths) {
            let found = line.strip_prefix("ok ").and_then(|line| line.split_once(' '));
            let (inode, outcome) = found.with_context(|| format!("set-attributes {path}: {line}"))?;
            for device in DEVICES {
                let meta = fs::metadata(self.covers.path().join(device.trim_start_matches("/dev/")))?;
                if inode == format!("{}:{}", meta.dev(), meta.ino()) {
                    ensure!(outcome == "EROFS EROFS EROFS EROFS", "{path} is the host's {device}: {outcome}");
                }
            }
        }
        Ok(())
    }
}

/// Has `work` reach nodes that cover the host's, and compares their inodes afterwards.
fn on_own_nodes(fixture: &Fixture, work: impl FnOnce(&Nodes) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let nodes = Nodes::make(fixture)?;
    let before = nodes.states()?;
    work(&nodes)?;
    for (path, after) in nodes.states()? {
        let before = &before[path];
        ensure!(*before == after, "the host's {path} was changed: expected {before:?}, found {after:?}");
    }
    Ok(())
}

/// With the right to set attributes of each kind (CAP_SYS_ADMIN for trusted.* and security.*, CAP_FOWNER for ACLs).
fn with_every_right(mut bundle: Bundle) -> Bundle {
    add_capability(&mut bundle, "CAP_SYS_ADMIN");
    bundle
}

fn attempt(nodes: &Nodes, container: &Container, paths: &[&str]) -> anyhow::Result<()> {
    let operations: Vec<String> = paths.iter().map(|path| format!("set-attributes {path}")).collect();
    let operations: Vec<&str> = operations.iter().map(String::as_str).collect();
    nodes.check(&container.attempts(&operations)?, paths)
}

fn masked(fixture: &Fixture) -> anyhow::Result<()> {
    const PATHS: [&str; 3] = ["/masked", "/masked2", "/proc/timer_list"];
    on_own_nodes(fixture, |nodes| {
        let mut bundle = with_every_right(privileged(fixture)?);
        for path in &PATHS[..2] {
            fs::write(bundle.rootfs(path), "of the image")?;
        }
        bundle.set("/linux/maskedPaths", serde_json::json!(PATHS));
        let present = if Path::new(PATHS[2]).exists() { &PATHS[..] } else { &PATHS[..2] };
        attempt(nodes, &fixture.start(&mut bundle)?, present)
    })
}

fn devices(fixture: &Fixture) -> anyhow::Result<()> {
    on_own_nodes(fixture, |nodes| {
        let container = fixture.start(&mut with_every_right(privileged(fixture)?))?;
        attempt(nodes, &container, &DEVICES)
    })
}

fn bound(fixture: &Fixture) -> anyhow::Result<()> {
    on_own_nodes(fixture, |nodes| {
        let mut bundle = with_every_right(privileged(fixture)?);
        match create_without_mknod(fixture, bundle.args(&["/probe", "wait"]))? {
            Some(container) => {
                container.start()?;
                attempt(nodes, &container, &DEVICES)
            }
            None => Ok(()),
        }
    })
}

/// Two of init's streams, as an exec reaches them, and those of an exec in the foreground. The runtime's stderr stays, for
/// the reason of a refusal.
fn streams(fixture: &Fixture, bundle: fn(&Fixture) -> anyhow::Result<Bundle>) -> anyhow::Result<()> {
    on_own_nodes(fixture, |nodes| {
        let mut bundle = with_every_right(bundle(fixture)?);
        bundle.args(&["/probe", "wait"]).write()?;
        let (id, pid_file) = (fixture.id(), fixture.directory().join("init.pid"));
        let (path, pid_path) = (bundle.path().to_string_lossy(), pid_file.to_string_lossy());
        let words = ["create", "--bundle", &*path, "--pid-file", &*pid_path, &id];
        if unless_refused(fixture.call_after("exec </dev/zero >/dev/full", &words)?)?.is_none() {
            return Ok(());
        }
        let container = fixture.container(&id, fs::read_to_string(&pid_file)?.trim().parse()?)?;
        container.start()?;
        attempt(nodes, &container, &["/proc/1/fd/0", "/proc/1/fd/1"])?;
        const OWN: [&str; 2] = ["/proc/self/fd/0", "/proc/self/fd/2"];
        let operations = ["set-attributes", OWN[0], ",", "set-attributes", OWN[1]];
        let words = [&["exec", &*id, "/probe", "try"][..], &operations].concat();
        let done = fixture.call_after("exec </dev/zero 2</dev/random", &words)?.ok()?;
        let lines: Vec<String> = done.stdout.lines().map(|line| line.trim_end().to_owned()).collect();
        nodes.check(&lines, &OWN)
    })
}
