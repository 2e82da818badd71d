"""Checkpoints by `ctr`: a container is saved to an image and restored from it, by CRIU, with each
generation of the daemon. For a bed whose kernel CRIU knows."""

from contextlib import contextmanager
from pathlib import Path

from kit import images
from kit.commands import check, contains, equal, wait_until
from kit.containerd import DROP_IN, RUNTIME, Containerd, Containerd2
from kit.suite import scenario

# Go's shim by a name of its own, in a daemon that finds brig's under Go's.
PEER = "io.containerd.peer.v2"
# The process has its input in memory alone.
COUNTER = ["sh", "-c", "read token </proc/sys/kernel/random/uuid; echo mark >/mark; n=0; "
                       "while :; do n=$((n + 1)); echo $token $n >/count; sleep 0.1; done"]


class Daemon2(Containerd2):
    """A current containerd where each command takes seconds."""

    timeout_factor = 8


class Daemon16(Containerd):
    """The same with Debian's."""

    timeout_factor = 8


@contextmanager
def daemon(shim, kind):
    """A containerd in the machine of a suite that has none."""
    go = {Daemon16: Path("/usr/bin"), Daemon2: images.containerd2()}[kind]
    containerd = kind(shim.place, shim.program, kind.generations[0])
    (containerd.programs / "containerd-shim-peer-v2").symlink_to(go / "containerd-shim-runc-v2")
    try:
        yield containerd
        containerd.tidy()
    finally:
        containerd.close()


def count(containerd, name):
    """The memory of a counter: its own word and a number. None while it writes."""
    words = (containerd.bundle(name) / "rootfs" / "count").read_text().split()
    return (words[0], int(words[1])) if len(words) == 2 else None


def goes_on(containerd, name, where):
    """Waits until a counter has counted further; returns its word and the number."""
    file = containerd.bundle(name) / "rootfs" / "count"
    wait_until(file.exists, f"{name} to count {where}", 30)
    before = wait_until(lambda: count(containerd, name), f"the count of {name} {where}")
    wait_until(lambda: (count(containerd, name) or before)[1] > before[1], f"{name} to count on {where}: {before}", 30)
    return before


def remove(containerd, name):
    """Kills a container, and deletes its task and record."""
    containerd("tasks", "delete", "--force", name, code=None, timeout=60)
    containerd("containers", "delete", name, timeout=60)


def there_and_back(containerd, runtime):
    """Saves a running container with its files, and brings it back under another name."""
    name = containerd.start("saved", COUNTER, runtime=runtime, timeout=90)
    goes_on(containerd, name, "at first")
    image = f"checkpoints/saved:{runtime}"
    containerd("containers", "checkpoint", "--rw", "--image", "--task", name, image, timeout=120)
    token, number = goes_on(containerd, name, "after it was saved")
    check(number > 1, f"{runtime}: the number: {number}")
    remove(containerd, name)
    containerd("containers", "restore", "--rw", "--live", "back", image, timeout=120)
    again, number = goes_on(containerd, "back", "after it came back")
    equal(again, token, f"{runtime}: what its memory held")
    check(number > 1, f"{runtime}: the number went on: {number}")
    equal((containerd.bundle("back") / "rootfs" / "mark").read_text(), "mark\n", f"{runtime}: its files")
    equal(containerd.status("back"), "RUNNING", f"{runtime}: status")
    remove(containerd, "back")


def of_task(containerd, runtime):
    """Saves a task that continues, then saves it again and stops it."""
    name = containerd.start("task", COUNTER, runtime=runtime, timeout=90)
    goes_on(containerd, name, "at first")
    image = containerd("tasks", "checkpoint", name, timeout=120).text
    contains(image, f"checkpoint/{name}", "the image's name")
    goes_on(containerd, name, "after it was saved")
    contains(containerd("images", "ls", "-q").out, image, "the images")
    saved, work = containerd.base / "saved", containerd.base / "work"
    containerd("tasks", "checkpoint", "--exit", "--image-path", saved, "--work-path", work, name, timeout=120)
    containerd.until(name, "STOPPED", 60)
    check((saved / "inventory.img").exists(), f"images where they were asked for: {saved}")
    check((work / "dump.log").exists(), f"CRIU's log where it was asked for: {work}")
    containerd.delete_task(name, 137)
    containerd("containers", "delete", name)


@scenario("with containerd 2: ctr containers checkpoint, restore --live, as over Go's shim; ctr tasks checkpoint",
          deadline=900)
def below_2(shim):
    with daemon(shim, Daemon2) as containerd:
        there_and_back(containerd, RUNTIME)
        there_and_back(containerd, PEER)
        of_task(containerd, RUNTIME)


@scenario("the same below containerd 1.6", deadline=900)
def below_16(shim):
    with daemon(shim, Daemon16) as containerd:
        there_and_back(containerd, RUNTIME)
        of_task(containerd, DROP_IN)
