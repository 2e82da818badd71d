"""The growth of the cost of `run`: with mounts of the host, environment variables, mounts of the container, cgroups, and the
size of the seccomp profile."""

import subprocess
import time
from pathlib import Path

from measure.bundle import Bundle
from measure.timing import PAUSE, SETTLING, Series, seconds

CGROUPS = Path("/sys/fs/cgroup")
# The growing quantities and their sizes.
SIZES = {
    "host mounts": [0, 200, 1000, 3000],
    "environment variables": [0, 100, 1000],
    "container mounts": [0, 50, 200],
    "cgroups on the host": [0, 500, 2000],
    "seccomp rules": [0, 100, 400],
}


def measure(place, contenders, rounds, what):
    """{size: {contender: Series}} of `run`. Changes the mount namespace of this process: it has to be a private one."""
    return {size: _at(place, contenders, rounds, what, size) for size in SIZES[what]}


def _at(place, contenders, rounds, what, size):
    prepare = {"host mounts": _host_mounts, "cgroups on the host": _cgroups}.get(what)
    change = {"environment variables": _variables, "container mounts": _container_mounts,
              "seccomp rules": _rules}.get(what)
    label = what.replace(" ", "-")
    bundle = Bundle(place / f"{label}-{size}", ["/bin/true"], change and (lambda config: change(config, size)),
                    seccomp=False)
    undo = prepare(place, size) if prepare else (lambda: None)
    times = {one.name: Series() for one in contenders}
    time.sleep(SETTLING if prepare else 0)
    try:
        for number in range(rounds + 1):
            for one in contenders:
                took = seconds(one.run(bundle, f"bench-{label}-{size}-{number}"))
                if number:
                    times[one.name].add(took)
                time.sleep(PAUSE)
    finally:
        undo()
        time.sleep(SETTLING if prepare else 0)
    return times


def _host_mounts(place, count):
    base = place / f"mounts-{count}"
    base.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "bench", base], check=True)
    for number in range(count):
        point = base / str(number)
        point.mkdir()
    script = f'for n in $(seq 0 {count - 1}); do echo "$n"; done | while read -r n; do mount -t tmpfs none {base}/$n; done'
    subprocess.run(["busybox", "sh", "-ec", script], check=True)
    return lambda: subprocess.run(["umount", "--recursive", base], check=True)


def _cgroups(_place, count):
    base = CGROUPS / "bench-many"
    made = [base, *(base / str(number) for number in range(count))]
    for path in made:
        path.mkdir()

    def undo():
        for path in reversed(made):
            path.rmdir()
    return undo


def _variables(config, count):
    config["process"]["env"] += [f"VARIABLE_{number}=some value of usual length" for number in range(count)]


def _container_mounts(config, count):
    config["mounts"] += [{"destination": f"/data/{number}", "type": "tmpfs", "source": "tmpfs", "options": ["size=4k"]}
                         for number in range(count)]


def _rules(config, count):
    if count:
        rules = [{"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": [
            {"index": 1, "value": number, "op": "SCMP_CMP_EQ"}]} for number in range(count)]
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
                                      "syscalls": rules}
