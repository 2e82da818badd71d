"""Pods by containerd's CRI plugin: over brig's shim by its own name, in the sandbox API and in the place of Go's. Where
cgroups do not matter, a slow bed does with one of them."""

import json
import os
from pathlib import Path

from kit import cri as kit
from kit import host
from kit.commands import check, contains, equal, run, wait_until
from kit.suite import scenario

_WAIT = ["probe", "wait"]


@scenario("a pod: two containers share net, ipc, uts and pid, below one shim; an init container went before")
def pod(cri):
    for handler in cri.ours:
        shared = {"linux": {"security_context": {"namespace_options": {"pid": 0}}}}
        pod = cri.pod(handler, handler, **shared)
        first = pod.container("first", ["sh", "-c", "echo init"])
        equal(kit.until(cri, first, "CONTAINER_EXITED")["exitCode"], 0, "the init container's status")
        one, two = (pod.container(name, _WAIT, **shared) for name in ("one", "two"))
        mine, other = kit.namespaces(cri, one), kit.namespaces(cri, two)
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


@scenario("containerd is killed and restarts: pods continue to run, and an exit meanwhile is reported once", deadline=180)
def restart(cri):
    pods = {handler: cri.pod(handler, handler) for handler in cri.ours}
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


@scenario("a program that is not there: an error that names it; the pod accepts the next container")
def not_found(cri):
    for handler in cri.handlers:
        pod = cri.pod(handler, handler)
        one = pod.container("one", ["/no/such"], start=False)
        failed = cri.crictl("start", one, code=None)
        check(failed.code != 0, f"{handler}: start says that it failed")
        contains(failed.err, "/no/such", f"{handler}: the error")
        equal(kit.status(cri, one)["state"], "CONTAINER_EXITED", f"{handler}: its state")
        pod.container("two", _WAIT)
        pod.stop_and_remove()


@scenario("stats of a pod")
def stats(cri):
    for handler in cri.handlers:
        pod = cri.pod(handler, handler)
        pod.container("one", ["sh", "-c", "head -c 20000000 /dev/zero >/dev/null; exec probe wait"])
        sandbox = json.loads(cri.crictl("statsp", "-o", "json", "--id", pod.id).out)["stats"][0]["linux"]
        check(int(sandbox["cpu"]["usageCoreNanoSeconds"]["value"]) > 0, f"{handler}: the pod's {sandbox}")
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
    for handler in cri.ours:
        pod = cri.pod(handler, handler)
        one = pod.container("one", _WAIT)
        number = kit.pid(cri, one)
        os.kill(*cri.shims(), 9)
        kit.until(cri, one, "CONTAINER_EXITED")
        wait_until(lambda number=number: host.status_of(number) is None, f"{handler}: the container's process to go")
        pod.stop_and_remove()
