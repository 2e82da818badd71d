"""SystemdCgroup = true in a handler's options: systemd scopes in the pod's slice."""

import os
import shlex
import signal
from pathlib import Path

from kit import cri as kit
from kit import host
from kit.commands import check, contains, equal, run, wait_until
from kit.installed import manifest, shim_image
from kit.suite import scenario

# As containerd's own unit has it, the shims go on when it ends. It finds what was installed, and no other shim of brig's.
_UNIT = Path("/etc/systemd/system/containerd.service")
_SERVICE = """[Unit]
DefaultDependencies=no
[Service]
Environment=PATH={binaries}:/usr/sbin:/usr/bin:/sbin:/bin CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1
ExecStart={command}
KillMode=process
Delegate=yes
"""


def _property(unit, name):
    return run("systemctl", "show", "--value", "-p", name, unit).text


@scenario("a container is a scope in the pod's slice, with its limits, and is removed with it")
def scopes(cri):
    for handler in kit.OURS:
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


@scenario("a container that exceeds its memory is OOMKilled, though systemd removes its cgroup as soon as it is empty")
def out_of_memory(cri):
    pod = cri.pod()
    little = {"resources": {"memory_limit_in_bytes": 24 << 20, "memory_swap_limit_in_bytes": 24 << 20}}
    for name in ("one", "two", "three"):
        container = pod.container(name, ["probe", "hog", "100"], linux=little)
        kit.until_oom_killed(cri, container, name, 60)
    # One container that is killed, after all those.
    other = pod.container("other", ["probe", "wait"])
    os.kill(kit.pid(cri, other), signal.SIGKILL)
    equal(kit.until(cri, other, "CONTAINER_EXITED", 60)["reason"], "Error", "a container that was killed")
    pod.stop_and_remove()


@scenario("the document's DaemonSet installs the shim and the handler, and systemd restarts containerd; pods are scopes")
def daemonset(cri):
    spec = manifest("daemonset")["spec"]["template"]["spec"]
    container = spec["containers"][0]
    image, binaries = cri.base / "image", cri.base / "node-bin"
    for directory in (image, binaries):
        directory.mkdir()
    run("install", "-m", "755", cri.shim, image / "containerd-shim-brig-v2")
    shim_image(cri, container["image"], image)
    node = {"/usr/local/bin": binaries, "/etc/containerd/conf.d": cri.drop_ins}
    paths = {volume["name"]: node[volume["hostPath"]["path"]] for volume in spec["volumes"]}
    mounts = [{"host_path": str(paths[mount["name"]]), "container_path": mount["mountPath"]}
              for mount in container["volumeMounts"]]
    linux = {"security_context": {"privileged": True, "namespace_options": {"pid": 2, "network": 2}}}
    cri.stop_daemon()
    (cri.drop_ins / "brig.toml").unlink()
    _UNIT.write_text(_SERVICE.format(command=shlex.join(map(str, cri.daemon_words())), binaries=binaries))
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "containerd")
    try:
        wait_until(lambda: cri.crictl("version", code=None).code == 0, "containerd as a unit", 120)
        first = _property("containerd.service", "InvocationID")
        check('"brig"' not in cri.crictl("info").out, "containerd does not know the handler at first")
        pod = cri.pod("set", "runc", linux=dict(linux))
        pod.container("install", container["command"] + container["args"], image=container["image"], mounts=mounts,
                      linux=linux)
        wait_until(lambda: _property("containerd.service", "InvocationID") not in (first, ""), "the restart", 120)
        wait_until(lambda: '"brig"' in cri.crictl("info", code=None).out, "the handler among containerd's", 120)
        later = cri.pod("later", "brig")
        one = later.container("one", ["probe", "wait"])
        number = kit.pid(cri, one)
        contains(Path(f"/proc/{number}/cgroup").read_text(), f"/{cri.slice}/cri-containerd-{one}.scope", "the cgroup")
        equal(os.readlink(f"/proc/{host.status_of(number)['PPid']}/exe"), str(binaries / "containerd-shim-brig-v2"),
              "the shim")
        later.stop_and_remove()
        pod.stop_and_remove()
    finally:
        run("systemctl", "stop", "containerd")
        _UNIT.unlink()
        run("systemctl", "daemon-reload")
        cri.write_handler()
        cri.run_daemon()
