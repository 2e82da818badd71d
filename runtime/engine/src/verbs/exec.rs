//! exec: an additional process in a running container. A smaller plan, executed by the same steps.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::{Process, Spec};

use super::joined::compare_with_init;
use super::limits::Limits;
use super::listener::Listener;
use super::terminal::{Terminal, make_pipes};
use super::{Container, Engine, ExecOptions, Launched, ProcessSource, announce, describe, terminal};
use crate::cgroup::{Cgroup, ExecTarget, Frozen};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::launch::handles::ContainerHandles;
use crate::launch::image::ImageUse;
use crate::launch::parent::launch;
use crate::launch::request::{Launch, LaunchObserver, Seccomp, Settings, Start};
use crate::launch::stall::{Freezer, STALL_TIMEOUT, StallLimit, Stalled};
use crate::launch::unknown_syscalls::UnknownSyscalls;
use crate::probe;
use crate::state::{Verb, allow};
use crate::trace;
use brig_plan::container::{self, ExecChoices};
use brig_plan::namespaces::NamespaceKind;
use brig_plan::{annotations, config, process as process_plan};
use brig_sys::file;
use brig_sys::process::{self, Child};
use brig_sys::procfs::Proc;

impl Engine {
    /// Starts a process in the namespaces and the cgroup of a container, under its seccomp filter, labels and limits.
    /// On return the program has been executed.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`] unless the container is created or running (or paused, when the options allow it);
    /// [`ErrorKind::Executable`] when the program cannot be executed.
    pub fn exec(&self, id: &str, mut options: ExecOptions) -> Result<Launched> {
        let phase = trace::phase("plan");
        let container = self.load(id)?;
        let init = running_init(&container, id, options.ignore_paused)?;
        let mut spec = container.spec()?;
        annotations::apply_overrides(&mut spec);
        let mut host = probe::host()?;
        compare_with_init(&spec, container.record.init_process_pid, &mut host)?;
        let process = process_of(&spec, options.process.as_ref())?;
        let (plan, warnings) = container::build_exec(&spec, id, &process, &choices(&options), &host)?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        describe::exec(&plan);
        drop(phase);
        let Terminal { settings: terminal, console, receiver } = Terminal::open(&plan.init.process, &options.console)?;
        let pipes = make_pipes(&mut options.stdio, &plan.init)?;
        let stdio = options.stdio.take()?;
        let target = container.cgroup().exec_target(&options.cgroups, container.record.init_process_pid)?;
        let cgroup = target.clone_target().map(|fd| fd.try_clone_to_owned()).transpose();
        let cgroup = cgroup.context("unable to copy an fd")?;
        let root = container_root(&init, container.record.init_process_pid, plan.join)?;
        let enter = target.self_entry()?;
        // Only with a user's systemd does the process have to be moved; else it is cloned into its cgroup, or enters
        // it before anything else.
        let attaches = cgroup.is_none() && enter.is_empty();
        let limits =
            Limits { group: container.record.intel_rdt.clone(), oom_score_adj: plan.init.process.oom_score_adj };
        let mut observer = ExecObserver {
            attaches,
            must_wait: attaches || plan.init.has_two_stages() && limits.any(),
            target,
            limits,
            options: &options,
            listener: Listener::from_spec(&spec, id, &container.record.bundle),
            init: container.record.init_process_pid,
            cgroup: container.cgroup(),
        };
        let refuses = annotations::refuses_unknown_syscalls(&spec);
        // create has already warned about them.
        let unknown_syscalls = if refuses { UnknownSyscalls::Refuse } else { UnknownSyscalls::Ignore };
        let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let join = if plan.join == 0 { Vec::new() } else { vec![(init, plan.join)] };
        let request = Launch {
            plan: &plan.init,
            settings: Settings { terminal, ..Settings::default() },
            handles: ContainerHandles { join, root, console, ..ContainerHandles::default() },
            start: Start { namespaces: 0, id_maps: None, cgroup, enter },
            seccomp: profile.map(|profile| Seccomp { profile, unknown_syscalls }),
            seal_beside: container.entry.path(),
            image: if self.is_resident { ImageUse::Kept } else { ImageUse::Once },
            stdio,
            stall: StallLimit { timeout: options.stall_timeout.unwrap_or(STALL_TIMEOUT), counts: Stalled::Idle },
        };
        let child = launch(request, &mut observer)?;
        let terminal = terminal::receive(receiver)?;
        Ok(Launched { pid: child.pid, pidfd: child.pidfd.into(), terminal, pipes, notify: None })
    }
}

/// The process object of an exec: the one given, completed from the container's, or the container's own.
fn process_of(spec: &Spec, source: Option<&ProcessSource>) -> Result<Process> {
    match (source, spec.process()) {
        (Some(source), Some(own)) => Ok(process_plan::with_defaults(read_process(source)?, own)),
        (Some(source), None) => read_process(source),
        (None, Some(own)) => Ok(own.clone()),
        (None, None) => {
            Err(Error::new(ErrorKind::InvalidConfig, "config.json has no process; give one with --process"))
        }
    }
}

/// The pidfd of the init of a container in which a process can be started.
fn running_init(container: &Container, id: &str, ignore_paused: bool) -> Result<OwnedFd> {
    let (status, frozen, init) = container.status_frozen_and_init()?;
    allow(Verb::Exec { ignore_paused }, status, id)?;
    if frozen == Frozen::Above && !ignore_paused {
        let cgroup = match container.cgroup().frozen_ancestor()? {
            Some(path) => path.display().to_string(),
            None => "a cgroup outside of the mounted hierarchy".to_owned(),
        };
        return Err(Error::new(
            ErrorKind::InvalidState,
            format!(
                "cannot exec in a container below a frozen cgroup: {cgroup} is frozen (write THAWED to its \
                 freezer.state, or use --ignore-paused to wait for that)"
            ),
        ));
    }
    init.ok_or_else(|| Error::new(ErrorKind::InvalidState, "cannot exec in a stopped container"))
}

/// The root directory of init, for a container without its own mount namespace: no namespace leads into that root.
fn container_root(init: &OwnedFd, pid: i32, join: u64) -> Result<Option<OwnedFd>> {
    if join & NamespaceKind::Mount.clone_flag() != 0 {
        return Ok(None);
    }
    let root = Proc::open()?.open_root_of(pid).context("unable to open the container's root")?;
    // The pid may have been reused, unless init still runs.
    if process::wait_exited(init.as_fd(), Some(Duration::ZERO))? {
        return Err(Error::new(ErrorKind::InvalidState, "cannot exec in a stopped container"));
    }
    Ok(Some(root))
}

fn read_process(source: &ProcessSource) -> Result<Process> {
    let (parsed, origin) = match source {
        ProcessSource::File(path) => {
            let bytes = file::read_given(path, config::MAX_BYTES);
            let bytes = bytes.with_context(|| format!("unable to read {}", path.display()))?;
            (config::parse_process(&bytes), path.display().to_string())
        }
        ProcessSource::Json(bytes) => (config::parse_process(bytes), "the process".to_owned()),
    };
    let (process, warnings) = parsed.context(origin)?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(process)
}

fn choices(options: &ExecOptions) -> ExecChoices {
    ExecChoices {
        process_given: options.process.is_some(),
        args: options.args.clone(),
        cwd: options.cwd.clone(),
        env: options.env.clone(),
        terminal: options.tty,
        user: options.user.clone(),
        additional_gids: options.additional_gids.clone(),
        selinux: options.process_label.clone(),
        apparmor: options.apparmor.clone(),
        no_new_privs: options.no_new_privs,
        capabilities: options.capabilities.clone(),
        preserve_fds: options.preserve_fds,
    }
}

/// The observer of exec.
struct ExecObserver<'a> {
    attaches: bool,
    must_wait: bool,
    target: ExecTarget,
    limits: Limits,
    options: &'a ExecOptions,
    listener: Option<Listener>,
    /// Pid of the container's init.
    init: i32,
    /// The container's cgroup.
    cgroup: Cgroup,
}

impl LaunchObserver for ExecObserver<'_> {
    fn spawned(&mut self, pid: i32) -> Result<()> {
        if self.attaches {
            self.target.attach(pid).context("unable to enter the container's cgroup")?;
        }
        self.limits.apply(pid)
    }

    fn must_wait(&self) -> bool {
        self.must_wait
    }

    fn mounted(&mut self, _: &Child) -> Result<()> {
        Ok(())
    }

    fn ready(&mut self, child: &Child) -> Result<()> {
        announce(child, self.options.pidfd_socket.as_deref(), self.options.pid_file.as_deref())
    }

    fn listening(&mut self, child: &Child, fd: OwnedFd) -> Result<()> {
        match &self.listener {
            Some(listener) => listener.send(fd, child.pid, "running", self.init),
            None => Ok(()),
        }
    }

    fn exit_cause(&self) -> String {
        String::new()
    }
}

impl Freezer for ExecObserver<'_> {
    fn is_frozen(&self) -> bool {
        self.cgroup.is_frozen().unwrap_or_else(|error| {
            tracing::debug!("{error}");
            false
        })
    }

    fn frozen_ancestor(&self) -> Option<PathBuf> {
        self.cgroup.frozen_ancestor().unwrap_or_else(|error| {
            tracing::debug!("{error}");
            None
        })
    }
}
