"""A cluster's pods of the class brig, where docs/install.md's DaemonSet and RuntimeClass brought brig."""

import json
import os
import signal
import time
import tomllib
from pathlib import Path

from kit import host, installed
from kit.commands import check, contains, equal, run, wait_until
from kit.suite import scenario
from kit.terminal import Terminal

_WAIT = ["probe", "wait"]
_SHIM = Path("/usr/local/bin/containerd-shim-brig-v2")


@scenario("the DaemonSet installs the shim and a handler; a pod of the RuntimeClass, both as the document has them, runs")
def install(cluster):
    cluster.install()
    equal(_SHIM.read_bytes(), Path(cluster.shim).read_bytes(), "the shim on the node")
    table = tomllib.loads(Path("/etc/containerd/conf.d/brig.toml").read_text())
    equal(table, tomllib.loads(installed.piece(cluster.handler)), "the handler on the node")
    equal(cluster.restarts(), 1, "how often containerd was restarted")
    pod = installed.manifest("pod")
    # There is no registry that it could ask whether this image is the newest.
    pod["spec"]["containers"][0]["imagePullPolicy"] = "Never"
    cluster.apply(pod)
    cluster.ready("hello")
    equal(cluster("logs", "hello").out, "hello\n", "its log")
    equal(cluster("exec", "hello", "--", "echo", "here").out, "here\n", "exec")
    equal(host.status_of(cluster.pid("hello", "hello"))["PPid"], str(*cluster.shims()), "the parent")


@scenario("the DaemonSet's pod starts anew: nothing is installed again, and containerd is not restarted")
def install_again(cluster):
    cluster.install()
    restarts = cluster.restarts()
    before = _SHIM.stat().st_ino
    cluster("rollout", "restart", "daemonset", "brig", "-n", "kube-system")
    cluster("rollout", "status", "daemonset", "brig", "-n", "kube-system", "--timeout", "90s", timeout=120)
    names = ("-n", "kube-system", "-l", "app=brig", "-o", "jsonpath={.items[*].metadata.name}")
    one = wait_until(lambda: cluster("get", "pods", *names).text, "the DaemonSet's pod")
    wait_until(lambda: "sleep 3600" in cluster("exec", "-n", "kube-system", one, "--", "ps", "-o", "args", code=None).out,
               "the end of the installation", 30)
    equal(cluster.restarts(), restarts, "how often containerd was restarted")
    equal(_SHIM.stat().st_ino, before, "the shim's file")


@scenario("pods that exit: Succeeded and Failed, with status and log; an init container precedes them")
def completion(cluster):
    cluster.install()
    share = {"volumes": [{"name": "share", "emptyDir": {"medium": "Memory"}}]}
    mount = [{"name": "share", "mountPath": "/share"}]
    first = {"name": "first", "image": "busybox", "imagePullPolicy": "Never", "volumeMounts": mount,
             "command": ["sh", "-c", "echo prepared >/share/file; echo init"]}
    cluster.pod("ends", ["sh", "-c", "cat /share/file; echo error >&2"], volumeMounts=mount,
                spec={"restartPolicy": "Never", "initContainers": [first], **share})
    cluster.pod("fails", ["sh", "-c", "exit 7"], spec={"restartPolicy": "Never"})
    cluster.phase("ends", "Succeeded")
    equal(sorted(cluster("logs", "ends").out.split()), ["error", "prepared"], "its log")
    equal(cluster("logs", "ends", "-c", "first").out, "init\n", "the init container's log")
    equal(cluster.state("ends", "first")["state"]["terminated"]["reason"], "Completed", "the init container's end")
    cluster.phase("fails", "Failed")
    ended = cluster.state("fails")["state"]["terminated"]
    equal((ended["exitCode"], ended["reason"]), (7, "Error"), "its status")


@scenario("a sidecar runs as long as the pod's own container, and is stopped after it")
def sidecar(cluster):
    cluster.install()
    side = {"name": "side", "image": "busybox", "imagePullPolicy": "Never", "restartPolicy": "Always",
            "command": ["sh", "-c", "trap 'echo last; exit 0' TERM; echo beside; while :; do sleep 0.1; done"]}
    cluster.pod("two", ["sh", "-c", "sleep 1; echo main"], spec={"restartPolicy": "Never", "initContainers": [side],
                                                               "terminationGracePeriodSeconds": 20})
    cluster.phase("two", "Succeeded")
    equal(cluster("logs", "two", "-c", "side").out, "beside\nlast\n", "the sidecar's log")


@scenario("exec: outputs, status, input, a terminal; attach; cp; port-forward")
def streams(cluster):
    cluster.install()
    cluster.pod("one", ["sh", "-c", "httpd -p 80 -h /etc; exec cat"], stdin=True)
    cluster.ready("one")
    seen = cluster("exec", "one", "--", "sh", "-c", "echo out; echo err >&2; exit 7", code=7)
    equal(seen.out, "out\n", "its output")
    contains(seen.err, "err\n", "its errors")
    equal(cluster("exec", "-i", "one", "--", "cat", input="given\n").out, "given\n", "its input")
    with Terminal(*cluster.words("exec", "-i", "-t", "one", "--", "sh")) as term:
        term.expect("#")
        term.send("tty; echo do''ne\n")
        term.expect("/dev/pts/0")
        term.expect("done")
        term.send("exit 3\n")
        equal(term.wait(), 3, "the shell's status")
    with Terminal(*cluster.words("attach", "-i", "one")) as term:
        wait_until(lambda: [term.send("typed\n"), "typed" in cluster("logs", "one").out][1], "the log of what was typed")
    file = cluster.base / "copied"
    file.write_text("copied there and back\n")
    cluster("cp", file, "one:/there")
    cluster("cp", "one:/there", cluster.base / "back")
    equal((cluster.base / "back").read_text(), file.read_text(), "the file")
    with Terminal(*cluster.words("port-forward", "one", "12011:80")) as term:
        term.expect("Forwarding from")
        equal(run("busybox", "wget", "-q", "-O-", "http://127.0.0.1:12011/plain").out, "not a program\n", "the answer")


@scenario("a liveness probe that fails restarts the container; a readiness probe that fails makes it not ready")
def probes(cluster):
    cluster.install()
    # A slow machine's answer is none of a container that fails.
    often = {"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 20}
    probe = {"exec": {"command": ["test", "!", "-e", "/ill"]}, **often}
    ready = {"exec": {"command": ["test", "-e", "/willing"]}, **often}
    cluster.pod("probed", ["sh", "-c", "touch /willing; exec probe wait"], livenessProbe=probe, readinessProbe=ready)
    cluster.ready("probed")
    first = cluster.state("probed")["containerID"]
    cluster("exec", "probed", "--", "rm", "/willing")
    wait_until(lambda: cluster.condition("pod", "probed", "Ready") == "False", "the pod not to be ready", 30)
    equal(cluster.state("probed")["restartCount"], 0, "restarts because of readiness")
    cluster("exec", "probed", "--", "touch", "/ill")
    cluster.until("probed", lambda: cluster.state("probed")["restartCount"] == 1, "to start again")
    cluster.ready("probed")
    check(cluster.state("probed")["containerID"] != first, "it is another container")
    equal(cluster.state("probed")["lastState"]["terminated"]["containerID"], first, "the one that was ended")


@scenario("a container that exceeds its memory is OOMKilled with 137, and its pod continues")
def out_of_memory(cluster):
    cluster.install()
    cluster.pod("hog", ["probe", "hog", "100"], resources={"limits": {"memory": "24Mi"}}, spec={
        "restartPolicy": "Never", "containers": [
            {"name": "other", "image": "busybox", "imagePullPolicy": "Never", "command": _WAIT}]})
    ended = cluster.until("hog", lambda: cluster.state("hog")["state"].get("terminated"), "to end")
    equal((ended["reason"], ended["exitCode"]), ("OOMKilled", 137), "how it ended")
    equal(cluster("exec", "hog", "-c", "other", "--", "echo", "here").out, "here\n", "the pod's other container")


@scenario("limits are changed on the running container, by the pod's resize")
def resize(cluster):
    cluster.install()
    cluster.pod("grows", _WAIT, resources={"requests": {"cpu": "20m", "memory": "32Mi"},
                                           "limits": {"cpu": "100m", "memory": "32Mi"}})
    cluster.ready("grows")
    wanted = {"requests": {"cpu": "30m", "memory": "48Mi"}, "limits": {"cpu": "200m", "memory": "48Mi"}}
    patch = {"spec": {"containers": [{"name": "one", "resources": wanted}]}}
    cluster("patch", "pod", "grows", "--subresource", "resize", "--patch", json.dumps(patch))
    number = cluster.pid("grows")
    cluster.until("grows", lambda: _limits(number) == (48 << 20, 2.0), "to have its limits")
    equal(cluster.state("grows")["restartCount"], 0, "restarts")


def _limits(number):
    """The memory and the tenths of a processor that a process's cgroup may have."""
    paths = {controller: line.split(":", 2)[2][1:] for line in Path(f"/proc/{number}/cgroup").read_text().splitlines()
             for controller in line.split(":", 2)[1].split(",")}
    if "memory" not in paths:
        own = host.CGROUPS / paths[""]
        quota, period = map(int, (own / "cpu.max").read_text().split())
        return int((own / "memory.max").read_text()), quota * 10 / period
    cpu = host.CGROUPS / "cpu" / paths["cpu"]
    quota, period = (int((cpu / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    return int((host.CGROUPS / "memory" / paths["memory"] / "memory.limit_in_bytes").read_text()), quota * 10 / period


@scenario("settings of a pod: user, read-only root, capabilities, environment, secrets, names, the account's token")
def settings(cluster):
    cluster.install()
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "words"}, "data": {"word": "given"}},
                  {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}, "stringData": {"key": "secret"}})
    cluster.pod("set", ["sh", "-c", "id -u; id -G; echo $WORD $POD; cat /hidden/key; echo; hostname; "
                        "touch /file 2>&1; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; "
                        "ls /var/run/secrets/kubernetes.io/serviceaccount"],
                env=[{"name": "WORD", "valueFrom": {"configMapKeyRef": {"name": "words", "key": "word"}}},
                     {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                volumeMounts=[{"name": "hidden", "mountPath": "/hidden"}],
                securityContext={"runAsUser": 1000, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False,
                                 "capabilities": {"drop": ["ALL"]}},
                spec={"restartPolicy": "Never", "hostname": "named", "securityContext": {"supplementalGroups": [4000]},
                      "volumes": [{"name": "hidden", "secret": {"secretName": "hidden"}}]})
    cluster.phase("set", "Succeeded")
    user, groups, words, secret, name, refused, *rest = cluster("logs", "set").out.splitlines()
    equal((user, words, secret, name), ("1000", "given set", "secret", "named"), "what it was given")
    check("4000" in groups.split(), f"its groups: {groups}")
    contains(refused, "Read-only file system", "its root")
    equal([line.split() for line in rest[:3]], [["CapEff:", "0" * 16], ["NoNewPrivs:", "1"], ["Seccomp:", "2"]], "powers")
    equal(rest[3:], ["ca.crt", "namespace", "token"], "the account")


@scenario("a debugging container joins a running one's processes")
def debug(cluster):
    cluster.install()
    cluster.pod("looked", _WAIT)
    cluster.ready("looked")
    cluster("debug", "looked", "--image", "busybox", "--image-pull-policy", "Never", "--target", "one", "--container",
            "debug", "--profile", "general", "--", "sh", "-c", "ps -o args; exec probe wait")
    cluster.until("looked", lambda: "running" in cluster.state("looked", "debug")["state"], "to be looked into")
    wait_until(lambda: "probe wait" in cluster("logs", "looked", "-c", "debug").out, "the other's process in its list")


@scenario("a Deployment: three pods, then one, then another template")
def deployment(cluster):
    cluster.install()
    labels = {"app": "many"}
    one = {"name": "one", "image": "busybox", "imagePullPolicy": "Never", "command": _WAIT}
    cluster.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"}, "spec": {
        "selector": {"matchLabels": labels}, "replicas": 1, "template": {"metadata": {"labels": labels}, "spec": {
            "runtimeClassName": "brig", "terminationGracePeriodSeconds": 1, "containers": [one]}}}})
    for count in (3, 1):
        cluster("scale", "deployment", "many", "--replicas", str(count))
        cluster("rollout", "status", "deployment", "many", "--timeout", "60s", timeout=90)
        wait_until(lambda count=count: len(cluster.shims()) == count, f"{count} shims", 60)
    cluster("set", "env", "deployment/many", "NEW=1")
    cluster("rollout", "status", "deployment", "many", "--timeout", "60s", timeout=90)
    wait_until(lambda: len(cluster.shims()) == 1, "the older pod's shim to go", 60)
    equal(cluster("exec", "deploy/many", "--", "sh", "-c", "echo $NEW").out, "1\n", "the new template")


@scenario("deletion: a pod has its grace period to heed TERM; one that does not is killed when that is over")
def deletion(cluster):
    cluster.install()
    share = {"volumes": [{"name": "share", "hostPath": {"path": str(cluster.base / "told"), "type": "DirectoryOrCreate"}}]}
    mount = [{"name": "share", "mountPath": "/told"}]
    cluster.pod("heeds", ["sh", "-c", "trap 'echo $(cat /told/hook) and term >/told/file; exit 0' TERM; "
                          "while :; do sleep 0.1; done"], volumeMounts=mount,
                lifecycle={"preStop": {"exec": {"command": ["sh", "-c", "echo hook >/told/hook"]}}},
                spec={"terminationGracePeriodSeconds": 60, **share})
    cluster.pod("deaf", ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
    for name, grace, most in (("heeds", 60, 40), ("deaf", 3, 30)):
        cluster.ready(name)
        begin = time.monotonic()
        cluster("delete", "pod", name, "--grace-period", str(grace), "--wait")
        took = time.monotonic() - begin
        check(took < most, f"{name} went after {took:.1f} s")
        check(name == "heeds" or took >= grace, f"{name} had its {grace} s: {took:.1f}")
    equal((cluster.base / "told" / "file").read_text(), "hook and term\n", "what the first heard")


@scenario("the kubelet, then containerd, exits and restarts: pods continue to run, and an exit meanwhile is reported")
def restart(cluster):
    cluster.install()
    cluster.pod("stays", _WAIT)
    cluster.pod("ends", _WAIT, spec={"restartPolicy": "Never"})
    for name in ("stays", "ends"):
        cluster.ready(name)
    before = _identity(cluster, "stays")
    cluster.stop("kubelet")
    os.kill(cluster.pid("ends"), signal.SIGKILL)
    cluster.start_kubelet()
    cluster.phase("ends", "Failed")
    equal(cluster.state("ends")["state"]["terminated"]["exitCode"], 137, "what ended meanwhile")
    older = cluster.containerd_pid()
    run("systemctl", "restart", "containerd")
    wait_until(lambda: cluster.containerd_pid() not in (older, 0), "another containerd", 30)
    cluster.pod("later", _WAIT)
    cluster.ready("later")
    cluster.ready("stays")
    equal(_identity(cluster, "stays"), before, "what did not end")
    equal(cluster("exec", "stays", "--", "echo", "here").out, "here\n", "exec")


def _identity(cluster, pod):
    """A container, its process, the shim and how often it was restarted."""
    number, state = cluster.pid(pod), cluster.state(pod)
    return state["containerID"], number, host.status_of(number)["PPid"], state["restartCount"]
