"""A Kubernetes cluster of one node below systemd, in a machine of its own: containerd is a unit, and pods are slices."""

from pathlib import Path

from kit import host
from kit.commands import run
from kit.cri_systemd import InMachine
from kit.installed import piece
from kit.kubernetes import Kubernetes

_UNIT = Path("/etc/systemd/system/containerd.service")
_SERVICE = """[Unit]
DefaultDependencies=no
[Service]
Environment=PATH=/usr/local/bin:{base}/programs:/usr/sbin:/usr/bin:/sbin:/bin
ExecStartPre=sh -c 'echo start >>{base}/starts'
ExecStart={program} --config /etc/containerd/config.toml
KillMode=process
Delegate=yes
"""
_RUNC = """[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  SystemdCgroup = true
"""


class KubernetesUnderSystemd(InMachine, Kubernetes):
    """The same with the kubelet's cgroup driver that the document's DaemonSet is for."""

    name = "kubernetes-systemd"
    handler = "containerd-2-systemd"
    timeout_factor = 6

    def make_cgroup(self):
        """The kubelet has systemd make it."""

    def cgroups(self):
        """Their part of the kubelet's configuration."""
        return {"cgroupDriver": "systemd"}

    def tuned(self):
        """The same, and a clock that the kubelet reads and that machine lacks."""
        return {**super().tuned(), "cpuinfo": Path("/proc/cpuinfo").read_text().strip() + "\ncpu MHz\t\t: 1000.0\n\n"}

    def containerd_config(self):
        """The same; the node's own runtime has systemd's cgroups too."""
        return super().containerd_config() + _RUNC

    def daemonset(self):
        """The document's DaemonSet as it is."""
        return piece("daemonset")

    def start_containerd(self):
        """Starts containerd as a unit, which systemd restarts when the DaemonSet asks for that."""
        _UNIT.write_text(_SERVICE.format(base=self.base, program=self.containerd / "containerd"))
        run("systemctl", "daemon-reload")
        run("systemctl", "start", "containerd")

    def containerd_pid(self):
        """The pid of containerd; 0 while there is none."""
        return int(run("systemctl", "show", "--value", "-p", "MainPID", "containerd").text)

    def restarts(self):
        """How often systemd has restarted containerd."""
        return len((self.base / "starts").read_text().splitlines()) - 1

    def stop_containerd(self):
        """Ends it."""
        run("systemctl", "stop", "containerd")
        _UNIT.unlink()

    def leftovers(self):
        """The same, with scopes of removed containers."""
        keeps = self.ctr("containers", "ls", "-q").text.split()
        scopes = [str(path) for path in host.CGROUPS.glob("kubepods.slice/**/cri-containerd-*.scope")
                  if path.name.removeprefix("cri-containerd-").removesuffix(".scope") not in keeps]
        return [*super().leftovers(), *scopes]
