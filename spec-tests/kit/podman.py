"""Podman with storage and state of the suite's own, and the runtime under test."""

import json
from pathlib import Path

from kit import host, images, isolate
from kit.commands import nothing_left, run

BUSYBOX = "localhost/busybox"
# The cgroup of podman's own monitors, which podman never removes.
CONMON = "conmon"
# Podman asks for as many open files and processes as it can name, which takes CAP_SYS_RESOURCE.
HOST_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")


class Podman:
    """`podman(...)` runs the client; tidy() removes what a scenario made and looks for leaks."""

    name = "podman"

    def __init__(self, place, runtime, manager="cgroupfs"):
        self.place, self.runtime, self.manager = place, runtime, manager
        self.parent = isolate.cgroup_parent(place)
        self.base = place / "podman"
        self.base.mkdir()
        self.limits = () if may_raise_limits() else HOST_LIMITS
        self("import", images.busybox_tar(self.base / "busybox.tar"), BUSYBOX)

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
        parent = () if self.manager == "systemd" else ("--cgroup-parent", f"/{self.parent}")
        network = () if any(str(flag).startswith("--net") for flag in flags) else ("--network", "none")
        return ["run", *self.limits, *parent, *network, *flags]

    def inspect(self, container, path):
        """One value of `podman inspect`, by a path such as State.ExitCode."""
        value = json.loads(self("inspect", container).out)[0]
        for key in path.split("."):
            value = value[key]
        return value

    def tidy(self):
        """Removes all containers, then looks for what the runtime should have removed."""
        self("rm", "--all", "--force", "--time", "0", "--volumes")
        nothing_left(self.leftovers)

    def leftovers(self):
        """Cgroups and runtime state of containers that are gone."""
        cgroups = [path for root in host.cgroups_named(self.parent) for path in host.below(root)]
        return [str(path) for path in cgroups if path.name != CONMON] + run(self.runtime, "list", "-q").out.split()

    def close(self):
        """Removes what podman itself keeps: mounts of its storage and of network namespaces, its monitors' cgroup."""
        for root in host.cgroups_named(self.parent):
            isolate.remove_cgroup(root / CONMON)
        for mount in (self.base / "data" / "overlay", "/run/netns"):
            run("umount", mount, code=None)


def may_raise_limits():
    """Whether this host has CAP_SYS_RESOURCE (bit 24)."""
    status = host.parse_status(Path("/proc/self/status").read_text())
    return bool(int(status["CapEff"], 16) >> 24 & 1)
