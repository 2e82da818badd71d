"""The runtime's own command line, with state and bundles of the suite's own."""

import json
import subprocess

from kit import host, isolate
from kit.commands import nothing_left, run


class Runtime:
    """`runtime(...)` runs the command under test; tidy() deletes the resources of a scenario and searches for leaks."""

    name = "runtime"
    flags = ()

    def __init__(self, place, runtime):
        self.place, self.runtime = place, runtime
        self.parent = isolate.cgroup_parent(place)
        self.root = place / "state"
        self.ids = []

    def __call__(self, *args, **options):
        return run(self.runtime, "--root", self.root, *self.flags, *args, **options)

    def cgroups_path(self, name):
        """The linux.cgroupsPath for a container of that name."""
        return f"/{self.parent}/{name}"

    def bundle(self, name, root, args, **more):
        """Makes a bundle of a root directory; `more` is merged into config.json, dictionaries key by key."""
        bundle = self.place / "bundles" / name
        bundle.mkdir(parents=True)
        run(self.runtime, "spec", cwd=bundle)
        config = json.loads((bundle / "config.json").read_text())
        config["root"] = {"path": str(root), "readonly": False}
        config["process"].update(terminal=False, args=args)
        config["linux"]["cgroupsPath"] = self.cgroups_path(name)
        _merge(config, more)
        (bundle / "config.json").write_text(json.dumps(config))
        self.ids.append(name)
        return bundle

    def start(self, name, root, args, **more):
        """Runs a container in the background and returns its id."""
        self("run", "-d", "-b", self.bundle(name, root, args, **more), name, detached=True)
        return name

    def background(self, *args, output):
        """Runs a verb in the background, with its output in a file."""
        with open(output, "w") as out:
            return subprocess.Popen([str(word) for word in (self.runtime, "--root", self.root, *self.flags, *args)],
                                    stdin=subprocess.DEVNULL, stdout=out)

    def state(self, name):
        """The output of `state`."""
        return json.loads(self("state", name).out)

    def tidy(self):
        """Deletes the scenario's containers, then searches for leaks."""
        for name in self.ids:
            self("delete", "-f", name)
        self.ids.clear()
        run("rm", "-rf", self.place / "bundles")
        nothing_left(self.leftovers)

    def leftovers(self):
        """Cgroups and state of removed containers."""
        cgroups = [path for root in host.cgroups_named(self.parent) for path in host.below(root)]
        records = [path for path in self.root.iterdir() if path.is_dir()] if self.root.exists() else []
        return [str(path) for path in cgroups + records]

    def close(self):
        """Unmounts the roots that scenarios prepared."""
        isolate.unmount_below(self.place)


class SystemdRuntime(Runtime):
    """The same with the systemd cgroup driver."""

    flags = ("--systemd-cgroup",)

    def cgroups_path(self, name):
        """Slice, prefix and name of the unit."""
        return f"system.slice:brigtest:{name}"


def _merge(base, more):
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value
