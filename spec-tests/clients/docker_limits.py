"""Limits: memory, pids, CPU; read back where the container sees them, and enforced."""

from kit import host
from kit.commands import Failure, check, contains, equal, wait_until
from kit.docker import DockerWithShim
from kit.suite import scenario

MIB = 1 << 20


def limit(docker, container, v1, v2):
    """A limit's file as read inside the container, on whichever cgroup version this host has."""
    return docker("exec", container, "cat", f"/sys/fs/cgroup/{v2 if host.pure_v2() else v1}").text


def throttled(docker, container):
    """How often the container was throttled."""
    lines = limit(docker, container, "cpu/cpu.stat", "cpu.stat").splitlines()
    return int(dict(line.split() for line in lines)["nr_throttled"])


def seen_as_killed(docker, options):
    """Runs a container out of memory; whether Docker came to know why it died."""
    docker("run", "--name", "hog", *options, "busybox", "probe", "hog", "100", code=137)
    try:
        wait_until(lambda: docker.inspect("hog", "State.OOMKilled"), "OOMKilled", 10)
        events = ("events", "--since", "10m", "--until", "0s", "--filter", "container=hog")  # up to the last full second
        wait_until(lambda: " oom " in docker(*events).out, "an oom event")
        return True
    except Failure:
        return False
    finally:
        docker("rm", "hog")


@scenario("8 out of memory: exit 137, OOMKilled, an oom event; with swap limited too")
def out_of_memory(docker):
    for options in (["-m", "24m"], ["-m", "24m", "--memory-swap", "24m"]):
        # containerd 1.6's own shim stops watching a v2 cgroup that is empty when it has read its events, though the kernel
        # may hold the last one back, and on v1 one that is gone; so it misses some, whatever the runtime.
        tries = 1 if isinstance(docker, DockerWithShim) else 5
        check(any(seen_as_killed(docker, options) for _ in range(tries)), f"OOMKilled and an oom event with {options}")


@scenario("8 a container that stays below its limit is not killed, nor is one whose child is")
def below_the_limit(docker):
    docker("run", "--rm", "-m", "64m", "busybox", "probe", "hog", "20")
    docker.start("--name", "lives", "-m", "24m", ["probe", "wait"])
    docker("exec", "lives", "probe", "hog", "100", code=137)
    equal(docker.inspect("lives", "State.Running"), True, "running after its exec was killed")


@scenario("the smallest memory that Docker allows (6 MiB) starts a program and an exec")
def smallest_memory(docker):
    docker.start("--name", "small", "-m", "6m", ["probe", "wait"])
    docker("exec", "small", "probe", "status")


@scenario("9 a pids limit of 100: fork gets EAGAIN, and the container continues to run")
def pids(docker):
    docker.start("--name", "ff", "--pids-limit", "100", ["probe", "wait"])
    equal(limit(docker, "ff", "pids/pids.max", "pids.max"), "100", "pids.max")
    out = docker("exec", "ff", "probe", "fork", "200").out
    contains(out, "Resource temporarily unavailable", "fork")
    count = int(out.split("started ")[1])
    check(60 <= count < 100, f"children before the limit: {count}")
    docker("exec", "ff", "true")


@scenario("10 shares, quota and period, read back; throttled, not killed")
def cpu(docker):
    docker.start("--name", "cc", "--cpu-shares", "512", "--cpu-period", "100000", "--cpu-quota", "50000",
                 ["probe", "spin"])
    if host.pure_v2():
        equal(limit(docker, "cc", "", "cpu.max"), "50000 100000", "cpu.max")
        # Linear from the ends of both scales (runc 1.1), or so that the two defaults meet (newer runtimes).
        check(limit(docker, "cc", "", "cpu.weight") in ("20", "59"), "cpu.weight of 512 shares")
    else:
        equal(limit(docker, "cc", "cpu/cpu.cfs_quota_us", ""), "50000", "quota")
        equal(limit(docker, "cc", "cpu/cpu.cfs_period_us", ""), "100000", "period")
        equal(limit(docker, "cc", "cpu/cpu.shares", ""), "512", "shares")
    docker("update", "--cpu-quota", "5000", "cc")  # on a busy host a loop may never get the half of a CPU
    wait_until(lambda: throttled(docker, "cc") > 2, "throttling", 60)
    equal(docker.inspect("cc", "State.Running"), True, "running")


@scenario("memory, memory-swap and memory-reservation are read back")
def memory(docker):
    docker.start("--name", "mm", "-m", "64m", "--memory-swap", "96m", "--memory-reservation", "32m", ["probe", "wait"])
    equal(limit(docker, "mm", "memory/memory.limit_in_bytes", "memory.max"), str(64 * MIB), "limit")
    equal(limit(docker, "mm", "memory/memory.soft_limit_in_bytes", "memory.low"), str(32 * MIB), "reservation")


@scenario("23 update of memory, pids and cpus on a running container")
def update(docker):
    docker.start("--name", "uu", "-m", "64m", "--memory-swap", "64m", ["probe", "wait"])
    docker("update", "-m", "128m", "--memory-swap", "128m", "--cpus", "0.5", "--pids-limit", "77", "uu")
    equal(limit(docker, "uu", "memory/memory.limit_in_bytes", "memory.max"), str(128 * MIB), "limit")
    equal(limit(docker, "uu", "pids/pids.max", "pids.max"), "77", "pids.max")
    if host.pure_v2():
        equal(limit(docker, "uu", "", "cpu.max"), "50000 100000", "cpu.max")
    else:
        equal(limit(docker, "uu", "cpu/cpu.cfs_quota_us", ""), "50000", "quota")


@scenario("devices: /dev/null works, others are refused by the cgroup, --device and its permissions let them in")
def devices(docker):
    docker("run", "--rm", "busybox", "sh", "-c", "echo x >/dev/null && head -c1 /dev/zero >/dev/null")
    refused = docker("run", "--rm", "busybox", "sh", "-c", "mknod /kmsg c 1 11 && head -c1 /kmsg", code=1)
    contains(refused.err, "Operation not permitted", "a device that was not given")
    docker("run", "--rm", "--device", "/dev/zero:/dev/mine:r", "busybox", "sh", "-c", "head -c1 /dev/mine >/dev/null")
    docker("run", "--rm", "--device", "/dev/kmsg:/dev/log-in:w", "busybox", "sh", "-c",
           "! head -c1 /dev/log-in 2>/dev/null && : >/dev/log-in")


@scenario("28 a privileged container creates a cgroup and moves a process into it; any other gets a read-only file system")
def writable_cgroups(docker):
    # Without a cgroup namespace of its own, a container sees the whole hierarchy on v2 and only its own part on v1.
    own = "/sys/fs/cgroup$(cut -d : -f 3 /proc/self/cgroup)" if host.pure_v2() else "/sys/fs/cgroup/pids"
    script = f"own={own}; mkdir $own/inner && echo $$ >$own/inner/cgroup.procs && grep -c /inner$ /proc/self/cgroup"
    for namespace in ("host", "private"):
        options = ("--cgroupns", namespace, "busybox", "sh", "-c")
        equal(docker("run", "--rm", "--privileged", *options, script).text, "1", f"{namespace}: lines with the new cgroup")
        refused = docker("run", "--rm", *options, script, code=1).err
        contains(refused, "Read-only file system", f"{namespace}: without --privileged")
