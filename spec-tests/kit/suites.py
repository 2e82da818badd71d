"""Which suites there are: what each runs, on which client, and in which bed."""

from dataclasses import dataclass, field

from kit.bundle import Runtime, SystemdRuntime
from kit.docker import Docker, DockerWithoutNetwork, DockerWithUserns
from kit.podman import Podman


@dataclass
class Suite:
    """`bed` is a bed's command under spec-tests/beds; without one the suite runs on this host."""

    client: type
    modules: list
    bed: list = field(default_factory=list)
    needs: set = field(default_factory=set)


_DOCKER = ["lifecycle", "exits", "security", "limits", "network", "terminal", "images", "files", "manage", "options",
           "cpuset"]

SUITES = {
    "docker": Suite(Docker, [f"clients.docker_{part}" for part in _DOCKER], needs={"debian"}),
    "docker-userns": Suite(DockerWithUserns, ["clients.docker_userns"]),
    "docker-v2": Suite(DockerWithoutNetwork, [f"clients.docker_{part}" for part in ("limits", "privileged", "v2")],
                       bed=["uml"], needs={"debian"}),
    "podman": Suite(Podman, ["clients.podman", "clients.podman_network"]),
    "podman-v2": Suite(Podman, ["clients.podman", "clients.podman_v2"], bed=["uml"]),
    "apparmor": Suite(DockerWithoutNetwork, ["clients.docker_apparmor", "clients.docker_cpuset"], bed=["qemu"]),
    "bundles": Suite(Runtime, ["bundles.static", "bundles.debian"], needs={"debian"}),
    "limits": Suite(Runtime, ["limits.v2"], bed=["uml"]),
    "limits-systemd": Suite(SystemdRuntime, ["limits.systemd"], bed=["uml", "--systemd"]),
}
