"""The contenders: OCI runtimes by their command line, and the limit."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
CACHE = TOP / "target" / "benches"
# Where spec-tests/beds/youki puts what it builds.
YOUKI = TOP / "target" / "beds" / "youki" / "bin" / "youki"
# The reference runtimes of today: each program in spec-tests/beds makes its runtime the first time, and prints its path.
REFERENCES = ("crun", "runc")

OURS = "brig"

# Below a place of work: where each contender keeps what it has to remember.
RECORDS = "records"


@contextmanager
def in_memory(place):
    """Puts the records on a tmpfs, as /run is on a host, in the mount namespace of a bed: on a disk, a thousand containers
    would measure how its file system finds a thousand numbers of files that were deleted a moment ago."""
    records = place / RECORDS
    records.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", records], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", records], check=True)


class Runtime:
    """An OCI runtime. Each method returns the arguments of one command."""

    def __init__(self, name, program, place):
        self.name, self.program = name, str(Path(program).absolute())
        self.root = place / RECORDS / f"root-{name}"

    def _verb(self, verb, *words):
        return [self.program, "--root", str(self.root), verb, *map(str, words)]

    def run(self, bundle, ident):
        return self._verb("run", "--bundle", bundle.path, ident)

    def create(self, bundle, ident):
        return self._verb("create", "--bundle", bundle.path, ident)

    def start(self, ident):
        return self._verb("start", ident)

    def state(self, ident):
        return self._verb("state", ident)

    def exec(self, bundle, ident):
        return self._verb("exec", ident, *bundle.short)

    def kill(self, ident):
        return self._verb("kill", ident, "KILL")

    def delete(self, ident):
        return self._verb("delete", ident)

    def delete_by_force(self, ident):
        """Kills and removes it, in whatever state it is."""
        return self._verb("delete", "--force", ident)

    def end(self, ident):
        """The commands that end a running container and remove it."""
        return [self.delete_by_force(ident)]

    def wait_stopped(self, ident):
        """Waits until its program has ended."""
        deadline = time.monotonic() + 20
        while json.loads(subprocess.run(self.state(ident), stdout=subprocess.PIPE, check=True).stdout)["status"] != "stopped":
            if time.monotonic() > deadline:
                sys.exit(f"bench: {self.name}: the container {ident} did not stop within 20 s of its kill")

    def list(self):
        # youki knows no -q.
        return self._verb("list", *([] if self.name == "youki" else ["-q"]))

    def pid(self, ident):
        """The pid of init."""
        return json.loads(subprocess.run(self.state(ident), stdout=subprocess.PIPE, check=True).stdout)["pid"]

    def version(self):
        """The first line of --version."""
        done = subprocess.run([self.program, "--version"], stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.splitlines()[0]


class Limit(Runtime):
    """The system calls alone; see limit.c."""

    def __init__(self, place):
        super().__init__("limit", limit_program(), place)
        self.root.mkdir(parents=True, exist_ok=True)

    def _verb(self, verb, *words):
        return [self.program, verb, *map(str, words)]

    def _state(self, ident):
        return self.root / f"limit-{ident}"

    def run(self, bundle, ident):
        return self._verb("run", self._state(ident), bundle.rootfs, bundle.filter, *bundle.args)

    def create(self, bundle, ident):
        return self._verb("create", self._state(ident), bundle.rootfs, bundle.filter, *bundle.args)

    def start(self, ident):
        return self._verb("start", self._state(ident))

    def state(self, ident):
        return self._verb("state", self._state(ident))

    def exec(self, bundle, ident):
        return self._verb("exec", self._state(ident), bundle.filter, *bundle.short)

    def kill(self, ident):
        return self._verb("kill", self._state(ident), 9)

    def delete(self, ident):
        return self._verb("delete", self._state(ident))

    def delete_by_force(self, ident):
        raise NotImplementedError("the limit's delete waits for the end, and kills nobody")

    def end(self, ident):
        return [self.kill(ident), self.delete(ident)]

    def wait_stopped(self, ident):
        """Nothing: delete waits for the end."""

    def pid(self, ident):
        return int((self._state(ident) / "pid").read_text())

    def version(self):
        return "raw system calls (benches/limit.c)"


def compiled(name):
    """A C program of this directory, compiled statically when its source is newer.

    With musl: glibc's start executes CPUID some seventy times, which in a virtual machine takes longer than all that
    these programs do.
    """
    source, program = TOP / "benches" / f"{name}.c", CACHE / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(["musl-gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-idirafter", "/usr/include", "-idirafter",
                        f"/usr/include/{os.uname().machine}-linux-gnu", "-o", program, source], check=True)
    return program


def limit_program():
    """The limit."""
    return compiled("limit")


def find(names, place):
    """The contenders of these names: `brig` is the one in this checkout, `limit` the system calls, `crun` and `runc` those of
    today; a path is a runtime."""
    found = []
    for name in names:
        if name == "limit":
            found.append(Limit(place))
            continue
        program = reference(name) if name in REFERENCES else {"brig": TOP / "brig", "youki": YOUKI}.get(name, Path(name))
        if not program.exists():
            sys.exit(f"bench: {program} does not exist; `make build` builds brig, and spec-tests/beds/youki youki")
        found.append(Runtime(Path(name).name, program, place))
    return found


def reference(name):
    """The program of a reference runtime of today."""
    done = subprocess.run([TOP / "spec-tests" / "beds" / name], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())
