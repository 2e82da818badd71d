"""containerd's own sandbox controller, `sandboxer = "shim"`, through ctr."""

import json

from kit import host, images
from kit.commands import check, contains, equal, run, wait_until
from kit.containerd import RUNTIME
from kit.shim import config_of
from kit.suite import scenario


@scenario("ctr sandboxes: run, listed, there after a restart of the daemon, removed with its shim", deadline=120)
def life(containerd):
    root = images.unpack_busybox(containerd.base / "pod-root")
    spec = containerd.base / "pod.json"
    spec.write_text(json.dumps(config_of(root, ["probe", "wait"], f"/{containerd.parent}/pod")))
    containerd("sandboxes", "run", "--runtime", RUNTIME, spec, "pod")
    contains(containerd("sandboxes", "ls").out, "pod", "the list")
    shims = list(containerd.shims())
    equal(len(shims), 1, "shims")
    wait_until(lambda: host.children(shims[0]), "the sandbox's process, a child of the shim")
    containerd.restart("KILL")
    equal(list(containerd.shims()), shims, "the shim after a restart of the daemon")
    containerd("sandboxes", "rm", "--force", "pod")
    wait_until(lambda: not containerd.shims(), "the shim to end")
    check("pod" not in containerd("sandboxes", "ls").out, "it is listed no more")
    run("rm", "-rf", root, spec)
