"""What SystemdCgroup = true in a handler's options brings about: scopes of systemd's, below the pod's slice."""

from pathlib import Path

from kit import cri as kit
from kit.commands import contains, equal, run
from kit.suite import scenario


def _property(unit, name):
    return run("systemctl", "show", "--value", "-p", name, unit).text


@scenario("a container is a scope below the pod's slice, with its limits, and goes with it")
def scopes(cri):
    for handler in ("brig", "brig-sandbox", "drop-in"):
        pod = cri.pod(handler, handler)
        one = pod.container("one", ["probe", "wait"], linux={"resources": {"memory_limit_in_bytes": 64 << 20}})
        unit = f"cri-containerd-{one}.scope"
        path = Path(f"/proc/{kit.pid(cri, one)}/cgroup").read_text()
        contains(path, f"/{cri.slice}/{unit}", f"{handler}: the cgroup")
        equal(_property(unit, "ActiveState"), "active", f"{handler}: the unit")
        equal(_property(unit, "MemoryMax"), str(64 << 20), f"{handler}: its limit")
        cri.crictl("update", "--memory", str(96 << 20), one)
        equal(_property(unit, "MemoryMax"), str(96 << 20), f"{handler}: its limit after an update")
        # A reload makes systemd write its own values again.
        run("systemctl", "daemon-reload")
        equal(Path(f"/sys/fs/cgroup/{cri.slice}/{unit}/memory.max").read_text(), f"{96 << 20}\n",
              f"{handler}: the kernel's value")
        pod.stop_and_remove()
        equal(_property(unit, "ActiveState"), "inactive", f"{handler}: the unit, later")
