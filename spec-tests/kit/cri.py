"""containerd's CRI plugin, as Kubernetes' kubelet drives it: crictl and critest, images of our own, a bridge by CNI.

One daemon has a runtime handler for each way to a shim, so that every case runs over brig's and over Go's.
"""

import json
import os
import re
import socket
from pathlib import Path

from kit import host, images, isolate
from kit.commands import Failure, check, equal, run, wait_until
from kit.containerd import BUSYBOX, SOCKETS, Containerd
from kit.podman import may_raise_limits

PAUSE = "registry.k8s.io/pause:3.10.2"
# brig's shim by its own name, in the sandbox API, and in the place of Go's; then Go's own as the peer.
HANDLERS = ("brig", "brig-sandbox", "drop-in", "runc")
_E2E = "registry.k8s.io/e2e-test-images"
_STAGING = "gcr.io/k8s-staging-cri-tools"
_MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
_TRAP = "trap 'exit 0' TERM\n"
# critest looks for a program that is called nginx, says that it is the master process, and keeps its pid in a file.
_NGINX = f"#!/bin/sh\n{_TRAP}echo $$ >/var/run/nginx.pid\nhttpd -f -p $PORT -h /srv &\nwait $!\n"
_HTTPD = f"#!/bin/sh\n{_TRAP}echo httpd serves\nhttpd -f -p 80 -h /srv &\nwait $!\n"
# What critest asks for and Debian's busybox lacks.
_IPCS = "#!/bin/sh\ncat /proc/sysvipc/shm\n"
_PGREP = "#!/bin/sh\npidof $1\n"
_PRIVILEGES = "#!/bin/sh\necho Effective uid: $(setuid-probe status | awk '/^Uid:/ { print $3 }')\n"
_GROUPS = {"etc/passwd": ("root:x:0:0:root:/root:/bin/sh\ndefault-user:x:1000:1000::/:/bin/sh\n", 0o644),
           "etc/group": ("root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n", 0o644)}
_FILES = {"bin/nginx": (_NGINX, 0o755), "bin/httpd-server": (_HTTPD, 0o755), "bin/ipcs": (_IPCS, 0o755),
          "bin/pgrep": (_PGREP, 0o755), "bin/privileges": (_PRIVILEGES, 0o755),
          "srv/index.html": ("<p>It works.</p>\n", 0o644), "var/run/here": ("", 0o644)}
# The names that critest asks for, and what our own images say under them.
_IMAGES = {
    f"{_E2E}/busybox:1.29-2": {},
    f"{_E2E}/nginx:1.14-2": {"Cmd": ["nginx", "master process"], "Env": ["PATH=/bin:/sbin", "PORT=80"]},
    f"{_STAGING}/hostnet-nginx-{_MACHINE}:latest":
        {"Cmd": ["nginx", "master process"], "Env": ["PATH=/bin:/sbin", "PORT=12003"]},
    f"{_E2E}/httpd:2.4.39-4": {"Cmd": ["httpd-server"]},
    f"{_E2E}/nonewprivs:1.3": {"Cmd": ["privileges"]},
}
_NETWORK = {
    "cniVersion": "1.0.0", "name": "pods",
    "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "hairpinMode": True,
                 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]],
                          "routes": [{"dst": "0.0.0.0/0"}]}},
                {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}]}
_CONFIG = """version = 3
root = "{base}/root"
state = "{base}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.nri.v1.nri", "io.containerd.image-verifier.v1.bindir"]
""" + SOCKETS + """[plugins."io.containerd.internal.v1.opt"]
  path = "{base}/opt"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = {restrict}
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "{base}/net.d"
[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "{default}"
"""
_HANDLER = """[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{name}]
  runtime_type = "{type}"
  runtime_path = "{path}"
  sandboxer = "{sandboxer}"
"""
_OPTIONS = """[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{name}.options]
  {options}
"""


class Cri(Containerd):
    """`cri(...)` runs ctr, `cri.crictl(...)` Kubernetes' client, `cri.critest(...)` its tests."""

    name = "cri"
    generations = ("2",)
    namespace = "k8s.io"
    systemd = False
    slice = None
    default = "brig"

    def __init__(self, place, shim):
        self.tools = images.module("cri-tools")
        self.endpoint = None
        # libcni remembers what it gave to whom, in a directory that cannot be configured.
        Path("/var/lib/cni").mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "cni", "/var/lib/cni")
        self.before = set(map(str, self._cgroups()))
        super().__init__(place, shim)
        self.load(PAUSE, images.scratch_tar(self.base / "pause.tar"), Cmd=["/probe", "wait"])
        self.load_images()

    def load_images(self):
        """Makes what critest asks for."""
        for name, config in _IMAGES.items():
            self.load(name, images.busybox_tar(self.base / "image-root.tar", _FILES), **config)
        self.load(f"{_STAGING}/test-image-predefined-group:latest",
                  images.busybox_tar(self.base / "image-root.tar", {**_FILES, **_GROUPS}), User="1000")

    def prepare(self):
        """Writes what crictl and the pods' network need; returns config.toml without any handler."""
        self.endpoint = f"unix://{self.base}/containerd.sock"
        (self.base / "crictl.yaml").write_text(f"runtime-endpoint: {self.endpoint}\nimage-endpoint: {self.endpoint}\n"
                                               "timeout: 40\n")
        network = self.base / "net.d"
        network.mkdir(exist_ok=True)
        (network / "10-pods.conflist").write_text(json.dumps(self.network()))
        # Lower than the daemon's own score takes CAP_SYS_RESOURCE, as raising a limit does.
        restrict = str(not may_raise_limits()).lower()
        return _CONFIG.format(base=self.base, pause=PAUSE, restrict=restrict, default=self.default)

    def network(self):
        """The configuration of the pods' network."""
        return _NETWORK

    def configuration(self):
        """config.toml with one handler for each way to a shim."""
        go = images.containerd2() / "containerd-shim-runc-v2"
        ours = self.programs / "containerd-shim-runc-v2"
        handlers = [("brig", "io.containerd.brig.v2", "", "podsandbox", ""),
                    ("brig-sandbox", "io.containerd.brig.v2", "", "shim", ""),
                    ("brig-over-runc", "io.containerd.brig.v2", "", "podsandbox", 'BinaryName = "/usr/sbin/runc"'),
                    ("brig-mistaken", "io.containerd.brig.v2", "", "podsandbox", "NoPivotRoot = 7"),
                    ("drop-in", "io.containerd.runc.v2", ours, "podsandbox", ""),
                    ("runc", "io.containerd.runc.v2", go, "podsandbox", "")]
        text = self.prepare()
        for name, kind, path, sandboxer, options in handlers:
            text += _HANDLER.format(name=name, type=kind, path=path, sandboxer=sandboxer)
            if self.systemd:
                options = f"SystemdCgroup = true\n  {options}"
            # With a table of options, containerd refuses user namespaces to a runtime that is not named as Go's is.
            if options:
                text += _OPTIONS.format(name=name, options=options)
        return text

    def _answers(self):
        """Whether crictl gets an answer, of a daemon that runs."""
        # The plugin answers when it has looked at all pods that an earlier daemon has left.
        return super()._answers() and self.crictl("version", code=None).code == 0

    def crictl(self, *args, timeout=60, **options):
        """Runs crictl."""
        return run(*self.crictl_words(*args), timeout=timeout, **options)

    def crictl_words(self, *args):
        """The words of a crictl command."""
        return [self.tools / "crictl", "--config", self.base / "crictl.yaml", *args]

    def pod(self, name="pod", handler="brig", **config):
        """Runs a pod; returns it."""
        return Pod(self, name, handler, config)

    def critest(self, handler, focus, skip="", timeout=900):
        """Runs the cases whose name matches; returns {name: (state, what was said)}, where state is passed, failed or
        skipped."""
        report = self.base / "critest.json"
        temporary = self.base / "tmp"
        temporary.mkdir(exist_ok=True)
        environment = {**os.environ, "TMPDIR": str(temporary)}
        done = run(self.tools / "critest", "--config", self.base / "crictl.yaml", "--runtime-endpoint", self.endpoint,
                   "--image-endpoint", self.endpoint, "--runtime-handler", handler, "--ginkgo.no-color",
                   f"--ginkgo.focus={focus}", *([f"--ginkgo.skip={skip}"] if skip else []),
                   f"--ginkgo.json-report={report}", code=None, timeout=timeout, env=environment)
        if not report.exists():
            raise Failure(f"critest left no report: {done}")
        found = {}
        for entry in json.loads(report.read_text())[0]["SpecReports"] or []:
            text = " ".join([*(entry["ContainerHierarchyTexts"] or []), entry["LeafNodeText"]])
            failure = entry.get("Failure") or {}
            if entry["LeafNodeType"] == "It" and (entry["State"] != "skipped" or failure.get("Message")):
                found[re.sub(r"\[k8s.io\] ", "", text)] = (entry["State"], failure.get("Message", "")[-1500:])
        report.unlink()
        return found

    def tidy(self):
        """Removes what a scenario left, then looks for what the shim should have removed."""
        self.crictl("rmp", "-a", "-f", timeout=120)
        super().tidy()

    def leftovers(self):
        """What is left of containers that are gone, in the cgroups and network namespaces of pods too."""
        cgroups = [str(path) for path in self._cgroups() if str(path) not in self.before]
        namespaces = list(Path("/run/netns").glob("*")) if Path("/run/netns").exists() else []
        return [*super().leftovers(), *cgroups, *map(str, namespaces)]

    def _cgroups(self):
        return [path for root in host.cgroups_named(self.namespace) for path in host.below(root)]

    def close(self):
        """Stops the daemon, and removes what CNI made."""
        super().close()
        run("umount", "/var/lib/cni")
        run("ip", "link", "delete", "cni0", code=None)
        for root in host.cgroups_named(self.namespace):
            if not host.below(root):
                isolate.remove_cgroup(root)


class CriBelowSystemd(Cri):
    """The same where systemd makes the cgroups: SystemdCgroup = true, in a machine of its own."""

    name = "cri-systemd"
    systemd = True
    patience = 6
    slice = "test.slice"

    def __init__(self, place, shim):
        # The machine's root is an overlay already, on which no overlay can write.
        run("mount", "-t", "tmpfs", "-o", "mode=711", "cri", place)
        super().__init__(place, shim)

    def close(self):
        """The same, and what it stood on."""
        super().close()
        run("umount", "--lazy", self.place)

    def network(self):
        """The machine's kernel has no table of address translation: so without published ports and masquerade."""
        bridge = {**_NETWORK["plugins"][0], "ipMasq": False}
        return {**_NETWORK, "plugins": [bridge]}

    def _cgroups(self):
        return list(host.CGROUPS.glob("**/cri-containerd-*.scope"))


class Pod:
    """A pod, made by `crictl runp` with a runtime handler."""

    def __init__(self, cri, name, handler, config):
        self.cri, self.name = cri, name
        self.logs = cri.base / f"logs-{name}"
        self.logs.mkdir(exist_ok=True)
        linux = {"cgroup_parent": self.parent(), **config.pop("linux", {})}
        self.config = cri.base / f"{name}.json"
        self.config.write_text(json.dumps({
            "metadata": {"name": name, "namespace": "tests", "uid": f"{name}-uid", "attempt": 1},
            "log_directory": str(self.logs), "linux": linux, **config}))
        self.id = cri.crictl("runp", "--runtime", handler, self.config).text

    def parent(self):
        """The cgroup that a kubelet would make for the pod."""
        return f"/{self.cri.slice or self.cri.parent}"

    def container(self, name, command, start=True, image=BUSYBOX, **config):
        """Makes a container and starts it; returns its id."""
        path = self.cri.base / f"{self.name}-{name}.json"
        path.write_text(json.dumps({"metadata": {"name": name, "attempt": 1}, "image": {"image": image},
                                    "command": command, "log_path": f"{name}.log", **config}))
        one = self.cri.crictl("create", "--no-pull", self.id, path, self.config).text
        if start:
            self.cri.crictl("start", one)
        return one

    def inspect(self):
        """What `crictl inspectp` says."""
        return json.loads(self.cri.crictl("inspectp", self.id).out)

    def address(self):
        """Its IP address."""
        return self.inspect()["status"]["network"]["ip"]

    def stop_and_remove(self):
        """Stops and removes it, with what is in it."""
        self.cri.crictl("stopp", self.id)
        self.cri.crictl("rmp", self.id)


def status(cri, container):
    """A container's status: state, exitCode, reason and more."""
    return json.loads(cri.crictl("inspect", container).out)["status"]


def pid(cri, container):
    """The pid of a container's first process."""
    return json.loads(cri.crictl("inspect", container).out)["info"]["pid"]


def until(cri, container, state, timeout=30):
    """Waits for a state (CONTAINER_EXITED and so on); returns the status then."""
    wait_until(lambda: status(cri, container)["state"] == state, f"{container} to be {state}", timeout)
    return status(cri, container)
