"""containerd's CRI plugin, as Kubernetes' kubelet drives it: crictl and critest, images of our own, a bridge by CNI.

One daemon has a runtime handler for each way to a shim, so that every case runs over brig's and over Go's.
"""

import json
import os
import re
from collections import namedtuple
from pathlib import Path

from kit import host, images, isolate
from kit.commands import Failure, equal, run, wait_until
from kit.containerd import BUSYBOX, SOCKETS, Containerd
from kit.podman import may_raise_limits

PAUSE = "registry.k8s.io/pause:3.10.2"
# brig's shim by its own name, in the sandbox API, and in the place of Go's.
OURS = ("brig", "brig-sandbox", "drop-in")
_E2E = "registry.k8s.io/e2e-test-images"
_STAGING = "gcr.io/k8s-staging-cri-tools"
_TRAP = "trap 'exit 0' TERM\n"
# critest expects a program of the name nginx, which prints that it is the master process, and writes its pid to a file.
_NGINX = f"#!/bin/sh\n{_TRAP}echo $$ >/var/run/nginx.pid\nhttpd -f -p $PORT -h /srv &\nwait $!\n"
_HTTPD = f"#!/bin/sh\n{_TRAP}echo httpd serves\nhttpd -f -p 80 -h /srv &\nwait $!\n"
# Programs that critest needs and Debian's busybox lacks.
_IPCS = "#!/bin/sh\ncat /proc/sysvipc/shm\n"
_PGREP = "#!/bin/sh\npidof $1\n"
_PRIVILEGES = "#!/bin/sh\necho Effective uid: $(setuid-probe status | awk '/^Uid:/ { print $3 }')\n"
_PASSWD = "root:x:0:0:root:/root:/bin/sh\ndefault-user:x:1000:1000::/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"
_GROUP = "root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"
_FILES = {"etc/passwd": (_PASSWD, 0o644), "etc/group": (_GROUP, 0o644),
          "bin/nginx": (_NGINX, 0o755), "bin/httpd-server": (_HTTPD, 0o755), "bin/ipcs": (_IPCS, 0o755),
          "bin/pgrep": (_PGREP, 0o755), "bin/privileges": (_PRIVILEGES, 0o755),
          "srv/index.html": ("<p>It works.</p>\n", 0o644), "var/run/here": ("", 0o644)}
# The names that critest asks for, and what our own images say under them. All are of one layer, unpacked once.
_IMAGES = {
    f"{_E2E}/busybox:1.29-2": {},
    f"{_E2E}/nginx:1.14-2": {"Cmd": ["nginx", "master process"], "Env": ["PATH=/bin:/sbin", "PORT=80"]},
    f"{_STAGING}/hostnet-nginx-{images.MACHINE}:latest":
        {"Cmd": ["nginx", "master process"], "Env": ["PATH=/bin:/sbin", "PORT=12003"]},
    f"{_E2E}/httpd:2.4.39-4": {"Cmd": ["httpd-server"]},
    f"{_E2E}/nonewprivs:1.3": {"Cmd": ["privileges"]},
    f"{_STAGING}/test-image-predefined-group:latest": {"User": "1000"},
}
NETWORK = {
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


# The result of a case of critest: state is passed, failed or skipped; leaf is the last part of its name.
Case = namedtuple("Case", "state said leaf")


def daemon_config(base, default):
    """config.toml of a containerd in `base`, without handlers of its own."""
    # Lower than the daemon's own score takes CAP_SYS_RESOURCE, as raising a limit does.
    restrict = str(not may_raise_limits()).lower()
    return _CONFIG.format(base=base, pause=PAUSE, restrict=restrict, default=default)


class CriTools:
    """The common part of servers of the interface: `crictl(...)` runs Kubernetes' client, `critest(...)` its
    tests."""

    # The handlers by which brig runs, and those of them that scenarios go through which are no affair of cgroups.
    ours = handlers = ()

    def configure_tools(self, endpoint):
        """Writes what crictl and the pods' network need."""
        self.endpoint = endpoint
        (self.base / "crictl.yaml").write_text(f"runtime-endpoint: {endpoint}\nimage-endpoint: {endpoint}\n"
                                               "timeout: 40\n")
        network = self.base / "net.d"
        network.mkdir(exist_ok=True)
        (network / "10-pods.conflist").write_text(json.dumps(self.network()))

    def network(self):
        """The configuration of the pods' network."""
        return NETWORK

    def load_images(self):
        """Makes what pods are made of, and what critest asks for."""
        self.load_pause()
        self.load(BUSYBOX, images.busybox_tar(self.base / "image-root.tar", _FILES), _IMAGES)

    def load_pause(self):
        """Makes the image of a pod's own container."""
        self.load(PAUSE, images.scratch_tar(self.base / "pause.tar"), Cmd=["/probe", "wait"])

    def crictl(self, *args, timeout=60, **options):
        """Runs crictl."""
        return run(*self.crictl_words(*args), timeout=timeout, **options)

    def crictl_words(self, *args):
        """The words of a crictl command."""
        return [self.tools / "crictl", "--config", self.base / "crictl.yaml", *args]

    def usual(self, linux):
        """The default configuration of a pod or a container."""
        return linux

    def end_containers(self, *which):
        """Ends the containers that `crictl ps` lists for these words, where the end of a pod would leave them time."""

    def log_about(self, word):
        """The lines of the daemon's log in which a word is."""
        lines = Path(self.log.name).read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if word in line)

    def pod(self, name="pod", handler="brig", **config):
        """Runs a pod; returns it."""
        return Pod(self, name, handler, config)

    def critest(self, handler, focus, skip="", timeout=900):
        """Runs the cases whose name matches; returns {name: Case}."""
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
                found[re.sub(r"\[k8s.io\] ", "", text)] = \
                    Case(entry["State"], failure.get("Message", "")[-1500:], entry["LeafNodeText"])
        report.unlink()
        return found


class Cri(CriTools, Containerd):
    """`cri(...)` runs ctr, `cri.crictl(...)` Kubernetes' client, `cri.critest(...)` its tests."""

    name = "cri"
    generations = ("2",)
    namespace = "k8s.io"
    slice = None
    default = "brig"
    ours = handlers = OURS

    def __init__(self, place, shim):
        self.tools = images.module("cri-tools")
        # libcni remembers what it gave to whom, in a directory that cannot be configured.
        Path("/var/lib/cni").mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "cni", "/var/lib/cni")
        self.before = set(map(str, self._cgroups()))
        super().__init__(place, shim)

    def prepare(self):
        """Writes what crictl and the pods' network need; returns config.toml without any handler."""
        self.configure_tools(f"unix://{self.base}/containerd.sock")
        return daemon_config(self.base, self.default)

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
        return self.prepare() + self.tables(handlers)

    def tables(self, handlers):
        """The tables of handlers: (name, type, path of the shim, sandboxer, options) each."""
        text = ""
        for name, kind, path, sandboxer, options in handlers:
            text += _HANDLER.format(name=name, type=kind, path=path, sandboxer=sandboxer)
            # With a table of options, containerd refuses user namespaces to a runtime that is not named as Go's is.
            if options:
                text += _OPTIONS.format(name=name, options=options)
        return text

    def _answers(self):
        """Whether crictl gets an answer, of a daemon that runs."""
        # The plugin answers when it has looked at all pods that an earlier daemon has left.
        return super()._answers() and self.crictl("version", code=None).code == 0

    def tidy(self):
        """Removes the remains of a scenario, then searches for leaks of the shim."""
        self.crictl("rmp", "-a", "-f", timeout=120)
        super().tidy()

    def leftovers(self):
        """Leaks of removed containers, also in the cgroups and network namespaces of pods."""
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


class Pod:
    """A pod, made by `crictl runp` with a runtime handler."""

    def __init__(self, cri, name, handler, config):
        self.cri, self.name = cri, name
        self.logs = cri.base / f"logs-{name}"
        self.logs.mkdir(exist_ok=True)
        linux = {"cgroup_parent": self.parent(), **cri.usual(config.pop("linux", {}))}
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
        config["linux"] = self.cri.usual(config.get("linux", {}))
        path.write_text(json.dumps({"metadata": {"name": name, "attempt": 1}, "image": {"image": image},
                                    "command": command, "log_path": f"{name}.log", **config}))
        one = self.cri.crictl("create", "--no-pull", self.id, path, self.config).text
        if start:
            self.cri.crictl("start", one)
        return one

    def inspect(self):
        """The output of `crictl inspectp`."""
        return json.loads(self.cri.crictl("inspectp", self.id).out)

    def address(self):
        """Its IP address."""
        return self.inspect()["status"]["network"]["ip"]

    def stop_and_remove(self):
        """Stops and removes it, with what is in it."""
        self.cri.end_containers("--pod", self.id)
        self.cri.crictl("stopp", self.id)
        self.cri.crictl("rmp", self.id)


def status(cri, container):
    """A container's status: state, exitCode, reason and more."""
    return json.loads(cri.crictl("inspect", container).out)["status"]


def pid(cri, container):
    """The pid of a container's first process."""
    return json.loads(cri.crictl("inspect", container).out)["info"]["pid"]


def namespaces(cri, container):
    """The namespaces of a container's first process: {name: which}."""
    place = Path(f"/proc/{pid(cri, container)}/ns")
    return {name: os.readlink(place / name) for name in ("net", "ipc", "pid", "mnt", "uts")}


def until(cri, container, state, timeout=30):
    """Waits for a state (CONTAINER_EXITED and so on); returns the status then."""
    wait_until(lambda: status(cri, container)["state"] == state, f"{container} to be {state}", timeout)
    return status(cri, container)


def until_oom_killed(cri, container, what, timeout=30):
    """Waits for the end of a container that exceeds its memory, with the reason and the exit status of that; `what` is
    what a failure names, with what the daemon and its shim said of it."""
    until(cri, container, "CONTAINER_EXITED", timeout)
    try:
        wait_until(lambda: status(cri, container)["reason"] == "OOMKilled", f"{what} to be OOMKilled", 10)
    except Failure as failure:
        raise Failure(f"{failure}: {status(cri, container)}; the log:\n{cri.log_about(container)}")
    equal(status(cri, container)["exitCode"], 137, f"{what}: its status")
