"""Podman where the host is pure cgroup v2 and has every capability."""

from kit.commands import check, contains, equal
from kit.suite import scenario

MIB = 1 << 20


@scenario("11 memory, memory-swap and memory-reservation: max, swap.max = swap - memory, low")
def memory(podman):
    podman.start("--name", "m", "-m", "64m", "--memory-swap", "96m", "--memory-reservation", "32m", ["probe", "wait"])
    for name, wanted in (("memory.max", 64), ("memory.swap.max", 32), ("memory.low", 32)):
        equal(podman("exec", "m", "cat", f"/sys/fs/cgroup/{name}").text, str(wanted * MIB), name)


@scenario("8 out of memory: an exec is killed, the cgroup says so, and the container continues to run")
def out_of_memory(podman):
    # Not inspect's OOMKilled: Podman 4.3's monitor misses it here with every runtime.
    podman.start("--name", "hog", "-m", "24m", "--memory-swap", "24m", ["probe", "wait"])
    podman("exec", "hog", "probe", "hog", "100", code=137)
    lines = podman("exec", "hog", "cat", "/sys/fs/cgroup/memory.events").out.splitlines()
    check(int(dict(line.split() for line in lines)["oom_kill"]) >= 1, f"memory.events: {lines}")
    equal(podman.inspect("hog", "State.Status"), "running", "status")


@scenario("privileged: every capability, devices")
def privileged(podman):
    out = podman.run("--privileged", ["sh", "-c", "mount -t tmpfs t /srv && grep CapBnd /proc/self/status"]).out
    contains(out, "1ffffffffff", "CapBnd")


@scenario("an OOM score below the daemon's own")
def oom_score(podman):
    equal(podman.run("--oom-score-adj", "-500", ["cat", "/proc/self/oom_score_adj"]).text, "-500", "oom_score_adj")
