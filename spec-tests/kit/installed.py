"""Tests of docs/install.md: each piece of configuration starts the program that it is for."""

import json
import os
import re
import shutil

from kit import host, images, isolate
from kit.commands import Failure, check, run
from kit.containerd import Containerd
from kit.cri import PAUSE, Cri
from kit.docker import Docker
from kit.podman import Podman

DOCUMENT = host.TOP / "docs" / "install.md"
# Where the document has the programs.
DROP = "containerd-shim-runc-v2"
_PLACES = {"/usr/local/sbin": "brig", "/usr/local/bin": "containerd-shim-brig-v2"}


def piece(name):
    """The block of the document that is marked with that name."""
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", DOCUMENT.read_text(), re.S)
    if not found:
        raise Failure(f"{DOCUMENT} has no piece {name}")
    return found[1]


def pieces():
    """The names of all pieces."""
    return set(re.findall(r"^<!-- ([\w.-]+) -->$", DOCUMENT.read_text(), re.M))


class Installed:
    """A host on which the programs are where the document puts them; scenarios start clients in it."""

    name = "install"

    def __init__(self, place, shim):
        self.place, self.parent = place, isolate.cgroup_parent(place)
        self.running = []
        self.count = 0
        for directory, program in _PLACES.items():
            # In the suite's own mount namespace: the host's directory stays as it is.
            run("mount", "-t", "tmpfs", "installed", directory)
            run("install", "-m", "755", shim if program == shim.name else host.TOP / program, f"{directory}/{program}")
        os.environ["PATH"] += ":/usr/local/bin:/usr/local/sbin"

    def client(self, kind, *args, **attributes):
        """Starts a client of that class in a directory of its own; it is closed with the scenario."""
        self.count += 1
        # Podman wants short paths.
        place = self.place / f"c{self.count}"
        place.mkdir(mode=0o711)
        self.running.append(type(kind.__name__, (kind,), attributes)(place, *args))
        return self.running[-1]

    def tidy(self):
        """Closes what a scenario has started."""
        while self.running:
            client = self.running.pop()
            client.tidy()
            client.close()
            for root in host.cgroups_named(isolate.cgroup_parent(client.place)):
                for cgroup in (*host.below(root), root):
                    isolate.remove_cgroup(cgroup)
            shutil.rmtree(client.place)

    def close(self):
        """Takes the programs away."""
        for directory in _PLACES:
            run("umount", directory)


class DocumentedCri(Cri):
    """A containerd whose handler is the document's `piece`; the rest of its configuration is what any has."""

    piece = None
    # Where brig's shim is.
    found = "/usr/local/bin"
    default = "runc"
    generations = ("2",)

    def configuration(self):
        """config.toml: this suite's places, and the piece as a file that is imported, as the document has it."""
        text = self.prepare()
        self._use_go()
        handlers = self.base / "conf.d"
        handlers.mkdir(exist_ok=True)
        if self.piece:
            (handlers / "brig.toml").write_text(piece(self.piece))
        return text.replace("version = 3\n", f'version = 3\nimports = ["{handlers}/*.toml"]\n')

    def _use_go(self):
        """brig's shim is found in /usr/local/bin, and Go's is the one that the daemon came with."""
        for link in self.programs.iterdir():
            link.unlink()
        (self.programs / DROP).symlink_to(images.containerd2() / DROP)

    def load_images(self):
        """No more than a pod needs."""
        self.load_pause()
        Containerd.load_images(self)


class DocumentedCri16(DocumentedCri):
    """Debian's containerd: the older form of the file, in which an import replaces whole tables; so the piece is a part
    of it."""

    generations = ("1.6",)

    def configuration(self):
        """config.toml of version 2."""
        self._use_go()
        head, handler = piece(self.piece).split("\n", 1)
        check(head == "version = 2", "the piece tells its version first")
        restrict = re.search(r"restrict_oom_score_adj = (\w+)", self.prepare())[1]
        return f"""{head}
root = "{self.base}/root"
state = "{self.base}/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{self.base}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = {restrict}
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{self.base}/net.d"
{handler}"""


class DocumentedDocker(Docker):
    """A Docker whose daemon.json is the document's."""

    name = "docker-documented"

    def configuration(self):
        """daemon.json."""
        return piece("docker-20.10")


class DocumentedPodman(Podman):
    """A Podman that takes its runtime from the document's containers.conf."""

    name = "podman-documented"

    def command(self, *args):
        """The words of a command, without --runtime."""
        words = super().command(*args)
        at = words.index("--runtime")
        return words[:at] + words[at + 2:]

    def __call__(self, *args, **options):
        file = self.base / "containers.conf"
        file.write_text(piece("podman"))
        return run(*self.command(*args), env={**os.environ, "CONTAINERS_CONF": str(file)}, **options)


def shim_image(client, name, directory="/usr/local/bin"):
    """Makes the image of the document's Dockerfile: busybox with the shim of that directory in it."""
    check(piece("dockerfile").split() == ["FROM", "busybox", "COPY", "containerd-shim-brig-v2",
                                          "/containerd-shim-brig-v2"], "the Dockerfile is the one that is made here")
    tar = images.busybox_tar(client.base / "shim.tar")
    run("tar", "--append", "--file", tar, "--owner", "0", "--group", "0", "-C", directory, "containerd-shim-brig-v2")
    client.load(name, tar)


def manifest(name):
    """One of the document's YAML pieces."""
    import yaml
    return yaml.safe_load(piece(name))


def as_json(name):
    """One of the document's JSON pieces."""
    return json.loads(piece(name))
