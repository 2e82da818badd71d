//! Links in the image, and links that change while a container is made, lead nowhere but into the container.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use anyhow::ensure;
use serde_json::json;

use super::{Outside, link, run_in_time, unless_refused, while_exchanged, without_mounts};
use crate::harness::{Bundle, Case, Fixture, Level};

const fn case(name: &'static str, section: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, section, Level::Security, run)
}

/// By the year of the attack.
pub const CASES: &[Case] = &[
    case("a mount onto a link of the image stays in the container", "CVE-2021-30465", mount_target),
    case("a bind mount of a file onto a link of the image stays in the container", "CVE-2021-30465", file_target),
    case("a mount below a link with many dots stays in the container", "CVE-2021-30465", dots),
    case("a link that is swapped in while mounts are made stays in the container", "CVE-2021-30465", swapped),
    case("a mount point that has to be made is not made through a link", "CVE-2024-45310", made_target),
    case("a /dev of the image that is a link stays in the container", "CVE-2024-45310", dev),
    case("a /dev of the image that is a link stays in the container without a mount there", "CVE-2024-45310", bare_dev),
    case("a device below a link of the image stays in the container", "CVE-2024-45310", device),
    case("a working directory below a link is made in the container", "CVE-2024-45310", cwd),
    case("a bind mount onto a link to the root is refused", "mounts on the root", bind_on_root),
    case("mounts onto links to the root are refused, whatever they mount", "mounts on the root", kinds_on_root),
    case("a mount onto the root itself is refused", "mounts on the root", literal_root),
    case("a remount of a link to the root is refused", "mounts on the root", remount_on_root),
    case("a masked link to the root hides the root from no exec", "mounts on the root", masked_root),
    case("a read-only link to the root covers the root for no exec", "mounts on the root", readonly_root),
    case("files of /dev in the image that are links stay in the container", "CVE-2024-45310", dev_files),
    case("a masked path that is a link of the image masks inside", "CVE-2025-31133", masked),
    case("a mask is the null device, whatever the image has at /dev/null", "CVE-2025-31133", null_device),
    case("a null device of the image that is another device is no mask", "CVE-2025-31133", other_null_device),
    case(
        "a null device that is swapped for a link while masks are made covers nothing else",
        "CVE-2025-31133",
        swapped_null,
    ),
    case("a read-only path that is a link of the image changes nothing outside", "CVE-2025-31133", readonly),
    case("a /etc/passwd of the image that is a link is read inside", "CVE-2026-47766", passwd),
    case("a fifo at /etc/passwd of the image does not block the runtime", "CVE-2026-47766", passwd_fifo),
    case("a program that is a link of the image is one of the container's", "CVE-2024-45310", program),
];

/// So many containers are made while names are swapped.
const SWAPS: usize = 20;

fn mount_target(fixture: &Fixture) -> anyhow::Result<()> {
    let outside = Outside::make(fixture)?;
    let mut bundle = fixture.bundle()?;
    link(&bundle, "/there", outside.path())?;
    bundle.mount("/there", "tmpfs", "tmpfs", &["size=1m"]).args(&["/probe", "try", "list", "/there"]);
    if let Some(done) = unless_refused(fixture.run(&bundle)?)? {
        ensure!(done.stdout == "ok \n", "expected an empty mount inside, found {:?}", done.stdout);
    }
    outside.is_untouched()
}

fn file_target(fixture: &Fixture) -> anyhow::Result<()> {
    let outside = Outside::make(fixture)?;
    let mut bundle = fixture.bundle()?;
    link(&bundle, "/there", &outside.path().join("mark"))?;
    let source = fixture.directory().join("source");
    fs::write(&source, "bound")?;
    bundle.mount("/there", "bind", &source.to_string_lossy(), &["bind", "rw"]);
    bundle.args(&["/probe", "try", "read", "/there"]);
    if let Some(done) = unless_refused(fixture.run(&bundle)?)? {
        ensure!(done.stdout == "ok bound\n", "expected the bound file, found {:?}", done.stdout);
    }
    outside.is_untouched()
}

fn dots(fixture: &Fixture) -> anyhow::Result<()> {
    let outside = Outside::make(fixture)?;
    let mut bundle = fixture.bundle()?;
    let up = format!("../../../../../../../../../../..{}", outside.path().display());
    symlink(&up, bundle.rootfs("/there"))?;
    bundle.mount("/there/new/deep", "tmpfs", "tmpfs", &[]).mount(&up, "tmpfs", "tmpfs", &[]);
    unless_refused(fixture.run(&bundle)?)?;
    outside.is_untouched()
}

/// A neighbour that shares a volume swaps a directory with a link to the host's, again and again.
fn swapped(fixture: &Fixture) -> anyhow::Result<()> {
    let outside = Outside::make(fixture)?;
    let mut bundle = fixture.bundle()?;
    fs::create_dir_all(bundle.rootfs("/volume/a"))?;
    link(&bundle, "/volume/b", outside.path())?;
    bundle.mount("/volume/a/new", "tmpfs", "tmpfs", &["size=1m"]).mount("/volume/a/other", "tmpfs", "tmpfs", &[]);
    let (one, other) = (bundle.rootfs("/volume/a"), bundle.rootfs("/volume/b"));
    while_exchanged(&[(&one, &other)], || (0..10).try_for_each(|_| unless_refused(fixture.run(&bundle)?).map(drop)))?;
    outside.is_untouched()
}

fn made_target(fixture: &Fixture) -> anyhow::Result<()> {
    let outside = Outside::make(fixture)?;
    let mut bundle = fixture.bundle()?;
    link(&bundle, "/there", outside.path())?;
    let source = fixture.directory().join("source");
    fs::write(&source, "bound")?;
    bundle.mount("/there/directory", "tmpfs", "tmpfs", &[]);
    bundle.mount("/there/file", "bind", &source.to_string_lossy(), &["bind"]);
    unless_refused(fixture.run(&bundle)?)?;
    outside.is_untouched()
}

fn replace_dev(bundle: &Bundle, outside: &Outside) -> anyhow::Result<()> {
    fs::remove_dir(bundle.rootfs("/dev"))?;
    link(bundle, "/dev", outside.path())
}

fn dev(fixture: &Fixture) -> anyhow::Result<()> {
    let outside = Outside::make(fixture)?;
    let bundle = fixture.bundle()?;
    replace_dev(&bundle, &outside)?;
    unless_refused(fixture.run(&bundle)?)?;
    outside.is_untouched()
}

fn bare_dev(fixture: &Fixture) -> anyhow::Result<()> {
    let outside = Outside::make(fixture)?;
    let mut bundle = fixture.bundle()?;
    replace_dev(&bundle, &outside)?;
    without_mounts(&mut bundle, "/dev");
    unless_refused(fixture.run(&bundle)?)?;
    outside.is_untouched()
}

fn device(fixture: &Fixture) -> anyhow::Result<()> {
    let outside = Outside::make(fixture)?;
    let mut bundle = fixture.bundle()?;
    link(&bundle, "/there", outside.path())?;
    link(&bundle, "/node", &outside.path().join("node"))?;
    for path in ["/there/zero", "/node"] {
        bundle.push("/linux/devices", json!({ "path": path, "type": "c", "major": 61, "minor": 5 }));
    }
    unless_refused(fixture.run(&bundle)?)?;
    outside.is_untouched()
}

fn cwd(fixture: &Fixture) -> anyhow::Result<()> {
    let outside = Outside::make(fixture)?;
    let mut bundle = fixture.bundle()?;
    link(&bundle, "/there", outside.path())?;
    bundle.set("/process/cwd", json!("/there/new/deep"));
    unless_refused(fixture.run(&bundle)?)?;
    outside.is_untouched()
}

/// Links of an image that lead to its root, and paths through them that do.
const ROOTS: [&str; 6] = ["/rl", "/chain", "/rl/rl", "/deep/up", "/rl/.", "/dir/up/rl"];

fn root_links(bundle: &Bundle) -> anyhow::Result<()> {
    for directory in ["/deep", "/dir"] {
        fs::create_dir_all(bundle.rootfs(directory))?;
    }
    for (name, target) in [("/rl", "/"), ("/chain", "rl"), ("/deep/up", "../../.."), ("/dir/up", "..")] {
        symlink(target, bundle.rootfs(name))?;
    }
    Ok(())
}

/// Refused, or without effect: the top of the container is the image, for init and for an exec alike.
fn is_no_root(fixture: &Fixture, bundle: &mut Bundle, what: &str) -> anyhow::Result<()> {
    bundle.args(&["/probe", "wait"]).write()?;
    let (id, path) = (fixture.id(), bundle.path().to_string_lossy().into_owned());
    if unless_refused(fixture.call(&["create", "--bundle", &path, &id])?)?.is_none() {
        return Ok(());
    }
    let done = fixture.call(&["exec", &id, "/probe", "facts"])?;
    ensure!(done.code == 0, "{what}: taken, and an exec does not find the image's files: {}", done.stderr);
    let state: serde_json::Value = serde_json::from_str(&fixture.call(&["state", &id])?.ok()?.stdout)?;
    let pid = state["pid"].as_i64().unwrap_or_default();
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    let on_top = text.lines().filter(|line| line.split(' ').nth(4) == Some("/")).count();
    ensure!(on_top == 1, "{what}: taken, and {on_top} mounts are on the root:\n{text}");
    Ok(())
}

fn bind_on_root(fixture: &Fixture) -> anyhow::Result<()> {
    let outside = Outside::make(fixture)?;
    for target in ROOTS {
        let mut bundle = fixture.bundle()?;
        root_links(&bundle)?;
        bundle.mount(target, "bind", &outside.path().to_string_lossy(), &["bind", "rw"]);
        is_no_root(fixture, &mut bundle, target)?;
    }
    outside.is_untouched()
}

fn kinds_on_root(fixture: &Fixture) -> anyhow::Result<()> {
    let file_systems: [(&str, &[&str]); 5] =
        [("tmpfs", &[]), ("tmpfs", &["mode=700"]), ("tmpfs", &["tmpcopyup"]), ("mqueue", &[]), ("cgroup", &["ro"])];
    for (kind, options) in file_systems {
        let mut bundle = fixture.bundle()?;
        root_links(&bundle)?;
        bundle.mount("/chain", kind, kind, options);
        is_no_root(fixture, &mut bundle, kind)?;
    }
    Ok(())
}

fn literal_root(fixture: &Fixture) -> anyhow::Result<()> {
    for target in ["/", "/.", "//", "/..", "/rl/.."] {
        let mut bundle = fixture.bundle()?;
        root_links(&bundle)?;
        bundle.mount(target, "tmpfs", "tmpfs", &[]);
        is_no_root(fixture, &mut bundle, target)?;
    }
    Ok(())
}

/// The image must not choose what a remount is for.
fn remount_on_root(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    root_links(&bundle)?;
    bundle.set("/root/readonly", json!(true));
    bundle.mount("/rl", "none", "", &["remount", "bind", "rw", "nosuid"]);
    let refused = unless_refused(fixture.run(bundle.args(&["/probe", "try", "create", "/x"]))?)?.is_none();
    ensure!(refused, "a remount of /rl, a link to the root, changed the root's mount");
    Ok(())
}

fn masked_root(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    root_links(&bundle)?;
    bundle.set("/linux/maskedPaths", json!(["/rl"]));
    is_no_root(fixture, &mut bundle, "maskedPaths")
}

fn readonly_root(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    root_links(&bundle)?;
    bundle.set("/linux/readonlyPaths", json!(["/rl"]));
    is_no_root(fixture, &mut bundle, "readonlyPaths")
}

fn dev_files(fixture: &Fixture) -> anyhow::Result<()> {
    let outside = Outside::make(fixture)?;
    let mut bundle = fixture.bundle()?;
    without_mounts(&mut bundle, "/dev");
    for name in ["null", "zero", "tty", "ptmx", "fd", "stdin", "console"] {
        link(&bundle, &format!("/dev/{name}"), &outside.path().join(name))?;
    }
    link(&bundle, "/dev/pts", outside.path())?;
    link(&bundle, "/dev/random", &outside.path().join("mark"))?;
    unless_refused(fixture.run(&bundle)?)?;
    outside.is_untouched()
}

fn masked(fixture: &Fixture) -> anyhow::Result<()> {
    let outside = Outside::make(fixture)?;
    let mut bundle = fixture.bundle()?;
    fs::write(bundle.rootfs("/secret"), "of the image")?;
    symlink("/secret", bundle.rootfs("/there"))?;
    link(&bundle, "/out", &outside.path().join("mark"))?;
    bundle.set("/linux/maskedPaths", json!(["/there", "/out"])).args(&["/probe", "try", "read", "/there"]);
    if let Some(done) = unless_refused(fixture.run(&bundle)?)? {
        ensure!(done.stdout != "ok of the image\n", "a masked link: what it leads to can be read");
    }
    outside.is_untouched()
}

/// Checks /masked from outside, in a container that masks it, whose standard descriptors may be anything.
fn is_masked(fixture: &Fixture, bundle: &mut Bundle) -> anyhow::Result<()> {
    fs::write(bundle.rootfs("/masked"), "of the image")?;
    bundle.set("/linux/maskedPaths", json!(["/masked"])).args(&["/probe", "wait"]).write()?;
    let (id, pid_file) = (fixture.id(), fixture.directory().join("init.pid"));
    let (path, pid_path) = (bundle.path().to_string_lossy().into_owned(), pid_file.to_string_lossy().into_owned());
    let done = fixture.call(&["create", "--bundle", &path, "--pid-file", &pid_path, &id])?;
    if unless_refused(done)?.is_none() {
        return Ok(());
    }
    let pid: i32 = fs::read_to_string(&pid_file)?.trim().parse()?;
    let meta = fs::metadata(format!("/proc/{pid}/root/masked"))?;
    let found = (meta.file_type().is_char_device(), meta.rdev());
    ensure!(found == (true, nix::sys::stat::makedev(1, 3)), "the mask: expected the null device, found {meta:?}");
    Ok(())
}

/// The image's /dev/null is a link to what it wants to write: a mask that binds it gives it away.
fn null_device(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    without_mounts(&mut bundle, "/dev");
    symlink("/proc/sys/kernel/domainname", bundle.rootfs("/dev/null"))?;
    is_masked(fixture, &mut bundle)
}

fn other_null_device(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    without_mounts(&mut bundle, "/dev");
    fs::write(bundle.rootfs("/dev/null"), "a file of the image")?;
    is_masked(fixture, &mut bundle)
}

/// /dev is a volume that another container swaps its null device in, for a link to its target: a runtime that checks
/// the path, and then mounts the path, makes that target the mask.
fn swapped_null(fixture: &Fixture) -> anyhow::Result<()> {
    let volume = fixture.directory().join("volume");
    fs::create_dir(&volume)?;
    let (null, other) = (volume.join("null"), volume.join("other"));
    super::null_device(&null)?;
    symlink("/proc/sys/kernel/domainname", &other)?;
    let mut bundle = fixture.bundle()?;
    without_mounts(&mut bundle, "/dev");
    bundle.mount("/dev", "bind", &volume.to_string_lossy(), &["rbind", "rw"]);
    while_exchanged(&[(&null, &other)], || (0..SWAPS).try_for_each(|_| is_masked(fixture, &mut bundle)))
}

fn readonly(fixture: &Fixture) -> anyhow::Result<()> {
    let outside = Outside::make(fixture)?;
    let mut bundle = fixture.bundle()?;
    link(&bundle, "/there", outside.path())?;
    unless_refused(fixture.run(bundle.set("/linux/readonlyPaths", json!(["/there"])))?)?;
    fs::write(outside.path().join("mark"), "of the host")?;
    outside.is_untouched()
}

fn passwd(fixture: &Fixture) -> anyhow::Result<()> {
    let outside = fixture.directory().join("passwd");
    fs::write(&outside, "spec:x:4242:4242::/:/bin/sh\n")?;
    let mut bundle = fixture.bundle()?;
    link(&bundle, "/etc/passwd", &outside)?;
    let container = fixture.start(&mut bundle)?;
    // A name that only the host's file has.
    let done = container.exec_with(&["--user", "spec"], &["/probe", "facts"])?;
    ensure!(done.code != 0, "a user of a file of the host was taken: {}", done.stdout);
    Ok(())
}

/// A runtime that reads the FIFO waits for a writer that does not exist, until the deadline.
fn passwd_fifo(fixture: &Fixture) -> anyhow::Result<()> {
    let bundle = fixture.bundle()?;
    for name in ["/etc/passwd", "/etc/group"] {
        nix::unistd::mkfifo(&bundle.rootfs(name), nix::sys::stat::Mode::from_bits_truncate(0o666))?;
    }
    unless_refused(run_in_time(fixture, &bundle)?).map(drop)
}

fn program(fixture: &Fixture) -> anyhow::Result<()> {
    let outside = fixture.directory().join("program");
    fs::copy(fixture.beside_probe("probe"), &outside)?;
    let mut bundle = fixture.bundle()?;
    link(&bundle, "/there", &outside)?;
    let done = fixture.run(bundle.args(&["/there", "facts"]))?;
    ensure!(done.code != 0, "a program of the host was run: {}", done.stdout);
    Ok(())
}
