"""nerdctl, containerd's command line with Docker's words, on a containerd of the suite's own; and BuildKit below it."""

import os
import signal
import subprocess
from pathlib import Path

from kit import host, images, isolate
from kit.commands import Failure, end_of, run, wait_until
from kit.containerd import BUSYBOX, RUNTIME, Containerd


class Nerdctl(Containerd):
    """`nerdctl.nerdctl(...)` runs nerdctl; `nerdctl.builder(worker)` is a BuildKit."""

    name = "nerdctl"
    generations = ("2",)

    def __init__(self, place, shim):
        self.tools = images.module("nerdctl")
        # libcni remembers what it gave to whom, in a directory that cannot be configured.
        Path("/var/lib/cni").mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "cni", "/var/lib/cni")
        super().__init__(place, shim)

    def words(self, *args):
        """The words of a command."""
        return [self.tools / "nerdctl", "--address", self.socket, "--namespace", self.namespace, "--data-root",
                self.base / "nerdctl", "--cni-path", "/usr/lib/cni", "--cni-netconfpath", self.base / "networks",
                "--cgroup-manager", "cgroupfs", *args]

    def nerdctl(self, *args, timeout=60, **options):
        """Runs nerdctl."""
        return run(*self.words(*args), timeout=timeout, **options)

    def run_words(self, *args, image=BUSYBOX, **_):
        """`run OPTIONS IMAGE COMMAND`; the last argument is the command."""
        *flags, command = args
        return ["run", "--runtime", RUNTIME, "--pull", "never", *flags, image, *command]

    def run(self, *args, image=BUSYBOX, **options):
        """`nerdctl run --rm` to its end."""
        return self.nerdctl(*self.run_words("--rm", *args, image=image), **options)

    def start(self, name, *args, **options):
        """`nerdctl run -d`; returns the name."""
        self.nerdctl(*self.run_words("-d", "--name", name, *args), detached=True, **options)
        return name

    def builder(self, worker):
        """A buildkitd; see `Builder`. It is closed with the scenario."""
        self.others.append(Builder(self, worker))
        return self.others[-1]

    def tidy(self):
        """Removes the remains of a scenario, then searches for leaks of the shim."""
        names = self.nerdctl("ps", "-aq").out.split()
        if names:
            self.nerdctl("rm", "-f", *names)
        super().tidy()

    def leftovers(self):
        """The same without what nerdctl itself keeps of a container that was removed while it was made."""
        return [one for one in super().leftovers() if not one.startswith("/run/nerdctl/")]

    def close(self):
        """Stops the daemon, and removes what CNI made."""
        super().close()
        run("umount", "/var/lib/cni")
        run("ip", "link", "delete", "nerdctl0", code=None)


class Builder:
    """A buildkitd that runs each step of a Dockerfile as a container: `worker` is "oci", over the command brig, or
    "containerd", over its shim."""

    def __init__(self, suite, worker):
        self.suite = suite
        programs = images.module("buildkit")
        # nerdctl searches for buildctl there.
        if str(programs) not in os.environ["PATH"]:
            os.environ["PATH"] += f":{programs}"
        self.base = suite.base / f"build-{worker}"
        self.base.mkdir()
        self.address = f"unix://{self.base}/buildkit.sock"
        self.control = [programs / "buildctl", "--addr", self.address]
        config = self.base / "buildkitd.toml"
        config.write_text(f'root = "{self.base}/root"\n[grpc]\n  address = ["{self.address}"]\n' + (f"""
[worker.oci]
  enabled = true
  binary = "{host.TOP}/brig"
  defaultCgroupParent = "/{suite.parent}"
  networkMode = "host"
[worker.containerd]
  enabled = false
""" if worker == "oci" else f"""
[worker.oci]
  enabled = false
[worker.containerd]
  enabled = true
  address = "{suite.socket}"
  namespace = "{suite.namespace}"
  defaultCgroupParent = "/{suite.parent}"
  networkMode = "host"
  [worker.containerd.runtime]
    name = "{RUNTIME}"
"""))
        self.log = open(self.base / "log", "w+")
        self.process = subprocess.Popen([programs / "buildkitd", "--config", config], stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log)
        wait_until(self._answers, "buildkitd to answer", 30)

    def _answers(self):
        if self.process.poll() is not None:
            raise Failure("buildkitd ended: " + end_of(self.log.name))
        return run(*self.control, "debug", "workers", code=None).code == 0

    def context(self, dockerfile):
        """A directory with that Dockerfile and a busybox.tar; what is in it already stays."""
        context = self.base / "context"
        context.mkdir(exist_ok=True)
        if not (context / "busybox.tar").exists():
            images.busybox_tar(context / "busybox.tar")
        (context / "Dockerfile").write_text(dockerfile)
        return context

    def build(self, dockerfile, *flags, **options):
        """Builds a Dockerfile; the image's files are then in `self.base / "out"`."""
        context = self.context(dockerfile)
        run("rm", "-rf", self.base / "out")
        return run(*self.control, "build", "--progress", "plain", "--frontend", "dockerfile.v0", "--local",
                   f"context={context}", "--local", f"dockerfile={context}", "--output",
                   f"type=local,dest={self.base}/out", *flags, timeout=180, **options)

    def close(self):
        """Ends it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failure("buildkitd did not stop")
        self.log.close()
        isolate.unmount_below(self.base, code=None)
        run("rm", "-rf", self.base)
        # buildkit does not remove the parent of its steps' cgroups.
        for root in host.cgroups_named(self.suite.parent):
            isolate.remove_cgroup(root / "buildkit")
