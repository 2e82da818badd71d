//! Attacks that worked on real runtimes. Each case observes the result of the attack from outside, so that it works
//! with any runtime.
//!
//! A runtime may refuse an attack or contain it; both are right.

pub mod cgroup;
pub mod console;
pub mod descriptors;
pub mod files;
pub mod host_nodes;
pub mod links;
pub mod locked_flags;
pub mod namespaces;
pub mod neighbour;
pub mod node_attributes;
pub mod proc;
pub mod process;
pub mod systemd;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::harness::{Bundle, Done, Fixture};

/// A directory of the host that nothing may be made, mounted or changed in.
struct Outside(PathBuf);

impl Outside {
    fn make(fixture: &Fixture) -> anyhow::Result<Outside> {
        let path = fixture.directory().join("outside");
        fs::create_dir(&path)?;
        fs::write(path.join("mark"), "of the host")?;
        Ok(Outside(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    /// Checks that the directory is unchanged.
    fn is_untouched(&self) -> anyhow::Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        ensure!(names == ["mark"], "in a directory of the host: expected mark alone, found {names:?}");
        let text = fs::read_to_string(self.0.join("mark"))?;
        ensure!(text == "of the host", "a file of the host was changed: {text:?}");
        Ok(())
    }
}

/// Makes a link in the image that leads out of it, if it were followed by the host's root.
fn link(bundle: &Bundle, inside: &str, target: &Path) -> anyhow::Result<()> {
    std::os::unix::fs::symlink(target, bundle.rootfs(inside)).with_context(|| inside.to_owned())
}

/// Without the mounts at and below this path.
fn without_mounts(bundle: &mut Bundle, path: &str) {
    let is_below = |mount: &serde_json::Value| {
        let point = mount["destination"].as_str().unwrap_or_default();
        point == path || point.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
    };
    if let Some(mounts) = bundle.config["mounts"].as_array_mut() {
        mounts.retain(|mount| !is_below(mount));
    }
}

/// Adds a capability to the sets of the container.
fn add_capability(bundle: &mut Bundle, name: &str) {
    for set in ["bounding", "effective", "permitted"] {
        bundle.push(&format!("/process/capabilities/{set}"), serde_json::json!(name));
    }
}

/// The result of a run that did not refuse the attack; `None` for a refusal.
fn unless_refused(done: Done) -> anyhow::Result<Option<Done>> {
    match done.code {
        0 => Ok(Some(done)),
        _ => done.refused().map(|_| None),
    }
}

/// Runs a bundle whose image may make the runtime wait for ever.
fn run_in_time(fixture: &Fixture, bundle: &Bundle) -> anyhow::Result<Done> {
    bundle.write()?;
    let command = fixture.command(&["run", "--bundle", &bundle.path().to_string_lossy(), &fixture.id()]);
    let mut words =
        vec!["-k".to_owned(), "5".into(), "20".into(), command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = fixture.tool("timeout", &words)?;
    ensure!(!matches!(done.code, 124 | 137), "the runtime still waited after 20 s");
    Ok(done)
}

/// Makes a node of the null device.
fn null_device(path: &Path) -> anyhow::Result<()> {
    Ok(mknod(path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3))?)
}

/// Does `work` while another thread exchanges the two names of each pair again and again.
fn while_exchanged(pairs: &[(&Path, &Path)], work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let exchange = || -> rustix::io::Result<()> {
            while !stop.load(Ordering::Relaxed) {
                for (one, other) in pairs {
                    renameat_with(CWD, *one, CWD, *other, RenameFlags::EXCHANGE)?;
                }
            }
            Ok(())
        };
        let exchanger = scope.spawn(exchange);
        let outcome = work();
        stop.store(true, Ordering::Relaxed);
        let exchanged = exchanger.join().map_err(|_| anyhow::anyhow!("the exchanging thread panicked"))?;
        exchanged.context("exchanging names")?;
        outcome
    })
}
