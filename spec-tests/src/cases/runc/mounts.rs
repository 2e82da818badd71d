//! The order in which a root is built, and what runc accepts in mounts: callers rely on both.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use anyhow::ensure;
use serde_json::json;

use crate::harness::{Case, Fixture, Level, Need};

const fn case(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, "runc: mounts", Level::Runc, run)
}

/// By the order of the steps.
pub const CASES: &[Case] = &[
    case("a missing working directory is made below a root that turns read-only", cwd_below_readonly_root),
    case("a missing working directory is made in a tmpfs that turns read-only", cwd_in_readonly_tmpfs),
    case("a mount is made in a tmpfs that turns read-only", mount_in_readonly_tmpfs),
    case("tmpcopyup on a missing directory gives mode 1777", copy_up_missing),
    case("tmpcopyup keeps the mode that is given", copy_up_mode),
    case("tmpcopyup keeps the image's mode where none is given", copy_up_image_mode),
    case("a writable mount of cgroups without a cgroup namespace can be written", writable_cgroups),
    case("a mount of cgroups on a hybrid host shows the v1 hierarchies alone", no_unified).on(&[Need::CgroupV1]),
    case("relative masked and read-only paths count from the root", relative_paths),
    case("a path that is masked twice is mounted once", masked_twice),
    case("a bind of a file on a directory is refused with `not a directory`", file_on_directory),
    case("a root.path that is a symlink is followed, or named", root_link),
];

fn cwd_below_readonly_root(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/root/readonly", json!(true)).set("/process/cwd", json!("/does/not"));
    let facts = fixture.facts(bundle.args(&["/probe", "facts"]))?;
    ensure!(facts.cwd == "/does/not", "cwd: expected /does/not, found {}", facts.cwd);
    let tried = fixture.tries(&mut bundle, &["create", "/does/file"])?;
    ensure!(tried == ["EROFS"], "the root: expected EROFS, found {tried:?}");
    Ok(())
}

fn cwd_in_readonly_tmpfs(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.mount("/x", "tmpfs", "tmpfs", &["ro"]).set("/process/cwd", json!("/x/a/b"));
    let facts = fixture.facts(bundle.args(&["/probe", "facts"]))?;
    ensure!(facts.cwd == "/x/a/b", "cwd: expected /x/a/b, found {}", facts.cwd);
    Ok(())
}

fn mount_in_readonly_tmpfs(fixture: &Fixture) -> anyhow::Result<()> {
    let source = fixture.directory().join("source");
    fs::create_dir(&source)?;
    fs::write(source.join("file"), "bound")?;
    let (directory, file) = (source.display().to_string(), source.join("file").display().to_string());
    let mut bundle = fixture.bundle()?;
    bundle.mount("/x", "tmpfs", "tmpfs", &["ro", "nosuid", "size=1m"]);
    bundle.mount("/x/y", "bind", &directory, &["bind"]).mount("/x/z", "bind", &file, &["bind"]);
    bundle.mount("/x/t", "tmpfs", "tmpfs", &[]);
    let tried = fixture.tries(
        &mut bundle,
        &[
            "read",
            "/x/y/file",
            ",",
            "read",
            "/x/z",
            ",",
            "create",
            "/x/t/a",
            ",",
            "create",
            "/x/a",
            ",",
            "mkdir",
            "/x/b",
        ],
    )?;
    ensure!(tried == ["ok bound", "ok bound", "ok", "EROFS", "EROFS"], "{tried:?}");
    let mount = fixture.facts(bundle.args(&["/probe", "facts"]))?.mount("/x")?.clone();
    ensure!(mount.options.contains(&"nosuid".to_owned()), "the tmpfs lost nosuid: {:?}", mount.options);
    Ok(())
}

/// The mode of /x in a container with this tmpfs there.
fn mode_of_tmpfs(fixture: &Fixture, image: Option<u32>, options: &[&str]) -> anyhow::Result<String> {
    let mut bundle = fixture.bundle()?;
    if let Some(mode) = image {
        fs::create_dir(bundle.rootfs("/x"))?;
        fs::write(bundle.rootfs("/x/file"), "image")?;
        fs::set_permissions(bundle.rootfs("/x"), fs::Permissions::from_mode(mode))?;
    }
    let tried =
        fixture.tries(bundle.mount("/x", "tmpfs", "tmpfs", options), &["stat", "/x", ",", "read", "/x/file"])?;
    let file = if image.is_some() { "ok image" } else { "ENOENT" };
    ensure!(tried[1] == file, "/x/file: expected {file}, found {}", tried[1]);
    Ok(tried[0].split(' ').nth(1).unwrap_or_default().to_owned())
}

fn copy_up_missing(fixture: &Fixture) -> anyhow::Result<()> {
    let found = mode_of_tmpfs(fixture, None, &["tmpcopyup"])?;
    ensure!(found == "41777", "expected mode 41777, found {found}");
    let found = mode_of_tmpfs(fixture, None, &["tmpcopyup", "mode=0750"])?;
    ensure!(found == "40750", "expected mode 40750, found {found}");
    Ok(())
}

fn copy_up_mode(fixture: &Fixture) -> anyhow::Result<()> {
    for (option, wanted) in [("mode=1777", "41777"), ("mode=700", "40700")] {
        let found = mode_of_tmpfs(fixture, Some(0o755), &["rw", "tmpcopyup", option, "nosuid"])?;
        ensure!(found == wanted, "{option}: expected mode {wanted}, found {found}");
    }
    Ok(())
}

fn copy_up_image_mode(fixture: &Fixture) -> anyhow::Result<()> {
    let found = mode_of_tmpfs(fixture, Some(0o751), &["tmpcopyup"])?;
    ensure!(found == "40751", "expected mode 40751, found {found}");
    Ok(())
}

fn writable_cgroups(fixture: &Fixture) -> anyhow::Result<()> {
    for (option, writable) in [("rw", true), ("ro", false)] {
        let mut bundle = fixture.bundle()?;
        bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", option]);
        let facts = fixture.facts(bundle.args(&["/probe", "facts"]))?;
        let cgroups = facts.mounts.iter().filter(|mount| mount.kind == "cgroup" || mount.kind == "cgroup2");
        let found: Vec<(&str, bool)> =
            cgroups.map(|mount| (mount.point.as_str(), mount.options.contains(&"rw".to_owned()))).collect();
        ensure!(!found.is_empty(), "there is no mount of cgroups");
        ensure!(found.iter().all(|(_, is)| *is == writable), "{option}: expected all writable: {writable}; {found:?}");
    }
    Ok(())
}

fn no_unified(fixture: &Fixture) -> anyhow::Result<()> {
    for namespace in [false, true] {
        let mut bundle = fixture.bundle()?;
        if namespace {
            bundle.namespace("cgroup", None);
        }
        bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]);
        let tried = fixture.tries(&mut bundle, &["list", "/sys/fs/cgroup", ",", "list", "/sys/fs/cgroup/unified"])?;
        ensure!(tried[0].contains("memory"), "expected the hierarchy of memory, found {tried:?}");
        ensure!(tried[1] == "ENOENT", "expected no /sys/fs/cgroup/unified, found {tried:?}");
    }
    Ok(())
}

fn relative_paths(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fs::write(bundle.rootfs("/etc/masked"), "of the image")?;
    bundle.set("/linux/maskedPaths", json!(["etc/masked"])).set("/linux/readonlyPaths", json!(["tmp"]));
    bundle.set("/process/cwd", json!("/etc"));
    let tried = fixture.tries(&mut bundle, &["read", "/etc/masked", ",", "create", "/tmp/x"])?;
    ensure!(tried == ["ok", "EROFS"], "expected an empty file and EROFS, found {tried:?}");
    Ok(())
}

fn masked_twice(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fs::write(bundle.rootfs("/etc/masked"), "of the image")?;
    let paths = ["/etc/masked", "/etc/masked", "/etc/../etc/masked", "/tmp", "/tmp/"];
    let facts = fixture.facts(bundle.set("/linux/maskedPaths", json!(paths)).args(&["/probe", "facts"]))?;
    for point in ["/etc/masked", "/tmp"] {
        let count = facts.mounts.iter().filter(|mount| mount.point == point).count();
        ensure!(count == 1, "{point}: expected one mount, found {count}");
    }
    Ok(())
}

fn file_on_directory(fixture: &Fixture) -> anyhow::Result<()> {
    let source = fixture.directory().join("source");
    fs::write(&source, "a file")?;
    let mut bundle = fixture.bundle()?;
    let text = fixture.refused(bundle.mount("/etc", "bind", &source.to_string_lossy(), &["bind"]))?;
    ensure!(text.to_lowercase().contains("not a directory"), "expected `not a directory`, found {text}");
    let mut bundle = fixture.bundle()?;
    fs::write(bundle.rootfs("/etc/file"), "a file")?;
    let text = fixture.refused(bundle.mount("/etc/file", "bind", &fixture.directory().to_string_lossy(), &["bind"]))?;
    ensure!(text.to_lowercase().contains("not a directory"), "expected `not a directory`, found {text}");
    Ok(())
}

fn root_link(fixture: &Fixture) -> anyhow::Result<()> {
    for propagation in ["", "shared", "private", "slave"] {
        let mut bundle = fixture.bundle()?;
        let elsewhere = fixture.directory().join(format!("elsewhere{propagation}"));
        fs::create_dir(&elsewhere)?;
        fs::rename(bundle.rootfs("/"), elsewhere.join("root"))?;
        symlink(elsewhere.join("root"), bundle.path().join("rootfs"))?;
        let inode = fs::metadata(elsewhere.join("root"))?.ino();
        if !propagation.is_empty() {
            bundle.set("/linux/rootfsPropagation", json!(propagation));
        }
        bundle.args(&["/probe", "facts"]);
        bundle.write()?;
        let done = fixture.run(&bundle)?;
        ensure!(
            done.code == 0 || done.stderr.contains("symlink") || done.stderr.contains("symbolic link"),
            "rootfsPropagation {propagation:?}, a link to inode {inode}: expected it followed or named, found {}",
            done.stderr
        );
    }
    Ok(())
}
