"""The remaining options of docker run: ipc, pid, uts, oom score, init, sysctls of ipc, devices by rule."""

import os

from clients.docker_limits import limit
from kit import host
from kit.commands import check, contains, equal
from kit.suite import scenario


@scenario("28 pid host, ipc host, uts host: the namespace is the daemon's own")
def host_namespaces(docker):
    for kind in ("pid", "ipc", "uts"):
        seen = docker("run", "--rm", f"--{kind}", "host", "busybox", "readlink", f"/proc/self/ns/{kind}").text
        equal(seen, os.readlink(f"/proc/self/ns/{kind}"), f"the {kind} namespace")
        own = docker("run", "--rm", "busybox", "readlink", f"/proc/self/ns/{kind}").text
        check(own != seen, f"without it the {kind} namespace is the container's own")
    docker.start("--name", "pp", "--pid", "host", ["sh", "-c", "probe wait & wait"])
    docker("stop", "-t", "0", "pp")


@scenario("28 pid and ipc of another container")
def shared_namespaces(docker):
    docker.start("--name", "first", "--ipc", "shareable", ["probe", "wait"])
    docker.start("--name", "second", "--pid", "container:first", "--ipc", "container:first", ["probe", "wait"])
    for kind in ("pid", "ipc"):
        link = f"/proc/self/ns/{kind}"
        equal(docker("exec", "second", "readlink", link).text, docker("exec", "first", "readlink", link).text, kind)
    docker("exec", "first", "touch", "/dev/shm/common")
    docker("exec", "second", "test", "-e", "/dev/shm/common")


@scenario("28 a sysctl of the IPC namespace, an OOM score, a cgroup parent, labels")
def small_options(docker):
    out = docker("run", "--rm", "--sysctl", "kernel.shmmax=12345678", "--oom-score-adj", "200", "busybox", "sh", "-c",
                 "cat /proc/sys/kernel/shmmax /proc/self/oom_score_adj").out
    equal(out, "12345678\n200\n", "shmmax, oom_score_adj")
    out = docker("run", "--rm", "--cgroupns", "host", "--cgroup-parent", f"/{docker.parent}/deeper", "busybox", "cat",
                 "/proc/self/cgroup").out
    contains(out, "/deeper/", "the cgroup")
    docker.remove_cgroup("deeper")


@scenario("28 --gpus is refused clearly where there is none")
def gpus(docker):
    contains(docker("run", "--rm", "--gpus", "all", "busybox", "true", code=125).err, "could not select device driver", "gpus")


@scenario("28 device-cgroup-rule lets a device in that is made inside")
def device_rule(docker):
    docker("run", "--rm", "--device-cgroup-rule", "c 1:11 rmw", "busybox", "sh", "-c", "mknod /k c 1 11 && : >/k")


@scenario("environment, workdir that is made, labels, entry in /etc/hostname")
def environment(docker):
    out = docker("run", "--rm", "-e", "A=1", "-e", "B=two words", "-w", "/made/here", "-h", "box", "busybox", "sh", "-c",
                 'echo "$A|$B|$HOME|$(pwd)|$(cat /etc/hostname)"').text
    equal(out, "1|two words|/root|/made/here|box", "inside")


@scenario("standard devices and links of /dev")
def devices(docker):
    script = ("for d in null zero full random urandom tty ptmx; do test -c /dev/$d || echo no $d; done; "
              "for l in fd stdin stdout stderr; do readlink /dev/$l; done; ls -d /dev/pts /dev/shm /dev/mqueue")
    equal(docker("run", "--rm", "busybox", "sh", "-c", script).out.split(),
          ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "/dev/mqueue", "/dev/pts", "/dev/shm"],
          "/dev")


@scenario("no descriptors but 0, 1 and 2 reach the program, nor does one of an exec")
def descriptors(docker):
    docker.start("--name", "dd", ["probe", "wait"])
    for out in (docker("run", "--rm", "busybox", "ls", "/proc/self/fd").out, docker("exec", "dd", "ls", "/proc/self/fd").out):
        equal(out.split(), ["0", "1", "2", "3"], "descriptors (3 is the directory that ls reads)")


@scenario("10 --cpus 1.5 is a quota of 150 percent")
def cpus(docker):
    docker.start("--name", "cc", "--cpus", "1.5", ["probe", "wait"])
    if host.pure_v2():
        equal(limit(docker, "cc", "", "cpu.max"), "150000 100000", "cpu.max")
    else:
        equal(limit(docker, "cc", "cpu/cpu.cfs_quota_us", ""), "150000", "quota")
