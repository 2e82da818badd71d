"""Privileged containers, on a host that has every capability."""

import os
from pathlib import Path

from clients.docker_security import status
from kit import host
from kit.commands import check, contains, equal
from kit.docker import DEBIAN
from kit.suite import scenario


@scenario("28 privileged: every capability that the host has, no seccomp, devices, a writable /sys")
def privileged(docker):
    fields = status(docker, "--privileged")
    own = host.status_of(os.getpid())
    # Docker 20.10 knows the capabilities up to AUDIT_READ (37).
    wanted = int(own["CapBnd"], 16) & 0x3FFFFFFFFF
    equal(int(fields["CapEff"], 16) & wanted, wanted, "CapEff")
    equal(fields["Seccomp"], "0", "Seccomp")
    listing = docker("run", "--rm", "--privileged", "busybox", "sh", "-c", "ls /dev; grep ' /sys ' /proc/mounts").out
    contains(listing, "loop-control" if Path("/dev/loop-control").exists() else "null", "/dev")
    contains(listing, "sysfs rw", "/sys")
    named = docker("run", "--rm", "--privileged", "--device", "/dev/zero:/dev/mine", "busybox", "sh", "-c",
                   "head -c4 /dev/mine | wc -c; mknod /kmsg c 1 11 && : >/kmsg").text
    equal(named, "4", "a device by another name, and one that was made inside")
    docker.start("--name", "pp", "--privileged", ["probe", "wait"])
    docker("exec", "pp", "sh", "-c", "mount -t tmpfs x /tmp")


@scenario("exec --privileged into a plain container")
def exec_privileged(docker):
    docker.start("--name", "plain", ["probe", "wait"])
    for options, wanted in ((["--privileged"], 0x3FFFFFFFFF), ([], 0xA80425FB)):
        fields = host.parse_status(docker("exec", *options, "plain", "probe", "status").out)
        equal(int(fields["CapEff"], 16) & 0x3FFFFFFFFF, wanted, f"CapEff of exec {options}")
        equal(fields["Seccomp"], "2", "the container's filter stays")


@scenario("28 systemd as PID 1 of a Debian root")
def systemd_inside(docker):
    image = docker.need(DEBIAN)
    docker.start("--name", "sd", "--privileged", "--tmpfs", "/run", "--tmpfs", "/run/lock", "-e", "container=docker",
                 "--stop-signal", "SIGRTMIN+3", ["/sbin/init"], image=image)
    state = docker("exec", "sd", "sh", "-c",
                   "until [ -S /run/systemd/private ]; do sleep 0.2; done; systemctl is-system-running --wait",
                   code=None, timeout=60).text
    check(state in ("running", "degraded"), f"systemctl is-system-running: {state!r}; {docker('logs', 'sd').out[-500:]}")
    equal(docker("exec", "sd", "systemctl", "is-active", "systemd-journald").text, "active", "systemd-journald")
    docker("stop", "-t", "120", "sd")
    check(docker.inspect("sd", "State.ExitCode") in (0, 130), "systemd stopped by itself")
