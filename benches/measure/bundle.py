"""The bundle that every contender gets: the default spec with Docker's default seccomp profile."""

import json
import shutil
import subprocess

from measure.contenders import TOP, limit_program

PROFILE = TOP / "spec-tests" / "data" / "docker-default-seccomp.json"


class Bundle:
    """`change(config)` may edit config.json before it is written. `filter` is a file of BPF, for the limit."""

    def __init__(self, path, args, change=None, seccomp=True):
        self.path, self.rootfs, self.args, self.filter = path, path / "rootfs", args, "none"
        self.short = ["/bin/true"]
        binaries = self.rootfs / "bin"
        binaries.mkdir(parents=True)
        for name in ("proc", "sys", "dev", "data"):
            (self.rootfs / name).mkdir()
        shutil.copy(shutil.which("busybox"), binaries / "busybox")
        for name in ("true", "sleep", "sh"):
            (binaries / name).symlink_to("busybox")
        subprocess.run(["runc", "spec"], cwd=path, check=True)
        config = json.loads((path / "config.json").read_text())
        config["root"]["readonly"] = False
        config["process"].update(terminal=False, args=args)
        config["process"].pop("rlimits", None)
        # crun 1.8 wants to raise RLIMIT_MEMLOCK for device rules, which not every host lets it.
        config["linux"]["resources"] = {}
        if seccomp:
            config["linux"]["seccomp"] = json.loads(PROFILE.read_text())
        if change:
            change(config)
        (path / "config.json").write_text(json.dumps(config))


def dump_filter(contender, bundle, path):
    """Writes the seccomp program that a container of this contender runs under to `path`."""
    ident = "bench-filter"
    subprocess.run(contender.create(bundle, ident), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    subprocess.run(contender.start(ident), check=True)
    pid = contender.pid(ident)
    # The program is installed last, just before the exec that start lets through.
    name = open(f"/proc/{pid}/comm")
    while name.read().strip() != "sleep":
        name.seek(0)
    with open(path, "wb") as out:
        subprocess.run([limit_program(), "filter", str(pid)], stdout=out, check=True)
    subprocess.run(contender.kill(ident), check=True)
    subprocess.run(contender.delete_by_force(ident), check=True)
    return path
