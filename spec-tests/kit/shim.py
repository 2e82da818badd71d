"""A shim without a daemon: this kit starts it as each generation of containerd does, and speaks to its socket."""

import contextlib
import hashlib
import json
import os
import subprocess
import threading
from pathlib import Path

from kit import host, images, isolate, ttrpc
from kit.commands import Failure, check, equal, nothing_left, run, wait_until
from kit.ttrpc import Client, EventSink, any_of, decode, encode

UNKNOWN_STATUS, CREATED, RUNNING, STOPPED, PAUSED = range(5)
_CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_ADMIN", "CAP_MKNOD"]
_NAMESPACES = ("pid", "ipc", "uts", "mount", "network")
# The annotation by which containers share a shim.
GROUP = "io.containerd.runc.v2.group"


def config_of(root, args, cgroup, terminal=False, namespaces=_NAMESPACES, annotations=None, resources=None):
    """A config.json of little more than is necessary."""
    mounts = [("/proc", "proc", "proc", []), ("/dev", "tmpfs", "tmpfs", ["nosuid", "mode=755"]),
              ("/dev/pts", "devpts", "devpts", ["newinstance", "ptmxmode=0666"])]
    return {
        "ociVersion": "1.0.2",
        "process": {**process_of(args, terminal), "terminal": terminal},
        "root": {"path": str(root)}, "hostname": "shim",
        "mounts": [dict(zip(("destination", "type", "source", "options"), one)) for one in mounts],
        "annotations": annotations or {},
        "linux": {"cgroupsPath": cgroup, "namespaces": [{"type": one} for one in namespaces],
                  "resources": resources or {}},
    }


def process_of(args, terminal=False):
    """The `process` of a config.json or of an exec."""
    return {"terminal": terminal, "args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
            "capabilities": {kind: _CAPABILITIES for kind in ("bounding", "effective", "permitted")}}


class Daemon:
    """A containerd as a shim sees it: an address, a service of events, the way in which it starts the shim."""

    def __init__(self, suite, label, generation="2.3"):
        self.suite, self.generation = suite, generation
        self.base = suite.place / label
        self.base.mkdir()
        self.address = self.base / "containerd.sock"
        # Variables that its shims inherit, besides this suite's own.
        self.environment = {}
        self.sink = EventSink(f"{self.address}.ttrpc")

    def invoke(self, bundle, name, action, *, program=None, stdin=None, debug=False, before=(), **options):
        """Runs the shim's binary as containerd does; returns status and outputs as bytes."""
        environment = {**os.environ, "TTRPC_ADDRESS": f"{self.address}.ttrpc", **self.environment}
        if self.generation != "1.6":
            environment.update(GRPC_ADDRESS=str(self.address), NAMESPACE=self.suite.namespace, MAX_SHIM_VERSION="2",
                               GOMAXPROCS="2")
        words = [str(program or self.suite.program), "-namespace", self.suite.namespace, "-address", str(self.address),
                 "-publish-binary", "/usr/bin/containerd", "-id", name, *before, *(["-debug"] if debug else []), action]
        return subprocess.run(words, cwd=bundle, env=environment, input=stdin or b"", capture_output=True,
                              timeout=options.pop("timeout", 60), check=False, **options)

    def bootstrap(self, name, options=None, debug=False):
        """The standard input of `start`."""
        if self.generation != "2.3":
            return encode(options) if options else b""
        params = {1: name, 2: self.suite.namespace, 4: "v2.4.2", 5: f"{self.address}.ttrpc", 6: str(self.address),
                  7: "/usr/bin/containerd"}
        if debug:
            params[3] = -4
        if options:
            params[8] = [{1: options}]
        return encode(params)

    def events(self, name):
        """The events of a container: (the topic without /tasks/, its fields)."""
        return [(topic.removeprefix("/tasks/"), fields) for topic, _, fields in list(self.sink.events)
                if fields.get(1, [b""])[0].decode() == name]

    def topics(self, name):
        """The topics of a container's events."""
        return [topic for topic, _ in self.events(name)]


class Container:
    """One container of a shim. Its methods are the calls; what they return is the answer's fields."""

    def __init__(self, suite, name, daemon, args, options=None, terminal=False, **config):
        self.suite, self.name, self.daemon, self.terminal = suite, name, daemon, terminal
        self.options = options
        self.bundle = daemon.base / name
        self.bundle.mkdir()
        config.setdefault("cgroup", f"/{suite.parent}/{name}-{daemon.base.name}")
        (self.bundle / "config.json").write_text(
            json.dumps(config_of(config.pop("root", suite.root), args, terminal=terminal, **config)))
        os.mkfifo(self.bundle / "log")
        self.log = os.open(self.bundle / "log", os.O_RDWR | os.O_NONBLOCK)
        self.client, self.version = None, None
        suite.containers.append(self)

    def launch(self, debug=False, program=None):
        """Runs `start` and connects to the address that it prints."""
        done = self.daemon.invoke(self.bundle, self.name, "start", debug=debug, program=program,
                                  stdin=self.daemon.bootstrap(self.name, self.options, debug))
        if done.returncode:
            raise Failure(f"start: status {done.returncode}: {done.stdout!r} {done.stderr!r}")
        equal(done.stderr, b"", "standard error of start, which is a part of the answer")
        self.answer = done.stdout
        address, self.version = parse_answer(done.stdout)
        # Steps of the daemon, for `start` of a newer one and for reload.
        self.socket = Path(address.removeprefix("unix://"))
        self.client = Client(self.socket)
        return self

    def join(self, other):
        """Connects to the shim of another container of the group, in the place of launch."""
        self.client, self.version, self.socket = Client(other.socket), other.version, other.socket
        return self

    def call(self, method, timeout=60, client=None, **fields):
        """A call of the Task service, by the names of FIELDS; `client` is another connection than the container's own."""
        return self.send(method, timeout, client, **fields)()

    def send(self, method, timeout=60, client=None, **fields):
        """The same without waiting; returns a function that does."""
        numbers = {FIELDS[method][key]: value for key, value in fields.items()}
        service = f"containerd.task.v{self.version}.Task"
        return (client or self.client).send(service, method, {1: self.name, **numbers}, timeout)

    def create(self, stdin="", stdout="", stderr="", **more):
        """Create; returns the pid."""
        more.setdefault("options", self.options)
        return self.call("Create", bundle=str(self.bundle), terminal=self.terminal, stdin=str(stdin),
                         stdout=str(stdout), stderr=str(stderr), **more).get(1, [0])[0]

    def run(self, **streams):
        """launch, create and start; returns the pid."""
        self.launch()
        pid = self.create(**streams)
        equal(self.call("Start").get(1), [pid], "the pid that Start tells")
        return pid

    def exec(self, exec_id, args, start=True, terminal=False, **streams):
        """Exec and Start; returns the pid."""
        spec = any_of("types.containerd.io/opencontainers/runtime-spec/1/Process",
                      json.dumps(process_of(args, terminal)).encode())
        self.call("Exec", exec_id=exec_id, terminal=terminal, spec=spec, **streams)
        return self.call("Start", exec_id=exec_id)[1][0] if start else None

    def status(self, exec_id=""):
        """The status of a process."""
        return self.call("State", exec_id=exec_id).get(4, [0])[0]

    def wait(self, exec_id="", timeout=60):
        """Waits for an end; returns the exit status."""
        return self.call("Wait", timeout, exec_id=exec_id).get(1, [0])[0]

    def kill(self, signal=9, **more):
        """Sends a signal."""
        self.call("Kill", signal=signal, **more)

    def delete(self, exec_id="", timeout=15):
        """Deletes a process that has exited; returns its exit status."""
        return self.call("Delete", timeout, exec_id=exec_id).get(2, [0])[0]

    def end(self, status=137, timeout=15):
        """Kills, waits and deletes."""
        self.kill()
        equal(self.wait(), status, f"the exit status of {self.name}")
        equal(self.delete(timeout=timeout), status, f"the deleted task's exit status of {self.name}")

    def finish(self, status=137):
        """Kills, waits, deletes, shuts down; the shim must exit then."""
        self.end(status)
        self.shutdown()

    def shutdown(self):
        """Shutdown as the daemon calls it after Delete: a shim that still serves others continues, and any other exits."""
        try:
            self.call("Shutdown")
        except ttrpc.Status:
            raise
        except Failure:
            pass  # it may end before it has answered

    def events_until(self, topic, times=1, timeout=60):
        """Waits for an event; returns all topics so far."""
        try:
            wait_until(lambda: self.daemon.topics(self.name).count(topic) >= times, "", timeout)
        except Failure:
            raise Failure(f"waited {timeout} s for {times} x {topic}; saw {self.daemon.topics(self.name)}")
        return self.daemon.topics(self.name)


FIELDS = {
    "Create": dict(bundle=2, rootfs=3, terminal=4, stdin=5, stdout=6, stderr=7, checkpoint=8, options=10),
    "Start": dict(exec_id=2), "Delete": dict(exec_id=2), "State": dict(exec_id=2), "Wait": dict(exec_id=2),
    "Kill": dict(exec_id=2, signal=3, all=4), "CloseIO": dict(exec_id=2, stdin=3),
    "Exec": dict(exec_id=2, terminal=3, stdin=4, stdout=5, stderr=6, spec=7),
    "ResizePty": dict(exec_id=2, width=3, height=4), "Pids": {}, "Pause": {}, "Resume": {}, "Stats": {}, "Connect": {},
    "Shutdown": dict(now=2), "Update": dict(resources=2), "Checkpoint": dict(path=2, options=3),
}


def parse_answer(answer):
    """(address, version of the Task service) of what `start` printed, as the daemons take it: proto, JSON, plain."""
    if answer.startswith(b"unix://"):
        return answer.decode(), 2
    if answer.startswith(b"{"):
        told = json.loads(answer)
        return told["address"], told["version"]
    told = decode(answer)
    equal(told[3], [b"ttrpc"], "the protocol")
    return told[2][0].decode(), told[1][0]


class Shim:
    """The suite's client: makes daemons and containers; tidy() removes them and searches for leaks."""

    name = "shim"

    def __init__(self, place, program):
        self.place, self.program = place, program
        self.namespace = self.parent = isolate.cgroup_parent(place)
        self.root = images.unpack_busybox(place / "root")
        self.daemons, self.containers = [], []
        self.count = 0

    def daemon(self, generation="2.3"):
        """A daemon of that generation: 1.6, 1.7 (2.0 to 2.2 look the same), or 2.3."""
        self.count += 1
        self.daemons.append(Daemon(self, f"d{self.count}", generation))
        return self.daemons[-1]

    def container(self, name="one", args=("probe", "wait"), daemon=None, generation="2.3", **config):
        """A container with a bundle, not launched yet."""
        return Container(self, name, daemon or self.daemon(generation), list(args), **config)

    def pod(self, *names, daemon=None, **config):
        """Containers that share a shim, not launched yet; the group has the first one's name."""
        daemon = daemon or self.daemon()
        return [self.container(name, daemon=daemon, annotations={GROUP: names[0]}, **config) for name in names]

    def shims(self):
        """The server processes that this suite's program has."""
        return [pid for pid, words in host.processes().items() if "-namespace" in words and self.namespace in words]

    def kill_servers(self):
        """SIGKILL of each shim. A process without a command line may still hold its socket: it must have exited."""
        servers = self.shims()
        host.kill(servers)
        wait_until(lambda: all(map(host.has_exited, servers)), "the shims to be gone")

    def shim_of(self, pid):
        """The shim that is the parent of a container's process."""
        parent = int(host.status_of(pid)["PPid"])
        check(parent in self.shims(), f"the parent {parent} of {pid} is no shim: {self.shims()}")
        return parent

    def tidy(self):
        """Kills the remains of a scenario, then searches for leaks of the shim."""
        for container in self.containers:
            self._end(container)
        self.containers.clear()
        problem = None
        try:
            nothing_left(self.leftovers)
        except Failure as failure:
            problem = failure
            # A later scenario must not be blamed for these leaks.
            host.kill(self.shims())
            isolate.unmount_below(self.place, "-l", code=None)
            run("sh", "-c", f"rm -rf /run/containerd/s/* /run/*/{self.namespace} /run/*/*/{self.namespace}")
        # Not before: a shim that ends has five seconds' timeout_factor with a daemon that has not taken its last events.
        for daemon in self.daemons:
            if Path(daemon.sink.path).exists():
                daemon.sink.hang_up()
        self.daemons.clear()
        run("sh", "-c", f"rm -rf {self.place}/d*")
        if problem:
            raise problem

    def _end(self, container):
        for method, fields in (("Kill", {"signal": 9, "all": 1}), ("Wait", {}), ("Delete", {}), ("Shutdown", {})):
            try:
                container.call(method, 5, **fields)
            except (Failure, AttributeError, OSError):
                pass  # it was not launched, or has ended, as most have
        if container.client:
            container.client.close()
        try:
            container.daemon.invoke(container.bundle, container.name, "delete")
        except subprocess.TimeoutExpired:
            pass  # what it leaves is looked for
        os.close(container.log)

    def leftovers(self):
        """Shims, sockets, mounts, state and cgroups of removed containers."""
        cgroups = [path for root in host.cgroups_named(self.parent) for path in host.below(root)]
        sockets = list(Path("/run/containerd/s").glob("*")) if Path("/run/containerd/s").exists() else []
        mounts = isolate.mounts_below(self.place)
        state = list(Path("/run").glob(f"*/*/{self.namespace}/*")) + list(Path("/run").glob(f"*/{self.namespace}/*"))
        shims = [f"shim {pid}" for pid in self.shims()]
        return [str(one) for one in (*cgroups, *shims, *sockets, *mounts, *state)]

    def close(self):
        """Nothing outlives the scenarios."""


class ShimInBed(Shim):
    """The same in a machine of its own, where the suite is in no cgroup yet, and all takes longer."""

    timeout_factor = 4

    def __init__(self, place, program):
        isolate.enter_cgroup("suite")
        super().__init__(place, program)


class ShimUnderSystemd(Shim):
    """The same in a machine whose systemd has put the suite into the cgroup of a service."""

    timeout_factor = 4


class Reader:
    """A FIFO that a thread reads; `text` is what came so far."""

    def __init__(self, path, opens=True):
        self.path, self.text, self.ended = Path(path), b"", threading.Event()
        os.mkfifo(path)
        self.file = None
        if opens:
            self.file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            os.set_blocking(self.file, True)
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        opened = False
        while True:
            part = os.read(self.file, 65536)
            if part:
                opened = True
                self.text += part
            elif opened or self.ended.wait(0.01):
                # The end of a FIFO shows before its first writer comes as well.
                self.ended.set()
                return

    def until(self, text, timeout=60):
        """Waits until that was written."""
        wait_until(lambda: text in self.text, f"{text!r} in {self.path.name}, which holds {self.text[-500:]!r}", timeout)


@contextlib.contextmanager
def gate(path):
    """A FIFO at which others wait; what is given lets so many of them go on."""
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield lambda count: os.write(end, b"\n" * count)
    finally:
        os.close(end)


def socket_path(directory, address, group_namespace, group):
    """Where a shim's socket lies: the hash of who asks and of what it serves."""
    return Path(directory) / hashlib.sha256(f"{address}/{group_namespace}/{group}".encode()).hexdigest()
