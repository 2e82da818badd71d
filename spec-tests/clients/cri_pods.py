"""Pods, as a kubelet makes and ends them, by crictl: over brig's shim by its own name, in the sandbox API and in the
place of Go's."""

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
OURS = ("brig", "brig-sandbox", "drop-in")
_NODE, _TARGET = 2, 3


def _namespaces(cri, container):
    place = Path(f"/proc/{kit.pid(cri, container)}/ns")
    return {name: os.readlink(place / name) for name in ("net", "ipc", "pid", "mnt", "uts")}


@scenario("a pod: two containers share net, ipc, uts and pid, below one shim; an init container went before")
def pod(cri):
    for handler in OURS:
        shared = {"linux": {"security_context": {"namespace_options": {"pid": 0}}}}
        pod = cri.pod(handler, handler, **shared)
        first = pod.container("first", ["sh", "-c", "echo init"])
        equal(kit.until(cri, first, "CONTAINER_EXITED")["exitCode"], 0, "the init container's status")
        one, two = (pod.container(name, _WAIT, **shared) for name in ("one", "two"))
        mine, other = _namespaces(cri, one), _namespaces(cri, two)
        equal([mine[name] for name in ("net", "ipc", "uts", "pid")],
              [other[name] for name in ("net", "ipc", "uts", "pid")], f"{handler}: namespaces")
        check(mine["mnt"] != other["mnt"], f"{handler}: each has a mount namespace of its own")
        equal(len(cri.shims()), 1, f"{handler}: shims of one pod")
        equal(host.status_of(kit.pid(cri, one))["PPid"], str(*cri.shims()), f"{handler}: the parent")
        seen = cri.crictl("exec", "-s", one, "ps").out
        equal(seen.count("probe wait"), 3 if "/probe" in seen else 2, f"{handler}: what a container sees: {seen}")
        cri.crictl("stop", "-t", "0", one)
        equal(kit.status(cri, one)["exitCode"], 137, f"{handler}: a container that did not heed TERM")
        equal(kit.status(cri, two)["state"], "CONTAINER_RUNNING", f"{handler}: its neighbour")
        cri.crictl("rm", one)
        pod.stop_and_remove()
        wait_until(lambda: not cri.shims(), f"{handler}: the shim to end with its pod")


@scenario("exec: outputs, status, input, a terminal; attach; logs of both streams")
def streams(cri):
    for handler in OURS:
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


@scenario("a probe that is too slow is ended at its deadline, and so is what it ran")
def slow_probe(cri):
    pod = cri.pod()
    one = pod.container("one", _WAIT)
    late = cri.crictl("exec", "-s", "--timeout", "1", one, "probe", "spin", code=None)
    check(late.code != 0, f"the deadline is told: {late}")
    contains(late.err, "timeout", "the error")
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


@scenario("stats of a container and of a pod")
def stats(cri):
    for handler in OURS:
        pod = cri.pod(handler, handler)
        one = pod.container("one", ["sh", "-c", "head -c 20000000 /dev/zero >/dev/null; exec probe wait"])
        def figures():
            return json.loads(cri.crictl("stats", "-o", "json", "--id", one).out)["stats"][0]
        seen = wait_until(lambda: figures() if int(figures()["cpu"]["usageCoreNanoSeconds"]["value"]) else None,
                          f"{handler}: processor time")
        check(int(seen["memory"]["workingSetBytes"]["value"]) > 0, f"{handler}: {seen}")
        sandbox = json.loads(cri.crictl("statsp", "-o", "json", "--id", pod.id).out)["stats"][0]["linux"]
        check(int(sandbox["cpu"]["usageCoreNanoSeconds"]["value"]) > 0, f"{handler}: the pod's {sandbox}")
        pod.stop_and_remove()


def _limit(cri, container):
    """memory.max of a container, on either version."""
    lines = Path(f"/proc/{kit.pid(cri, container)}/cgroup").read_text().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            return int((host.CGROUPS / "memory" / path[1:] / "memory.limit_in_bytes").read_text())
    return int((host.CGROUPS / lines[-1].split(":", 2)[2][1:] / "memory.max").read_text())


@scenario("limits: set, updated on a running container, and told by inspect")
def limits(cri):
    for handler in OURS:
        pod = cri.pod(handler, handler)
        one = pod.container("one", _WAIT, linux={"resources": {"memory_limit_in_bytes": 64 << 20, "cpu_shares": 512}})
        equal(_limit(cri, one), 64 << 20, f"{handler}: the limit")
        cri.crictl("update", "--memory", str(96 << 20), one)
        equal(_limit(cri, one), 96 << 20, f"{handler}: the limit after the update")
        pod.stop_and_remove()


@scenario("a container that exceeds its memory is OOMKilled with 137; the pod lives on, and it starts again")
def out_of_memory(cri):
    for handler in OURS:
        pod = cri.pod(handler, handler)
        resources = {"resources": {"memory_limit_in_bytes": 24 << 20, "memory_swap_limit_in_bytes": 24 << 20}}
        one = pod.container("one", ["probe", "hog", "100"], linux=resources)
        kit.until(cri, one, "CONTAINER_EXITED")
        wait_until(lambda one=one: kit.status(cri, one)["reason"] == "OOMKilled",
                   f"{handler}: {kit.status(cri, one)}", 10)
        equal(kit.status(cri, one)["exitCode"], 137, f"{handler}: its status")
        cri.crictl("rm", one)
        again = pod.container("again", _WAIT)
        equal(kit.status(cri, again)["state"], "CONTAINER_RUNNING", f"{handler}: another container of the pod")
        pod.stop_and_remove()


@scenario("an ephemeral container joins another's processes to look into it")
def ephemeral(cri):
    for handler in OURS:
        own = {"linux": {"security_context": {"namespace_options": {"pid": 1}}}}
        pod = cri.pod(handler, handler, **own)
        one = pod.container("one", _WAIT, **own)
        look = {"security_context": {"namespace_options": {"pid": _TARGET, "target_id": one}}}
        debug = pod.container("debug", _WAIT, linux=look)
        equal(_namespaces(cri, debug)["pid"], _namespaces(cri, one)["pid"], f"{handler}: the pid namespace")
        equal(cri.crictl("exec", "-s", debug, "ps").out.count("probe wait"), 2, f"{handler}: the processes")
        cri.crictl("stop", "-t", "0", debug)
        equal(kit.status(cri, one)["state"], "CONTAINER_RUNNING", f"{handler}: what was looked into")
        pod.stop_and_remove()


@scenario("a pod in the node's network, and one in its processes")
def node(cri):
    for handler in OURS:
        config = {"linux": {"security_context": {"namespace_options": {"network": _NODE, "pid": _NODE}}}}
        pod = cri.pod(handler, handler, **config)
        one = pod.container("one", _WAIT, **config)
        mine = {name: os.readlink(f"/proc/self/ns/{name}") for name in ("net", "pid")}
        seen = _namespaces(cri, one)
        equal({name: seen[name] for name in mine}, mine, f"{handler}: namespaces")
        pod.stop_and_remove()


@scenario("containerd is killed and comes back: pods live on, and an exit meanwhile is told once", deadline=180)
def restart(cri):
    pods = {handler: cri.pod(handler, handler) for handler in OURS}
    stays = {handler: pod.container("stays", _WAIT) for handler, pod in pods.items()}
    ends = {handler: pod.container("ends", _WAIT) for handler, pod in pods.items()}
    shims = cri.shims()
    numbers = {handler: kit.pid(cri, one) for handler, one in ends.items()}
    cri.stop_daemon("KILL")
    for number in numbers.values():
        os.kill(number, 9)
    cri.run_daemon()
    equal(cri.shims(), shims, "the shims after the restart")
    for handler, pod in pods.items():
        equal(kit.until(cri, ends[handler], "CONTAINER_EXITED")["exitCode"], 137, f"{handler}: what ended meanwhile")
        equal(kit.status(cri, stays[handler])["state"], "CONTAINER_RUNNING", f"{handler}: what did not")
        equal(cri.crictl("exec", "-s", stays[handler], "echo", "here").text, "here", f"{handler}: exec")
        equal(pod.inspect()["status"]["state"], "SANDBOX_READY", f"{handler}: the pod")
        pod.stop_and_remove()
    wait_until(lambda: not cri.shims(), "the shims to end with their pods")


@scenario("a program that is not there: an error that names it; the pod takes the next container")
def not_found(cri):
    for handler in OURS:
        pod = cri.pod(handler, handler)
        one = pod.container("one", ["/no/such"], start=False)
        failed = cri.crictl("start", one, code=None)
        check(failed.code != 0, f"{handler}: start says that it failed")
        contains(failed.err, "/no/such", f"{handler}: the error")
        equal(kit.status(cri, one)["state"], "CONTAINER_EXITED", f"{handler}: its state")
        pod.container("two", _WAIT)
        pod.stop_and_remove()


@scenario("options of the handler reach the shim: BinaryName is executed, a wrong type is an error that names its key")
def options(cri):
    pod = cri.pod(handler="brig-over-runc")
    one = pod.container("one", _WAIT)
    root = next(Path("/run").glob(f"**/{cri.namespace}/{one}")).parent
    contains(run("/usr/sbin/runc", "--root", root, "list", "-q").out, one, "what runc knows of")
    pod.stop_and_remove()
    refused = cri.crictl("runp", "--runtime", "brig-mistaken", pod.config, code=None)
    check(refused.code != 0, "a value of the wrong type is refused")
    contains(refused.err, "NoPivotRoot", "the error")


@scenario("a pod whose shim is killed: its containers end, and it can be removed", deadline=180)
def shim_killed(cri):
    for handler in OURS:
        pod = cri.pod(handler, handler)
        one = pod.container("one", _WAIT)
        number = kit.pid(cri, one)
        os.kill(*cri.shims(), 9)
        kit.until(cri, one, "CONTAINER_EXITED")
        wait_until(lambda number=number: host.status_of(number) is None, f"{handler}: the container's process to go")
        pod.stop_and_remove()
