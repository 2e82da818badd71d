//! The steps of an init: each executes one part of the plan, and does nothing where the plan has no such part. Their
//! order is in [`super::table`].

use std::borrow::Cow;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::Mode;
use rustix::io::FdFlags;

use crate::channel::InitEnd;
use crate::error::{Context, Error, Result};
use crate::handshake::{Listening, Mounted, Ready, Source};
use crate::hooks;
use crate::rootfs::{self, OpenSource, RootContext};
use brig_plan::hooks::Hook;
use brig_plan::init::InitNamespaces;
use brig_plan::passwd;
use brig_plan::seccomp::flag::NEW_LISTENER;
use brig_sys::cred::SchedulerAttributes;
use brig_sys::path::{self, Dir, Links};
use brig_sys::{SysError, cred, file, keyring, memory, ns, process, seccomp, signal, tty};

use super::context::{Init, onto_stdio};
use super::cwd::chdir;
use super::second_stage::{new_session, set_limits};
use super::{executable, gate, program, terminal};

pub(super) fn affinity(init: &mut Init) -> Result<()> {
    let process = &init.plan.process;
    match (process.initial_affinity.as_slice(), process.final_affinity.as_slice()) {
        ([], []) => cred::reset_affinity().context("unable to take back the caller's CPU affinity"),
        ([], _) => Ok(()),
        (cpus, _) => cred::set_affinity(cpus).context("unable to set process.execCPUAffinity.initial"),
    }
}

pub(super) fn session(init: &mut Init) -> Result<()> {
    new_session()?;
    let Some(name) = &init.plan.keyring else { return Ok(()) };
    let name = CString::new(name.as_str()).map_err(|_| Error::other("the keyring's name holds a NUL byte"))?;
    match keyring::join_session(&name) {
        Err(error) if error.errno() == rustix::io::Errno::NOSYS => {
            init.channel()?.log(true, "this kernel has no keyrings; the caller's session keyring stays")
        }
        // The new keyring counts against the user's quota, and is a default, not a request.
        Err(error) if error.errno() == rustix::io::Errno::DQUOT => {
            init.channel()?.log(true, format!("the caller's session keyring stays: {error}"))
        }
        other => other.context("unable to make a session keyring (--no-new-keyring leaves the caller's)"),
    }
}

pub(super) fn cgroup_namespace(init: &mut Init) -> Result<()> {
    if init.plan.namespaces.contains(InitNamespaces::NEW_CGROUP) {
        ns::unshare(libc::CLONE_NEWCGROUP as u64).context("unable to make a cgroup namespace")?;
    }
    Ok(())
}

pub(super) fn time_namespace(init: &mut Init) -> Result<()> {
    let Some(offsets) = &init.plan.time_offsets else { return Ok(()) };
    const CLONE_NEWTIME: u64 = 0x80;
    ns::unshare(CLONE_NEWTIME).context(
        "linux.namespaces: unable to make a time namespace (a kernel without them says Invalid argument: leave it out)",
    )?;
    if !offsets.is_empty() {
        init.proc()?.write("self/timens_offsets", offsets.as_bytes()).context("unable to set linux.timeOffsets")?;
    }
    let namespace = init.proc()?.open_namespace("time_for_children")?;
    ns::join(namespace.as_fd(), CLONE_NEWTIME).context("unable to enter the time namespace")
}

pub(super) fn loopback(init: &mut Init) -> Result<()> {
    if init.plan.namespaces.contains(InitNamespaces::NEW_NETWORK) {
        ns::loopback_up().context("unable to bring up the loopback interface")?;
    }
    Ok(())
}

pub(super) fn names(init: &mut Init) -> Result<()> {
    if let Some(name) = &init.plan.hostname {
        ns::set_hostname(name).context("unable to set hostname")?;
    }
    if let Some(name) = &init.plan.domainname {
        ns::set_domainname(name).context("unable to set domainname")?;
    }
    Ok(())
}

/// The parent, which opens sources of bind mounts for an init that may not.
struct Parent<'a>(&'a InitEnd);

impl OpenSource for Parent<'_> {
    fn open_source(&self, index: usize) -> Result<OwnedFd> {
        let (_, source) = self.0.ask_for_fd(&Source { index })?;
        source.ok_or_else(|| Error::other("the parent sent no source"))
    }
}

pub(super) fn root(init: &mut Init) -> Result<()> {
    let Some(plan) = &init.plan.rootfs else { return Ok(()) };
    let parent =
        Parent(init.channel.as_ref().ok_or_else(|| Error::other("the parent does not read the channel any more"))?);
    let pid_namespace = init.handles.pid_namespace.as_ref().map(OwnedFd::try_clone).transpose();
    let context = RootContext {
        cgroup: std::mem::take(&mut init.settings.cgroup),
        empty_namespace: init.handles.empty_namespace.take(),
        sources: std::mem::take(&mut init.handles.sources),
        pid_namespace: pid_namespace.context("unable to copy an fd")?,
        parent: Some(&parent),
    };
    init.root = Some(rootfs::prepare(plan, context).context("error preparing rootfs")?);
    Ok(())
}

pub(super) fn runtime_hooks(init: &mut Init) -> Result<()> {
    if init.plan.runtime_hooks {
        init.channel()?.ask(&Mounted)?;
    }
    Ok(())
}

pub(super) fn container_hooks(init: &mut Init) -> Result<()> {
    let hooks = &init.plan.hooks.create_container;
    if hooks.is_empty() {
        return Ok(());
    }
    if let Some(root) = &init.root {
        rustix::process::fchdir(root.dir().fd()).map_err(|error| SysError::new("fchdir", "root", error))?;
    }
    // The umask is 0 while the root is built.
    let building = rustix::process::umask(Mode::from_bits_truncate(0o022));
    run_hooks(init, hooks, "creating", None)?;
    rustix::process::umask(building);
    Ok(())
}

/// Runs hooks in this process's working directory, under the filter that the parent has sent by then, unless this
/// process is under it already.
fn run_hooks(init: &Init, list: &[Hook], status: &str, environment: Option<&[String]>) -> Result<()> {
    let state = init.plan.hook_state.json(status, rustix::process::getpid().as_raw_pid());
    let filter = init.seccomp.as_ref();
    hooks::run(list, hooks::Setting { state: &state, directory: None, environment, filter, init: None })
}

pub(super) fn console(init: &mut Init) -> Result<()> {
    if !init.plan.process.terminal {
        return Ok(());
    }
    let console = init.handles.console.take();
    let console = console.ok_or_else(|| Error::other("process.terminal is set, and no console was given"))?;
    let settings = init.settings.terminal;
    let slave = match &init.root {
        Some(root) => {
            let slave = terminal::create(settings, console, init.proc()?, root.dir())?;
            root.bind_console(slave.as_fd()).context("unable to bind /dev/console")?;
            slave
        }
        None => terminal::create(settings, console, init.proc()?, &Dir::open_host(Path::new("/"))?)?,
    };
    init.terminal = Some(slave);
    Ok(())
}

pub(super) fn enter(init: &mut Init) -> Result<()> {
    match (&init.root, &init.plan.rootfs) {
        (Some(root), Some(plan)) => root.enter(plan),
        _ => Ok(()),
    }
}

pub(super) fn sysctl(init: &mut Init) -> Result<()> {
    for (name, value) in &init.plan.sysctl {
        let path = format!("sys/{}", name.replace('.', "/"));
        init.proc()?.write(path, value.as_bytes()).with_context(|| format!("unable to set linux.sysctl {name}"))?;
    }
    Ok(())
}

pub(super) fn finish(init: &mut Init) -> Result<()> {
    match (init.root.take(), &init.plan.rootfs) {
        (Some(root), Some(plan)) => root.finish(plan),
        _ => Ok(()),
    }
}

/// Reads a small file of the container's, such as /etc/passwd; empty if the file is missing.
///
/// # Errors
/// The file is no regular file: a link to /proc/kmsg would block the container and disclose the host's log.
fn read_inside(init: &Init, path: &str) -> Result<String> {
    /// Larger files are an error of the image, or an attack.
    const MAX_BYTES: u64 = 16 << 20;
    let unable = || format!("unable to read the container's {path}");
    let root = Dir::open_host(Path::new("/"))?;
    let Some(found) = root.try_find(Path::new(path), Links::Follow).with_context(unable)? else {
        return Ok(String::new());
    };
    let bytes = file::read_found(init.proc()?, &found, MAX_BYTES).with_context(unable)?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

pub(super) fn identity(init: &mut Init) -> Result<()> {
    let mut home = None;
    if let Some(user) = &init.plan.process.user {
        let passwd = read_inside(init, "/etc/passwd")?;
        let group = read_inside(init, "/etc/group")?;
        let found =
            passwd::identify(user, &passwd, &group).map_err(|error| Error::other(format!("unable to find {error}")))?;
        (init.identity.uid, init.identity.gid) = (found.uid, found.gid);
        init.identity.groups.extend(found.groups);
        home = found.home;
    }
    let has_home = |entry: &String| entry.strip_prefix("HOME=").is_some_and(|home| !home.is_empty());
    if !init.plan.process.env.iter().any(has_home) {
        if home.is_none() {
            home = home_of(init, init.identity.uid)?;
        }
        init.identity.home = Some(home.unwrap_or_else(|| "/".to_owned()));
    }
    Ok(())
}

/// The home directory of a user, for an environment without HOME. It is a default, as with runc: a file that cannot be
/// read is a warning.
fn home_of(init: &Init, uid: u32) -> Result<Option<String>> {
    match read_inside(init, "/etc/passwd") {
        Ok(passwd) => Ok(passwd::home(&passwd, uid).map(str::to_owned)),
        Err(error) => {
            init.channel()?.log(true, format!("process.env has no HOME, and it becomes \"/\": {error}"))?;
            Ok(None)
        }
    }
}

pub(super) fn labels(init: &mut Init) -> Result<()> {
    let process = &init.plan.process;
    if let Some(profile) = &process.apparmor {
        // Linux 5.8 added a file for AppArmor; before, AppArmor shared attr/exec with the other modules.
        let text = format!("exec {profile}");
        let written = match init.proc()?.write("thread-self/attr/apparmor/exec", text.as_bytes()) {
            Err(error) if error.errno() == rustix::io::Errno::NOENT => {
                init.proc()?.write("thread-self/attr/exec", text.as_bytes())
            }
            other => other,
        };
        written.with_context(|| format!("unable to apply apparmor profile {profile}"))?;
    }
    if let Some(label) = &process.selinux {
        init.proc()?
            .write("thread-self/attr/exec", label.as_bytes())
            .with_context(|| format!("unable to set selinux label {label}"))?;
    }
    Ok(())
}

pub(super) fn scheduling(init: &mut Init) -> Result<()> {
    let process = &init.plan.process;
    // The second-stage init sets the attributes that a clone does not inherit.
    let inherited = |scheduler: &&SchedulerAttributes| !init.plan.has_late_second_stage() || scheduler.is_inherited();
    if let Some(scheduler) = process.scheduler.as_ref().filter(inherited) {
        cred::set_scheduler(scheduler).context("unable to set process.scheduler")?;
    }
    if let Some((class, level)) = process.io_priority {
        cred::set_io_priority(class, level).context("unable to set process.ioPriority")?;
    }
    if let Some(persona) = process.personality {
        cred::set_personality(persona).context("unable to set linux.personality")?;
    }
    if let Some(policy) = &process.memory_policy {
        cred::set_memory_policy(policy.mode, &policy.nodes).with_context(|| {
            format!(
                "unable to set linux.memoryPolicy (are the nodes {:?} there and in linux.resources.cpu.mems, and does \
                 this kernel know the mode and its flags?)",
                policy.nodes
            )
        })?;
    }
    if !process.final_affinity.is_empty() {
        cred::set_affinity(&process.final_affinity).context("unable to set process.execCPUAffinity.final")?;
    }
    Ok(())
}

pub(super) fn limits(init: &mut Init) -> Result<()> {
    // With a low limit on processes, this process must not count against those of the container.
    if init.plan.has_late_second_stage() { Ok(()) } else { set_limits(init, false) }
}

pub(super) fn standard_streams(init: &mut Init) -> Result<()> {
    if let Some(slave) = init.terminal.take() {
        onto_stdio(slave.as_fd())?;
        if !init.plan.has_late_second_stage() {
            tty::make_controlling(slave.as_fd()).context("unable to take the terminal")?;
        }
    }
    terminal::reopen_devices(init)?;
    let uid = init.identity.uid;
    if uid == 0 && !init.plan.has_user_namespace() {
        return Ok(());
    }
    terminal::own_standard_streams(init, uid)
}

pub(super) fn credentials(init: &mut Init) -> Result<()> {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let (process, identity) = (&init.plan.process, &init.identity);
    let wanted = process.capabilities;
    cred::limit_bounding(wanted.bounding).context("unable to limit the bounding set")?;
    cred::keep_capabilities()?;
    match if process.keep_groups { Ok(()) } else { cred::set_groups(&identity.groups) } {
        Err(error) if identity.groups.is_empty() && error.errno() == rustix::io::Errno::PERM => {}
        other => other.context("unable to set process.user.additionalGids")?,
    }
    cred::set_ids(identity.uid, identity.gid)
        .with_context(|| format!("unable to become user {}:{}", identity.uid, identity.gid))?;
    if process.no_new_privileges {
        cred::set_no_new_privs()?;
    }
    // Without no_new_privs, installing a filter requires CAP_SYS_ADMIN. The process keeps it until the exec, which
    // computes the new sets from the bounding, inheritable and ambient ones alone (capabilities(7)): the program never
    // has it.
    let keep = if init.plan.seccomp && !process.no_new_privileges { CAP_SYS_ADMIN } else { 0 };
    cred::set_capabilities(wanted.effective | keep, wanted.permitted | keep, wanted.inheritable)
        .context("unable to set process.capabilities")?;
    cred::set_ambient(wanted.ambient).context("unable to set process.capabilities.ambient")?;
    process::set_undumpable()?;
    rustix::process::umask(Mode::from_bits_truncate(process.umask));
    if init.chdir_later {
        chdir(&process.cwd).context("unable to enter process.cwd")?;
    }
    // A working directory outside of the root would permit an escape from the container (CVE-2024-21626).
    path::working_directory().context("process.cwd: the working directory is not inside the container's root")?;
    Ok(())
}

pub(super) fn lookup(init: &mut Init) -> Result<()> {
    let program = program::lookup(init)?;
    init.program_flaw = executable::flaw(&program);
    init.program = Some(program);
    Ok(())
}

pub(super) fn ready(init: &mut Init) -> Result<()> {
    // Must precede the notification of the parent, after which an exec is possible that could trace this process.
    init.close_proc();
    if init.handles.gate.is_some() {
        // Must precede the record, after which the process can be signalled.
        signal::react_as_go_does()?;
    }
    let recorded = init.channel()?.ask(&Ready)?;
    init.seccomp = recorded.seccomp;
    Ok(())
}

pub(super) fn wait_at_gate(init: &mut Init) -> Result<()> {
    let Some(gate) = init.handles.gate.take() else { return Ok(()) };
    // The parent has exited, or is about to: it does not wait for the program.
    init.channel = None;
    // A created container may wait for long, and a host may have a thousand of them.
    memory::release_program()?;
    init.gate = Some(gate::wait(gate)?);
    Ok(())
}

pub(super) fn start_hooks(init: &mut Init) -> Result<()> {
    let hooks = &init.plan.hooks.start_container;
    if hooks.is_empty() {
        return Ok(());
    }
    let environment: Vec<String> = init.environment().map(Cow::into_owned).collect();
    run_hooks(init, hooks, "created", Some(&environment))?;
    init.gate.as_ref().map_or(Ok(()), gate::report_hooks)
}

pub(super) fn preserve(init: &mut Init) -> Result<()> {
    for fd in &init.preserved {
        rustix::io::fcntl_setfd(fd, FdFlags::empty())
            .map_err(|error| SysError::new("fcntl", format!("{}, F_SETFD, 0", fd.as_raw_fd()), error))?;
    }
    Ok(())
}

pub(super) fn listener(init: &mut Init) -> Result<()> {
    let Some(filter) = init.seccomp.take_if(|filter| filter.flags & NEW_LISTENER != 0) else { return Ok(()) };
    let channel = init.channel()?.try_clone()?;
    let deliver = move |listener: OwnedFd| channel.send(&Listening, &[listener.as_fd()]).is_ok();
    let installed = seccomp::install_with_listener(&filter.instructions, filter.flags, deliver);
    // The memory must not be released under the filter, which may forbid the call for it.
    std::mem::forget(filter);
    installed.context("unable to install the seccomp filter (SCMP_ACT_NOTIFY takes a kernel since 5.0)")
}

pub(super) fn filter(init: &mut Init) -> Result<()> {
    match &init.seccomp {
        Some(filter) => {
            Ok(seccomp::install(&filter.instructions, filter.flags).context("unable to install the seccomp filter")?)
        }
        None => Ok(()),
    }
}
