"""docs/install.md, as it is written."""

import tomllib
from pathlib import Path

from kit import cri as kit
from kit import host, installed
from kit.commands import check, contains, equal, run, wait_until
from kit.containerd import BUSYBOX
from kit.suite import scenario

_SHIM = "containerd-shim-brig-v2"


def _has_a_pod(cri, name, **config):
    pod = cri.pod(name, "brig", **config)
    one = pod.container("one", ["probe", "wait"], **config)
    equal([words[0] for words in cri.shims().values()], [f"{cri.found}/{_SHIM}"], "the shim")
    equal(cri.crictl("exec", "-s", one, "echo", "hello").text, "hello", "exec")
    return pod, one


@scenario("containerd 2.x: a handler, and ctr without any configuration", deadline=120)
def containerd2(suite):
    cri = suite.client(installed.DocumentedCri, Path(_SHIM), piece="containerd-2")
    _has_a_pod(cri, "two")[0].stop_and_remove()
    cgroup = f"/{cri.parent}/one"
    seen = cri("run", "--runtime", "io.containerd.brig.v2", "--rm", "--cgroup", cgroup, BUSYBOX, "one", "echo", "hello")
    equal(seen.out, "hello\n", "ctr run")


@scenario("containerd 1.6: a handler", deadline=120)
def containerd1(suite):
    cri = suite.client(installed.DocumentedCri16, Path(_SHIM), piece="containerd-1")
    _has_a_pod(cri, "one")[0].stop_and_remove()


@scenario("containerd 2.x: a handler with options for pods with user namespaces", deadline=120)
def user_namespaces(suite):
    cri = suite.client(installed.DocumentedCri, Path(_SHIM), piece="containerd-2-userns")
    mapping = [{"container_id": 0, "host_id": 100000, "length": 65536}]
    mode = {"mode": 0, "uids": mapping, "gids": mapping}
    config = {"linux": {"security_context": {"namespace_options": {"userns_options": mode}}}}
    pod, one = _has_a_pod(cri, "userns", **config)
    equal(host.status_of(kit.pid(cri, one))["Uid"].split()[0], "100000", "the user outside")
    pod.stop_and_remove()


@scenario("Docker 20.10: a runtime in daemon.json", deadline=120)
def docker(suite):
    docker = suite.client(installed.DocumentedDocker, Path("/usr/local/sbin/brig"))
    equal(docker("run", "--rm", "--runtime", "brig", "busybox", "echo", "hello").out, "hello\n", "docker run")
    name = docker.start("--runtime", "brig")
    state = next(docker.base.glob(f"exec/runtime-*/moby/{name}")).parent
    equal(run("/usr/local/sbin/brig", "--root", state, "list", "-q").text, name, "what brig knows of")


@scenario("Podman: a runtime in containers.conf, and by its flag")
def podman(suite):
    podman = suite.client(installed.DocumentedPodman, Path("/usr/local/sbin/brig"))
    equal(podman.run(["echo", "hello"]).out, "hello\n", "podman run")
    name = podman.start()
    equal(podman.inspect(name, "OCIRuntime"), "brig", "its runtime")
    equal(run("/usr/local/sbin/brig", "list", "-q").text, name, "what brig knows of")


@scenario("the untested parts can be parsed: Docker 23, and those that the suites crio and kubernetes test")
def read(_):
    equal(installed.as_json("docker-23"), {"runtimes": {"brig": {"runtimeType": "io.containerd.brig.v2"}}}, "Docker 23")
    crio = tomllib.loads(installed.piece("crio"))["crio"]["runtime"]["runtimes"]["brig"]
    equal(crio["runtime_path"], "/usr/local/sbin/brig", "CRI-O's runtime")
    runtime_class, pod = installed.manifest("runtimeclass"), installed.manifest("pod")
    equal(pod["spec"]["runtimeClassName"], runtime_class["metadata"]["name"], "the pod's class")
    for name in ("containerd-2", "containerd-2-systemd", "containerd-2-userns"):
        plugin = tomllib.loads(installed.piece(name))["plugins"]["io.containerd.cri.v1.runtime"]
        check(runtime_class["handler"] in plugin["containerd"]["runtimes"], f"{name} has the handler")
    equal(installed.pieces(), {"containerd-1", "containerd-2", "containerd-2-systemd", "containerd-2-userns", "crio",
                               "daemonset", "docker-20.10", "docker-23", "dockerfile", "pod", "podman", "runtimeclass"},
          "the document's pieces, each of which some suite tries")


@scenario("the DaemonSet installs the shim and a handler, and asks for a restart when that is new", deadline=180)
def daemonset(suite):
    cri = suite.client(installed.DocumentedCri, Path(_SHIM), piece=None)
    spec = installed.manifest("daemonset")["spec"]["template"]["spec"]
    container = spec["containers"][0]
    installed.shim_image(cri, container["image"])
    node = {"/usr/local/bin": cri.base / "node-bin", "/etc/containerd/conf.d": cri.base / "conf.d"}
    (cri.base / "node-bin").mkdir()
    # There is no systemd here that could restart it, so this takes the word for it.
    asked = cri.base / "asked"
    (cri.base / "systemctl").write_text(f"#!/bin/sh\necho $* >>{asked}\n")
    (cri.base / "systemctl").chmod(0o755)
    run("mount", "--bind", cri.base / "systemctl", "/usr/bin/systemctl")
    try:
        paths = {volume["name"]: node[volume["hostPath"]["path"]] for volume in spec["volumes"]}
        mounts = [{"host_path": str(paths[mount["name"]]), "container_path": mount["mountPath"]}
                  for mount in container["volumeMounts"]]
        check(spec["hostPID"] and container["securityContext"]["privileged"], "it may reach the node")
        linux = {"security_context": {"privileged": True, "namespace_options": {"pid": 2, "network": 2}}}
        for attempt in (1, 2):
            pod = cri.pod(f"set{attempt}", "runc", linux=dict(linux))
            one = pod.container("install", container["command"] + container["args"], image=container["image"],
                                mounts=mounts, linux=linux)
            wait_until(lambda one=one: "sleep 3600" in cri.crictl("exec", "-s", one, "ps", "-o", "args").out,
                       f"the installation: {cri.crictl('logs', one, code=None)}", 20)
            pod.stop_and_remove()
            equal(asked.read_text(), "restart containerd\n", f"what was asked of systemd after attempt {attempt}")
    finally:
        run("umount", "/usr/bin/systemctl")
    equal((cri.base / "node-bin" / _SHIM).read_bytes(), Path(f"/usr/local/bin/{_SHIM}").read_bytes(), "the shim")
    handler = cri.base / "conf.d" / "brig.toml"
    equal(tomllib.loads(handler.read_text()), tomllib.loads(installed.piece("containerd-2-systemd")), "the handler")
    # The parts that an administrator leaves out on a node without systemd.
    handler.write_text(handler.read_text().replace("SystemdCgroup = true", "SystemdCgroup = false"))
    cri.found = cri.programs
    (cri.programs / _SHIM).symlink_to(cri.base / "node-bin" / _SHIM)
    cri.restart()
    contains(cri.crictl("info").out, '"brig"', "the handlers that containerd knows")
    _has_a_pod(cri, "later")[0].stop_and_remove()
