"""Checkpoint, and Create with one: a container is saved to disk and restored, by CRIU. For a bed whose kernel CRIU supports."""

import errno
import os
import subprocess

from clients.shim_task import refused
from kit import host, ttrpc
from kit.commands import check, contains, equal, wait_until
from kit.shim import CREATED, RUNNING, Reader
from kit.suite import scenario
from kit.ttrpc import any_of

COUNTER = ["sh", "-c", "n=0; while :; do n=$((n + 1)); echo $n; sleep 0.1; done"]
ANY_ERROR = range(1, 17)


def options(**fields):
    """containerd.runc.v1.CheckpointOptions."""
    numbers = {"exit": 1, "open_tcp": 2, "file_locks": 5, "empty_namespaces": 6, "cgroups_mode": 7, "image_path": 8,
               "work_path": 9}
    return any_of("containerd.runc.v1.CheckpointOptions", {numbers[name]: value for name, value in fields.items()})


def numbers(reader):
    """The output of a counter so far, without an incomplete line."""
    return [int(line) for line in reader.text.decode().split("\n")[:-1]]


@scenario("checkpoint with exit, then Create with it: Start brings the container back where it was", deadline=120)
def there_and_back(shim):
    one = shim.container(args=COUNTER)
    images, work = shim.place / "images", shim.place / "criu"
    out = Reader(one.bundle / "out")
    one.run(stdout=out.path)
    out.until(b"5\n")
    one.call("Checkpoint", 60, path=str(images), options=options(exit=1, work_path=str(work)))
    equal(one.wait(), 137, "the exit status of a container that was saved")
    equal(one.delete(), 137, "the deleted task's exit status")
    one.events_until("delete")
    # The call's answer and the end are two threads' affairs.
    topics = one.daemon.topics("one")
    equal(sorted(topics), ["checkpointed", "create", "delete", "exit", "start"], "events")
    check((images / "inventory.img").exists(), "images where they were asked for")
    check((work / "dump.log").exists() and not (images / "dump.log").exists(), "CRIU's log in the work path")
    one.shutdown()

    back = shim.container("back", args=COUNTER).launch()
    seen = Reader(back.bundle / "out")
    equal(back.create(stdout=seen.path, checkpoint=str(images)), 0, "the pid of a task without a process")
    equal(back.status(), CREATED, "status")
    equal(seen.text, b"", "output before Start")
    pid = back.call("Start", 60)[1][0]
    check(pid > 0, f"Start's pid: {pid}")
    equal((back.status(), back.call("State")[3]), (RUNNING, [pid]), "status and pid")
    wait_until(lambda: len(numbers(seen)) > 5, "numbers")
    first = numbers(seen)[0]
    # Of the line that was half written neither half is missing, so the next one is the first whole one.
    check(first in (numbers(out)[-1], numbers(out)[-1] + 1), f"it goes on: {numbers(out)[-1]}, then {first}")
    back.exec("ex", ["echo", "in"])
    equal(back.wait("ex"), 0, "an exec in it")
    refused(lambda: back.call("Start"), ttrpc.FAILED_PRECONDITION)
    back.finish()
    equal(back.daemon.topics("back")[:2], ["create", "start"], "events")
    back.events_until("delete")


@scenario("checkpoint without exit: the container continues, and can be saved again", deadline=120)
def goes_on(shim):
    one = shim.container(args=COUNTER)
    out = Reader(one.bundle / "out")
    pid = one.run(stdout=out.path)
    out.until(b"2\n")
    for number in range(2):
        images = shim.place / f"images{number}"
        one.call("Checkpoint", 60, path=str(images), options=options(file_locks=1, cgroups_mode="soft"))
        check((images / "inventory.img").exists(), "images")
        written = numbers(out)[-1]
        wait_until(lambda: numbers(out)[-1] > written, "more output")
    equal((one.status(), one.call("State")[3]), (RUNNING, [pid]), "status and pid")
    one.finish()


@scenario("options that say nothing sensible are errors, and so is a checkpoint without a path", deadline=60)
def wrong_options(shim):
    one = shim.container()
    one.run()
    path = str(shim.place / "wrong")
    contains(refused(lambda: one.call("Checkpoint", path=path, options=options(cgroups_mode="odd")),
                     ttrpc.INVALID_ARGUMENT), "odd", "the error")
    refused(lambda: one.call("Checkpoint", path=path, options=options(empty_namespaces=["pid"])), ttrpc.UNIMPLEMENTED)
    refused(lambda: one.call("Checkpoint"), ttrpc.INVALID_ARGUMENT)
    equal(one.status(), RUNNING, "status")
    one.finish()


@scenario("images that are none: Create or Start says so, and the task can be deleted", deadline=60)
def no_images(shim):
    one = shim.container().launch()
    refused(lambda: one.create(checkpoint=str(shim.place / "nothing")), ttrpc.INVALID_ARGUMENT)
    empty = shim.place / "empty"
    empty.mkdir()
    equal(one.create(checkpoint=str(empty)), 0, "the pid")
    for _ in range(2):
        refused(lambda: one.call("Start", 30), *ANY_ERROR)
        equal(one.status(), CREATED, "status")
    equal(one.delete(), 0, "the status of a task that never ran")
    one.events_until("delete")
    equal(one.daemon.topics("one"), ["create", "delete"], "events")
    one.shutdown()


@scenario("images with a FIFO or an endless file in them, and a cgroup with other processes: Start fails at once, harms no process, "
          "and brings the container back once they are gone", deadline=240)
def hostile_images(shim):
    one = shim.container(args=COUNTER)
    images = shim.place / "images"
    out = Reader(one.bundle / "out")
    one.run(stdout=out.path)
    out.until(b"3\n")
    one.call("Checkpoint", 60, path=str(images), options=options(exit=1))
    equal(one.wait(), 137, "the exit status of a container that was saved")
    equal(one.delete(), 137, "the deleted task's exit status")
    one.shutdown()

    back = shim.container("back", args=COUNTER, cgroup=f"/{shim.parent}/taken").launch()
    seen = Reader(back.bundle / "out")
    back.create(stdout=seen.path, checkpoint=str(images))
    listed, kept = images / "descriptors.json", images / "kept"
    listed.rename(kept)
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(kept)):
        make(listed)
        contains(refused(lambda: back.call("Start", 30), *ANY_ERROR), "descriptors.json", "the error")
        listed.unlink()
    kept.rename(listed)
    taken = host.CGROUPS / shim.parent / "taken"
    taken.mkdir(parents=True)
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        (taken / "cgroup.procs").write_text(str(stranger.pid))
        refused(lambda: back.call("Start", 60), *ANY_ERROR)
        equal(back.status(), CREATED, "status")
        check(taken.exists() and stranger.poll() is None, "the cgroup and its process are there")
    finally:
        stranger.kill()
        stranger.wait()
    wait_until(lambda: _removed(taken), "the cgroup to be empty")
    back.call("Start", 60)
    wait_until(lambda: len(numbers(seen)) > 2, "numbers")
    check(numbers(seen)[0] in (numbers(out)[-1], numbers(out)[-1] + 1), f"it goes on: {numbers(out)[-1]}, then {numbers(seen)[0]}")
    back.finish()


def _removed(cgroup):
    try:
        cgroup.rmdir()
    except OSError as error:
        return error.errno == errno.ENOENT
    return True


@scenario("there and back where another runtime's command has the container", deadline=120)
def elsewhere(shim):
    images = shim.place / "of-runc"
    for name in ("one", "back"):
        options_of = any_of("containerd.runc.v1.Options", {6: "runc", 7: str(shim.place / "records-of-runc")})
        # On cgroup2 runc leaves the choice of the cgroup to CRIU, which takes the one that it saved (Debian's 1.1.5 does):
        # under another name CRIU restores it there too, and it is not removed.
        one = shim.container(name, args=COUNTER, options=options_of, cgroup=f"/{shim.parent}/saved").launch()
        out = Reader(one.bundle / "out")
        one.create(stdout=out.path, checkpoint=str(images) if name == "back" else "")
        pid = one.call("Start", 60)[1][0]
        wait_until(lambda: len(numbers(out)) > 2, "numbers")
        equal((one.status(), one.call("State")[3]), (RUNNING, [pid]), "status and pid")
        if name == "one":
            one.call("Checkpoint", 60, path=str(images), options=options(exit=1))
            equal(one.wait(), 137, "the exit status of a container that was saved")
            last = numbers(out)[-1]
            equal(one.delete(), 137, "the deleted task's exit status")
            one.shutdown()
        else:
            check(numbers(out)[0] in (last, last + 1), f"it goes on: {last}, then {numbers(out)[0]}")
            one.finish()
