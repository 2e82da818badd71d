"""Buildah with storage and state of the suite's own, and the runtime under test for every RUN."""

from kit import host, images, isolate
from kit.commands import nothing_left, run
from kit.podman import HOST_LIMITS, may_raise_limits

BUSYBOX = "localhost/busybox"


class Buildah:
    """`buildah(...)` runs the client; tidy() removes the resources of a scenario and searches for leaks."""

    name = "buildah"

    def __init__(self, place, runtime):
        self.place, self.runtime = place, runtime
        self.parent = isolate.cgroup_parent(place)
        self.base = place / "buildah"
        self.base.mkdir()
        # Its own name for the limits that it would ask for otherwise, which take CAP_SYS_RESOURCE.
        self.limits = () if may_raise_limits() else HOST_LIMITS
        self._policy()
        base = self("from", "scratch").text
        self("add", base, images.busybox_tar(self.base / "busybox.tar"), "/")
        self("config", "--cmd", "sh", base)
        self("commit", base, BUSYBOX, timeout=180)
        self("rm", base)

    def _policy(self):
        """Writes a trust policy, which buildah requires and Debian's package lacks."""
        home = self.place / ".config" / "containers"
        home.mkdir(parents=True, exist_ok=True)
        (home / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def command(self, *args):
        """The words of a command: options of buildah itself, then what it shall do."""
        return ["buildah", "--root", self.base / "data", "--runroot", self.base / "run", "--storage-driver", "vfs", *args]

    def __call__(self, *args, **options):
        return run(*self.command(*args), **options)

    def from_image(self, *flags, image=BUSYBOX):
        """A working container; returns its name."""
        return self("from", "--pull=never", *self._place(), *flags, image).text

    def run(self, container, *args, **options):
        """`buildah run OPTIONS CONTAINER`; a list as last argument is the command."""
        *flags, command = args
        return self("run", "--runtime", self.runtime, "--isolation", "oci", "--network", "host", *flags, container, "--",
                    *command, **options)

    def build(self, text, *flags, name="built", **options):
        """Builds an image of a Dockerfile's text in a directory of its own; returns what was printed."""
        context = self.base / "context"
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text(text)
        return self("bud", "--runtime", self.runtime, "--isolation", "oci", "--network", "host", "--pull-never",
                    *self._place(), *flags, "-t", name, context, timeout=180, **options)

    def _place(self):
        return ["--cgroup-parent", f"/{self.parent}", *self.limits]

    def tidy(self):
        """Removes all working containers and built images, then searches for leaks of the runtime."""
        self("rm", "--all")
        for name in self("images", "--format", "{{.ID}} {{.Name}}").out.splitlines():
            if "busybox" not in name:
                self("rmi", "--force", name.split()[0], code=None)
        nothing_left(self.leftovers)

    def leftovers(self):
        """Cgroups and runtime state of removed containers."""
        cgroups = [path for root in host.cgroups_named(self.parent) for path in host.below(root)]
        return [str(path) for path in cgroups] + run(self.runtime, "list", "-q").out.split()

    def close(self):
        """Removes what buildah itself keeps mounted."""
        isolate.unmount_below(self.base, code=None)
