"""Podman where the host is pure cgroup v2 and has every capability."""

from kit.commands import contains, equal
from kit.podman import BUSYBOX
from kit.suite import scenario

MIB = 1 << 20


@scenario("11 memory, memory-swap and memory-reservation: max, swap.max = swap - memory, low")
def memory(podman):
    podman.start("--name", "m", "-m", "64m", "--memory-swap", "96m", "--memory-reservation", "32m", ["probe", "wait"])
    for name, wanted in (("memory.max", 64), ("memory.swap.max", 32), ("memory.low", 32)):
        equal(podman("exec", "m", "cat", f"/sys/fs/cgroup/{name}").text, str(wanted * MIB), name)


@scenario("8 out of memory: inspect says OOMKilled (podman's monitor sees it on pure v2 alone)")
def out_of_memory(podman):
    words = podman.run_words("--name", "hog", "-m", "24m", "--memory-swap", "24m")
    podman(*words, BUSYBOX, "probe", "hog", "100", code=137)
    equal(podman.inspect("hog", "State.OOMKilled"), True, "OOMKilled")


@scenario("privileged: every capability, devices")
def privileged(podman):
    out = podman.run("--privileged", ["sh", "-c", "mount -t tmpfs t /srv && grep CapBnd /proc/self/status"]).out
    contains(out, "1ffffffffff", "CapBnd")


@scenario("an OOM score below the daemon's own")
def oom_score(podman):
    equal(podman.run("--oom-score-adj", "-500", ["cat", "/proc/self/oom_score_adj"]).text, "-500", "oom_score_adj")
