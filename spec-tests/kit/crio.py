"""CRI-O, as Kubernetes' kubelet drives it: crictl, images of our own, a bridge by CNI.

brig is its handler by the table that docs/install.md has; the rest of its configuration is what any has.
"""

import json
import subprocess
from pathlib import Path

from kit import host, images, isolate
from kit.commands import Failure, end_of, nothing_left, run, wait_until
from kit.cri import NETWORK, PAUSE, CriTools
from kit.installed import piece

_CONFIG = """[crio]
root = "{base}/root"
runroot = "{base}/runroot"
storage_driver = "overlay"
log_dir = "{base}/logs"
version_file = "{base}/version"
version_file_persist = "{base}/version-kept"
clean_shutdown_file = "{base}/clean.shutdown"
[crio.api]
listen = "{base}/crio.sock"
[crio.runtime]
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
pinns_path = "{programs}/pinns"
irqbalance_config_restore_file = "disable"
[crio.image]
pause_image = "{pause}"
pause_command = ""
[crio.network]
network_dir = "{base}/net.d"
plugin_dirs = ["/usr/lib/cni"]
[crio.nri]
enable_nri = false
"""
# Where the document has the runtime, and where its table has the runtime's state.
_PROGRAM, _STATE = Path("/usr/local/sbin/brig"), Path("/run/brig")


class Crio(CriTools):
    """`crio.crictl(...)` runs Kubernetes' client."""

    name = "crio"
    ours = handlers = ("brig",)
    slice = None
    # In a machine of its own all takes longer.
    timeout_factor = 4

    def __init__(self, place, runtime):
        self.place, self.parent = place, isolate.cgroup_parent(place)
        if host.pure_v2():
            isolate.enter_cgroup("suite")
        # The machine's root is an overlay already, on which no overlay can write.
        run("mount", "-t", "tmpfs", "-o", "mode=711", "crio", place)
        self.base = place / "c"
        self.base.mkdir()
        for point in ("/usr/local/sbin", "/var/lib/cni"):
            Path(point).mkdir(parents=True, exist_ok=True)
            run("mount", "-t", "tmpfs", "crio", point)
        run("install", "-m", "755", runtime, _PROGRAM)
        self.tools, self.programs = images.module("cri-tools"), images.module("crio")
        self.configure_tools(f"unix://{self.base}/crio.sock")
        self.configuration()
        self.load_images()
        self.log = open(self.base / "crio.log", "w+")
        self.run_daemon()

    def configuration(self):
        """Writes crio.conf, and the document's piece into the directory that the document names."""
        (self.base / "crio.conf").write_text(_CONFIG.format(base=self.base, programs=self.programs, pause=PAUSE))
        handlers = self.base / "crio.conf.d"
        handlers.mkdir()
        (handlers / "10-brig.conf").write_text(piece("crio"))

    def network(self):
        """The machine's kernel has no table of address translation: so without published ports and masquerade."""
        return {**NETWORK, "plugins": [{**NETWORK["plugins"][0], "ipMasq": False}]}

    def usual(self, linux):
        """Processes of its own for each container, which is what a kubelet asks for."""
        security = linux.get("security_context", {})
        spaces = {"pid": 1, **security.get("namespace_options", {})}
        return {**linux, "security_context": {**security, "namespace_options": spaces}}

    def end_containers(self, *which):
        """Ends the containers that `crictl ps` lists for these words: with its pod, each has half a minute."""
        names = self.crictl("ps", "-q", *which).text.split()
        if names:
            self.crictl("stop", "-t", "0", *names)

    def load(self, name, tar, others=None, **config):
        """Makes images of one layer in CRI-O's storage, by Podman, which has the same; see Containerd.load."""
        for one, says in {name: config, **(others or {})}.items():
            changes = [f"--change={key.upper()} {json.dumps(says[key])}" for key in ("Cmd", "User") if key in says]
            changes += [f"--change=ENV {value}" for value in says.get("Env", ["PATH=/bin:/sbin"])]
            run("podman", "--root", self.base / "root", "--runroot", self.base / "runroot", "--storage-driver", "overlay",
                "--tmpdir", self.base / "tmp", "import", *changes, tar, one, timeout=120)
        tar.unlink()

    def run_daemon(self):
        """Starts the daemon; on what an earlier one left."""
        words = [self.programs / "crio", "--config", self.base / "crio.conf", "--config-dir", self.base / "crio.conf.d",
                 "--log-level", "debug"]
        self.daemon = subprocess.Popen(words, cwd="/", stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        try:
            wait_until(self._answers, "CRI-O to answer", 120)
        except Failure as failure:
            self.daemon.kill()
            self.daemon.wait()
            raise Failure(f"{failure}: {self.log_text()}")

    def _answers(self):
        if self.daemon.poll() is not None:
            raise Failure("CRI-O ended")
        return self.crictl("version", code=None).code == 0

    def stop_daemon(self, signal="TERM"):
        """Stops the daemon alone; its children continue to run."""
        self.daemon.send_signal({"TERM": 15, "KILL": 9}[signal])
        try:
            self.daemon.wait(60)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            raise Failure("CRI-O did not stop: " + self.log_text())

    def monitors(self):
        """The processes of conmon: {pid: its words}."""
        return {pid: words for pid, words in host.processes().items()
                if (host.status_of(pid) or {}).get("Name") == "conmon"}

    def known(self):
        """The containers that brig knows of."""
        return run(_PROGRAM, "--root", _STATE, "list", "-q").text.split()

    def tidy(self):
        """Removes the remains of a scenario, then searches for leaks of the runtime."""
        self.end_containers()
        self.crictl("rmp", "-a", "-f", timeout=120)
        nothing_left(self.leftovers)

    def leftovers(self):
        """Cgroups, monitors, runtime state, mounts and namespaces of removed containers."""
        cgroups = [path for root in host.cgroups_named(self.parent) for path in host.below(root)]
        places = [path for name in ("netns", "ipcns", "utsns", "pidns", "userns") for path in
                  Path("/run").glob(f"{name}/*")]
        mounts = [point for point in isolate.mounts_below(self.base) if point != f"{self.base}/root/overlay"]
        return [str(one) for one in (*cgroups, *self.monitors().values(), *self.known(), *places, *mounts)]

    def log_text(self):
        """The end of what the daemon wrote."""
        return end_of(self.log.name)

    def close(self):
        """Stops the daemon, and removes what it stood on."""
        self.stop_daemon()
        self.log.close()
        isolate.unmount_below(self.base)
        for point in ("/usr/local/sbin", "/var/lib/cni"):
            run("umount", point)
        run("ip", "link", "delete", "cni0", code=None)
        run("umount", "--lazy", self.place)
