"""Podman's own bridge, where the kernel has bridges."""

from clients.docker_network import answers
from kit.commands import equal, wait_until
from kit.suite import scenario


@scenario("1 a published port on podman's own bridge answers on the host; two containers reach each other")
def published(podman):
    podman.start("--name", "web", "--network", "bridge", "-p", "8086:8000", ["probe", "serve", "8000"])
    equal(wait_until(lambda: answers("http://127.0.0.1:8086/"), "the published port"), "probe\n", "the answer")
    address = podman.inspect("web", "NetworkSettings.IPAddress")
    equal(podman.run("--network", "bridge", ["probe", "fetch", f"{address}:8000"]).out, "probe\n", "from another container")
