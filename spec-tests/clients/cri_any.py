"""Pods, as a kubelet makes and ends them, by crictl: what holds whichever server has brig as its handler."""

import json
import os
import signal
import subprocess
from pathlib import Path

from kit import cri as kit
from kit import host
from kit.commands import check, contains, equal, run, wait_until
from kit.suite import scenario
from kit.terminal import Terminal

_WAIT = ["probe", "wait"]
_NODE, _TARGET = 2, 3


@scenario("exec: outputs, status, input, a terminal; attach; logs of both streams")
def streams(cri):
    for handler in cri.handlers:
        pod = cri.pod(handler, handler)
        one = pod.container("one", ["sh", "-c", "echo out; echo err >&2; exec cat"], stdin=True)
        seen = cri.crictl("exec", one, "sh", "-c", "echo out; echo err >&2")
        equal((seen.out, seen.err), ("out\n", "err\n"), f"{handler}: outputs of exec")
        equal(cri.crictl("exec", "-i", one, "cat", input="given\n").out, "given\n", f"{handler}: its input")
        failed = cri.crictl("exec", one, "sh", "-c", "exit 7", code=None)
        contains(str(failed), "exit code 7", f"{handler}: its status")
        with Terminal(*cri.crictl_words("exec", "-i", "-t", one, "sh")) as term:
            term.expect("#")
            term.send("tty; echo do''ne\n")
            term.expect("/dev/pts/0")
            term.expect("done")
            term.send("exit\n")
            equal(term.wait(), 0, f"{handler}: the shell's status")
        words = [str(word) for word in cri.crictl_words("attach", "-i", one)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
            client.stdin.write(b"typed\n")
            client.stdin.flush()
            equal(client.stdout.readline(), b"typed\n", f"{handler}: what attach shows")
            client.kill()
        wait_until(lambda one=one: "typed" in cri.crictl("logs", one).out, f"{handler}: the log of what was typed")
        seen = cri.crictl("logs", one)
        equal((seen.out, seen.err), ("out\ntyped\n", "err\n"), f"{handler}: the log, by streams")
        pod.stop_and_remove()


@scenario("a probe that is too slow is killed at its deadline, with its children")
def slow_probe(cri):
    pod = cri.pod()
    one = pod.container("one", _WAIT)
    late = cri.crictl("exec", "-s", "--timeout", "1", one, "probe", "spin", code=None)
    check(late.code != 0, f"the deadline is told: {late}")
    check("timeout" in late.err or "timed out" in late.err, f"the error: {late.err}")
    wait_until(lambda: "spin" not in cri.crictl("exec", "-s", one, "ps").out, "the probe's process to be gone")
    pod.stop_and_remove()


@scenario("port-forward: to a server in the pod")
def port_forward(cri):
    pod = cri.pod()
    pod.container("web", ["httpd", "-f", "-p", "80", "-h", "/etc"])
    words = [str(word) for word in cri.crictl_words("port-forward", pod.id, "12010:80")]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        try:
            wait_until(lambda: run("busybox", "wget", "-q", "-O-", "http://127.0.0.1:12010/plain", code=None).out ==
                       "not a program\n", "the server's answer")
        finally:
            client.send_signal(signal.SIGINT)
    equal(run("busybox", "wget", "-q", "-O-", f"http://{pod.address()}/plain").out, "not a program\n", "without it")
    pod.stop_and_remove()


@scenario("stats of a container")
def stats(cri):
    for handler in cri.handlers:
        pod = cri.pod(handler, handler)
        one = pod.container("one", ["sh", "-c", "head -c 20000000 /dev/zero >/dev/null; exec probe wait"])
        def figures():
            return json.loads(cri.crictl("stats", "-o", "json", "--id", one).out)["stats"][0]
        seen = wait_until(lambda: figures() if int(figures()["cpu"]["usageCoreNanoSeconds"]["value"]) else None,
                          f"{handler}: processor time")
        check(int(seen["memory"]["workingSetBytes"]["value"]) > 0, f"{handler}: {seen}")
        pod.stop_and_remove()


def _limit(cri, container):
    """memory.max of a container, on either version."""
    lines = Path(f"/proc/{kit.pid(cri, container)}/cgroup").read_text().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            return int((host.CGROUPS / "memory" / path[1:] / "memory.limit_in_bytes").read_text())
    return int((host.CGROUPS / lines[-1].split(":", 2)[2][1:] / "memory.max").read_text())


@scenario("limits: set, updated on a running container, and shown by inspect")
def limits(cri):
    for handler in cri.handlers:
        pod = cri.pod(handler, handler)
        one = pod.container("one", _WAIT, linux={"resources": {"memory_limit_in_bytes": 64 << 20, "cpu_shares": 512}})
        equal(_limit(cri, one), 64 << 20, f"{handler}: the limit")
        cri.crictl("update", "--memory", str(96 << 20), one)
        equal(_limit(cri, one), 96 << 20, f"{handler}: the limit after the update")
        pod.stop_and_remove()


@scenario("a container that exceeds its memory is OOMKilled with 137; the pod continues to run, and it starts again")
def out_of_memory(cri):
    for handler in cri.ours:
        pod = cri.pod(handler, handler)
        resources = {"resources": {"memory_limit_in_bytes": 24 << 20, "memory_swap_limit_in_bytes": 24 << 20}}
        one = pod.container("one", ["probe", "hog", "100"], linux=resources)
        kit.until_oom_killed(cri, one, handler)
        cri.crictl("rm", one)
        again = pod.container("again", _WAIT)
        equal(kit.status(cri, again)["state"], "CONTAINER_RUNNING", f"{handler}: another container of the pod")
        pod.stop_and_remove()


@scenario("an ephemeral container joins another's processes to look into it")
def ephemeral(cri):
    for handler in cri.handlers:
        own = {"linux": {"security_context": {"namespace_options": {"pid": 1}}}}
        pod = cri.pod(handler, handler, **own)
        one = pod.container("one", _WAIT, **own)
        look = {"security_context": {"namespace_options": {"pid": _TARGET, "target_id": one}}}
        debug = pod.container("debug", _WAIT, linux=look)
        equal(kit.namespaces(cri, debug)["pid"], kit.namespaces(cri, one)["pid"], f"{handler}: the pid namespace")
        equal(cri.crictl("exec", "-s", debug, "ps").out.count("probe wait"), 2, f"{handler}: the processes")
        cri.crictl("stop", "-t", "0", debug)
        equal(kit.status(cri, one)["state"], "CONTAINER_RUNNING", f"{handler}: what was looked into")
        pod.stop_and_remove()


@scenario("a pod in the node's network, and one in its processes")
def node(cri):
    for handler in cri.handlers:
        config = {"linux": {"security_context": {"namespace_options": {"network": _NODE, "pid": _NODE}}}}
        pod = cri.pod(handler, handler, **config)
        one = pod.container("one", _WAIT, **config)
        mine = {name: os.readlink(f"/proc/self/ns/{name}") for name in ("net", "pid")}
        seen = kit.namespaces(cri, one)
        equal({name: seen[name] for name in mine}, mine, f"{handler}: namespaces")
        pod.stop_and_remove()
