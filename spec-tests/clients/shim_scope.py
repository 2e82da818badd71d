"""A cgroup that is removed as soon as it is empty, as systemd removes that of a scope. For cgroup v2."""

import os
import signal
import subprocess
from pathlib import Path

from kit import host
from kit.commands import equal, wait_until
from kit.suite import scenario

_WAITS = ["sh", "-c", "until [ -e /go ]; do sleep 0.05; done; exec probe hog 100"]
_SMALL = {"memory": {"limit": 24 << 20, "swap": 24 << 20}}


def _stop(server, one, cgroup):
    """Stops a shim wherever it is."""
    os.kill(server, signal.SIGSTOP)


def _stop_between_reads(server, one, cgroup):
    """Stops a shim after it has read the counter of the parent cgroup, and before the container's own: it reads both when
    an exec exits."""
    words = ["strace", "-f", "-qq", "-o", one.bundle / "strace", "-P", cgroup.parent / "memory.events", "-e",
             "trace=pread64", "-e", "inject=pread64:signal=STOP:when=1", "-p", server]
    with subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL) as tracer:
        try:
            wait_until(lambda: host.status_of(server)["TracerPid"] == str(tracer.pid), "strace to hold the shim")
            one.exec("true", ["true"], start=False)
            one.send("Start", exec_id="true")
            wait_until(lambda: host.status_of(server)["State"].startswith(("T", "t")) and "SIGSTOP" in
                       (one.bundle / "strace").read_text(), "the shim to stop between two reads")
        finally:
            tracer.terminate()
    # The end of the trace wakes it, to stop again.
    wait_until(lambda: host.status_of(server)["State"].startswith("T"), "the shim to be stopped without strace too")


def _ends_unseen(shim, one, end, then=lambda: None, stop=_stop):
    """Kills a container while its shim is stopped, and removes the cgroup before the shim can read it; `then` runs
    before the shim continues."""
    pid = one.run()
    server = shim.shim_of(pid)
    cgroup = host.CGROUPS / Path(f"/proc/{pid}/cgroup").read_text().strip().split("::/")[1]
    stop(server, one, cgroup)
    try:
        end(pid)
        wait_until(lambda: "populated 0" in (cgroup / "cgroup.events").read_text(), "the cgroup to be empty")
        cgroup.rmdir()
        then()
    finally:
        os.kill(server, signal.SIGCONT)
    equal(one.wait(), 137, "the exit status")
    wait_until(lambda: one.daemon.events("one")[-1][1].get(2) == [b"one"], "init's exit to be told")


@scenario("a cgroup that is removed before its counters were read: out of memory is reported all the same, before the exit",
          deadline=60)
def out_of_memory(shim):
    equal(_runs_out_unseen(shim), ["create", "start", "oom", "exit"], "events")


@scenario("a cgroup that is removed before its counters were read, while the shim reads it: out of memory is reported",
          deadline=60)
def out_of_memory_between_reads(shim):
    equal(_runs_out_unseen(shim, stop=_stop_between_reads),
          ["create", "start", "exec-added", "exec-started", "exit", "oom", "exit"], "events")


@scenario("a cgroup that is removed before its counters were read: out of memory is reported too if a client kills it next",
          deadline=60)
def killed_too_late(shim):
    equal(_runs_out_unseen(shim, lambda one: one.send("Kill", signal=9)), ["create", "start", "oom", "exit"], "events")


def _runs_out_unseen(shim, then=lambda one: None, stop=_stop):
    """A container exceeds its memory and exits unseen; `then(container)` runs before the shim continues. Returns its
    events."""
    go = shim.root / "go"
    one = shim.container(args=_WAITS, resources=_SMALL)
    try:
        _ends_unseen(shim, one, lambda _: go.touch(), lambda: then(one), stop)
    finally:
        go.unlink()
    seen = one.daemon.topics("one")
    equal(one.delete(), 137, "the deleted task's exit status")
    one.shutdown()
    return seen


@scenario("a cgroup that is removed before its counters were read: a container that a client killed is not out of memory",
          deadline=60)
def killed(shim):
    one = shim.container()
    _ends_unseen(shim, one, lambda pid: os.kill(pid, signal.SIGKILL))
    equal(one.daemon.topics("one"), ["create", "start", "exit"], "events")
    equal(one.delete(), 137, "the deleted task's exit status")
    one.shutdown()
