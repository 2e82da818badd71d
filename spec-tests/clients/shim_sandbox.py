"""The sandbox API: a pod that the shim makes itself, and its containers, without a pause image."""

import json
import os
import signal
import time
from pathlib import Path

from kit import host, ttrpc
from kit.commands import Failure, check, contains, equal, run, wait_until
from kit.suite import scenario
from kit.ttrpc import any_of, decode

SERVICE = "containerd.runtime.sandbox.v1.Sandbox"
POD_CONFIG = "runtime.v1.PodSandboxConfig"
NODE = 2  # NamespaceMode of CRI; 0 is the pod's own


class Pod:
    """The shim's sandbox. It is given a configuration of CRI, and a bundle without config.json, as CRI does."""

    def __init__(self, shim, spec=None, options=None, name="pod"):
        self.shim, self.name = shim, name
        self.holder = shim.container(name=name, options=options)
        path = self.holder.bundle / "config.json"
        if spec:
            path.write_text(json.dumps({**json.loads(path.read_text()), **spec}))
        else:
            path.unlink()
        self.holder.launch()

    def call(self, method, timeout=15, **fields):
        """A call of the Sandbox service; fields are named f2, f3 ... by their numbers."""
        numbers = {int(name[1:]): value for name, value in fields.items()}
        return self.holder.client.call(SERVICE, method, {1: self.name, **numbers}, timeout)

    def create(self, hostname="web", modes=None, sysctls=(), parent=None, netns=""):
        """CreateSandbox."""
        linux = {1: parent or f"/{self.shim.parent}", 2: {1: modes or {}},
                 3: [{1: key, 2: value} for key, value in sysctls]}
        self.call("CreateSandbox", f2=str(self.holder.bundle), f4=any_of(POD_CONFIG, {2: hostname, 8: linux}), f5=netns)

    def start(self):
        """StartSandbox; returns the pid."""
        return self.call("StartSandbox")[1][0]

    def status(self):
        """The sandbox's state, in CRI's words."""
        return self.call("SandboxStatus")[3][0].decode()

    def container(self, name, args, pid, kinds=("ipc", "uts", "network", "pid")):
        """A container of the pod, which containerd brings to the sandbox's shim without a `start`."""
        one = self.shim.container(name=name, args=args, daemon=self.holder.daemon, namespaces=("mount",))
        path = one.bundle / "config.json"
        config = json.loads(path.read_text())
        del config["hostname"]
        files = {"network": "net"}
        config["linux"]["namespaces"] += [{"type": kind, "path": f"/proc/{pid}/ns/{files.get(kind, kind)}"}
                                          for kind in kinds]
        path.write_text(json.dumps(config))
        one.client, one.version = ttrpc.Client(self.holder.socket), 3
        return one

    def shut_down(self):
        """ShutdownSandbox; the shim must end."""
        self.call("ShutdownSandbox")
        self.holder.client.close()  # as containerd does
        wait_until(lambda: not self.shim.shims(), "the shim to end")


def refused(call, code):
    """Fails unless the call is refused with this code; returns the text."""
    try:
        call()
    except ttrpc.Status as status:
        equal(status.code, code, f"the code of {status}")
        return status.text
    raise Failure(f"expected an error with code {code}, and it was done")


def namespace(pid, kind):
    """The identity of a process's namespace."""
    return os.readlink(f"/proc/{pid}/ns/{kind}")


@scenario("a pod is made without an image: namespaces, name, limits, and nothing that could be written to", deadline=90)
def pause(shim):
    pod = Pod(shim)
    pod.create(sysctls=[("kernel.shm_rmid_forced", "1")])
    equal(pod.status(), "SANDBOX_NOTREADY", "the state before it is started")
    pid = pod.start()
    equal(pod.status(), "SANDBOX_READY", "the state")
    for kind in ("mnt", "ipc", "uts", "net", "pid"):
        check(namespace(pid, kind) != namespace("self", kind), f"the pod has a namespace of its own: {kind}")
    inside = ["nsenter", "-t", str(pid)]
    equal(run(*inside, "-u", "hostname").out.strip(), "web", "the pod's name")
    equal(run(*inside, "-i", "cat", "/proc/sys/kernel/shm_rmid_forced").out.strip(), "1", "the sysctl")
    equal(sorted(os.listdir(f"/proc/{pid}/root")), ["dev", "pause", "proc"], "what is in its root")
    status = host.status_of(pid)
    equal((status["Uid"].split()[0], status["NoNewPrivs"], int(status["CapEff"], 16)), ("65535", "1", 0), "privileges")
    check(any(shim.parent in line and "pod" in line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()),
          "it is in the pod's cgroup")
    try:
        with open(f"/proc/{pid}/exe", "r+b"):
            raise Failure("the host's program could be opened for writing through the pod")
    except OSError:
        pass
    pod.call("PingSandbox")
    equal(pod.call("Platform")[1] and decode(pod.call("Platform")[1][0])[1], [b"linux"], "the platform")
    metrics = decode(pod.call("SandboxMetrics")[1][0])
    equal(metrics[2], [b"pod"], "whose metrics they are")
    contains(decode(metrics[3][0])[1][0].decode(), "io.containerd.cgroups.v", "the type of the metrics")
    pod.call("StopSandbox", f2=10)
    equal(pod.call("WaitSandbox").get(1, [0]), [0], "the exit status of one that ended when it was asked to")
    equal(pod.status(), "SANDBOX_NOTREADY", "the state of one that has ended")
    refused(lambda: pod.call("PingSandbox"), ttrpc.FAILED_PRECONDITION)
    pod.call("StopSandbox", f2=10)  # again is fine
    pod.shut_down()


@scenario("a pod that is stopped as soon as it is started has heard of it", deadline=90)
def stopped_at_once(shim):
    for number in range(10):
        pod = Pod(shim, name=f"pod{number}")
        pod.create()
        pod.start()
        # The first process of a pid namespace never gets a signal that it has not asked for (pid_namespaces(7)).
        pod.call("StopSandbox", f2=10)
        equal(pod.call("WaitSandbox").get(1, [0]), [0], "the exit status of one that ended when it was asked to")
        pod.shut_down()


@scenario("the answer to ShutdownSandbox is not followed by the connection's end, which is the client's to make", deadline=60)
def last_answer(shim):
    # The shim gives its clients a second. An attempt that a busy machine delays by as much is repeated.
    for number in range(20):
        pod = Pod(shim, name=f"pod{number}")
        pod.create()
        pod.start()
        begin = time.monotonic()
        pod.call("ShutdownSandbox")
        # Go's client takes either of two that come at once: an answer, or the end.
        ended, waits = pod.holder.client.ended.wait(0.3), shim.shims()
        pod.holder.client.close()
        closed = time.monotonic()
        wait_until(lambda: not shim.shims(), "the shim to end when its client has gone")
        if closed - begin < 0.9:
            check(not ended, "the connection stays after the last answer")
            check(waits, "the shim waits for its client to hang up")
            if time.monotonic() - begin < 0.9:
                return
    raise Failure("the shim goes on when its client has hung up, though it would end by itself after a second")


@scenario("containers run in the pod's namespaces, and the pod reaps orphans", deadline=90)
def containers(shim):
    pod = Pod(shim)
    pod.create()
    holder = pod.start()
    one = pod.container("one", ["sh", "-c", "(sleep 1000 & sleep 1000 &); exec sleep 1000"], holder)
    pid = one.create()
    one.call("Start")
    for kind in ("ipc", "uts", "net", "pid"):
        equal(namespace(pid, kind), namespace(holder, kind), f"the namespace {kind}")
    check(namespace(pid, "mnt") != namespace(holder, "mnt"), "it has its own mounts")
    wait_until(lambda: len(host.children(holder)) >= 2, "the orphans to come to the pod's first process")
    for orphan in host.children(holder):
        os.kill(orphan, signal.SIGKILL)
    wait_until(lambda: not host.children(holder), "the orphans to be taken leave of")
    equal(len(shim.shims()), 1, "shims of the pod")
    one.end()
    one.shutdown()  # the pod is still there: the shim goes on
    equal(pod.status(), "SANDBOX_READY", "the state after the container's end")
    two = pod.container("two", ["sleep", "1000"], holder)
    two.create()
    two.call("Start")
    pod.call("StopSandbox", f2=0)
    equal(pod.call("WaitSandbox")[1], [137], "the exit status of one that was killed")
    pod.shut_down()
    two.client.close()


@scenario("a pod of the host's namespaces has none; one of a path joins it", deadline=60)
def modes(shim):
    pod = Pod(shim)
    pod.create(modes={1: NODE, 2: NODE, 3: NODE})
    pid = pod.start()
    for kind in ("ipc", "uts", "net", "pid"):
        equal(namespace(pid, kind), namespace("self", kind), f"the namespace {kind}")
    pod.call("StopSandbox", f2=0)
    pod.shut_down()
    other = run("sh", "-c", "unshare --net sleep 1000 >/dev/null 2>&1 & echo $!").out.strip()
    try:
        wait_until(lambda: namespace(other, "net") != namespace("self", "net"), "a network namespace")
        pod = Pod(shim, name="other")
        pod.create(netns=f"/proc/{other}/ns/net")
        equal(namespace(pod.start(), "net"), namespace(other, "net"), "the network namespace")
        pod.shut_down()
    finally:
        os.kill(int(other), 9)


@scenario("a pod has the settings of its own configuration, and of the options of `start`", deadline=60)
def own_spec(shim):
    pod = Pod(shim, spec={"hostname": "own"})
    pod.call("CreateSandbox", f2=str(pod.holder.bundle))
    pid = pod.start()
    equal(run("nsenter", "-t", str(pid), "-u", "hostname").out.strip(), "own", "the name")
    wait_until(lambda: b"probe" in Path(f"/proc/{pid}/cmdline").read_bytes(), "the configuration's program")
    pod.shut_down()


@scenario("refused: another sandbox, an unknown one, options that are not CRI's", deadline=60)
def errors(shim):
    pod = Pod(shim, options=any_of("containerd.runc.v1.Options", {7: f"{shim.place}/state"}))
    refused(lambda: pod.call("StartSandbox"), ttrpc.NOT_FOUND)
    text = refused(lambda: pod.call("CreateSandbox", f2=str(pod.holder.bundle), f4=any_of("a.b.C", b"")),
                   ttrpc.INVALID_ARGUMENT)
    contains(text, "a.b.C", "the refusal")
    pod.create()
    refused(lambda: pod.create(), ttrpc.ALREADY_EXISTS)
    for method in ("StartSandbox", "StopSandbox", "WaitSandbox", "SandboxStatus", "PingSandbox", "SandboxMetrics"):
        refused(lambda: pod.holder.client.call(SERVICE, method, {1: "nobody"}, 10), ttrpc.NOT_FOUND)
    pod.start()
    check((shim.place / "state").is_dir(), "the options that came with `start` are used")
    pod.shut_down()
    run("rm", "-rf", str(shim.place / "state"))
