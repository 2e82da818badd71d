"""Many containers: made and started sixteen at a time, held all at once, looked at, and removed."""

import statistics
import time

from measure.bundle import Bundle
from measure.timing import seconds, seconds_at_once

AT_ONCE = 16


# The first contender finds the kernel's caches empty, and the second one finds them filled by the first: each contender
# is first once, second once, and so on, and the median of the rounds counts.
ROUNDS = 3
# Memory that the kernel frees later (network namespaces, a thousand of them) is not to be the next one's gain.
SETTLED, SETTLE_WITHIN = 512, 60  # KiB in half a second, seconds


def measure(place, contenders, count):
    """{contender: facts} with `count` containers held; the contenders one after the other."""
    bundle = Bundle(place / "held", ["/bin/sleep", "100000"], seccomp=False)
    found = {one.name: [] for one in contenders}
    for number in range(ROUNDS):
        start = number % len(contenders)
        for one in contenders[start:] + contenders[:start]:
            # Each has a cgroup of its own: without a path the runtime names it after the container.
            found[one.name].append(_hold(one, bundle, count))
    return {name: {fact: statistics.median(facts[fact] for facts in rounds) for fact in rounds[0]}
            for name, rounds in found.items()}


def _hold(one, bundle, count):
    names = [f"held-{number}" for number in range(count)]
    free = _settled()
    facts = {"containers": count}
    facts["made and started, a second"] = _rate([[one.create(bundle, name), one.start(name)] for name in names])
    facts["KiB of the machine, each"] = round((free - _settled()) / count)
    sample = [_memory(one.pid(name)) for name in names[:: max(1, count // 20)]]
    facts["KiB resident in a started program"] = sorted(sample)[len(sample) // 2]
    facts["state, ms"] = round(min(seconds(one.state(names[count // 2])) for _ in range(5)) * 1000, 2)
    if one.name != "limit":
        facts["list, ms"] = round(min(seconds(one.list()) for _ in range(3)) * 1000, 2)
    facts["removed, a second"] = _rate([one.end(name) for name in names])
    return facts


def _settled():
    """KiB that are available once that no longer changes."""
    deadline = time.monotonic() + SETTLE_WITHIN
    before, now = None, _available()
    while (before is None or abs(now - before) > SETTLED) and time.monotonic() < deadline:
        time.sleep(0.5)
        before, now = now, _available()
    return now


def _rate(chains):
    """Containers a second, sixteen at a time."""
    return round(len(chains) / seconds_at_once(chains, AT_ONCE), 1)


def _available():
    return _field("/proc/meminfo", "MemAvailable")


def _memory(pid):
    return _field(f"/proc/{pid}/status", "VmRSS")


def _field(path, name):
    with open(path) as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
