"""Facts about the machine that runs the tests."""

import os
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
CACHE = TOP / "target" / "images"
CGROUPS = Path("/sys/fs/cgroup")


def pure_v2():
    """Whether the memory controller is on cgroup v2 here."""
    controllers = CGROUPS / "cgroup.controllers"
    return controllers.exists() and "memory" in controllers.read_text().split()


def hierarchies():
    """The directories that are roots of cgroup hierarchies."""
    if (CGROUPS / "cgroup.procs").exists():
        return [CGROUPS]
    return sorted(entry for entry in CGROUPS.iterdir() if entry.is_dir() and not entry.is_symlink())


def cgroups_named(name):
    """Every cgroup directory of that name right below a hierarchy's root."""
    return [root / name for root in hierarchies() if (root / name).is_dir()]


def below(directory):
    """All cgroups below a directory, the deepest first."""
    found = []
    for path, names, _ in os.walk(directory, topdown=False):
        found.extend(Path(path) / name for name in names)
    return found


def processes():
    """The processes of the machine: {pid: its command line}."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            found[int(entry)] = words.decode(errors="replace").split("\0")
    return found


def status_of(pid):
    """The fields of /proc/PID/status as a dictionary, or None without such a process."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return parse_status(text)


def has_exited(pid):
    """Whether a process has exited; it may be a zombie."""
    status = status_of(pid)
    return status is None or status["State"].startswith("Z")


def children(pid):
    """The pids of a process's children."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found.extend(int(child) for child in path.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            pass  # a thread that has exited
    return found


def readlink(path):
    """The target of a link, or None when it does not exist any more."""
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return None


def kill(pids):
    """Kills processes, which may have exited."""
    for pid in pids:
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass


def parse_status(text):
    """The fields of a /proc/PID/status text."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key: value.strip() for key, value in pairs}
