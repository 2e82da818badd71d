"""A Docker of the suite's own: daemon, data and sockets in the suite's place, the runtime under test as default."""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

from kit import host, images, isolate
from kit.commands import Failure, check, end_of, nothing_left, run, wait_until

BUSYBOX = "busybox"
SCRATCH = "scratch-probe"
DEBIAN = "debian-test"


class Docker:
    """`docker(...)` runs the client; tidy() removes the resources of a scenario and searches for leaks."""

    name = "docker"
    # How much longer than on this machine things take.
    timeout_factor = 1

    def __init__(self, place, runtime, *daemon_options, label="d", programs=None):
        self.place, self.runtime = place, runtime
        self.base = place / label
        self.base.mkdir(mode=0o711)
        self.socket = f"unix://{self.base}/docker.sock"
        self.log = open(self.base / "dockerd.log", "w+")
        self.parent = isolate.cgroup_parent(place)
        config = self.base / "daemon.json"
        config.write_text(self.configuration())
        # Programs in `programs` precede the system's programs of the same name.
        path = ":".join(str(part) for part in (programs, os.environ["PATH"]) if part)
        self.daemon = subprocess.Popen(
            ["dockerd", "--config-file", config, "--data-root", self.base / "data", "--exec-root", self.base / "exec",
             "-H", self.socket, "--pidfile", self.base / "docker.pid", "--cgroup-parent", f"/{self.parent}",
             *daemon_options], stdout=self.log, stderr=self.log, env={**os.environ, "PATH": path})
        wait_until(self._answers, "dockerd to answer", 60 * self.timeout_factor)
        self.load(BUSYBOX, images.busybox_tar(self.base / "busybox.tar"), 'CMD ["sh"]')

    def configuration(self):
        """The daemon's daemon.json."""
        return json.dumps({"runtimes": {"tested": {"path": str(self.runtime)}}, "default-runtime": "tested"})

    def _answers(self):
        if self.daemon.poll() is not None:
            raise Failure("dockerd ended: " + self.log_text())
        return self("version", code=None).code == 0

    def __call__(self, *args, **options):
        options["timeout"] = options.get("timeout", 180) * self.timeout_factor
        return run("docker", "-H", self.socket, *args, **options)

    def command(self, *args):
        """The words of a client's command, for a terminal or a process in the background."""
        return ["docker", "-H", self.socket, *args]

    def start(self, *args, image=BUSYBOX):
        """`docker run -d OPTIONS IMAGE`; a list as last argument is the command. Returns the container's id."""
        *options, command = args if args and isinstance(args[-1], list) else (*args, ["probe", "wait"])
        return self("run", "-d", *options, image, *command).text

    def inspect(self, container, path):
        """One value of `docker inspect`, by a path such as State.ExitCode."""
        value = json.loads(self("inspect", container).out)[0]
        for key in path.split("."):
            value = value[key]
        return value

    def pid(self, container):
        """The pid of the container's first process as the suite sees it."""
        return self.inspect(container, "State.Pid")

    def together(self, *commands):
        """Runs several client commands at once; returns their results in order."""
        with ThreadPoolExecutor(len(commands)) as pool:
            return [future.result() for future in [pool.submit(self, *command) for command in commands]]

    def load(self, name, tar, *changes):
        """Makes an image of a tar file."""
        words = [word for change in changes for word in ("--change", change)]
        self("import", *words, tar, name, timeout=300)

    def need(self, name):
        """Makes one of the larger images when a scenario first asks for it."""
        if self("image", "inspect", name, code=None).code == 0:
            return name
        if name == SCRATCH:
            self.load(name, images.scratch_tar(self.base / "scratch.tar"), 'ENTRYPOINT ["/probe"]', 'CMD ["status"]')
        else:
            stream = images.tar_stream(images.debian())
            self("import", "-", name, stdin=stream.stdout, timeout=300)
            stream.wait()
        return name

    def tidy(self):
        """Removes containers, volumes and networks, then searches for leaks of the runtime."""
        ids = self("ps", "-aq").out.split()
        if ids:
            self("rm", "-f", "-v", *ids)
        self("network", "prune", "-f")
        self("volume", "prune", "-f")
        nothing_left(self.leftovers)

    def remove_cgroup(self, name):
        """Removes a cgroup parent that a scenario had the daemon make; it must be empty."""
        for root in host.cgroups_named(self.parent):
            isolate.remove_cgroup(root / name)

    def leftovers(self):
        """Cgroups and runtime state of removed containers."""
        cgroups = [path for root in host.cgroups_named(self.parent) for path in host.below(root)]
        state = self.base / "exec" / "runtime-tested" / "moby"
        return [str(path) for path in cgroups + (list(state.iterdir()) if state.exists() else [])]

    def log_text(self):
        """The end of what the daemon wrote."""
        return end_of(self.log.name)

    def close(self):
        """Stops the daemon, which must end by itself."""
        self.daemon.terminate()
        try:
            self.daemon.wait(30 * self.timeout_factor)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            raise Failure("dockerd did not stop: " + self.log_text())
        finally:
            self.log.close()
        # Mounts that dockerd leaves with every runtime: its own network namespace and its data root.
        isolate.unmount_below(self.base)
        check(not os.path.exists(self.base / "docker.pid"), "dockerd left its pid file")


class DockerWithShim(Docker):
    """A daemon whose containerd finds the shim under test in the place of Go's; the runtime has brig's name."""

    def __init__(self, place, shim):
        programs = place / "bin"
        programs.mkdir()
        (programs / "containerd-shim-runc-v2").symlink_to(shim)
        super().__init__(place, host.TOP / "brig", programs=programs)


class DockerWithoutNetwork(Docker):
    """The same in a machine of its own, whose kernel has no bridges: containers have lo alone."""

    timeout_factor = 4

    def __init__(self, place, runtime):
        isolate.enter_cgroup("suite")
        super().__init__(place, runtime, "--bridge=none", "--iptables=false", "--ip6tables=false")


class DockerWithUserns(Docker):
    """A daemon whose containers have a user namespace; the ids come from tables of the suite's own."""

    def __init__(self, place, runtime):
        self.tables = []
        for name in ("subuid", "subgid"):
            table = place / name
            table.write_text("daemon:200000:65536\n")
            run("touch", f"/etc/{name}")
            run("mount", "--bind", table, f"/etc/{name}")
            self.tables.append(f"/etc/{name}")
        super().__init__(place, runtime, "--userns-remap=daemon")

    def close(self):
        super().close()
        for table in self.tables:
            run("umount", table)
