"""Podman run by an ordinary user with subordinate ids."""

import os

from kit.commands import check, contains, equal, wait_until
from kit.podman import BUSYBOX, ROOTLESS_ID, SUBORDINATE
from kit.suite import scenario


def gone(pids):
    """Whether every one of the processes has exited and was reaped."""
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids)


@scenario("run, exec and rm -f: root inside is the user outside")
def life(podman):
    lines = podman.run(["cat", "/proc/self/uid_map"]).out.splitlines()
    equal([line.split() for line in lines], [["0", str(ROOTLESS_ID), "1"], ["1", str(SUBORDINATE), "65536"]], "uid_map")
    podman.start("--name", "c", ["probe", "wait"])
    equal(podman("exec", "c", "id", "-u").text, "0", "the user of an exec")
    podman("rm", "-f", "-t", "0", "c")


@scenario("--userns=keep-id: the user has the same id inside, and setgroups is allowed")
def keep_id(podman):
    contains(podman.run("--userns=keep-id", ["id"]).text, f"uid={ROOTLESS_ID}", "id")
    script = "cat /proc/self/setgroups; id -G"
    out = podman.run("--userns=keep-id", "--user", "0", "--group-add", "2000", ["sh", "-c", script]).out.splitlines()
    equal(out[0], "allow", "setgroups")
    contains(out[1].split(), "2000", "the additional groups")


@scenario("--userns=auto: the container has a range of ids of its own")
def auto(podman):
    user, own, *_ = podman.run("--userns=auto", ["sh", "-c", "id -u; cat /proc/self/uid_map"]).out.splitlines()
    equal((user, own.split()[0]), ("0", "0"), "the user, the first id inside")
    check(own.split()[1] != str(ROOTLESS_ID), f"root inside is not the user outside: {own}")


@scenario("--userns=nomap and --uidmap: setgroups is allowed in a nested user namespace")
def other_maps(podman):
    for options in (("--userns=nomap",), ("--uidmap", "0:1:1000", "--gidmap", "0:1:1000")):
        script = "cat /proc/self/setgroups; id -G"
        out = podman.run(*options, "--group-add", "500", ["sh", "-c", script]).out.splitlines()
        equal(out[0], "allow", f"setgroups with {options}")
        contains(out[1].split(), "500", f"the additional groups with {options}")


@scenario("--tmpfs: an ordinary user inside writes to it")
def tmpfs(podman):
    out = podman.run("--tmpfs", "/x", "-u", "1000", ["sh", "-c", "stat -c %a /x; touch /x/file && stat -c %u /x/file"]).out
    equal(out.split(), ["1777", "1000"], "the mode of the tmpfs, the owner of a file")


def pod_is_removed(podman):
    """Kills one container of a pod that shares its pid namespace, then removes the pod."""
    podman("pod", "create", "--name", "p", "--share", "pid", "--network", "none", "--infra-image", BUSYBOX,
           "--infra-command", "probe wait")
    for name in ("first", "second"):
        podman.start("--pod", "p", "--name", name, ["probe", "wait"])
    first, second = podman("inspect", "--format", "{{.State.Pid}}", "first", "second").out.split()
    equal(os.readlink(f"/proc/{first}/ns/pid"), os.readlink(f"/proc/{second}/ns/pid"), "the pid namespace")
    podman("kill", "--signal", "KILL", "first")
    equal(podman("wait", "first").text, "137", "the exit status of the killed container")
    check(gone([first]) and not gone([second]), "kill reaches the one container only")
    podman("pod", "rm", "-f", "-t", "0", "p")
    wait_until(lambda: gone([first, second]), "the containers' processes to exit", 10 * podman.timeout_factor)


@scenario("a pod that shares the pid namespace: kill reaches one container, and pod rm -f removes all of them")
def pod(podman):
    pod_is_removed(podman)


@scenario("the same without a delegated cgroup: the containers have neither a cgroup nor a pid namespace of their own")
def pod_without_cgroup(podman):
    with podman.undelegated():
        pod_is_removed(podman)


@scenario("--pid host without a delegated cgroup: rm -f kills the container")
def host_pid(podman):
    with podman.undelegated():
        podman.start("--name", "h", "--pid", "host", ["probe", "wait"])
        pid = podman.inspect("h", "State.Pid")
        podman("rm", "-f", "-t", "0", "h")
        wait_until(lambda: gone([pid]), "the container's process to exit", 10 * podman.timeout_factor)
