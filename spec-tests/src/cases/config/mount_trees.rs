//! config.md, Linux mount options: those that go for a whole tree of mounts, and the types of propagation.

use anyhow::ensure;
use nix::mount::MsFlags;

use super::mount_options::{compare, tree};
use crate::harness::{Case, Fixture, HostMount, Level, Need, wait_until};

const fn must(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, "config.md#linux-mount-options", Level::Must, run)
}

const fn should(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, "config.md#linux-mount-options", Level::Should, run).on(&[Need::Kernel(5, 12)])
}

/// In the order of the table.
pub const CASES: &[Case] = &[
    must("the option private removes a mount from its peer group", |fixture| {
        propagation(fixture, &["bind", "private"], Wanted([None, None]))
    }),
    must("the option shared makes a mount shared", |fixture| {
        propagation(fixture, &["bind", "shared"], Wanted([Some("shared:"), None]))
    }),
    must("the option slave makes a mount a slave of its source", |fixture| {
        propagation(fixture, &["bind", "slave"], Wanted([Some("master:"), None]))
    }),
    must("the option unbindable makes a mount unbindable", |fixture| {
        propagation(fixture, &["bind", "unbindable"], Wanted([Some("unbindable"), None]))
    }),
    must("the option rprivate applies to the whole tree", |fixture| {
        propagation(fixture, &["rbind", "rprivate"], Wanted([None, None]))
    }),
    must("the option rshared applies to the whole tree", |fixture| {
        propagation(fixture, &["rbind", "rshared"], Wanted([Some("shared:"), Some("shared:")]))
    }),
    must("the option rslave applies to the whole tree", |fixture| {
        propagation(fixture, &["rbind", "rslave"], Wanted([Some("master:"), Some("master:")]))
    }),
    must("the option runbindable applies to the whole tree", |fixture| {
        propagation(fixture, &["rbind", "runbindable"], Wanted([Some("unbindable"), Some("unbindable")]))
    }),
    must("a slave mount receives later mounts of the host", |fixture| later(fixture, "rslave", true)),
    must("a private mount receives no later mounts of the host", |fixture| later(fixture, "rprivate", false)),
    should("the option ratime applies to the whole tree", |fixture| {
        whole(fixture, MsFlags::MS_NOATIME, "ratime", &[], &["noatime"])
    }),
    should("the option rdev applies to the whole tree", |fixture| {
        whole(fixture, MsFlags::MS_NODEV, "rdev", &[], &["nodev"])
    }),
    should("the option rdiratime applies to the whole tree", |fixture| {
        whole(fixture, MsFlags::MS_NODIRATIME, "rdiratime", &[], &["nodiratime"])
    }),
    should("the option rexec applies to the whole tree", |fixture| {
        whole(fixture, MsFlags::MS_NOEXEC, "rexec", &[], &["noexec"])
    }),
    should("the option rnoatime applies to the whole tree", |fixture| {
        whole(fixture, MsFlags::empty(), "rnoatime", &["noatime"], &[])
    }),
    should("the option rnodiratime applies to the whole tree", |fixture| {
        whole(fixture, MsFlags::empty(), "rnodiratime", &["nodiratime"], &[])
    }),
    should("the option rnoexec applies to the whole tree", |fixture| {
        whole(fixture, MsFlags::empty(), "rnoexec", &["noexec"], &[])
    }),
    should("the option rnorelatime is accepted", |fixture| whole(fixture, MsFlags::empty(), "rnorelatime", &[], &[])),
    should("the option rnostrictatime applies to the whole tree", |fixture| {
        whole(fixture, MsFlags::MS_STRICTATIME, "rnostrictatime", &["relatime"], &[])
    }),
    should("the option rnosuid applies to the whole tree", |fixture| {
        whole(fixture, MsFlags::empty(), "rnosuid", &["nosuid"], &[])
    }),
    should("the option rnosymfollow applies to the whole tree", |fixture| {
        whole(fixture, MsFlags::empty(), "rnosymfollow", &["nosymfollow"], &[])
    })
    .on(&[Need::Kernel(5, 14)]),
    should("the option rrelatime applies to the whole tree", |fixture| {
        whole(fixture, MsFlags::MS_STRICTATIME, "rrelatime", &["relatime"], &[])
    }),
    should("the option rro applies to the whole tree", |fixture| {
        whole(fixture, MsFlags::empty(), "rro", &["ro"], &["rw"])
    }),
    should("the option rrw applies to the whole tree", |fixture| {
        whole(fixture, MsFlags::MS_RDONLY, "rrw", &["rw"], &["ro"])
    }),
    should("the option rstrictatime applies to the whole tree", |fixture| {
        whole(fixture, MsFlags::empty(), "rstrictatime", &[], &["relatime", "noatime"])
    }),
    should("the option rsuid applies to the whole tree", |fixture| {
        whole(fixture, MsFlags::MS_NOSUID, "rsuid", &[], &["nosuid"])
    }),
    should("the option rsymfollow applies to the whole tree", |fixture| {
        let nosymfollow = MsFlags::from_bits_retain(256);
        whole(fixture, nosymfollow, "rsymfollow", &[], &["nosymfollow"])
    })
    .on(&[Need::Kernel(5, 14)]),
    Case::new("the option rnodev applies to the whole tree", "runc: mount options", Level::Runc, |fixture| {
        whole(fixture, MsFlags::empty(), "rnodev", &["nodev"], &[])
    })
    .on(&[Need::Kernel(5, 12)]),
    must("the option ro applies to the topmost mount of a tree alone", |fixture| {
        let facts = tree(fixture, MsFlags::empty(), &["rbind", "ro"])?;
        compare(facts.mount("/tmp")?, &["ro"], &[])?;
        compare(facts.mount("/tmp/sub")?, &["rw"], &["ro"])
    }),
];

/// The types of propagation of /tmp and of /tmp/sub; None is neither shared nor unbindable, nor a slave.
struct Wanted([Option<&'static str>; 2]);

fn propagation(fixture: &Fixture, options: &[&str], Wanted(wanted): Wanted) -> anyhow::Result<()> {
    let recursive = options[0] == "rbind";
    let facts = tree(fixture, MsFlags::MS_SHARED, options)?;
    for (point, wanted) in [("/tmp", wanted[0]), ("/tmp/sub", wanted[1])].into_iter().take(1 + usize::from(recursive)) {
        let found = &facts.mount(point)?.propagation;
        let right = match wanted {
            None => found.is_empty(),
            Some(word) => found.iter().any(|one| one.starts_with(word)),
        };
        ensure!(right, "the propagation of {point}: expected {:?}, found {found:?}", wanted.unwrap_or("none"));
    }
    Ok(())
}

fn later(fixture: &Fixture, option: &str, received: bool) -> anyhow::Result<()> {
    let source = HostMount::tmpfs(fixture.directory().join("source"), MsFlags::empty())?;
    source.change(MsFlags::MS_SHARED)?;
    let mut bundle = fixture.bundle()?;
    bundle.set("/linux/rootfsPropagation", serde_json::json!("slave"));
    bundle.mount("/tmp", "bind", &source.path().to_string_lossy(), &["rbind", option]);
    let container = fixture.start(&mut bundle)?;
    let _late = HostMount::tmpfs(source.path().join("late"), MsFlags::empty())?;
    let points = wait_until("the container's mounts", || {
        let text = std::fs::read_to_string(container.proc("mountinfo"))?;
        Ok(text.contains(" /tmp ").then_some(text))
    })?;
    let found = points.contains(" /tmp/late ");
    ensure!(found == received, "a mount made on the host later: expected it there: {received}; found: {found}");
    Ok(())
}

/// Both mounts of a tree have these flags before, and these options after it was bound with `rbind` and the option.
fn whole(fixture: &Fixture, before: MsFlags, option: &str, has: &[&str], lacks: &[&str]) -> anyhow::Result<()> {
    let facts = tree(fixture, before, &["rbind", option])?;
    compare(&without_super(facts.mount("/tmp")?), has, lacks)?;
    compare(&without_super(facts.mount("/tmp/sub")?), has, lacks)
}

/// The options of the file system are the same for every mount of it: not what these options are about.
fn without_super(mount: &crate::facts::Mount) -> crate::facts::Mount {
    crate::facts::Mount { super_options: Vec::new(), ..mount.clone() }
}
