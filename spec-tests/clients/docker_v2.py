"""Docker's limits as cgroup v2 has them."""

from clients.docker_limits import MIB, limit
from kit import host
from kit.commands import check, contains, equal, nothing_left, run, wait_until
from kit.suite import scenario


@scenario("11 memory, memory-swap and memory-reservation: max, swap.max = swap - memory, low")
def memory(docker):
    docker.start("--name", "mm", "-m", "64m", "--memory-swap", "96m", "--memory-reservation", "32m", ["probe", "wait"])
    for name, wanted in (("memory.max", 64), ("memory.swap.max", 32), ("memory.low", 32)):
        equal(limit(docker, "mm", "", name), str(wanted * MIB), name)
    equal(docker("exec", "mm", "cat", "/proc/self/cgroup").text, "0::/", "its own cgroup namespace")


@scenario("12 device-read-bps and device-write-bps throttle a real read and write")
def throttle(docker):
    image = docker.base / "disk"
    run("truncate", "-s", "16M", image)
    run("modprobe", "loop", code=None)
    device = run("losetup", "--find", "--show", image).text
    try:
        docker.start("--name", "io", "--device", device, "--device-read-bps", f"{device}:1mb",
                     "--device-write-bps", f"{device}:1mb", ["probe", "wait"])
        contains(limit(docker, "io", "", "io.max"), "rbps=1048576 wbps=1048576", "io.max")
        for words in (f"if={device} of=/dev/null iflag=direct", f"if=/dev/zero of={device} oflag=direct"):
            took = run("sh", "-c", f"begin=$(date +%s%N); docker -H {docker.socket} exec io dd {words} bs=64k count=48 "
                                   "2>/dev/null; echo $((($(date +%s%N) - begin) / 1000000))").text
            check(int(took) > 2000, f"3 MB at 1 MB/s ({words}) took {took} ms")
    finally:
        docker("rm", "-f", "io", code=None)
        run("losetup", "-d", device)


@scenario("the cgroup of a container is removed with it, though it made cgroups inside")
def nested(docker):
    docker.start("--name", "nn", "--privileged", "--cgroupns", "private", ["probe", "wait"])
    docker("exec", "nn", "mkdir", "-p", "/sys/fs/cgroup/a/b")
    wait_until(lambda: any(path.name == "b" for root in host.cgroups_named(docker.parent) for path in host.below(root)),
               "the nested cgroup")
    docker("rm", "-f", "nn")
    nothing_left(docker.leftovers)
