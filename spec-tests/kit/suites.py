"""The suites: the modules, the client and the bed of each."""

from dataclasses import dataclass, field

from kit.buildah import Buildah
from kit.bundle import Runtime, SystemdRuntime
from kit.containerd import Containerd, Containerd2, Containerd17, ContainerdInBed, ContainerdOverRunc
from kit.cri import Cri
from kit.cri_systemd import CriUnderSystemd
from kit.crio import Crio
from kit.docker import Docker, DockerWithoutNetwork, DockerWithShim, DockerWithUserns
from kit.installed import Installed
from kit.kubernetes import Kubernetes
from kit.kubernetes_systemd import KubernetesUnderSystemd
from kit.nerdctl import Nerdctl
from kit.podman import Podman, RootlessPodman
from kit.shim import Shim, ShimUnderSystemd, ShimInBed


@dataclass
class Suite:
    """`bed` is a bed's command under spec-tests/beds; without one the suite runs on this host. `subject` is what it
    tests: the program of that name at the top of the checkout."""

    client: type
    modules: list
    bed: list = field(default_factory=list)
    needs: set = field(default_factory=set)
    subject: str = "brig"


_DOCKER = ["lifecycle", "exits", "security", "limits", "network", "terminal", "images", "files", "manage", "options",
           "cpuset"]
_SHIM = "containerd-shim-brig-v2"
_CONTAINERD = ["run", "exec", "events", "daemon"]

SUITES = {
    "containerd-1.6": Suite(Containerd, [f"clients.containerd_{part}" for part in _CONTAINERD], subject=_SHIM),
    "containerd-1.7": Suite(
        Containerd17, [f"clients.containerd_{part}" for part in (*_CONTAINERD, "neighbours")],
        needs={"containerd17", "containerd2"}, subject=_SHIM),
    "containerd-uml": Suite(ContainerdInBed, ["clients.containerd_run", "clients.containerd_events"], bed=["uml"],
                            subject=_SHIM),
    "shim-uml": Suite(ShimInBed, ["clients.shim_task", "clients.shim_scope"], bed=["uml"], subject=_SHIM),
    "shim-systemd": Suite(ShimUnderSystemd, ["clients.shim_systemd"], bed=["uml", "--systemd"], subject=_SHIM),
    "shim-systemd-v1": Suite(ShimUnderSystemd, ["clients.shim_systemd"], bed=["uml", "--systemd", "--cgroups=v1"], subject=_SHIM),
    "shim-systemd-hybrid": Suite(ShimUnderSystemd, ["clients.shim_systemd"], bed=["uml", "--systemd", "--cgroups=hybrid"],
                                 subject=_SHIM),
    "shim-qemu": Suite(ShimInBed, ["clients.shim_checkpoint"], bed=["qemu"], subject=_SHIM),
    "containerd-qemu": Suite(ShimInBed, ["clients.containerd_checkpoint"], bed=["qemu"], needs={"containerd2"},
                             subject=_SHIM),
    "docker-shim": Suite(DockerWithShim, [f"clients.docker_{part}" for part in (*_DOCKER, "compose", "build", "swarm")],
                         needs={"debian"}, subject=_SHIM),
    "shim": Suite(Shim, [f"clients.shim_{part}" for part in ("start", "task", "output", "faults", "blocking", "hostile", "sandbox")],
                  subject=_SHIM),
    "containerd-2": Suite(
        Containerd2, [f"clients.containerd_{part}" for part in (*_CONTAINERD, "generations", "sandbox", "trace")],
        needs={"containerd2"}, subject=_SHIM),
    "cri": Suite(Cri, ["clients.cri_any", "clients.cri_pods", "clients.cri_critest"], needs={"containerd2", "cri-tools"}, subject=_SHIM),
    "cri-systemd": Suite(CriUnderSystemd, ["clients.cri_any", "clients.cri_pods", "clients.cri_critest", "clients.cri_systemd"],
                         bed=["uml", "--mem=3G", "--systemd"], needs={"containerd2", "cri-tools"}, subject=_SHIM),
    "crio": Suite(Crio, ["clients.cri_any", "clients.crio_pods"], bed=["uml", "--mem=2G"],
                  needs={"cri-tools", "crio"}),
    "install": Suite(Installed, ["clients.install_document"], needs={"containerd2", "cri-tools"}, subject=_SHIM),
    "kubernetes": Suite(Kubernetes, ["clients.kubernetes_pods", "clients.kubernetes_users"],
                        needs={"containerd2", "kubernetes"}, subject=_SHIM),
    "kubernetes-systemd": Suite(KubernetesUnderSystemd, ["clients.kubernetes_pods"], bed=["uml", "--mem=4G", "--systemd"],
                                needs={"containerd2", "kubernetes"}, subject=_SHIM),
    "nerdctl": Suite(Nerdctl, ["clients.nerdctl_run"], needs={"buildkit", "containerd2", "nerdctl"}, subject=_SHIM),
    "docker": Suite(Docker, [f"clients.docker_{part}" for part in _DOCKER], needs={"debian"}),
    "docker-userns": Suite(DockerWithUserns, ["clients.docker_userns"]),
    "docker-v2": Suite(DockerWithoutNetwork, [f"clients.docker_{part}" for part in ("limits", "privileged", "v2")],
                       bed=["uml"], needs={"debian"}),
    "podman": Suite(Podman, ["clients.podman", "clients.podman_network"]),
    "podman-v2": Suite(Podman, ["clients.podman", "clients.podman_v2"], bed=["uml"]),
    "podman-rootless": Suite(RootlessPodman, ["clients.podman_rootless"], bed=["uml"]),
    "apparmor": Suite(DockerWithoutNetwork, ["clients.docker_apparmor", "clients.docker_cpuset"], bed=["qemu"]),
    "buildah": Suite(Buildah, ["clients.buildah"]),
    "ctr": Suite(ContainerdOverRunc, ["clients.ctr"]),
    "bundles": Suite(Runtime, ["bundles.static", "bundles.debian"], needs={"debian"}),
    "limits": Suite(Runtime, ["limits.v2"], bed=["uml"]),
    "limits-systemd": Suite(SystemdRuntime, ["limits.systemd"], bed=["uml", "--systemd"]),
    "limits-systemd-v1": Suite(SystemdRuntime, ["limits.systemd"], bed=["uml", "--systemd", "--cgroups=v1"]),
    "limits-systemd-hybrid": Suite(SystemdRuntime, ["limits.systemd"], bed=["uml", "--systemd", "--cgroups=hybrid"]),
}
