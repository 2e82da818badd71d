"""Pods by CRI-O, whose handler brig is by the table of docs/install.md."""

import json
import os
import signal
from pathlib import Path

from kit import cri as kit
from kit import host
from kit.commands import check, contains, equal, wait_until
from kit.containerd import BUSYBOX
from kit.suite import scenario

_WAIT = ["probe", "wait"]
_POD, _CONTAINER, _NODE = 0, 1, 2


def _pid_mode(mode):
    return {"linux": {"security_context": {"namespace_options": {"pid": mode}}}}


@scenario("the document's table: brig runs the containers of a pod of the handler, with its state in the table's directory")
def handler(crio):
    pod = crio.pod()
    one = pod.container("one", _WAIT)
    check(one in crio.known(), f"brig knows {one}: {crio.known()}")
    equal(host.status_of(host.status_of(kit.pid(crio, one))["PPid"])["Name"], "conmon", "the parent")
    equal(crio.crictl("exec", "-s", one, "echo", "hello").text, "hello", "exec")
    equal(crio.crictl("exec", "-s", one, "cat", "/proc/1/comm").text, "probe", "its own process")
    pod.stop_and_remove()
    equal(crio.known(), [], "what brig knows of at the end")


@scenario("pods with processes of the pod, of each container, and of the node")
def processes(crio):
    for mode, alike in ((_POD, True), (_CONTAINER, False), (_NODE, True)):
        config = _pid_mode(mode)
        pod = crio.pod(f"mode{mode}", "brig", **_pid_mode(mode))
        first = pod.container("first", ["sh", "-c", "echo init"], **config)
        equal(kit.until(crio, first, "CONTAINER_EXITED")["exitCode"], 0, "the init container's status")
        one, two = (pod.container(name, _WAIT, **config) for name in ("one", "two"))
        mine, other = kit.namespaces(crio, one), kit.namespaces(crio, two)
        equal([mine[name] for name in ("net", "ipc", "uts")], [other[name] for name in ("net", "ipc", "uts")],
              f"mode {mode}: namespaces")
        equal(mine["pid"] == other["pid"], alike, f"mode {mode}: whether the processes are in one namespace")
        equal(mine["pid"] == os.readlink("/proc/self/ns/pid"), mode == _NODE, f"mode {mode}: whether it is the node's")
        check(mine["mnt"] != other["mnt"], f"mode {mode}: each has a mount namespace of its own")
        equal(crio.crictl("logs", first).out, "init\n", f"mode {mode}: the log of what has ended")
        crio.crictl("stop", "-t", "0", one)
        equal(kit.status(crio, two)["state"], "CONTAINER_RUNNING", f"mode {mode}: its neighbour")
        pod.stop_and_remove()


@scenario("stop: a container that handles TERM exits with its own status, any other is killed at the timeout; other exits")
def stop(crio):
    pod = crio.pod()
    for name, trap, time_out, code in (("heeds", "exit 3", "20", 3), ("deaf", "", "1", 137)):
        one = pod.container(name, ["sh", "-c", f"trap '{trap}' TERM; echo ready; while :; do sleep 0.1; done"])
        wait_until(lambda one=one: crio.crictl("logs", one).out == "ready\n", f"{name} to be ready")
        crio.crictl("stop", "-t", time_out, one)
        equal(kit.status(crio, one)["exitCode"], code, name)
    for name, code in (("zero", 0), ("seven", 7)):
        one = pod.container(name, ["sh", "-c", f"exit {code}"])
        equal(kit.until(crio, one, "CONTAINER_EXITED")["exitCode"], code, name)
    one = pod.container("killed", _WAIT)
    os.kill(kit.pid(crio, one), signal.SIGKILL)
    equal(kit.until(crio, one, "CONTAINER_EXITED")["exitCode"], 137, "killed from outside")
    pod.stop_and_remove()


@scenario("a program that is not there: an error of create that names it; the pod accepts the next container")
def not_found(crio):
    pod = crio.pod()
    path = crio.base / "mistaken.json"
    path.write_text(json.dumps({"metadata": {"name": "mistaken"}, "image": {"image": BUSYBOX}, "command": ["/no/such"],
                                "log_path": "mistaken.log", "linux": crio.usual({})}))
    failed = crio.crictl("create", "--no-pull", pod.id, path, pod.config, code=None)
    check(failed.code != 0, "create says that it failed")
    contains(failed.err, "/no/such", "the error")
    pod.container("two", _WAIT)
    pod.stop_and_remove()


@scenario("a terminal: its output is in the log, and an exec beside it has none")
def terminal(crio):
    pod = crio.pod()
    one = pod.container("one", ["sh", "-c", "tty; exec probe wait"], tty=True)
    wait_until(lambda: "/dev/pts/0" in crio.crictl("logs", one).out, "the terminal in the log")
    failed = crio.crictl("exec", one, "sh", "-c", "tty; exit 9", code=None)
    contains(str(failed), "exit code 9", "the status of exec")
    equal(failed.out, "not a tty\n", "its terminal")
    pod.stop_and_remove()


@scenario("CRI-O is killed and restarts: pods continue to run, and an exit meanwhile is reported", deadline=180)
def restart(crio):
    pod = crio.pod()
    stays, ends = pod.container("stays", _WAIT), pod.container("ends", _WAIT)
    number = kit.pid(crio, ends)
    for signal_name in ("KILL", "TERM"):
        crio.stop_daemon(signal_name)
        if signal_name == "KILL":
            os.kill(number, signal.SIGKILL)
        crio.run_daemon()
        equal(kit.until(crio, ends, "CONTAINER_EXITED")["exitCode"], 137, f"{signal_name}: what ended meanwhile")
        equal(kit.status(crio, stays)["state"], "CONTAINER_RUNNING", f"{signal_name}: what did not")
        equal(crio.crictl("exec", "-s", stays, "echo", "here").text, "here", f"{signal_name}: exec")
    pod.stop_and_remove()


@scenario("a pod with a user namespace: its root is an unprivileged user outside, in its files too")
def user_namespace(crio):
    mapping = [{"container_id": 0, "host_id": 100000, "length": 65536}]
    options = {"userns_options": {"mode": 0, "uids": mapping, "gids": mapping}}
    config = {"linux": {"security_context": {"namespace_options": options}}}
    features = json.loads(crio.crictl("info").out)["runtimeHandlers"]
    mine = next(entry for entry in features if entry.get("name") == "brig")["features"]
    check(mine.get("user_namespaces"), f"CRI-O knows that brig can: {features}")
    pod = crio.pod("userns", "brig", **config)
    one = pod.container("one", ["sh", "-c", "touch /made; exec probe wait"], **config)
    number = kit.pid(crio, one)
    equal(host.status_of(number)["Uid"].split()[0], "100000", "the user outside")
    equal(crio.crictl("exec", "-s", one, "stat", "-c", "%u", "/made").text, "0", "the file's owner inside")
    contains(Path(f"/proc/{number}/uid_map").read_text().split(), "100000", "the map")
    pod.stop_and_remove()
