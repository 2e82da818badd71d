"""Memory: the smallest memory.max in which a static program starts, and what a waiting init holds.

Wants a machine with the memory controller on cgroup v2.
"""

import subprocess
from pathlib import Path

from measure.bundle import Bundle

CGROUPS = Path("/sys/fs/cgroup")
STEP = 64 * 1024


def enable():
    """Lets cgroups below the root limit memory."""
    (CGROUPS / "cgroup.subtree_control").write_text("+memory")


def smallest(place, one):
    """Bytes of the smallest memory.max (in steps of 64 KiB) in which /bin/true starts five times out of five."""
    low, high = 0, 64 * 1024 * 1024
    while high - low > STEP:
        middle = (low + high) // 2 // STEP * STEP
        if all(_starts(place, one, middle, number) for number in range(5)):
            high = middle
        else:
            low = middle
    return high


def _starts(place, one, limit, number):
    def change(config):
        config["linux"]["resources"] = {"memory": {"limit": limit}}
        config["linux"]["cgroupsPath"] = f"/memory-{one.name}"
    path = place / f"memory-{one.name}-{limit}-{number}"
    bundle = Bundle(path, ["/bin/true"], change, seccomp=False)
    ident = f"memory-{number}"
    done = subprocess.run(one.run(bundle, ident), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    subprocess.run(one.delete_by_force(ident), capture_output=True, check=False)
    subprocess.run(["rm", "-rf", path], check=True)
    return done.returncode == 0


def waiting(place, one):
    """Resident and proportional KiB of the init of a created container."""
    bundle = Bundle(place / f"waiting-{one.name}", ["/bin/sleep", "1000"])
    ident = "bench-waiting"
    subprocess.run(one.create(bundle, ident), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    try:
        lines = Path(f"/proc/{one.pid(ident)}/smaps_rollup").read_text().splitlines()
        return {name.lower(): int(line.split()[1]) for line in lines for name in ("Rss", "Pss")
                if line.startswith(f"{name}:")}
    finally:
        subprocess.run(one.delete_by_force(ident), check=True)
