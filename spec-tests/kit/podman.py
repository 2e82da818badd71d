"""Podman with storage and state of the suite's own, and the runtime under test."""

import json
import os
from contextlib import contextmanager
from pathlib import Path

from kit import host, images, isolate
from kit.commands import nothing_left, run

BUSYBOX = "localhost/busybox"
# The cgroup of podman's own monitors, which podman never removes.
CONMON = "conmon"
# Podman asks for as many open files and processes as it can name, which takes CAP_SYS_RESOURCE.
HOST_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
# The ordinary user, and the first of its 65536 subordinate ids.
ROOTLESS, ROOTLESS_ID, SUBORDINATE = "rootless", 4000, 100000


class Podman:
    """`podman(...)` runs the client; tidy() removes the resources of a scenario and searches for leaks."""

    name = "podman"

    def __init__(self, place, runtime, manager="cgroupfs"):
        self.place, self.runtime, self.manager = place, runtime, manager
        self.parent = isolate.cgroup_parent(place)
        self.base = place / "podman"
        self.make_base()
        self.limits = () if may_raise_limits() else HOST_LIMITS
        self("import", images.busybox_tar(self.base / "busybox.tar"), BUSYBOX)

    def make_base(self):
        """Makes the directory of Podman's storage and state."""
        self.base.mkdir()

    def command(self, *args):
        """The words of a command: options of podman itself, then what it shall do."""
        return ["podman", "--root", self.base / "data", "--runroot", self.base / "run", "--tmpdir", self.base / "tmp",
                "--network-config-dir", self.base / "net", "--volumepath", self.base / "volumes",
                "--events-backend", "file", "--log-level", "error",
                "--cgroup-manager", self.manager, "--runtime", self.runtime, *args]

    def __call__(self, *args, **options):
        # conmon writes a file `oom` into the directory that it is started in, for a container that ran out of memory.
        return run(*self.command(*args), cwd=self.base, **options)

    def run(self, *args, **options):
        """`podman run --rm OPTIONS IMAGE`; a list as last argument is the command."""
        *flags, command = args
        return self(*self.run_words("--rm", *flags), BUSYBOX, *command, **options)

    def start(self, *args):
        """`podman run -d`; a list as last argument is the command. Returns the container's id."""
        *flags, command = args if args and isinstance(args[-1], list) else (*args, ["probe", "wait"])
        return self(*self.run_words("-d", *flags), BUSYBOX, *command).text

    def run_words(self, *flags):
        """`run` with what this host makes necessary."""
        network = () if any(str(flag).startswith("--net") for flag in flags) else ("--network", "none")
        return ["run", *self.limits, *self.cgroup_words(), *network, *flags]

    def cgroup_words(self):
        """The options that keep the cgroups of containers below the suite's own."""
        return () if self.manager == "systemd" else ("--cgroup-parent", f"/{self.parent}")

    def inspect(self, container, path):
        """One value of `podman inspect`, by a path such as State.ExitCode."""
        value = json.loads(self("inspect", container).out)[0]
        for key in path.split("."):
            value = value[key]
        return value

    def tidy(self):
        """Removes all containers, then searches for leaks of the runtime."""
        self("rm", "--all", "--force", "--time", "0", "--volumes")
        nothing_left(self.leftovers)

    def leftovers(self):
        """Cgroups and runtime state of removed containers."""
        cgroups = [path for root in host.cgroups_named(self.parent) for path in host.below(root)]
        return [str(path) for path in cgroups if path.name != CONMON] + run(self.runtime, "list", "-q").out.split()

    def close(self):
        """Removes what podman itself keeps: mounts of its storage and of network namespaces, its monitors' cgroup."""
        for root in host.cgroups_named(self.parent):
            isolate.remove_cgroup(root / CONMON)
        for mount in (self.base / "data" / "overlay", "/run/netns"):
            run("umount", mount, code=None)


class RootlessPodman(Podman):
    """Podman of an ordinary user with 65536 subordinate ids and a delegated cgroup. It runs in a VM, whose /etc it edits."""

    name = "podman-rootless"
    # The factor of all timeouts: the VM has one CPU, and it is slow.
    timeout_factor = 4

    def __init__(self, place, runtime):
        self.home, self.runtime_dir = place / "home", Path("/run/user") / str(ROOTLESS_ID)
        _add_user(self.home)
        for directory in (self.home, self.runtime_dir):
            directory.mkdir(mode=0o700, parents=True)
            os.chown(directory, ROOTLESS_ID, ROOTLESS_ID)
        self.cgroup = _delegate(isolate.cgroup_parent(place))
        self.undelegated_cgroup = host.CGROUPS / f"{self.cgroup.name}-undelegated"
        self.undelegated_cgroup.mkdir()
        self.client_cgroup = self.cgroup / "client"
        super().__init__(place, runtime)

    def make_base(self):
        """Creates the directory for the user."""
        super().make_base()
        os.chown(self.base, ROOTLESS_ID, ROOTLESS_ID)

    def command(self, *args):
        """The words of a command that runs as the user."""
        client, *words = super().command(*args)
        # A user's overlay needs user.* attributes, which this kernel's tmpfs does not have.
        return self.as_user(client, "--storage-driver", "vfs", *words)

    def as_user(self, *words):
        """The words that run a program as the user, in the client's cgroup and without root's environment."""
        # Root joins the cgroup before it changes the user, because a user moves processes only within the delegated cgroup.
        join = f'echo $$ >{self.client_cgroup}/cgroup.procs && exec "$@"'
        return ["sh", "-c", join, "sh", "setpriv", "--reuid", str(ROOTLESS_ID), "--regid", str(ROOTLESS_ID),
                "--init-groups", "env", "-i", f"PATH={os.environ['PATH']}", f"HOME={self.home}", f"USER={ROOTLESS}",
                f"XDG_RUNTIME_DIR={self.runtime_dir}", *words]

    @contextmanager
    def undelegated(self):
        """Runs clients in a cgroup of root's, so that containers cannot have a cgroup of their own."""
        self.client_cgroup = self.undelegated_cgroup
        try:
            yield
        finally:
            self.client_cgroup = self.cgroup / "client"

    def cgroup_words(self):
        """No options: with the cgroupfs manager, a user's Podman leaves the cgroup to the runtime."""
        return ()

    def leftovers(self):
        """Cgroups and runtime state of removed containers."""
        cgroups = [str(path) for path in host.below(self.cgroup) if path.name != "client"]
        return cgroups + run(*self.as_user(self.runtime, "list", "-q")).out.split()

    def close(self):
        """Stops the process that keeps the user namespace open for Podman, and removes the cgroup."""
        self("system", "migrate")
        for cgroup in (self.cgroup / "client", self.undelegated_cgroup):
            isolate.remove_cgroup(cgroup)


def _add_user(home):
    """Adds an ordinary user with subordinate ids."""
    for name, line in (("passwd", f"{ROOTLESS}:x:{ROOTLESS_ID}:{ROOTLESS_ID}::{home}:/bin/sh"),
                       ("group", f"{ROOTLESS}:x:{ROOTLESS_ID}:"),
                       ("subuid", f"{ROOTLESS}:{SUBORDINATE}:65536"), ("subgid", f"{ROOTLESS}:{SUBORDINATE}:65536")):
        with open(f"/etc/{name}", "a") as table:
            table.write(f"{line}\n")


def _delegate(name):
    """Creates a cgroup that is delegated to the user, with a child cgroup for the user's clients."""
    (host.CGROUPS / "cgroup.subtree_control").write_text("+cpu +io +memory +pids")
    cgroup = host.CGROUPS / name
    (cgroup / "client").mkdir(parents=True)
    for directory in (cgroup, cgroup / "client"):
        for path in (directory, *(directory / f"cgroup.{file}" for file in ("procs", "subtree_control", "threads"))):
            os.chown(path, ROOTLESS_ID, ROOTLESS_ID)
    return cgroup


def may_raise_limits():
    """Whether this host has CAP_SYS_RESOURCE (bit 24)."""
    status = host.parse_status(Path("/proc/self/status").read_text())
    return bool(int(status["CapEff"], 16) >> 24 & 1)
