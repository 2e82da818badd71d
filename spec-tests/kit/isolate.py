"""A sandbox for a suite: everything that the suite leaves behind is reported, and removed with the sandbox.

The suite runs in new mount, network, pid and IPC namespaces with a fresh /run, under a small init that reaps.
A host's cgroups have no such border, so each suite has one named parent cgroup, which is searched at the end.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kit import host
from kit.commands import run

_MARK = "BRIG_TEST_PLACE"
# The cached mount namespace, which brig keeps until the host shuts down.
_KEPT = "/run/brig-seed/"


def inside():
    """The suite's directory when this process is already in a sandbox, else None."""
    place = os.environ.get(_MARK)
    return Path(place) if place else None


def enter_and_run(name, argv):
    """Runs this program again in a sandbox; returns its exit status, or 1 for leaks."""
    place = _new_directory(name)
    # Debian's own tools and clients, not those in a developer's PATH.
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(place),
        "LANG": "C.UTF-8",
        _MARK: str(place),
    }
    prepare = 'mount -t tmpfs -o mode=755 run /run && mkdir -p /run/lock && ip link set lo up && exec tini -s -- "$@"'
    command = ["unshare", "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc",
               "--propagation", "private", "sh", "-c", prepare, "sh", sys.executable, *argv]
    try:
        status = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode
        leaks = _remove_cgroups(cgroup_parent(place))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if place.exists():
        leaks.append(f"files in {place}")
    for leak in leaks:
        print(f"FAIL {name}: left behind: {leak}", flush=True)
    return 1 if leaks else status


def run_in_bed(name, argv):
    """Runs this program again in a bed with a real init: the machine is removed as a whole, and pids must be that init's."""
    place = _new_directory(name)
    return subprocess.run([sys.executable, *argv], env={**os.environ, _MARK: str(place)}, check=False).returncode


def _new_directory(name):
    """A new directory. Its name is also that of cgroups and namespaces, so it is of letters, digits, dots and dashes."""
    place = Path(tempfile.gettempdir()) / f"brig-{name}-{secrets.token_hex(4)}"
    place.mkdir()
    place.chmod(0o711)
    return place


def enter_cgroup(name):
    """Moves this process out of the root of the v2 hierarchy; a daemon there cannot see what its host can limit."""
    (host.CGROUPS / "cgroup.subtree_control").write_text("+cpu +io +memory +pids")
    own = host.CGROUPS / name
    own.mkdir(exist_ok=True)
    (own / "cgroup.procs").write_text(str(os.getpid()))


def cgroup_parent(place):
    """The name of the cgroup below which the suite in `place` keeps all of its own."""
    return place.name


def _remove_cgroups(parent):
    leaks = []
    for root in host.cgroups_named(parent):
        for cgroup in host.below(root):
            leaks.append(f"cgroup {cgroup}")
            remove_cgroup(cgroup)
        remove_cgroup(root)
    return leaks


def remove_cgroup(cgroup):
    """Removes a cgroup whose last process may still be on its way out; one that is not there is fine."""
    deadline = time.monotonic() + 30
    while True:
        try:
            cgroup.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)


class Baseline:
    """Processes and mounts of a sandbox before its suite, for the comparison afterwards."""

    def __init__(self):
        self.processes = _processes()
        self.mounts = _mounts()

    def leaks(self):
        """Processes and mounts that the baseline lacks; processes get 30 s to exit."""
        deadline = time.monotonic() + 30
        while _processes() - self.processes and time.monotonic() < deadline:
            time.sleep(0.05)
        left = [f"process {pid} ({_name(pid)})" for pid in sorted(_processes() - self.processes)]
        new = {point for point in _mounts() - self.mounts if not point.startswith(_KEPT)}
        return left + [f"mount {point}" for point in sorted(new)]


def _processes():
    pids = {int(entry) for entry in os.listdir("/proc") if entry.isdigit() and entry != str(os.getpid())}
    return {pid for pid in pids if not _of_the_system(pid)}


def _of_the_system(pid):
    """Whether it is a kernel thread, or a daemon that a real init started meanwhile."""
    status = host.status_of(pid)
    if status is None:
        return True
    try:
        cgroups = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return True
    return status["PPid"] == "2" and "VmSize" not in status or "/dbus.service" in cgroups


def _name(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return "gone"


def mounts_below(directory):
    """The mount points below a directory."""
    return [point for point in _mounts() if point.startswith(f"{directory}/")]


def unmount_below(directory, *options, code=0):
    """Unmounts what is mounted below a directory, the deepest first; `code` as for `run`."""
    for point in sorted(mounts_below(directory), reverse=True):
        run("umount", *options, point, code=code)


def _mounts():
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line.split()[4] for line in lines}
