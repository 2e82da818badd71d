"""A containerd of the suite's own: root, state, address and events; the shim under test is its runtime.

Everything runs in the suite's place, so the shim's sockets below /run/containerd are the suite's own too.
"""

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

from kit import host, images, isolate
from kit.commands import Failure, check, end_of, equal, nothing_left, run, wait_until

BUSYBOX = "docker.io/library/busybox:latest"
RUNTIME = "io.containerd.brig.v2"
# The name under which a shim takes the place of Go's.
DROP_IN = "io.containerd.runc.v2"
# Versions that are not in Debian are built by this program of beds.
_MODULE_OF = {"1.7": "containerd17", "2": "containerd2"}
# The part of config.toml that each version of the file has.
SOCKETS = """[debug]
  level = "debug"
[grpc]
  address = "{base}/containerd.sock"
[ttrpc]
  address = "{base}/containerd.sock.ttrpc"
"""
_CONFIG = """version = 2
root = "{base}/root"
state = "{base}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp", "io.containerd.nri.v1.nri"]
""" + SOCKETS


class Containerd:
    """`containerd(...)` runs ctr; tidy() removes the resources of a scenario and searches for leaks."""

    name = "containerd"
    # Factor of all timeouts, compared with a host.
    timeout_factor = 1
    # Where the programs are; the first is the generation that a suite starts with.
    generations = ("1.6",)
    namespace = None

    def __init__(self, place, shim, label="c"):
        self.place, self.shim = place, Path(shim)
        self.parent = isolate.cgroup_parent(place)
        # ctr's containers have /NAMESPACE/ID as cgroup, so the suite's parent is the namespace.
        self.namespace = self.namespace or self.parent
        self.base = place / label
        self.base.mkdir()
        self.programs = self.base / "bin"
        self.programs.mkdir()
        for name in ("containerd-shim-brig-v2", "containerd-shim-runc-v2"):
            (self.programs / name).symlink_to(shim)
        self.socket = self.base / "containerd.sock"
        self.config = self.base / "config.toml"
        self.config.write_text(self.configuration())
        self.log = open(self.base / "containerd.log", "w+")
        self.generation, self.daemon = None, None
        # A current ctr warns of cgroup v1 on the stream that tests compare.
        os.environ["CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS"] = "1"
        self.others = []
        self.run_daemon(self.generations[0])
        self.load_images()

    def load_images(self):
        """Loads the images of the containers."""
        self.load(BUSYBOX, images.busybox_tar(self.base / "busybox.tar"))

    def configuration(self):
        """The daemon's config.toml."""
        return _CONFIG.format(base=self.base)

    def run_daemon(self, generation=None):
        """Starts the daemon, on the data of an earlier one of any generation."""
        self.generation = generation or self.generation
        self.daemon = subprocess.Popen(self.daemon_words(), env=self.environment(), cwd="/", stdin=subprocess.DEVNULL,
                                       stdout=self.log, stderr=self.log)
        try:
            wait_until(self._answers, "containerd to answer", 30 * self.timeout_factor)
        except Failure:
            self.daemon.kill()
            self.daemon.wait()
            raise Failure("containerd does not answer: " + self.log_text())

    def daemon_words(self):
        """The words of the daemon's command."""
        return [self._program("containerd"), "--config", self.config]

    def environment(self):
        """The daemon's environment, in which it finds shims by PATH."""
        return {**os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}"}

    def _program(self, name):
        if self.generation == "1.6":
            return f"/usr/bin/{name}"
        return str(images.module(_MODULE_OF[self.generation]) / name)

    def _answers(self):
        if self.daemon.poll() is not None:
            raise Failure("containerd ended: " + self.log_text())
        return self("version", code=None, timeout=10 * self.timeout_factor).code == 0

    def stop_daemon(self, signal="TERM"):
        """Stops the daemon alone; its children continue to run."""
        number = {"TERM": 15, "KILL": 9}[signal]
        self.daemon.send_signal(number)
        try:
            self.daemon.wait(20 * self.timeout_factor)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            raise Failure("containerd did not stop: " + self.log_text())

    def restart(self, signal="TERM", generation=None):
        """Ends the daemon and starts it again, or another generation on the same state."""
        self.stop_daemon(signal)
        self.run_daemon(generation)

    def command(self, *args):
        """The words of a client's command."""
        return [self._program("ctr"), "-a", self.socket, "-n", self.namespace, *args]

    def __call__(self, *args, timeout=90, **options):
        return run(*self.command(*args), timeout=timeout * self.timeout_factor, **options)

    def load(self, name, tar, others=None, **config):
        """Makes an image of one layer; `config` is what the image says of its containers. `others` are more images of
        that layer, {name: config}."""
        archive = images.oci_archive(self.base / "image.tar", tar, {name: config, **(others or {})})
        self("images", "import", archive, timeout=120)
        archive.unlink()
        tar.unlink()

    def run_words(self, *args, runtime=RUNTIME, image=BUSYBOX):
        """`ctr run OPTIONS IMAGE NAME COMMAND...`; the last argument is the command, the one before it the name."""
        *flags, name, command = args
        return ["run", "--runtime", runtime, *flags, image, name, *command]

    def run(self, *args, runtime=RUNTIME, **options):
        """`ctr run --rm OPTIONS NAME COMMAND` to its end."""
        return self(*self.run_words("--rm", *args, runtime=runtime), **options)

    def start(self, *args, runtime=RUNTIME, **options):
        """`ctr run -d` with the outputs in a file (see `output`); returns the name. Without a command it waits."""
        *flags, name, command = args if isinstance(args[-1], list) else (*args, ["probe", "wait"])
        if not any(str(flag).startswith(("--null-io", "--log-uri")) for flag in flags):
            flags += ["--log-uri", f"file://{self.base}/{name}.out"]
        self(*self.run_words("-d", *flags, name, command, runtime=runtime), **options)
        return name

    def output(self, name):
        """The output of a container of `start` so far."""
        path = self.base / f"{name}.out"
        return path.read_text(errors="replace") if path.exists() else ""

    def exec(self, container, *args, number=[0], **options):
        """`ctr tasks exec OPTIONS`; the last argument is the command."""
        *flags, command = args
        number[0] += 1
        return self("tasks", "exec", "--exec-id", f"e{number[0]}", *flags, container, *command, **options)

    def tasks(self):
        """The rows of `ctr tasks ls`: {name: (pid, status)}."""
        rows = [line.split() for line in self("tasks", "ls").out.splitlines()[1:]]
        return {row[0]: (int(row[1]), row[2]) for row in rows}

    def pid(self, name):
        """The pid of a container's first process."""
        return self.tasks()[name][0]

    def status(self, name):
        """RUNNING, STOPPED, PAUSED, CREATED, or None when there is no such task."""
        return self.tasks().get(name, (0, None))[1]

    def until(self, name, status, timeout=60):
        """Waits until a task has that status."""
        wait_until(lambda: self.status(name) == status, f"{name} to be {status}; tasks: {self.tasks()}", timeout)

    def delete_task(self, name, code):
        """Deletes a task that has exited, with that exit status."""
        seen = self("tasks", "delete", name, code=None)
        # Debian's ctr prints the status in a warning, a current one exits with it.
        told = re.search(r"non-zero exit code (\d+)", seen.err)
        equal(int(told[1]) if told else seen.code, code, f"exit status ({seen})")

    def kill_and_delete(self, name, code, signal="KILL"):
        """Kills a container and deletes its task and record."""
        self("tasks", "kill", "-s", signal, name)
        self.until(name, "STOPPED")
        self.delete_task(name, code)
        self("containers", "delete", name)

    def shims(self):
        """The shim processes of this suite: {pid: its words}."""
        return {pid: words for pid, words in host.processes().items() if "-namespace" in words and "shim" in words[0]}

    def shim_of(self, name):
        """The pid of the shim that serves a container: its first process's parent."""
        pid = int(host.status_of(self.pid(name))["PPid"])
        check(pid in self.shims(), f"the parent of {name} is {host.status_of(pid)['Name']}, not a shim")
        return pid

    def bundle(self, name):
        """The directory from which containerd starts a container's shim."""
        return self.base / "state" / "io.containerd.runtime.v2.task" / self.namespace / name

    def tidy(self):
        """Removes the remains of a scenario, then searches for leaks of the shim."""
        for extra in self.others:
            extra.close()
        self.others.clear()
        for name in self.tasks():
            self("tasks", "delete", "--force", name, code=None)
        names = self("containers", "ls", "-q").out.split()
        if names:
            self("containers", "delete", *names)
        try:
            nothing_left(self.leftovers)
        except Failure:
            # A later scenario must not be blamed for these leaks.
            host.kill(self.shims())
            run("sh", "-c", f"rm -rf /run/containerd/s/* /run/*/{self.namespace} /run/*/*/{self.namespace}")
            raise
        finally:
            for path in self.base.glob("*.out"):
                path.unlink()

    def leftovers(self):
        """Shims, their sockets, bundles, mounts, runtime state and cgroups of removed containers."""
        cgroups = [path for root in host.cgroups_named(self.parent) for path in host.below(root)]
        shims = [" ".join(words) for words in self.shims().values()]
        sockets = list(Path("/run/containerd/s").glob("*")) if Path("/run/containerd/s").exists() else []
        bundles = self.bundle("x").parent
        bundles = list(bundles.iterdir()) if bundles.exists() else []
        mounts = isolate.mounts_below(self.base / "state")
        state = [path for path in Path("/run").glob(f"*/*/{self.namespace}/*")] + \
            [path for path in Path("/run").glob(f"*/{self.namespace}/*")]
        return [str(one) for one in (*cgroups, *shims, *sockets, *bundles, *mounts, *state)]

    def log_text(self):
        """The end of what the daemon wrote."""
        return end_of(self.log.name)

    def close(self):
        """Stops the daemon."""
        self.stop_daemon()
        self.log.close()
        isolate.unmount_below(self.base)


class ContainerdOverRunc(Containerd):
    """Debian's daemon with runc's shim, which calls the runtime under test by the option BinaryName."""

    name = "ctr"

    def __init__(self, place, runtime):
        self.runtime = runtime
        super().__init__(place, Path("/usr/bin/containerd-shim-runc-v2"))

    def run_words(self, *args, binary=None, **_):
        """The same over runc's shim."""
        *flags, name, command = args
        return super().run_words("--runc-binary", binary or self.runtime, *flags, name, command, runtime=DROP_IN)

    def run(self, *args, binary=None, **options):
        """`ctr run --rm OPTIONS NAME COMMAND` to its end."""
        return self(*self.run_words("--rm", *args, binary=binary), **options)


class Containerd17(Containerd):
    """The same with the last 1.x, between Debian's and a current release."""

    generations = ("1.7", "2", "1.6")


class Containerd2(Containerd):
    """The same with a current release, and Debian's to go back to."""

    generations = ("2", "1.6")


class ContainerdInBed(Containerd):
    """The same in a machine of its own, where the suite is in no cgroup yet, and all takes longer."""

    timeout_factor = 4

    def __init__(self, place, shim):
        isolate.enter_cgroup("suite")
        super().__init__(place, shim)


class Events:
    """The daemon's stream of events; a context manager. `with Events(containerd) as events: ...`"""

    LINE = re.compile(r"^\S+ \S+ \S+ \S+ (\S+) (/\S+) (\{.*\})\s*$")

    def __init__(self, containerd):
        self.containerd = containerd

    def __enter__(self):
        self.file = tempfile.NamedTemporaryFile("r", dir=self.containerd.base)
        with open(self.file.name, "w") as out:
            self.process = subprocess.Popen([str(word) for word in self.containerd.command("events")], stdout=out,
                                            stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        self._mark()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.file.close()

    def _mark(self):
        """Waits until the stream runs: it has when it shows an event that we cause."""
        count = iter(range(1000))

        def seen():
            self.containerd("namespaces", "label", self.containerd.namespace, f"mark={next(count)}")
            return any(topic == "/namespaces/update" for topic, _ in self.all())
        wait_until(seen, "the stream of events", 10)

    def all(self):
        """Every event so far as (topic, content)."""
        lines = map(self.LINE.match, Path(self.file.name).read_text().splitlines())
        return [(match[2], json.loads(match[3])) for match in lines if match]

    def tasks(self, name):
        """A container's task events: (the topic without /tasks/, content)."""
        return [(topic.removeprefix("/tasks/"), content) for topic, content in self.all()
                if topic.startswith("/tasks/") and content.get("container_id") == name]

    def topics(self, name):
        """The topics alone."""
        return [topic for topic, _ in self.tasks(name)]

    def until(self, name, topic, times=1, timeout=20):
        """Waits for a container's event; returns what it held, the last of `times`."""
        def there():
            found = [content for seen, content in self.tasks(name) if seen == topic]
            return len(found) >= times and (found[times - 1] or {"": ""})
        try:
            return wait_until(there, f"{topic} of {name}", timeout)
        except Failure:
            raise Failure(f"waited {timeout} s for {topic} ({times}) of {name}; saw {self.tasks(name)}")
