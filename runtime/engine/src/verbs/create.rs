//! create and run: from a bundle to a process; a failure undoes every step.

use std::io::IsTerminal;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Spec;

use super::joined::Joined;
use super::listener::Listener;
use super::record::{CgroupGuard, GroupGuard, attach, cgroup_mounts, first_record, make_cgroup, put_init};
use super::{
    Configuration, Console, CreateOptions, Engine, Launched, Stdio, absolute, announce, notify, pid_namespace,
};
use crate::cgroup::Cgroup;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::hooks::{self, Setting};
use crate::launch::parent::{IdMaps, Launch, LaunchObserver, launch};
use crate::launch::stall::{Freezer, STALL_TIMEOUT, StallLimit, Stalled};
use crate::launch::unknown_syscalls::UnknownSyscalls;
use crate::launch::{faults, gate};
use crate::state::{Record, check_id};
use crate::store::{self, Entry};
use crate::{probe, rootfs, trace};
use brig_plan::container::{self, ContainerPlan, CreateChoices};
use brig_plan::hooks::{Hook, HooksPlan};
use brig_plan::init::{HookState, InitPlan};
use brig_plan::namespaces::NamespaceKind;
use brig_plan::{Findings, Host, annotations, config};
use brig_sys::process::{self, Child};
use brig_sys::procfs::Proc;
use brig_sys::{file, socket, tty};

impl Engine {
    /// Creates a container, whose program waits for [`Engine::start`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidId`], [`ErrorKind::AlreadyExists`]; [`ErrorKind::InvalidConfig`] with every violation;
    /// else the error of the step that failed. Nothing is left behind.
    pub fn create(&self, id: &str, options: CreateOptions) -> Result<Launched> {
        self.create_or_run(id, options, true)
    }

    /// Creates a container and starts its program. On return the program has been executed.
    ///
    /// # Errors
    /// As for [`Engine::create`]; and [`ErrorKind::Executable`] when the program could not be executed.
    pub fn run(&self, id: &str, options: CreateOptions) -> Result<Launched> {
        self.create_or_run(id, options, false)
    }

    fn create_or_run(&self, id: &str, mut options: CreateOptions, gated: bool) -> Result<Launched> {
        check_id(id)?;
        let bundle = absolute(&options.bundle)?;
        let phase = trace::phase("read the configuration");
        let (bytes, name) = configuration(&bundle, &options.config)?;
        let (mut spec, warnings) = config::parse(&bytes).context(name)?;
        annotations::apply_overrides(&mut spec);
        drop(phase);
        if options.notify_socket.is_some() {
            notify::add_to(&mut spec, &absolute(&self.root)?.join(id));
        }
        let phase = trace::phase("plan");
        let mut host = probe::host()?;
        let joined = Joined::open(&spec, &mut host)?;
        let choices = CreateChoices {
            no_pivot: options.no_pivot,
            no_new_keyring: options.no_new_keyring,
            preserve_fds: options.preserve_fds,
            listen_fds: options.listen_fds,
            manager: self.manager,
        };
        let (mut plan, more) = container::build(&spec, id, &bundle, choices, &host)?;
        drop(phase);
        warnings.iter().chain(&more).for_each(|warning| tracing::warn!("{warning}"));
        plan.init.rootfs.as_ref().map_or(Ok(()), rootfs::check_root)?;
        check_console(plan.init.process.terminal, &options.console)?;
        let (console, terminal) = open_console(plan.init.process.terminal, &options.console)?;
        prepare_proxied(&mut plan.init, &options.console);

        let phase = trace::phase("reserve the id");
        let reservation = store::reserve(&self.root, id)?;
        faults::parent("reserved");
        reservation.entry().write_config(&bytes)?;
        let record = first_record(id, &spec, &bundle, &plan, host.euid)?;
        drop(phase);
        if options.notify_socket.is_some() {
            notify::make_directory(reservation.entry().path())?;
        }
        // Bound before the program starts, which may be ready at once; for a created container, start binds the
        // socket.
        let notify = match options.notify_socket.take().filter(|_| !gated) {
            Some(manager) => notify::Notify::bind(reservation.entry().path(), &manager)?,
            None => None,
        };
        let pipes = make_pipes(&mut options.stdio, &plan.init)?;
        let launched =
            self.launch(reservation.entry(), plan, joined, &spec, &host, record, console, &mut options, gated)?;
        reservation.persist();
        let terminal = terminal.map(|socket| receive_terminal(&socket)).transpose()?;
        let mut launched = Launched { pid: launched.pid, pidfd: launched.pidfd, terminal, pipes, notify };
        if let Some(notify) = launched.notify.take_if(|_| options.detach)
            && let Err(error) = notify.wait_and_notify(launched.pidfd.as_fd(), launched.pid)
        {
            // The container runs, as requested, so this is only a warning.
            tracing::warn!("{error}");
        }
        Ok(launched)
    }

    #[allow(clippy::too_many_arguments, reason = "one call, whose arguments are the parts of one container")]
    fn launch(
        &self,
        entry: &Entry,
        plan: ContainerPlan,
        joined: Joined,
        spec: &Spec,
        host: &Host,
        mut record: Record,
        console: Option<OwnedFd>,
        options: &mut CreateOptions,
        gated: bool,
    ) -> Result<Child> {
        let ContainerPlan { mut init, namespaces, mut clone_flags, id_maps, cgroup: cgroup_plan, hooks, intel_rdt } =
            plan;
        let phase = trace::phase("make the cgroup");
        let cgroup = make_cgroup(&cgroup_plan, &mut record, entry)?;
        let made = cgroup.cgroup()?;
        let group = GroupGuard::new(intel_rdt.as_ref(), &mut record, entry)?;
        let clone_target =
            made.clone_target().map(|fd| fd.try_clone_to_owned()).transpose().context("unable to copy an fd")?;
        let enter = made.self_entry()?;
        drop(phase);
        let phase = trace::phase("open what is inherited");
        let mut inherit = joined.into_plan(&namespaces, &mut init)?;
        pid_namespace::enter_last(&mut init, &mut clone_flags, &inherit);
        if let Some(rootfs) = &mut init.rootfs {
            rootfs.cgroup = cgroup_mounts(made)?;
            for (index, tree) in rootfs::open_sources(rootfs)? {
                rootfs.mounts[index].source_fd = Some(tree.as_raw_fd());
                inherit.push(tree);
            }
        }
        if let Some(seed) = seed(&mut init, &mut clone_flags) {
            inherit.push(seed);
        }
        let gate = if gated { Some(gate::make(&entry.gate_path())?) } else { None };
        drop(phase);
        // The kernel takes a group map from a writer without CAP_SETGID over its own user namespace, the new one's
        // parent, only after setgroups(2) was denied (user_namespaces(7)). Denied once, nothing inside can change its
        // groups.
        let deny_setgroups = host.effective_capabilities & CAP_SETGID == 0;
        let id_maps = id_maps.map(|(uids, gids)| IdMaps { uids, gids, deny_setgroups });
        let hook_state = init.hook_state.clone();
        let oom_score_adj = init.process.oom_score_adj;
        // systemd moves the process; else the process is cloned into its cgroup, or enters it before anything else.
        let attaches = made.has_pending_unit();
        let must_wait = attaches || init.has_two_stages();
        let stdio = options.stdio.take()?;
        let request = Launch {
            plan: init,
            namespaces: clone_flags,
            id_maps,
            seccomp: spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()),
            unknown_syscalls: if annotations::refuses_unknown_syscalls(spec) {
                UnknownSyscalls::Refuse
            } else {
                UnknownSyscalls::Warn
            },
            seal_beside: entry.path(),
            keep_image: self.is_resident,
            inherit,
            cgroup: clone_target,
            enter,
            stdio,
            gate,
            console,
            stall: StallLimit { timeout: STALL_TIMEOUT, counts: Stalled::Stopped },
        };
        let (hooks, listener) = (&hooks, Listener::of(spec, &record.id, &record.bundle));
        let (hooks_began, announced) = (false, false);
        let mut observer = CreateObserver {
            listener,
            entry,
            record,
            cgroup,
            hooks,
            hook_state,
            oom_score_adj,
            attaches,
            must_wait,
            options,
            hooks_began,
            announced,
        };
        let launched = launch(request, &mut observer);
        let child = match launched {
            Ok(child) => child,
            Err(error) => {
                observer.unwind();
                return Err(error);
            }
        };
        let poststart = if gated { None } else { Poststart::of(spec, &observer.record) };
        let started = poststart.map(|hooks| entry.unlock().and_then(|()| hooks.run()));
        if let Some(Err(error)) = started {
            end(&child, observer.cgroup.cgroup()?)?;
            observer.hooks_began = true;
            observer.unwind();
            return Err(error);
        }
        observer.cgroup.disarm();
        group.disarm();
        Ok(child)
    }
}

/// CAP_SETGID as a bit of a capability set (capabilities(7)).
const CAP_SETGID: u64 = 1 << 6;

/// The cached empty mount namespace to copy the container's from, where the plan allows it; puts it into the plan.
/// Not with hooks that run before the root is entered, because they look for the host's paths in the container's
/// mount namespace.
fn seed(init: &mut InitPlan, clone_flags: &mut u64) -> Option<OwnedFd> {
    let new_mounts = NamespaceKind::Mount.clone_flag();
    let rootfs = init.rootfs.as_mut().filter(|rootfs| rootfs.fits_empty_namespace())?;
    if init.runtime_hooks || *clone_flags & new_mounts == 0 {
        return None;
    }
    let seed = rootfs::cached_namespace()?;
    rootfs.seed = Some(seed.as_raw_fd());
    *clone_flags &= !new_mounts;
    Some(seed)
}

/// Kills a container that has started, and reaps its init.
fn end(child: &Child, cgroup: &Cgroup) -> Result<()> {
    process::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL).context("unable to stop the container")?;
    process::wait(child.pidfd.as_fd()).context("unable to stop the container")?;
    cgroup.kill_all(libc::SIGKILL)
}

/// The poststart hooks of a container that has some.
pub(super) struct Poststart {
    hooks: Vec<Hook>,
    state: HookState,
    pid: i32,
}

impl Poststart {
    pub(super) fn of(spec: &Spec, record: &Record) -> Option<Poststart> {
        let hooks = brig_plan::hooks::build(spec, &mut Findings::default()).poststart;
        let state = || container::hook_state(spec, &record.id, &record.bundle);
        (!hooks.is_empty()).then(|| Poststart { hooks, state: state(), pid: record.init_process_pid })
    }

    /// Runs the hooks, after the program has started. The container's lock is not held, because the hooks may run
    /// long, and delete must not wait for them.
    ///
    /// # Errors
    /// The error of the first hook that fails; the container is then to be stopped and destroyed (runtime.md,
    /// Lifecycle).
    pub(super) fn run(&self) -> Result<()> {
        hooks::run(&self.hooks, Setting::beside(&self.state.json("running", self.pid), &self.state.bundle))
    }
}

/// The observer of create.
struct CreateObserver<'a> {
    entry: &'a Entry,
    record: Record,
    cgroup: CgroupGuard,
    hooks: &'a HooksPlan,
    hook_state: HookState,
    oom_score_adj: Option<i32>,
    attaches: bool,
    must_wait: bool,
    options: &'a CreateOptions,
    hooks_began: bool,
    listener: Option<Listener>,
    announced: bool,
}

impl Freezer for CreateObserver<'_> {}

impl LaunchObserver for CreateObserver<'_> {
    fn spawned(&mut self, pid: i32) -> Result<()> {
        if self.attaches {
            attach(&mut self.cgroup, pid, &mut self.record, self.entry)?;
        }
        if let Some(group) = &self.record.intel_rdt {
            group.enter(pid)?;
        }
        match self.oom_score_adj {
            Some(score) => set_oom_score(pid, score),
            None => Ok(()),
        }
    }

    fn must_wait(&self) -> bool {
        self.must_wait
    }

    fn mounted(&mut self, child: &Child) -> Result<()> {
        self.hooks_began = true;
        let state = self.hook_state.json("creating", child.pid);
        let setting = Setting::beside(&state, &self.record.bundle).while_runs(child.pidfd.as_fd());
        hooks::run(&self.hooks.prestart, setting)?;
        hooks::run(&self.hooks.create_runtime, setting)
    }

    fn ready(&mut self, child: &Child) -> Result<()> {
        put_init(&mut self.record, child.pid)?;
        self.entry.write_record(&self.record)?;
        announce(child, self.options.pidfd_socket.as_deref(), self.options.pid_file.as_deref())?;
        self.announced = true;
        Ok(())
    }

    fn listening(&mut self, child: &Child, fd: OwnedFd) -> Result<()> {
        match &self.listener {
            Some(listener) => listener.send(fd, child.pid, "creating", child.pid),
            None => Ok(()),
        }
    }

    fn exit_cause(&self) -> String {
        match self.cgroup.0.as_ref().map(Cgroup::oom_kills) {
            Some(Ok(1..)) => "it ran out of memory; linux.resources.memory.limit is too small".to_owned(),
            _ => String::new(),
        }
    }
}

impl CreateObserver<'_> {
    /// Undoes a failed create. If hooks have run, the specification asks for the poststop hooks too (runtime.md,
    /// Lifecycle). Init has exited by now; the guard removes the cgroup, and the reservation the directory.
    fn unwind(&mut self) {
        if self.hooks_began {
            hooks::run_poststop(&self.hooks.poststop, &self.hook_state.json("stopped", 0), &self.record.bundle);
        }
        // Only a file written by this create: one that stood in the way is the caller's.
        if let Some(path) = self.options.pid_file.as_ref().filter(|_| self.announced)
            && let Err(error) = std::fs::remove_file(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("unable to remove {}: {error}", path.display());
        }
    }
}

/// Writes /proc/PID/oom_score_adj.
///
/// # Errors
/// EACCES when it is lowered without CAP_SYS_RESOURCE (proc_pid_oom_score_adj(5)).
pub(super) fn set_oom_score(pid: i32, score: i32) -> Result<()> {
    Proc::open()?
        .write(format!("{pid}/oom_score_adj"), score.to_string().as_bytes())
        .with_context(|| format!("unable to set process.oomScoreAdj to {score} (lowering it takes CAP_SYS_RESOURCE)"))
}

/// Reads the configuration: its bytes, and its name in errors.
fn configuration(bundle: &Path, config: &Configuration) -> Result<(Vec<u8>, String)> {
    let path = match config {
        Configuration::Bundle => bundle.join("config.json"),
        Configuration::File(path) => path.clone(),
        Configuration::Spec(spec) => {
            return Ok((
                serde_json::to_vec(spec).context("unable to write the configuration as JSON")?,
                "the configuration".to_owned(),
            ));
        }
    };
    Ok((read_config(bundle, &path)?, path.display().to_string()))
}

/// Reads a configuration file. A bundle that is not a directory is the more useful error than the missing file in it.
/// The texts are runc's.
pub(super) fn read_config(bundle: &Path, path: &Path) -> Result<Vec<u8>> {
    match file::read_given(path, config::MAX_BYTES) {
        Err(_) if !bundle.exists() => {
            let message = format!("chdir {}: no such file or directory", bundle.display());
            Err(Error::new(ErrorKind::InvalidConfig, message))
        }
        Err(_) if !bundle.is_dir() => {
            let message = format!("chdir {}: not a directory", bundle.display());
            Err(Error::new(ErrorKind::InvalidConfig, message))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::new(
            ErrorKind::InvalidConfig,
            format!("JSON specification file {} not found: give the bundle with --bundle", path.display()),
        )),
        other => other.with_context(|| format!("unable to read {}", path.display())),
    }
}

/// Checks that the terminal has a destination: a socket, or the caller's terminal.
pub(super) fn check_console(terminal: bool, console: &Console) -> Result<()> {
    let text = match (terminal, console) {
        (true, Console::None) => "cannot allocate tty if brig will detach without setting console socket",
        (false, Console::Socket(_)) => "cannot use console socket if brig will not detach or allocate tty",
        (true, Console::Proxied) if !std::io::stdin().is_terminal() => {
            "process.terminal (or --tty) asks for a terminal, and standard input is none: run it from a terminal, give \
             --console-socket and -d (--detach), or ask for no terminal"
        }
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::InvalidConfig, text))
}

/// The descriptor over which init sends the terminal's master, and the caller's end of it with [`Console::Caller`].
/// None for a process without a terminal.
pub(super) fn open_console(terminal: bool, console: &Console) -> Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    match console {
        _ if !terminal => Ok((None, None)),
        Console::None => Ok((None, None)),
        Console::Socket(path) => {
            let socket = socket::connect(path)
                .with_context(|| format!("unable to connect to the console socket {}", path.display()))?;
            Ok((Some(socket), None))
        }
        Console::Caller | Console::Proxied => {
            let (ours, theirs) = socket::packet_pair()?;
            Ok((Some(theirs), Some(ours)))
        }
    }
}

/// Prepares a proxied terminal before the program starts: its size, and newline translation by the outer terminal.
/// The proxy, which runs beside the program, would be too late.
pub(super) fn prepare_proxied(init: &mut InitPlan, console: &Console) {
    if !init.process.terminal || !matches!(console, Console::Proxied) {
        return;
    }
    init.proxied_terminal = true;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let size = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()].into_iter().find_map(|stream| tty::size(stream).ok());
    init.process.console_size = size.or(init.process.console_size);
}

/// Creates the pipes of [`Stdio::Proxied`], and returns the caller's ends. Init gives them to the container's user.
///
/// A user namespace needs pipes, because its processes could not open the caller's streams again. So does a stream that
/// is a terminal or another device: a container could change the host's inode through it, and put input into a
/// terminal.
pub(super) fn make_pipes(stdio: &mut Stdio, init: &InitPlan) -> Result<Option<[OwnedFd; 3]>> {
    if !matches!(stdio, Stdio::Proxied) || init.process.terminal {
        return Ok(None);
    }
    let is_device = |fd| rustix::fs::fstat(fd).is_ok_and(|stat| rootfs::is_other_device(&stat));
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    if !init.user_namespace && ![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()].into_iter().any(is_device) {
        return Ok(None);
    }
    let pipe = || std::io::pipe().context("unable to make a pipe for a standard stream");
    let [stdin, stdout, stderr] = [pipe()?, pipe()?, pipe()?];
    *stdio = Stdio::Fds([stdin.0.into(), stdout.1.into(), stderr.1.into()]);
    Ok(Some([stdin.1.into(), stdout.0.into(), stderr.0.into()]))
}

/// Receives the terminal's master, which init sent before it was ready.
pub(super) fn receive_terminal(socket: &OwnedFd) -> Result<OwnedFd> {
    let (_, fds) = socket::receive(socket.as_fd(), 4096).context("unable to receive the terminal")?;
    fds.into_iter().next().ok_or_else(|| Error::other("init sent no terminal"))
}
