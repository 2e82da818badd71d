//! Flags of the host's mounts in a container with a user namespace: the kernel locks them there (mount_namespaces(7)), and
//! a runtime must not hand in mounts that it copied outside.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::ensure;
use nix::mount::MsFlags;

use super::{add_capability, unless_refused};
use crate::harness::{Bundle, Case, Fixture, HostMount, Level};

const fn case(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, "flags of the host's mounts", Level::Security, run)
}

/// By how the source is reached.
pub const CASES: &[Case] = &[
    case("a read-only mount of the host stays read-only in a user namespace", |fixture| read_only(fixture, 0o755)),
    case("a read-only mount of the host below a private directory stays read-only in a user namespace", |fixture| {
        read_only(fixture, 0o700)
    }),
    case("a read-only mount of the host without the mounts below it is refused or stays read-only", without_below),
    case("a read-only mount of the host cannot be bound writable in a user namespace", writable),
];

/// A read-only mount of the host in a directory of this mode, with a file that everyone may write.
fn source(fixture: &Fixture, mode: u32) -> anyhow::Result<HostMount> {
    let private = fixture.directory().join("private");
    fs::create_dir(&private)?;
    let mount = HostMount::tmpfs(private.join("source"), MsFlags::empty())?;
    fs::write(mount.path().join("mark"), "of the host")?;
    fs::set_permissions(mount.path().join("mark"), fs::Permissions::from_mode(0o666))?;
    mount.change(MsFlags::MS_RDONLY | MsFlags::MS_NOSUID)?;
    fs::set_permissions(&private, fs::Permissions::from_mode(mode))?;
    Ok(mount)
}

/// A container with a user namespace and CAP_SYS_ADMIN in it.
fn bundle(fixture: &Fixture) -> anyhow::Result<Bundle> {
    let mut bundle = fixture.bundle()?;
    bundle.user_namespace(100_000, 65_536)?;
    add_capability(&mut bundle, "CAP_SYS_ADMIN");
    Ok(bundle)
}

fn read_only(fixture: &Fixture, mode: u32) -> anyhow::Result<()> {
    let source = source(fixture, mode)?;
    for options in [&["rbind"][..], &["rbind", "nodev"], &["rbind", "ro"]] {
        let mut bundle = bundle(fixture)?;
        bundle.mount("/data", "bind", &source.path().to_string_lossy(), options);
        let tried = fixture.attempts(&mut bundle, &["write /data/mark x", "remount /data", "write /data/mark x"])?;
        let mark = fs::read_to_string(source.path().join("mark"))?;
        ensure!(tried == ["EROFS", "EPERM", "EROFS"], "with {options:?}: {tried:?}");
        ensure!(mark == "of the host", "with {options:?}: the host's file holds {mark:?}");
    }
    Ok(())
}

fn without_below(fixture: &Fixture) -> anyhow::Result<()> {
    let [_below, source] = HostMount::tree(fixture.directory().join("tree"), MsFlags::empty())?;
    fs::set_permissions(source.path().join("mark"), fs::Permissions::from_mode(0o666))?;
    source.change(MsFlags::MS_RDONLY)?;
    let mut bundle = bundle(fixture)?;
    bundle.mount("/data", "bind", &source.path().to_string_lossy(), &["bind"]);
    bundle.args(&["/probe", "try", "remount", "/data", ",", "write", "/data/mark", "x"]);
    let done = unless_refused(fixture.run(&bundle)?)?;
    let mark = fs::read_to_string(source.path().join("mark"))?;
    ensure!(mark == "top", "the host's file holds {mark:?}");
    let Some(done) = done else { return Ok(()) };
    ensure!(done.stdout.split_whitespace().eq(["EPERM", "EROFS"]), "not refused: {}", done.stdout);
    Ok(())
}

fn writable(fixture: &Fixture) -> anyhow::Result<()> {
    let source = source(fixture, 0o755)?;
    for option in ["rw", "suid"] {
        let mut bundle = bundle(fixture)?;
        bundle.mount("/data", "bind", &source.path().to_string_lossy(), &["rbind", option]);
        fixture.refused(&bundle)?;
    }
    Ok(())
}
