//! The runtime's open files give no way out: its own program, its directories, its memory.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use super::{Outside, unless_refused};
use crate::facts::Facts;
use crate::harness::{Case, Fixture, Level, Need};

const fn case(name: &'static str, section: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, section, Level::Security, run)
}

/// By the year of the attack.
pub const CASES: &[Case] = &[
    case("the program that waits in a container is not the runtime's own file", "CVE-2019-5736", overwritten),
    case("an image whose program is /proc/self/exe changes nothing of the runtime", "CVE-2019-5736", own_exe),
    case("an init that waits in a user namespace cannot be inspected", "CVE-2016-9962", dumpable),
    case("an init that waits holds no directory of the host that the container could use", "CVE-2016-9962", held),
    case("an init that waits holds no descriptor that the caller has left open", "CVE-2016-9962", left_open),
    case("a working directory by a leaked descriptor leads nowhere", "CVE-2024-21626", cwd_by_descriptor),
    case("a working directory by a link to a leaked descriptor leads nowhere", "CVE-2024-21626", cwd_by_link),
    case("a working directory of exec by a leaked descriptor leads nowhere", "CVE-2024-21626", exec_cwd),
    case("a working directory below the image, by a mount of the host, is refused", "CVE-2024-21626", cwd_below_image),
    case("a program by a leaked descriptor is not run", "CVE-2024-21626", program_by_descriptor),
    case("no descriptor of a program leads out of the container", "CVE-2024-21626", nothing_leaks),
    case("a runtime's program opens no other file of its file system by a handle", "shocker", by_handle)
        .on(&[Need::OwnMachine, Need::File("/sys/module/overlay/parameters/nfs_export")]),
];

/// Opens init's program as its neighbour could, ends init, and writes: a copy of the runtime is what may suffer.
fn overwritten(fixture: &Fixture) -> anyhow::Result<()> {
    let copy = fixture.directory().join("runtime");
    fs::copy(fixture.runtime(), &copy)?;
    let before = fs::read(&copy)?;
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "wait"]).write()?;
    let (id, pid_file) = (fixture.id(), fixture.directory().join("init.pid"));
    let root = fixture.root();
    let words = [
        "--root",
        &*root.to_string_lossy(),
        "create",
        "--bundle",
        &*bundle.path().to_string_lossy(),
        "--pid-file",
        &*pid_file.to_string_lossy(),
        &id,
    ]
    .map(str::to_owned);
    fixture.tool(&copy.to_string_lossy(), &words.each_ref().map(String::as_str))?.ok()?;
    let pid: i32 = fs::read_to_string(&pid_file)?.trim().parse()?;
    let exe = File::open(format!("/proc/{pid}/exe")).context("init's program")?;
    fixture.call(&["delete", "--force", &id])?.ok()?;
    let written = OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", exe.as_raw_fd()));
    let written = written.and_then(|mut file| file.write_all(b"overwritten"));
    let after = fs::read(&copy)?;
    ensure!(after == before, "the runtime's own file was overwritten through init's /proc/PID/exe");
    ensure!(written.is_err(), "init's program could be written to, if not the runtime's own file");
    Ok(())
}

fn own_exe(fixture: &Fixture) -> anyhow::Result<()> {
    let before = fs::metadata(fixture.runtime())?;
    let mut bundle = fixture.bundle()?;
    fs::write(bundle.rootfs("/script"), "#!/proc/self/exe\n")?;
    fs::set_permissions(bundle.rootfs("/script"), fs::Permissions::from_mode(0o755))?;
    // The runtime may print anything when it is called like that, but it must exit.
    fixture.run(bundle.args(&["/proc/self/exe", "--version"]))?;
    fixture.run(bundle.args(&["/script"]))?;
    let container = fixture.start(&mut bundle)?;
    container.exec(&["/proc/self/exe", "--version"])?;
    let after = fs::metadata(fixture.runtime())?;
    let is_same = (before.mtime_nsec(), before.len(), before.ino()) == (after.mtime_nsec(), after.len(), after.ino());
    ensure!(is_same, "the runtime's file has changed");
    Ok(())
}

fn dumpable(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.user_namespace(100_000, 65536)?.args(&["/probe", "wait"]);
    let container = fixture.create(&bundle)?;
    let tried = "link /proc/1/exe , link /proc/1/cwd , link /proc/1/fd/3 , link /proc/1/fd/5 , link /proc/1/fd/10 , read /proc/1/environ , read /proc/1/maps";
    let words: Vec<&str> = ["/probe", "try"].into_iter().chain(tried.split(' ')).collect();
    if let Some(done) = unless_refused(container.exec(&words)?)? {
        let seen = done.stdout.lines().any(|line| line.starts_with("ok") && line.trim_end() != "ok");
        ensure!(!seen, "{tried}: expected errors or nothing, found {}", done.stdout);
    }
    Ok(())
}

fn held(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "wait"]);
    let container = fixture.create(&bundle)?;
    let root = fs::metadata(container.proc("root"))?.dev();
    let proc = fs::metadata(container.proc("root/proc"))?.dev();
    for entry in fs::read_dir(container.proc("fd"))? {
        let path = entry?.path();
        let looked = fs::read_link(&path).and_then(|link| Ok((link, fs::metadata(&path)?)));
        // create may return while init still closes one on its way to the gate: what is gone is not held.
        let (link, meta) = match looked {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            looked => looked?,
        };
        // A procfs of the container's processes leads nowhere; a procfs of the host's processes has their roots.
        ensure!(
            !meta.is_dir() || meta.dev() == proc,
            "init holds the directory {} of device {}",
            link.display(),
            meta.dev()
        );
    }
    let cwd = fs::read_link(container.proc("cwd"))?;
    let (cwd_is, root_is) = (fs::metadata(container.proc("cwd"))?, fs::metadata(container.proc("root"))?);
    ensure!(cwd_is.ino() == root_is.ino() && cwd_is.dev() == root, "init waits in {}", cwd.display());
    Ok(())
}

fn left_open(fixture: &Fixture) -> anyhow::Result<()> {
    let outside = Outside::make(fixture)?;
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "wait"]).write()?;
    let (id, pid_file) = (fixture.id(), fixture.directory().join("init.pid"));
    // The container keeps the streams.
    let prelude = format!("exec 9<{} >create.log 2>&1", outside.path().display());
    let (path, pid_path) = (bundle.path().to_string_lossy(), pid_file.to_string_lossy());
    fixture.call_after(&prelude, &["create", "--bundle", &path, "--pid-file", &pid_path, &id])?.ok()?;
    let pid: i32 = fs::read_to_string(&pid_file)?.trim().parse()?;
    let container = fixture.container(&id, pid)?;
    let host = fs::metadata(outside.path())?;
    for entry in fs::read_dir(container.proc("fd"))? {
        let path = entry?.path();
        match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            meta => {
                let meta = meta?;
                let is_left_open = (meta.dev(), meta.ino()) == (host.dev(), host.ino());
                ensure!(!is_left_open, "{} is the host's directory that the caller had open", path.display());
            }
        }
    }
    Ok(())
}

/// The working directory is inside, seen from inside: it has a path, and above it is the container's root.
fn is_inside(done: crate::harness::Done, what: &str) -> anyhow::Result<()> {
    let Some(done) = unless_refused(done)? else {
        return Ok(());
    };
    let facts = Facts::parse(&done.stdout)?;
    ensure!(facts.cwd.starts_with('/'), "{what}: expected a refusal or a directory inside, found {}", facts.cwd);
    Ok(())
}

fn cwd_by_descriptor(fixture: &Fixture) -> anyhow::Result<()> {
    for number in 3..14 {
        let mut bundle = fixture.bundle()?;
        let cwd = format!("/proc/self/fd/{number}");
        is_inside(fixture.run(bundle.set("/process/cwd", json!(cwd)))?, &cwd)?;
    }
    Ok(())
}

fn cwd_by_link(fixture: &Fixture) -> anyhow::Result<()> {
    for number in 5..10 {
        let mut bundle = fixture.bundle()?;
        symlink(format!("/proc/self/fd/{number}"), bundle.rootfs("/there"))?;
        is_inside(
            fixture.run(bundle.set("/process/cwd", json!("/there")))?,
            &format!("a link to descriptor {number}"),
        )?;
        is_inside(
            fixture.run(bundle.set("/process/cwd", json!("/there/../..")))?,
            &format!("above descriptor {number}"),
        )?;
    }
    Ok(())
}

fn exec_cwd(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let container = fixture.start(&mut bundle)?;
    for number in 3..14 {
        let cwd = format!("/proc/self/fd/{number}");
        is_inside(container.exec_with(&["--cwd", &cwd], &["/probe", "facts"])?, &cwd)?;
    }
    Ok(())
}

/// A directory of the image as the host's own mount has it. A parent of it has the device and the inode of the
/// container's root, so that a check which compares those, as getcwd(3) of the C library does, takes it for one inside.
fn cwd_below_image(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let directory = bundle.rootfs("/sub");
    fs::create_dir(&directory)?;
    let container = fixture.start(&mut bundle)?;
    // Two levels above it is the bundle, a directory of the host.
    let program = ["/probe", "try", "list", "../.."];
    bundle.args(&program);
    let prelude = format!("exec 0<'{0}' 3<'{0}'", directory.display());
    for number in ["0", "3"] {
        let cwd = format!("/proc/self/fd/{number}");
        bundle.set("/process/cwd", json!(cwd)).write()?;
        let (id, path) = (fixture.id(), bundle.path().to_string_lossy().into_owned());
        let run = ["run", "--preserve-fds", "1", "--bundle", &path, &id];
        let exec = [&["exec", "--preserve-fds", "1", "--cwd", &cwd, container.id()], &program[..]].concat();
        for words in [&run[..], &exec] {
            if let Some(done) = unless_refused(fixture.call_after(&prelude, words)?)? {
                ensure!(
                    !done.stdout.contains("config.json"),
                    "{} in {cwd}: it lists the bundle: {}",
                    words[0],
                    done.stdout
                );
            }
        }
    }
    Ok(())
}

fn program_by_descriptor(fixture: &Fixture) -> anyhow::Result<()> {
    let outside = Outside::make(fixture)?;
    let program = outside.path().join("mark");
    fs::copy(fixture.beside_probe("probe"), &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let mut bundle = fixture.bundle()?;
    for number in 3..12 {
        let path = format!("/proc/self/fd/{number}/../../../../../../../..{}", program.display());
        let done = fixture.run(bundle.args(&[&path, "facts"]))?;
        ensure!(done.code != 0, "a program of the host was run by descriptor {number}");
    }
    Ok(())
}

fn nothing_leaks(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let links = |text: &str| text.lines().map(str::trim_end).filter(|line| *line != "ENOENT").count();
    let operations: Vec<String> = (3..40).map(|number| format!("link /proc/1/fd/{number}")).collect();
    let operations: Vec<&str> = operations.iter().map(String::as_str).collect();
    let found = fixture.attempts(&mut bundle, &operations)?;
    // One is the probe's own while it looks.
    ensure!(links(&found.join("\n")) == 0, "descriptors of init from 3 on: expected none, found {found:?}");
    let container = fixture.start(&mut bundle)?;
    let own: Vec<String> = (3..40).map(|number| format!("link /proc/self/fd/{number}")).collect();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let found = container.attempts(&own)?;
    ensure!(links(&found.join("\n")) == 0, "descriptors of an exec from 3 on: expected none, found {found:?}");
    Ok(())
}

/// A file system of the host's with a copy of the runtime, and overlays that can be asked for files by handles unless
/// their maker says otherwise (overlayfs.rst, "NFS export"), as some kernels are built. Dropped, all is as before.
struct Exported {
    place: PathBuf,
    defaults: Vec<(&'static str, String)>,
}

impl Exported {
    const PARAMETERS: [(&str, &str); 3] = [("nfs_export", "Y"), ("redirect_always_follow", "N"), ("redirect_dir", "N")];

    fn make(fixture: &Fixture) -> anyhow::Result<Exported> {
        let mut exported = Exported { place: fixture.directory().join("exported"), defaults: Vec::new() };
        fs::create_dir(&exported.place)?;
        mount(Some("spec"), &exported.place, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        for (name, value) in Exported::PARAMETERS {
            let before = fs::read_to_string(Exported::parameter(name))?;
            fs::write(Exported::parameter(name), value)?;
            exported.defaults.push((name, before));
        }
        fs::copy(fixture.runtime(), exported.place.join("runtime"))?;
        fs::write(exported.place.join("secret"), "of the host")?;
        Ok(exported)
    }

    fn parameter(name: &str) -> PathBuf {
        Path::new("/sys/module/overlay/parameters").join(name)
    }

    /// The file handle of the secret on every such overlay, as two arguments.
    fn handle(&self, fixture: &Fixture) -> anyhow::Result<String> {
        let (empty, view) = (fixture.directory().join("empty"), fixture.directory().join("view"));
        fs::create_dir(&empty)?;
        fs::create_dir(&view)?;
        let layers = format!("lowerdir={}:{}", self.place.display(), empty.display());
        mount(Some("spec"), &view, Some("overlay"), MsFlags::MS_RDONLY, Some(layers.as_str()))?;
        let secret = view.join("secret");
        let done =
            fixture.tool(&fixture.beside_probe("escapes").to_string_lossy(), &["handle", &secret.to_string_lossy()]);
        umount2(&view, MntFlags::empty())?;
        Ok(done?.ok()?.stdout.trim().to_owned())
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        for (name, before) in &self.defaults {
            let _ = fs::write(Exported::parameter(name), before);
        }
        let _ = umount2(&self.place, MntFlags::MNT_DETACH);
    }
}

/// Another process in the pid namespace of an init that waits. If the mount of init's program decodes file handles, a
/// process with CAP_DAC_READ_SEARCH can open files of the host's file system by it (any file of the host in 2014).
fn by_handle(fixture: &Fixture) -> anyhow::Result<()> {
    let exported = Exported::make(fixture)?;
    let handle = exported.handle(fixture)?;
    let mut bundle = fixture.bundle()?;
    fixture.install(&bundle, "escapes")?;
    for set in ["bounding", "effective", "permitted"] {
        bundle.set(&format!("/process/capabilities/{set}"), json!(["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]));
    }
    let neighbour = fixture.start(&mut bundle)?;
    let mut bundle = fixture.bundle()?;
    bundle.namespace("pid", Some(&neighbour.proc("ns/pid"))).args(&["/probe", "wait"]).write()?;
    let (id, pid_file) = (fixture.id(), fixture.directory().join("init.pid"));
    let (root, path, pid_path) = (fixture.root(), bundle.path().to_string_lossy(), pid_file.to_string_lossy());
    let words = ["--root", &*root.to_string_lossy(), "create", "--bundle", &*path, "--pid-file", &*pid_path, &id];
    fixture.tool(&exported.place.join("runtime").to_string_lossy(), &words)?.ok()?;
    let status = fs::read_to_string(format!("/proc/{}/status", fs::read_to_string(&pid_file)?.trim()))?;
    let inside = status.lines().find_map(|line| line.strip_prefix("NSpid:")?.split_whitespace().last());
    let program = format!("/proc/{}/exe", inside.context("init's pid in its namespace")?);
    let tries: Vec<&str> =
        ["/escapes", "by-handle", &program].into_iter().chain(handle.split(' ')).chain(["500"]).collect();
    let done = neighbour.exec(&tries)?;
    fixture.call(&["delete", "--force", &id])?.ok()?;
    if let Some(done) = unless_refused(done)? {
        ensure!(!done.stdout.starts_with("ok"), "a file of the host beside the runtime: {}", done.stdout);
    }
    Ok(())
}
