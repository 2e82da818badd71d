"""Daemons that restart, die, are exchanged for another generation, or are two; shims that die under them."""

import os
import signal
import subprocess

from kit import host
from kit.commands import check, contains, equal, run, wait_until
from kit.containerd import Events
from kit.suite import scenario


def comes_back(containerd, ways):
    """Takes live containers through restarts (signal, generation): each is found again and can be used, and what ended
    meanwhile is reported by each daemon that comes."""
    lives = containerd.start("lives", ["sh", "-c", "n=0; while :; do n=$((n + 1)); echo $n; sleep 0.05; done"])
    frozen = containerd.start("frozen")
    containerd("tasks", "pause", frozen)
    pids = {name: containerd.pid(name) for name in (lives, frozen)}
    shims = {name: containerd.shim_of(name) for name in pids}
    for number, (sent, generation) in enumerate(ways):
        ends = containerd.start(f"ends{number}")
        pid = containerd.pid(ends)
        containerd.stop_daemon(sent)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda one=pid: host.has_exited(one), "the end of a container while no daemon is there")
        written = len(containerd.output(lives))
        wait_until(lambda: len(containerd.output(lives)) > written, "output while no daemon is there")
        containerd.run_daemon(generation)
        where = f"after {sent}, below {generation or containerd.generation}"
        containerd.until(ends, "STOPPED")
        equal(containerd.status(lives), "RUNNING", f"status {where}")
        equal(containerd.status(frozen), "PAUSED", f"status {where}")
        for name in pids:
            equal((containerd.pid(name), containerd.shim_of(name)), (pids[name], shims[name]), f"pid and shim {where}")
        equal(containerd.exec(lives, ["sh", "-c", "echo in; exit 3"], code=3).out, "in\n", f"exec {where}")
        containerd.delete_task(ends, 137)
        containerd("containers", "delete", ends)
        wait_until(lambda: len(containerd.shims()) == len(pids), f"the shim of {ends} to end {where}")
    with Events(containerd) as events:
        containerd("tasks", "resume", frozen)
        containerd.kill_and_delete(frozen, 137)
        containerd.kill_and_delete(lives, 137)
        for name in pids:
            events.until(name, "delete")
            equal([topic for topic in events.topics(name) if topic != "resumed"], ["exit", "delete"], "events")


@scenario("a restart and a SIGKILL of the daemon: containers continue to run, exits in between are known")
def restart(containerd):
    comes_back(containerd, [("TERM", None), ("KILL", None)])


@scenario("a client that is attached by FIFOs loses nothing of the output over a restart of the daemon")
def output_over_restart(containerd):
    name = containerd.start("count", ["sh", "-c", "n=0; while [ $n -lt 300 ]; do n=$((n + 1)); echo $n; sleep 0.01; done"])
    containerd.restart("KILL")
    containerd.until(name, "STOPPED")
    containerd.delete_task(name, 0)  # which waits for the rest of the output
    equal(containerd.output(name).split(), [str(number) for number in range(1, 301)], "the output")


@scenario("SIGKILL of the shim: the daemon reports that the container exited, and nothing of it survives")
def shim_killed(containerd):
    with Events(containerd) as events:
        name = containerd.start("sk", ["sh", "-c", "probe wait & exec probe wait"])
        pid = containerd.pid(name)
        containerd.exec(name, "-d", ["probe", "wait"])
        os.kill(containerd.shim_of(name), signal.SIGKILL)
        equal(events.until(name, "exit")["exit_status"], 137, "the exit's status")
        wait_until(lambda: host.has_exited(pid), "the process to end")
        wait_until(lambda: containerd.status(name) is None, "the task to be gone")
        containerd("containers", "delete", name)
        wait_until(lambda: not containerd.leftovers(), f"leftovers to go: {containerd.leftovers()}")
        # The name is free again.
        containerd.run(name, ["true"])


@scenario("SIGKILL of the shim after its container's exit: every event has the container's own status")
def shim_killed_after_exit(containerd):
    with Events(containerd) as events:
        name = containerd.start("ske", ["sh", "-c", "exit 42"])
        containerd.until(name, "STOPPED")
        events.until(name, "exit")
        host.kill(containerd.shims())
        events.until(name, "delete")
        statuses = {content.get("exit_status", 0) for topic, content in events.tasks(name) if topic in ("exit", "delete")}
        equal(statuses, {42}, f"statuses of its events: {events.tasks(name)}")
        wait_until(lambda: containerd.status(name) is None, "the task to be gone")
        containerd("containers", "delete", name)


@scenario("SIGKILL of shim and daemon at once: the next daemon cleans up")
def both_killed(containerd):
    name = containerd.start("bk")
    pid, shim = containerd.pid(name), containerd.shim_of(name)
    containerd.stop_daemon("KILL")
    os.kill(shim, signal.SIGKILL)
    containerd.run_daemon()
    wait_until(lambda: host.has_exited(pid), "the process to end")
    wait_until(lambda: containerd.status(name) is None, "the task to be gone")
    containerd("containers", "delete", name)


@scenario("two containers of one group have one shim, which exits with the last")
def group(containerd):
    for name in ("g1", "g2"):
        containerd.start("--annotation", "io.containerd.runc.v2.group=pod", name)
    equal(containerd.shim_of("g1"), containerd.shim_of("g2"), "the shim")
    equal(len(containerd.shims()), 1, "shims")
    containerd.restart("KILL")
    equal(sorted(containerd.tasks()), ["g1", "g2"], "tasks after a restart")
    containerd.kill_and_delete("g1", 137)
    equal(containerd.status("g2"), "RUNNING", "the other")
    containerd.start("--annotation", "io.containerd.runc.v2.group=pod", "g3")
    equal(len(containerd.shims()), 1, "shims")
    containerd.kill_and_delete("g2", 137)
    containerd.kill_and_delete("g3", 137)
    wait_until(lambda: not containerd.shims(), "the shim to end")


@scenario("two daemons with one namespace and one name: neither touches the other's container")
def two_daemons(containerd):
    name = containerd.start("same")
    pid = containerd.pid(name)
    other = type(containerd)(containerd.place, containerd.shim, "other")
    containerd.others.append(other)
    # Whether it may run is not the question (both want the same cgroup), but what becomes of the first.
    other.start("--cgroup", f"/{containerd.parent}/elsewhere", name, code=None)
    for signal_name in ("KILL", "TERM"):
        other.restart(signal_name)
    other("tasks", "delete", "--force", name, code=None)
    other("containers", "delete", name, code=None)
    check(not host.has_exited(pid), "the first's process lives")
    equal(containerd.status(name), "RUNNING", "the first's status")
    equal(containerd.exec(name, ["echo", "x"]).out, "x\n", "an exec in the first")
    containerd.kill_and_delete(name, 137)


@scenario("the drop-in name, with runc's options: another runtime, another root")
def drop_in(containerd):
    wrapper, record = containerd.base / "wrapped-runc", containerd.base / "calls"
    wrapper.write_text(f'#!/bin/sh\necho "$*" >>{record}\nexec runc "$@"\n')
    wrapper.chmod(0o755)
    containerd.run("--runc-root", f"{containerd.base}/root-of-runc", "dr", ["true"], runtime="io.containerd.runc.v2")
    check((containerd.base / "root-of-runc").is_dir(), "the root that was asked for")
    containerd.run("--runc-binary", wrapper, "db", ["probe", "exit", "5"], runtime="io.containerd.runc.v2", code=5)
    contains(record.read_text(), " create ", "calls of the runtime that was asked for")


@scenario("options of a shim of any other name: a path to a file of TOML")
def config_path(containerd):
    file = containerd.base / "options.toml"
    file.write_text(f'Root = "{containerd.base}/root-of-toml"\n')
    containerd.run("--runtime-config-path", file, "cp", ["true"])
    check((containerd.base / "root-of-toml").is_dir(), "the root that was asked for")
    run("rm", "-rf", containerd.base / "root-of-toml")


@scenario("a logger: binary:// has the output, and one that exits does not affect the container")
def loggers(containerd):
    program, target = containerd.base / "logger", containerd.base / "logged"
    program.write_text("#!/bin/sh\nexec 5>&-\ntrap '' TERM\n[ \"$1\" != die ] || exit 1\ncat <&3 >>\"$1\"\n")
    program.chmod(0o755)
    name = containerd.start("--log-uri", f"binary://{program}?{target}=", "lg", ["sh", "-c", "echo logged; exit 2"])
    containerd.until(name, "STOPPED")
    containerd.delete_task(name, 2)
    wait_until(lambda: target.exists() and target.read_text() == "logged\n", "the output")
    name = containerd.start("--log-uri", f"binary://{program}?die=", "ld", ["sh", "-c", "trap '' PIPE; sleep 0.3; echo x; exit 4"])
    containerd.until(name, "STOPPED")
    containerd.delete_task(name, 4)


@scenario("a client that stops reading stalls its own container alone, and that can be killed")
def never_reads(containerd):
    read_end, write_end = os.pipe()
    words = [str(word) for word in containerd.command(*containerd.run_words("--rm", "nr", ["cat", "/dev/zero"]))]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=write_end, stderr=subprocess.DEVNULL) as client:
        os.close(write_end)
        containerd.until("nr", "RUNNING")
        containerd.run("other", ["true"])
        containerd("tasks", "kill", "-s", "KILL", "nr")
        containerd.until("nr", "STOPPED")
        os.close(read_end)
        client.wait(20)
