//! create and run: from a bundle to a process; a failure undoes every step.

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::Spec;

use super::bundle::configuration;
use super::joined::Joined;
use super::limits::Limits;
use super::listener::Listener;
use super::record::{CgroupGuard, GroupGuard, attach, cgroup_mounts, first_record, make_cgroup, put_init};
use super::terminal::{Terminal, make_pipes};
use super::{CreateOptions, Engine, Launched, absolute, announce, describe, notify, terminal};
use crate::cgroup::Cgroup;
use crate::error::{Context, Result};
use crate::hooks::{self, Setting};
use crate::launch::handles::ContainerHandles;
use crate::launch::image::ImageUse;
use crate::launch::parent::launch;
use crate::launch::request::{IdMaps, Launch, LaunchObserver, Seccomp, Setgroups, Settings, Start};
use crate::launch::stall::{Freezer, STALL_TIMEOUT, StallLimit, Stalled};
use crate::launch::unknown_syscalls::UnknownSyscalls;
use crate::launch::{faults, gate};
use crate::state::{Record, check_id};
use crate::store::{self, Entry};
use crate::{probe, rootfs, trace};
use brig_plan::container::{self, ContainerPlan, CreateChoices};
use brig_plan::hooks::RuntimeHooks;
use brig_plan::init::HookState;
use brig_plan::namespaces::NamespaceKind;
use brig_plan::{Finished, Host, annotations, config};
use brig_sys::process::{self, Child};

/// The moment at which the program of a new container starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProgramStart {
    /// The program waits for [`Engine::start`].
    AtGate,
    /// The program starts at once.
    Now,
}

impl Engine {
    /// Creates a container, whose program waits for [`Engine::start`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidId`], [`ErrorKind::AlreadyExists`]; [`ErrorKind::InvalidConfig`] with every violation;
    /// else the error of the step that failed. Nothing is left behind.
    ///
    /// [`ErrorKind::InvalidId`]: crate::ErrorKind::InvalidId
    /// [`ErrorKind::AlreadyExists`]: crate::ErrorKind::AlreadyExists
    /// [`ErrorKind::InvalidConfig`]: crate::ErrorKind::InvalidConfig
    pub fn create(&self, id: &str, options: CreateOptions) -> Result<Launched> {
        self.create_or_run(id, options, ProgramStart::AtGate)
    }

    /// Creates a container and starts its program. On return the program has been executed.
    ///
    /// # Errors
    /// As for [`Engine::create`]; and [`ErrorKind::Executable`] when the program could not be executed.
    ///
    /// [`ErrorKind::Executable`]: crate::ErrorKind::Executable
    pub fn run(&self, id: &str, options: CreateOptions) -> Result<Launched> {
        self.create_or_run(id, options, ProgramStart::Now)
    }

    fn create_or_run(&self, id: &str, mut options: CreateOptions, start: ProgramStart) -> Result<Launched> {
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
        let (plan, more) = container::build(&spec, id, &bundle, choices, &host)?;
        drop(phase);
        warnings.iter().chain(&more).for_each(|warning| tracing::warn!("{warning}"));
        describe::container(&plan);
        plan.init.rootfs.as_ref().map_or(Ok(()), rootfs::check_root)?;
        let Terminal { settings: terminal, console, receiver } = Terminal::open(&plan.init.process, &options.console)?;

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
        let notify = match options.notify_socket.take().filter(|_| start == ProgramStart::Now) {
            Some(manager) => notify::Notify::bind(reservation.entry().path(), &manager)?,
            None => None,
        };
        let pipes = make_pipes(&mut options.stdio, &plan.init)?;
        let settings = Settings { terminal, ..Settings::default() };
        let entry = reservation.entry();
        let stdio = options.stdio.take()?;
        let (engine, spec, plan, host, options) = (self, &spec, &plan, &host, &options);
        let creation = Creation { engine, entry, spec, plan, host, options, start, record };
        let child = creation.launch(joined, settings, console, stdio)?;
        reservation.persist();
        let terminal = terminal::receive(receiver)?;
        let mut launched = Launched { pid: child.pid, pidfd: child.pidfd.into(), terminal, pipes, notify };
        if let Some(notify) = launched.notify.take_if(|_| options.detach)
            && let Err(error) = notify.wait_and_notify(launched.pidfd.as_fd(), launched.pid)
        {
            // The container runs, as requested, so this is only a warning.
            tracing::warn!("{error}");
        }
        Ok(launched)
    }
}

/// The creation of one container, from its plan to its record.
struct Creation<'a> {
    engine: &'a Engine,
    entry: &'a Entry,
    spec: &'a Spec,
    plan: &'a ContainerPlan,
    host: &'a Host,
    options: &'a CreateOptions,
    start: ProgramStart,
    record: Record,
}

impl<'a> Creation<'a> {
    fn launch(
        mut self,
        joined: Joined,
        mut settings: Settings,
        console: Option<OwnedFd>,
        stdio: Option<[OwnedFd; 3]>,
    ) -> Result<Child> {
        let phase = trace::phase("make the cgroup");
        let cgroup = make_cgroup(&self.plan.cgroup, &mut self.record, self.entry)?;
        let made = cgroup.cgroup()?;
        let group = GroupGuard::new(self.plan.intel_rdt.as_ref(), &mut self.record, self.entry)?;
        let start = self.start_context(made)?;
        drop(phase);
        let phase = trace::phase("open what is inherited");
        settings.cgroup = cgroup_mounts(made)?;
        let handles = self.handles(joined, console)?;
        drop(phase);
        let request = self.request(settings, handles, start, stdio);
        let Creation { entry, spec, plan, options, start, record, .. } = self;
        // systemd moves the process; else the process is cloned into its cgroup, or enters it before anything else.
        let attaches = made.has_pending_unit();
        let mut observer = CreateObserver {
            listener: Listener::from_spec(spec, &record.id, &record.bundle),
            limits: Limits { group: record.intel_rdt.clone(), oom_score_adj: plan.init.process.oom_score_adj },
            entry,
            record,
            cgroup,
            plan,
            attaches,
            options,
            hooks_began: false,
            announced: false,
        };
        let child = match launch(request, &mut observer) {
            Ok(child) => child,
            Err(error) => {
                observer.unwind();
                return Err(error);
            }
        };
        if start == ProgramStart::Now
            && let Some(poststart) = Poststart::from_spec(spec, &observer.record)
            && let Err(error) = entry.unlock().and_then(|()| poststart.run())
        {
            kill(&child, observer.cgroup.cgroup()?)?;
            observer.hooks_began = true;
            observer.unwind();
            return Err(error);
        }
        observer.cgroup.disarm();
        group.disarm();
        Ok(child)
    }

    /// The namespaces and cgroups in which init starts.
    fn start_context(&self, made: &Cgroup) -> Result<Start<'a>> {
        let cgroup = made.clone_target().map(|fd| fd.try_clone_to_owned()).transpose();
        // The kernel takes a group map from a writer without CAP_SETGID over its own user namespace, the new one's
        // parent, only after setgroups(2) was denied (user_namespaces(7)). Denied once, nothing inside can change its
        // groups.
        let has_setgid = self.host.effective_capabilities & CAP_SETGID != 0;
        let setgroups = if has_setgid { Setgroups::Allow } else { Setgroups::Deny };
        let plan = self.plan;
        Ok(Start {
            namespaces: plan.clone_flags,
            id_maps: plan.id_maps.as_ref().map(|(uids, gids)| IdMaps { uids, gids, setgroups }),
            cgroup: cgroup.context("unable to copy an fd")?,
            enter: made.self_entry()?,
        })
    }

    /// Opens what init inherits.
    fn handles(&self, joined: Joined, console: Option<OwnedFd>) -> Result<ContainerHandles<OwnedFd>> {
        let plan = self.plan;
        let namespaces = joined.handles(plan)?;
        let sources = plan.init.rootfs.as_ref().map(rootfs::open_sources).transpose()?.unwrap_or_default();
        Ok(ContainerHandles {
            empty_namespace: if plan.fits_empty_namespace() { rootfs::cached_namespace() } else { None },
            sources,
            gate: match self.start {
                ProgramStart::AtGate => Some(gate::create(&self.entry.gate_path())?),
                ProgramStart::Now => None,
            },
            console,
            ..namespaces
        })
    }

    fn request(
        &self,
        settings: Settings,
        handles: ContainerHandles<OwnedFd>,
        mut start: Start<'a>,
        stdio: Option<[OwnedFd; 3]>,
    ) -> Launch<'a> {
        if handles.empty_namespace.is_some() {
            // Init copies the cached one instead.
            start.namespaces &= !NamespaceKind::Mount.clone_flag();
        }
        let refuses = annotations::refuses_unknown_syscalls(self.spec);
        let unknown_syscalls = if refuses { UnknownSyscalls::Refuse } else { UnknownSyscalls::Warn };
        let profile = self.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        Launch {
            plan: &self.plan.init,
            settings,
            handles,
            start,
            seccomp: profile.map(|profile| Seccomp { profile, unknown_syscalls }),
            seal_beside: self.entry.path(),
            image: if self.engine.is_resident { ImageUse::Kept } else { ImageUse::Once },
            stdio,
            stall: StallLimit { timeout: STALL_TIMEOUT, counts: Stalled::Stopped },
        }
    }
}

/// CAP_SETGID as a bit of a capability set (capabilities(7)).
const CAP_SETGID: u64 = 1 << 6;

/// Kills a container that has started, and reaps its init.
fn kill(child: &Child, cgroup: &Cgroup) -> Result<()> {
    process::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL).context("unable to stop the container")?;
    process::wait(child.pidfd.as_fd()).context("unable to stop the container")?;
    cgroup.kill_all(libc::SIGKILL)
}

/// The poststart hooks of a container that has some.
pub(super) struct Poststart {
    hooks: Finished<RuntimeHooks>,
    state: Finished<HookState>,
    pid: i32,
}

impl Poststart {
    pub(super) fn from_spec(spec: &Spec, record: &Record) -> Option<Poststart> {
        let hooks = brig_plan::hooks::of_runtime(spec);
        let state = || container::hook_state(spec, &record.id, &record.bundle);
        (!hooks.poststart.is_empty()).then(|| Poststart { hooks, state: state(), pid: record.init_process_pid })
    }

    /// Runs the hooks, after the program has started. The container's lock is not held, because the hooks may run
    /// long, and delete must not wait for them.
    ///
    /// # Errors
    /// The error of the first hook that fails; the container is then to be stopped and destroyed (runtime.md,
    /// Lifecycle).
    pub(super) fn run(&self) -> Result<()> {
        let state = self.state.json("running", self.pid);
        hooks::run(&self.hooks.poststart, Setting::beside(&state, &self.state.bundle))
    }
}

/// The observer of create.
struct CreateObserver<'a> {
    entry: &'a Entry,
    record: Record,
    cgroup: CgroupGuard,
    plan: &'a ContainerPlan,
    limits: Limits,
    attaches: bool,
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
        self.limits.apply(pid)
    }

    fn must_wait(&self) -> bool {
        self.attaches || self.plan.init.has_two_stages()
    }

    fn mounted(&mut self, child: &Child) -> Result<()> {
        self.hooks_began = true;
        let state = self.plan.init.hook_state.json("creating", child.pid);
        let setting = Setting::beside(&state, &self.record.bundle).while_runs(child.pidfd.as_fd());
        hooks::run(&self.plan.hooks.prestart, setting)?;
        hooks::run(&self.plan.hooks.create_runtime, setting)
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
            let state = self.plan.init.hook_state.json("stopped", 0);
            hooks::run_poststop(&self.plan.hooks.poststop, &state, &self.record.bundle);
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
