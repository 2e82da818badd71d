"""A Kubernetes cluster of one node: etcd, the control plane, a kubelet and a current containerd, in a sandbox.

brig comes onto the node as docs/install.md has it: by the DaemonSet, whose image is made on the spot, and a RuntimeClass.
"""

import json
import os
import shlex
import signal
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from kit import host, images, isolate
from kit.commands import Failure, check, end_of, nothing_left, run, wait_until
from kit.containerd import BUSYBOX
from kit.cri import NETWORK, PAUSE, daemon_config
from kit.installed import DROP, manifest, piece, shim_image

NODE, ADDRESS = "node", "10.89.0.1"
_TOKEN = "administrator"
# Settings of the whole machine that a kubelet checks. It reads them from files that cover the kernel's, in a mount
# namespace of its own: where anything lies over a part of /proc, no other /proc can be mounted by a pod's user.
_TUNED = {"vm/overcommit_memory": 1, "vm/panic_on_oom": 0, "kernel/panic": 10, "kernel/panic_on_oops": 1,
          "kernel/keys/root_maxkeys": 1000000, "kernel/keys/root_maxbytes": 25000000}
# A node's own directories, which the document and Kubernetes name.
_PLACES = ("/usr/local/bin", "/etc/containerd", "/var/lib/cni", "/var/log", "/var/lib/kubelet")
# Without systemd this stands for systemctl, and the daemon's supervisor starts another daemon.
_SYSTEMCTL = """#!/bin/sh
[ "$*" = "restart containerd" ] || exit 1
echo "$*" >>{base}/asked
kill "$(cat {base}/containerd.pid)"
"""
_SUPERVISOR = """while [ ! -e {base}/over ]; do
  {program} --config /etc/containerd/config.toml &
  echo $! >{base}/containerd.pid
  wait $!
done
"""


class Kubernetes:
    """`cluster(...)` runs kubectl; tidy() removes the resources of a scenario and searches for leaks."""

    name = "kubernetes"
    # Which of the document's pieces the DaemonSet installs.
    handler = "containerd-2"
    # How much longer than on a host all may take.
    timeout_factor = 1

    def __init__(self, place, shim):
        self.place, self.shim, self.parent = place, shim, isolate.cgroup_parent(place)
        self.base = place / "k"
        self.base.mkdir()
        self.programs, self.containerd = images.module("kubernetes"), images.containerd2()
        # Daemons by their names, and directories that the host lacked.
        self.running, self.made = {}, []
        self.installed = False
        os.environ["CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS"] = "1"
        self._make_node()
        self._make_control_plane()
        self.start_kubelet()
        wait_until(lambda: "True" in self.condition("node", NODE, "Ready"), "the node to be ready",
                   120 * self.timeout_factor)
        wait_until(lambda: self("get", "serviceaccount", "default", code=None).code == 0, "the account of pods",
                   60 * self.timeout_factor)

    # The node.

    def _make_node(self):
        """Directories, network, cgroup and containerd of the node."""
        for point in _PLACES:
            if not Path(point).exists():
                Path(point).mkdir()
                self.made.append(point)
            own = self.base / point.replace("/", "-")[1:]
            own.mkdir()
            run("mount", "--bind", own, point)
            # As systemd has it; else the kubelet mounts another one over its own.
            run("mount", "--make-shared", point)
        run("ip", "link", "add", "node0", "type", "bridge")
        run("ip", "address", "add", f"{ADDRESS}/24", "dev", "node0")
        run("ip", "link", "set", "node0", "up")
        (self.base / "net.d").mkdir()
        (self.base / "net.d" / "10-pods.conflist").write_text(json.dumps(self.network()))
        Path("/etc/containerd/config.toml").write_text(self.containerd_config())
        (self.base / "programs").mkdir()
        (self.base / "programs" / DROP).symlink_to(self.containerd / DROP)
        self.make_cgroup()
        self.start_containerd()
        wait_until(lambda: self.ctr("version", code=None).code == 0, "containerd to answer", 30 * self.timeout_factor)
        self.load(BUSYBOX, images.busybox_tar(self.base / "busybox.tar"))
        self.load(PAUSE, images.scratch_tar(self.base / "pause.tar"), Cmd=["/probe", "wait"])

    def network(self):
        """The configuration of the pods' network."""
        return NETWORK

    def make_cgroup(self):
        """Makes the cgroup of all pods."""
        for root in host.hierarchies():
            (root / self.parent).mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (root / name).exists():
                    (root / self.parent / name).write_text((root / name).read_text())

    def start_containerd(self):
        """Starts containerd, and what stands for systemd."""
        (self.base / "systemctl").write_text(_SYSTEMCTL.format(base=self.base))
        (self.base / "systemctl").chmod(0o755)
        run("mount", "--bind", self.base / "systemctl", "/usr/bin/systemctl")
        self._start("containerd", "sh", "-c", _SUPERVISOR.format(base=self.base, program=self.containerd / "containerd"))

    def containerd_pid(self):
        """The pid of containerd; 0 while there is none."""
        return int((self.base / "containerd.pid").read_text() or 0)

    def restarts(self):
        """How often systemd was asked to restart containerd."""
        asked = self.base / "asked"
        return len(asked.read_text().splitlines()) if asked.exists() else 0

    def stop_containerd(self):
        """Ends both."""
        (self.base / "over").touch()
        os.kill(self.containerd_pid(), signal.SIGTERM)
        self.running.pop("containerd").wait(60)
        run("umount", "/usr/bin/systemctl")

    def containerd_config(self):
        """config.toml as any node has it, with runc: it imports what is in the directory that the document names."""
        text = daemon_config(self.base, "runc")
        return text.replace("version = 3\n", 'version = 3\nimports = ["/etc/containerd/conf.d/*.toml"]\n')

    def ctr(self, *args, **options):
        """Runs ctr."""
        return run(self.containerd / "ctr", "-a", self.base / "containerd.sock", "-n", "k8s.io", *args, **options)

    def load(self, name, tar, **config):
        """Makes an image of one layer on the node."""
        archive = images.oci_archive(self.base / "image.tar", tar, {name: config})
        self.ctr("images", "import", archive, timeout=120)
        archive.unlink()
        tar.unlink()

    def start_kubelet(self):
        """Starts the kubelet; on what an earlier one left."""
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "failCgroupV1": False,
            **self.cgroups(), "failSwapOn": False,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"}, "containerRuntimeEndpoint": f"unix://{self.base}/containerd.sock",
            "evictionHard": {"memory.available": "1Mi"}, "imageGCHighThresholdPercent": 100, "resolvConf": "",
            "imageGCLowThresholdPercent": 99, "volumePluginDir": str(self.base / "plugins"), "readOnlyPort": 0,
            "nodeStatusUpdateFrequency": "2s", "syncFrequency": "5s", "oomScoreAdj": 0, "maxOpenFiles": 4096,
            "makeIPTablesUtilChains": False, "seccompDefault": True, "registerNode": True}
        (self.base / "kubelet.json").write_text(json.dumps(config))
        for name, text in self.tuned().items():
            (self.base / "tuned" / name).parent.mkdir(parents=True, exist_ok=True)
            (self.base / "tuned" / name).write_text(text)
        tuned = "".join(f"mount --bind tuned/{name} /proc/{name} && " for name in self.tuned())
        self._start("kubelet", "unshare", "--mount", "--propagation", "unchanged", "sh", "-c", tuned + 'exec "$@"', "sh",
                    self.programs / "kubelet", "--config", self.base / "kubelet.json", "--kubeconfig",
                    self.base / "kubeconfig", "--hostname-override", NODE, "--node-ip", ADDRESS)

    def cgroups(self):
        """Their part of the kubelet's configuration."""
        return {"cgroupDriver": "cgroupfs", "cgroupRoot": f"/{self.parent}"}

    def tuned(self):
        """Files below /proc that cover the kernel's for the kubelet: {name: text}."""
        return {f"sys/{name}": f"{value}\n" for name, value in _TUNED.items()}

    # The control plane.

    def _make_control_plane(self):
        base, programs = self.base, self.programs
        run("openssl", "genrsa", "-out", base / "accounts.key", "2048")
        (base / "tokens.csv").write_text(f"{_TOKEN},administrator,0,system:masters\n")
        self._start("etcd", "etcd", "--data-dir", base / "etcd", "--unsafe-no-fsync")
        # The kubelet creates a certificate for itself.
        self._start("kube-apiserver", programs / "kube-apiserver", "--etcd-servers", "http://127.0.0.1:2379",
                    "--cert-dir", base / "certificates", "--token-auth-file", base / "tokens.csv",
                    "--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.96.0.0/16",
                    "--service-account-issuer", "https://kubernetes.default.svc", "--advertise-address", ADDRESS,
                    "--service-account-key-file", base / "accounts.key", "--allow-privileged",
                    "--service-account-signing-key-file", base / "accounts.key",
                    "--kubelet-preferred-address-types", "InternalIP")
        server = f"https://{ADDRESS}:6443"
        (base / "kubeconfig").write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "c", "user": {"token": _TOKEN}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}]}))
        wait_until(lambda: self._answers(f"{server}/readyz"), "the API server to be ready", 180 * self.timeout_factor)
        self._start("kube-controller-manager", programs / "kube-controller-manager", "--kubeconfig", base / "kubeconfig",
                    "--leader-elect=false", "--service-account-private-key-file", base / "accounts.key",
                    "--root-ca-file", base / "certificates" / "apiserver.crt")
        self._start("kube-scheduler", programs / "kube-scheduler", "--kubeconfig", base / "kubeconfig",
                    "--leader-elect=false")

    def _answers(self, address):
        self._check_alive()
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        request = urllib.request.Request(address, headers={"Authorization": f"Bearer {_TOKEN}"})
        try:
            with urllib.request.urlopen(request, context=trusting, timeout=5 * self.timeout_factor) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def _start(self, name, *words):
        """Starts a daemon, with its output in a file."""
        environment = {**os.environ, "PATH": f"/usr/local/bin:{self.base}/programs:{os.environ['PATH']}"}
        with open(self.base / f"{name}.log", "a") as log:
            self.running[name] = subprocess.Popen([str(word) for word in words], env=environment, cwd=self.base,
                                                  stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self, name, sign=signal.SIGTERM):
        """Ends a daemon."""
        process = self.running.pop(name)
        process.send_signal(sign)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Failure(f"{name} did not stop: {self.log(name)}")

    def log(self, name):
        """The end of what a daemon wrote."""
        return end_of(self.base / f"{name}.log")

    def _check_alive(self):
        for name, process in self.running.items():
            if process.poll() is not None:
                raise Failure(f"{name} ended: {self.log(name)}")

    # Steps of scenarios.

    def words(self, *args):
        """The words of a kubectl command."""
        return [self.programs / "kubectl", "--kubeconfig", self.base / "kubeconfig", "--cache-dir", self.base / "cache",
                *args]

    def __call__(self, *args, **options):
        return run(*self.words(*args), **options)

    def get(self, kind, name, *more):
        """An object as the API server has it."""
        return json.loads(self("get", kind, name, "-o", "json", *more).out)

    def condition(self, kind, name, condition):
        """A condition's status: True, False, Unknown, or nothing."""
        self._check_alive()
        found = self("get", kind, name, "-o", f'jsonpath={{.status.conditions[?(@.type=="{condition}")].status}}',
                     code=None)
        return found.out

    def apply(self, *objects):
        """Makes objects."""
        everything = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self("apply", "-f", "-", input=json.dumps(everything))

    def pod(self, name, command, spec=None, **container):
        """Makes a pod of the class brig, with one container and whatever `spec` adds; returns its name."""
        one = {"name": "one", "image": "busybox", "imagePullPolicy": "Never", "command": command, **container}
        extra = dict(spec or {})
        containers = [one, *extra.pop("containers", [])]
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
                    "spec": {"runtimeClassName": "brig", "terminationGracePeriodSeconds": 1, "containers": containers,
                             **extra}})
        return name

    def ready(self, pod, timeout=60):
        """Waits until a pod is ready; returns it."""
        self.until(pod, lambda: self.condition("pod", pod, "Ready") == "True", "to be ready", timeout)
        return self.get("pod", pod)

    def phase(self, pod, phase, timeout=60):
        """Waits until a pod is Succeeded, Failed or what else; returns it."""
        self.until(pod, lambda: self.get("pod", pod)["status"].get("phase") == phase, f"to be {phase}", timeout)
        return self.get("pod", pod)

    def until(self, pod, condition, what, timeout=60):
        """Waits for a condition of a pod, and returns its value; a failure shows the cluster's description of the pod."""
        try:
            return wait_until(condition, f"{pod} {what}", timeout * self.timeout_factor)
        except Failure as failure:
            raise Failure(f"{failure}: {self('describe', 'pod', pod, code=None).out[-1500:]}")

    def state(self, pod, container="one"):
        """A container's status, as the kubelet reports it."""
        status = self.get("pod", pod)["status"]
        every = [*status.get("containerStatuses", []), *status.get("initContainerStatuses", []),
                 *status.get("ephemeralContainerStatuses", [])]
        return next((entry for entry in every if entry["name"] == container), {"state": {}})

    def pid(self, pod, container="one"):
        """The pid of a container's first process."""
        number = self.state(pod, container)["containerID"].removeprefix("containerd://")
        row = next(line for line in self.ctr("tasks", "ls").out.splitlines() if line.startswith(number))
        return int(row.split()[1])

    def daemonset(self):
        """The document's DaemonSet, as an administrator of a node without systemd applies it: without the options."""
        text = piece("daemonset")
        lines = text.splitlines(keepends=True)
        at = next(number for number, line in enumerate(lines) if "runtimes.brig.options]" in line)
        check("SystemdCgroup = true" in lines[at + 1], "the options' only line")
        return "".join(lines[:at] + lines[at + 2:])

    def install(self):
        """Brings brig onto the node and into the cluster, once."""
        if self.installed:
            return
        (self.base / "image").mkdir(exist_ok=True)
        run("install", "-m", "755", self.shim, self.base / "image" / "containerd-shim-brig-v2")
        shim_image(self, manifest("daemonset")["spec"]["template"]["spec"]["containers"][0]["image"], self.base / "image")
        self("apply", "-f", "-", input=self.daemonset())
        self("apply", "-f", "-", input=piece("runtimeclass"))
        self("rollout", "status", "daemonset", "brig", "-n", "kube-system", "--timeout", f"{120 * self.timeout_factor}s",
             timeout=150 * self.timeout_factor)
        handlers = ("get", "node", NODE, "-o", "jsonpath={.status.runtimeHandlers[*].name}")
        wait_until(lambda: "brig" in self(*handlers).out.split(), "the handler among those that the node tells of",
                   60 * self.timeout_factor)
        self.installed = True

    def shims(self):
        """brig's shims: {pid: words}."""
        return {pid: words for pid, words in host.processes().items()
                if "-namespace" in words and words[0].endswith("shim-brig-v2")}

    def tidy(self):
        """Removes the remains of a scenario in the default namespace, then searches for leaks of the shim."""
        self._check_alive()
        self("delete", "deployments,pods,secrets", "--all", "--wait", "--timeout", f"{60 * self.timeout_factor}s",
             timeout=90 * self.timeout_factor)
        nothing_left(self.leftovers, 30 * self.timeout_factor)

    def leftovers(self):
        """Leaks of removed pods: cgroups, volumes, shims and network namespaces."""
        keeps = {entry["metadata"]["uid"] for entry in json.loads(self("get", "pods", "-A", "-o", "json").out)["items"]}
        cgroups = [path for root in host.cgroups_named(self.parent) for path in host.below(root)
                   if path.name.startswith("pod") and path.name[3:] not in keeps]
        volumes = [path for path in Path("/var/lib/kubelet/pods").glob("*") if path.name not in keeps]
        shims = [shlex.join(words) for words in self.shims().values()]
        networks = list(Path("/run/netns").glob("*"))
        return [str(one) for one in (*cgroups, *volumes, *shims, *networks[len(keeps):])]

    def uninstall(self):
        """Removes brig as the document says."""
        self("delete", "daemonset", "brig", "-n", "kube-system", "--wait")
        self("delete", "runtimeclass", "brig")
        for path in ("/usr/local/bin/containerd-shim-brig-v2", "/etc/containerd/conf.d/brig.toml"):
            Path(path).unlink()

    def close(self):
        """Stops everything, and removes what it stood on."""
        try:
            if self.installed:
                self.uninstall()
                wait_until(lambda: not self.ctr("containers", "ls", "-q").text, "the last containers to go",
                           60 * self.timeout_factor)
        finally:
            self._stop_all()

    def _stop_all(self):
        for name in ("kubelet", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
            self.stop(name)
        self.stop_containerd()
        isolate.unmount_below(self.base)
        for point in _PLACES:
            run("umount", point)
        for point in self.made:
            Path(point).rmdir()
        for link in ("cni0", "node0"):
            run("ip", "link", "delete", link, code=None)
        for root in host.cgroups_named(self.parent):
            for cgroup in (*host.below(root), root):
                isolate.remove_cgroup(cgroup)
