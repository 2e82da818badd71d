//! restore: a container from disk, with CRIU, with cgroup and record as create makes them.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::bundle::read_config;
use super::checkpoint::{DESCRIPTORS, Directory, apply, work_directory};
use super::joined::Joined;
use super::record::{CgroupGuard, GroupGuard, attach, cgroup_mounts, first_record, make_cgroup, put_init};
use super::terminal::check_console;
use super::{Console, Engine, Launched, RestoreOptions, absolute, announce, describe};
use crate::criu::{Criu, CriuContext, Kind, Mapped, Notification, Options};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::hooks::{self, Setting};
use crate::state::{Record, check_id};
use crate::store::{self, Entry};
use crate::{probe, rootfs};
use brig_plan::container::ContainerPlan;
use brig_plan::mounts::RootfsPlan;
use brig_plan::namespaces::NamespaceKind;
use brig_plan::restore::{self, InheritedNamespace, RestorePlan};
use brig_plan::{config, external};
use brig_sys::path::{Dir, Links};
use brig_sys::process::{self, Child};
use brig_sys::{file, mount, ns, socket};

impl Engine {
    /// Restores a container that [`Engine::checkpoint`] saved, under any id. The container runs on return.
    ///
    /// # Errors
    /// As for [`Engine::create`]; [`ErrorKind::Unsupported`] without CRIU; else CRIU's error. Nothing is left behind.
    pub fn restore(&self, id: &str, mut options: RestoreOptions) -> Result<Launched> {
        check_id(id)?;
        let bundle = absolute(&options.bundle)?;
        let path = bundle.join("config.json");
        let bytes = read_config(&bundle, &path)?;
        let (spec, warnings) = config::parse(&bytes).with_context(|| path.display().to_string())?;
        let mut host = probe::host()?;
        // Only compared: CRIU opens the namespaces itself, by path.
        Joined::open(&spec, &mut host)?;
        let (plan, more) = restore::build(&spec, id, &bundle, self.manager, &host)?;
        warnings.iter().chain(&more).for_each(|warning| tracing::warn!("{warning}"));
        describe::restore(&plan);
        let container = &plan.container;
        check_console(container.init.process.terminal, &options.console)?;
        let images = Directory::open(&options.images)?;
        let pipes = pipes(&images.path)?;

        let reservation = store::reserve(&self.root, id)?;
        let entry = reservation.entry();
        entry.write_config(&bytes)?;
        let mut record = first_record(id, &spec, &bundle, container, host.euid)?;
        let mut cgroup = make_cgroup(&container.cgroup, &mut record, entry)?;
        let group = GroupGuard::new(container.intel_rdt.as_ref(), &mut record, entry)?;
        let stdio = options.stdio.take()?;
        let restoring =
            Restoring { entry, record, plan: &plan, options: &options, stdio, pipes, init: None, terminal: None };
        let (child, terminal) = restoring.run(&mut cgroup, &images)?;
        cgroup.disarm();
        group.disarm();
        reservation.persist();
        Ok(Launched { pid: child.pid, pidfd: child.pidfd.into(), terminal, pipes: None, notify: None })
    }
}

/// A restore in progress. Processes that CRIU has restored are killed on drop.
struct Restoring<'a> {
    entry: &'a Entry,
    record: Record,
    plan: &'a RestorePlan,
    options: &'a RestoreOptions,
    stdio: Option<[OwnedFd; 3]>,
    /// Standard streams that CRIU inherits from this process, by their names in the images.
    pipes: Vec<(String, i32)>,
    init: Option<Child>,
    terminal: Option<OwnedFd>,
}

impl Restoring<'_> {
    fn run(mut self, cgroup: &mut CgroupGuard, images: &Directory) -> Result<(Child, Option<OwnedFd>)> {
        let rootfs =
            self.plan.container.init.rootfs.as_ref().ok_or_else(|| Error::other("the container has no root"))?;
        let mounts = external::mounts(rootfs, &cgroup_mounts(cgroup.cgroup()?)?);
        make_targets(rootfs, &mounts)?;
        let root = BoundRoot::new(self.entry.restore_root(), &rootfs.root)?;
        let work = work_directory(&self.options.work)?;
        let inherited = inherited_namespaces(self.plan)?;

        let made = cgroup.cgroup()?;
        let enter = made.self_entry()?;
        let enter: Vec<_> = enter.iter().map(AsFd::as_fd).collect();
        let inherit: Vec<_> = inherited.iter().map(|(_, fd)| fd.as_fd()).collect();
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let given = match &self.stdio {
            None => [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            Some(fds) => fds.each_ref().map(AsFd::as_fd),
        };
        // CRIU hands them over as they are.
        let [first, second, third] = given.map(rootfs::replacement);
        let replaced = [first?, second?, third?];
        let stdio: [_; 3] = std::array::from_fn(|place| replaced[place].as_ref().map_or(given[place], AsFd::as_fd));
        let is_inherited = self.stdio.is_none() && replaced.iter().all(Option::is_none);
        let stdio = (!is_inherited).then_some(stdio);
        let criu = Criu::start(&CriuContext { cgroup: made.clone_target(), enter: &enter, stdio, inherit: &inherit })?;
        if made.has_pending_unit() {
            attach(cgroup, criu.pid(), &mut self.record, self.entry)?;
        }
        if let Some(group) = &self.record.intel_rdt {
            group.enter(criu.pid())?;
        }
        let mut asked = Options::new((images.file.as_fd(), &images.path), "restore.log", &root.0);
        asked.work = work.as_ref().map(|work| (work.file.as_fd(), work.path.as_path()));
        asked.rst_sibling = true;
        apply(&mut asked, &self.options.common);
        asked.lsm_profile = self.options.lsm_profile.as_deref();
        asked.lsm_mount_context = self.options.lsm_mount_context.as_deref();
        asked.mounts = mounts.into_iter().map(|one| Mapped { key: one.target, value: one.source }).collect();
        asked.mounts.push(Mapped { key: external::NULL.into(), value: external::NULL.into() });
        asked.inherit = std::mem::take(&mut self.pipes);
        asked.inherit.extend(inherited.iter().map(|(name, fd)| ((*name).to_owned(), fd.as_raw_fd())));
        asked.join = self.plan.joined.iter().map(|(kind, path)| (kind.proc_name(), path.clone())).collect();
        asked.cgroup_roots = cgroup_roots(criu.pid())?;
        criu.request(Kind::Restore, &asked, &mut |notification| self.on_notification(notification))?;
        let init = self.init.take().ok_or_else(|| Error::other("CRIU has restored no process"))?;
        Ok((init, self.terminal.take()))
    }

    fn on_notification(&mut self, notification: Notification) -> Result<()> {
        match notification.script.as_str() {
            "setup-namespaces" => {
                if self.plan.container.namespaces.is_new(NamespaceKind::Network) {
                    loopback_up(notification.pid).context("unable to bring up the loopback interface")?;
                }
                let ContainerPlan { init, hooks, .. } = &self.plan.container;
                let state = init.hook_state.json("creating", notification.pid);
                let setting = Setting::beside(&state, &init.hook_state.bundle);
                hooks::run(&hooks.prestart, setting)?;
                hooks::run(&hooks.create_runtime, setting)
            }
            "orphan-pts-master" => {
                let master = notification.fd.ok_or_else(|| Error::other("CRIU sent no terminal"))?;
                self.hand_over(master)
            }
            // The restored processes exist, and do not run yet.
            "post-restore" => {
                let child = Child { pid: notification.pid, pidfd: process::pidfd_open(notification.pid)? };
                put_init(&mut self.record, child.pid)?;
                let child = self.init.insert(child);
                self.entry.write_record(&self.record)?;
                announce(child, None, self.options.pid_file.as_deref())
            }
            _ => Ok(()),
        }
    }

    fn hand_over(&mut self, master: OwnedFd) -> Result<()> {
        match &self.options.console {
            Console::None => {
                Err(Error::new(ErrorKind::InvalidConfig, "the image has a terminal, and there is no console for it"))
            }
            Console::Socket(path) => {
                let unable = || format!("unable to send the terminal over the console socket {}", path.display());
                let console = socket::connect(path).with_context(unable)?;
                socket::send(console.as_fd(), b"/dev/ptmx", &[master.as_fd()]).with_context(unable)
            }
            Console::Caller | Console::Proxied => {
                self.terminal = Some(master);
                Ok(())
            }
        }
    }
}

impl Drop for Restoring<'_> {
    fn drop(&mut self) {
        let Some(init) = self.init.take() else { return };
        let killed = process::pidfd_send_signal(init.pidfd.as_fd(), libc::SIGKILL);
        match killed.and_then(|()| process::wait(init.pidfd.as_fd()).map(drop)) {
            Err(error) if !matches!(error.errno(), rustix::io::Errno::SRCH | rustix::io::Errno::CHILD) => {
                tracing::warn!("unable to clean up: {error}");
            }
            _ => {}
        }
        if let Some(path) = &self.options.pid_file
            && let Err(error) = std::fs::remove_file(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("unable to remove {}: {error}", path.display());
        }
    }
}

/// Sets up `lo` in the network namespace of a process.
fn loopback_up(pid: i32) -> Result<()> {
    let network = NamespaceKind::Network.clone_flag();
    let namespace = ns::open(&PathBuf::from(format!("/proc/{pid}/ns/net")), network)?;
    // In a thread of its own, because setns(2) affects one thread, and the caller's must stay.
    let up = std::thread::scope(|scope| {
        let bring_up = || ns::join(namespace.as_fd(), network).and_then(|()| ns::loopback_up());
        scope.spawn(bring_up).join().map_err(|_| Error::other("a thread has panicked"))
    })?;
    Ok(up?)
}

/// A bind of the container's root in the record's directory: CRIU requires a mount point whose parent has no
/// overmount.
struct BoundRoot(PathBuf);

impl BoundRoot {
    fn new(path: PathBuf, root: &Path) -> Result<BoundRoot> {
        std::fs::create_dir(&path).with_context(|| format!("unable to make {}", path.display()))?;
        let bound = BoundRoot(path);
        let flags = libc::MS_BIND | libc::MS_REC;
        mount::mount_raw(Some(root.as_os_str()), &bound.0, None, flags, None).context("root.path")?;
        Ok(bound)
    }
}

impl Drop for BoundRoot {
    fn drop(&mut self) {
        match mount::detach(&self.0) {
            // EINVAL: not mounted yet.
            Err(error) if error.errno() != rustix::io::Errno::INVAL => tracing::warn!("unable to clean up: {error}"),
            _ => {}
        }
        if let Err(error) = std::fs::remove_dir(&self.0) {
            tracing::warn!("unable to remove {}: {error}", self.0.display());
        }
    }
}

/// Creates the mount points that the root lacks: the image may be restored on another copy of it.
fn make_targets(rootfs: &RootfsPlan, mounts: &[external::ExternalMount]) -> Result<()> {
    let root = Dir::open_host(&rootfs.root).context("root.path")?;
    for one in mounts.iter().filter(|one| one.needs_target) {
        let source = std::fs::metadata(&one.source);
        let source =
            source.with_context(|| format!("unable to look at the source {} of a mount", one.source.display()))?;
        let made = match source.is_dir() {
            true => root.mkdir_all(&one.target, 0o755, Links::Follow),
            false => root.make_file(&one.target, 0o755, Links::Follow),
        };
        made.with_context(|| format!("unable to make the mount point {}", one.target.display()))?;
    }
    Ok(())
}

/// Opens the namespaces that CRIU inherits, by their names.
fn inherited_namespaces(plan: &RestorePlan) -> Result<Vec<(&'static str, OwnedFd)>> {
    let open = |namespace: &InheritedNamespace| {
        let InheritedNamespace { kind, name, path, .. } = namespace;
        let unable = || format!("unable to join the {} namespace {}", kind.as_str(), path.display());
        Ok((*name, ns::open(path, kind.clone_flag()).with_context(unable)?))
    };
    plan.inherited.iter().map(open).collect()
}

/// Finds the standard streams that were pipes, which CRIU replaces by its own, this process's. The images are
/// untrusted.
fn pipes(images: &Path) -> Result<Vec<(String, i32)>> {
    /// Enough for three links of /proc/PID/fd, each shorter than PATH_MAX.
    const MAX_BYTES: u64 = 64 << 10;
    let path = images.join(DESCRIPTORS);
    let bytes = file::read_nofollow(&path, MAX_BYTES).with_context(|| format!("unable to read {}", path.display()))?;
    let bytes = bytes.ok_or_else(|| Error::new(ErrorKind::InvalidConfig, format!("{} is missing", path.display())))?;
    let streams: Vec<String> = serde_json::from_slice(&bytes)
        .map_err(|error| Error::new(ErrorKind::InvalidConfig, format!("{}: {error}", path.display())))?;
    Ok(streams.into_iter().zip(0..3).filter(|(stream, _)| stream.contains("pipe:")).collect())
}

/// The cgroups of a process, as controllers and path (cgroups(7), /proc/PID/cgroup).
fn cgroup_roots(pid: i32) -> Result<Vec<(String, String)>> {
    let text = brig_sys::procfs::Proc::open()?.read_to_string(format!("{pid}/cgroup"))?;
    let root = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    };
    Ok(text.lines().filter_map(root).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_stream_list_must_be_a_small_regular_file() {
        let images = tempfile::tempdir().unwrap();
        let path = images.path().join(DESCRIPTORS);
        let refused = || pipes(images.path()).unwrap_err().to_string();
        assert!(refused().ends_with("descriptors.json is missing"));
        std::fs::write(&path, r#"["/dev/null","pipe:[7]","pipe:[8]"]"#).unwrap();
        assert_eq!(pipes(images.path()).unwrap(), [("pipe:[7]".to_owned(), 1), ("pipe:[8]".to_owned(), 2)]);
        std::fs::write(&path, " ".repeat((64 << 10) + 1)).unwrap();
        assert!(refused().contains("expected at most 65536 bytes"));
        std::fs::remove_file(&path).unwrap();
        for target in ["/dev/zero", "/etc/passwd", "missing"] {
            symlink(target, &path).unwrap();
            assert!(refused().contains("found a symbolic link"), "{target}");
            std::fs::remove_file(&path).unwrap();
        }
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(refused().contains("found a FIFO"));
    }
}
