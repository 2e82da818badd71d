//! exec: an additional process in a running container. A smaller plan, executed by the same steps.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::Process;

use super::create::{check_console, make_pipes, open_console, prepare_proxied, receive_terminal, set_oom_score};
use super::joined::compare_with_init;
use super::listener::Listener;
use super::{Container, Engine, ExecOptions, Launched, ProcessSource, announce};
use crate::cgroup::{Cgroup, ExecTarget, Frozen};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::launch::parent::{Launch, LaunchObserver, launch};
use crate::launch::stall::{Freezer, STALL_TIMEOUT, StallLimit, Stalled};
use crate::launch::unknown_syscalls::UnknownSyscalls;
use crate::probe;
use crate::resctrl::Group;
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
        let process = match &options.process {
            Some(source) => {
                let process = read_process(source)?;
                match spec.process() {
                    Some(container) => process_plan::with_defaults(process, container),
                    None => process,
                }
            }
            None => spec.process().clone().ok_or_else(|| {
                Error::new(ErrorKind::InvalidConfig, "config.json has no process; give one with --process")
            })?,
        };
        let choices = choices(&options);
        let (mut plan, join, warnings) = container::build_exec(&spec, id, &process, &choices, &host)?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        check_console(plan.process.terminal, &options.console)?;
        drop(phase);
        let (console, terminal) = open_console(plan.process.terminal, &options.console)?;
        prepare_proxied(&mut plan, &options.console);
        let pipes = make_pipes(&mut options.stdio, &plan)?;
        let stdio = options.stdio.take()?;
        let target = container.cgroup().exec_target(&options.cgroups, container.record.init_process_pid)?;
        let cgroup =
            target.clone_target().map(|fd| fd.try_clone_to_owned()).transpose().context("unable to copy an fd")?;
        let root = container_root(&init, container.record.init_process_pid, join)?;
        plan.container_root = root.as_ref().map(AsRawFd::as_raw_fd);
        plan.join = vec![(init.as_raw_fd(), join)];
        if join == 0 {
            plan.join.clear();
        }
        let enter = target.self_entry()?;
        // Only with a user's systemd does the process have to be moved; else it is cloned into its cgroup, or enters
        // it before anything else.
        let attaches = cgroup.is_none() && enter.is_empty();
        let mut observer = ExecObserver {
            attaches,
            must_wait: attaches
                || plan.has_two_stages() && (process.oom_score_adj().is_some() || container.record.intel_rdt.is_some()),
            target,
            oom_score_adj: process.oom_score_adj(),
            options: &options,
            listener: Listener::of(&spec, id, &container.record.bundle),
            init: container.record.init_process_pid,
            group: container.record.intel_rdt.clone(),
            cgroup: container.cgroup(),
        };
        let request = Launch {
            plan,
            namespaces: 0,
            id_maps: None,
            seccomp: spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()),
            unknown_syscalls: if annotations::refuses_unknown_syscalls(&spec) {
                UnknownSyscalls::Refuse
            } else {
                UnknownSyscalls::Ignore
            },
            seal_beside: container.entry.path(),
            keep_image: self.is_resident,
            inherit: std::iter::once(init).chain(root).collect(),
            cgroup,
            enter,
            stdio,
            gate: None,
            console,
            stall: StallLimit { timeout: options.stall_timeout.unwrap_or(STALL_TIMEOUT), counts: Stalled::Idle },
        };
        let child = launch(request, &mut observer)?;
        let terminal = terminal.map(|socket| receive_terminal(&socket)).transpose()?;
        Ok(Launched { pid: child.pid, pidfd: child.pidfd, terminal, pipes, notify: None })
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
    if process::wait_ended(init.as_fd(), Some(Duration::ZERO))? {
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
    oom_score_adj: Option<i32>,
    options: &'a ExecOptions,
    listener: Option<Listener>,
    group: Option<Group>,
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
        if let Some(group) = &self.group {
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
