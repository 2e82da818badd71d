"""Many containers: made and started sixteen at a time, held all at once, looked at, and removed."""

from measure.bundle import Bundle
from measure.timing import seconds, seconds_at_once

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
    facts["made and started, a second"] = _rate([[one.create(bundle, name), one.start(name)] for name in names])
    facts["KiB of the machine, each"] = round((free - _available()) / count)
    sample = [_memory(one.pid(name)) for name in names[:: max(1, count // 20)]]
    facts["KiB resident in a started program"] = sorted(sample)[len(sample) // 2]
    facts["state, ms"] = round(min(seconds(one.state(names[count // 2])) for _ in range(5)) * 1000, 2)
    if one.name != "limit":
        facts["list, ms"] = round(min(seconds(one.list()) for _ in range(3)) * 1000, 2)
    facts["removed, a second"] = _rate([one.end(name) for name in names])
    return facts


def _rate(chains):
    """How many a second, sixteen at a time."""
    return round(len(chains) / seconds_at_once(chains, AT_ONCE), 1)


def _available():
    return _field("/proc/meminfo", "MemAvailable")


def _memory(pid):
    return _field(f"/proc/{pid}/status", "VmRSS")


def _field(path, name):
    with open(path) as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
