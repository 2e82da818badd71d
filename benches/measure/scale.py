"""Many containers: made and started sixteen at a time, held all at once, looked at, and removed."""

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from measure.bundle import Bundle
from measure.timing import seconds

AT_ONCE = 16


def measure(place, contenders, count):
    """{contender: facts} with `count` containers held; the contenders one after the other."""
    bundle = Bundle(place / "held", ["/bin/sleep", "100000"], seccomp=False)
    # Each has a cgroup of its own: without a path the runtime names it after the container.
    return {one.name: _hold(one, bundle, count) for one in contenders}


def _hold(one, bundle, count):
    names = [f"held-{number}" for number in range(count)]
    free = _available()
    facts = {"containers": count}
    facts["made and started, a second"] = round(count / _all(lambda name: _begin(one, bundle, name), names), 1)
    facts["KiB of the machine, each"] = round((free - _available()) / count)
    sample = [_memory(one.pid(name)) for name in names[:: max(1, count // 20)]]
    facts["KiB resident in a started program"] = sorted(sample)[len(sample) // 2]
    facts["state, ms"] = round(min(seconds(one.state(names[count // 2])) for _ in range(5)) * 1000, 2)
    if one.name != "limit":
        facts["list, ms"] = round(min(seconds(one.list()) for _ in range(3)) * 1000, 2)
    facts["removed, a second"] = round(count / _all(lambda name: _end(one, name), names), 1)
    return facts


def _all(work, names):
    """Seconds for all of them, sixteen at a time."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(work, names))
    return time.perf_counter() - begin


def _begin(one, bundle, name):
    seconds(one.create(bundle, name))
    seconds(one.start(name))


def _end(one, name):
    seconds(one.kill(name))
    while json_status(one, name) not in ("stopped", None):
        pass
    seconds(one.delete(name))


def json_status(one, name):
    """The status; None of the limit, whose delete waits by itself."""
    if one.name == "limit":
        return None
    return json.loads(subprocess.run(one.state(name), stdout=subprocess.PIPE, check=True).stdout)["status"]


def _available():
    return _field("/proc/meminfo", "MemAvailable")


def _memory(pid):
    return _field(f"/proc/{pid}/status", "VmRSS")


def _field(path, name):
    with open(path) as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
