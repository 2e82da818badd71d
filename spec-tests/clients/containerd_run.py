"""Containers by `ctr`: run, stop, pause, inspect; exit statuses and outputs."""

import json
import os
import subprocess
import time
from pathlib import Path

from kit import host
from kit.commands import Failure, check, contains, equal, wait_until
from kit.suite import scenario
from kit.terminal import Terminal


@scenario("run --rm: outputs, standard input, exit statuses of programs and signals")
def run_to_the_end(containerd):
    seen = containerd.run("one", ["sh", "-c", "echo out; echo err >&2"])
    equal((seen.out, seen.err), ("out\n", "err\n"), "outputs")
    equal(containerd.run("two", ["sh", "-c", "read one; read two; echo got $one $two"], input="a\nb\nc\n").out,
          "got a b\n", "standard input")
    for number in (1, 7):
        containerd.run(f"exit{number}", ["probe", "exit", str(number)], code=number)
    for signal, number in (("KILL", 137), ("SEGV", 139), ("TERM", 143)):
        containerd.run(f"by-{signal}", ["sh", "-c", f"sh -c 'kill -{signal} $$'; exit $?"], code=number)


@scenario("a container that is killed by a signal reports 128 plus its number")
def killed(containerd):
    for signal, number in (("KILL", 137), ("SEGV", 139), ("TERM", 143)):
        name = containerd.start(f"k{signal}", ["sh", "-c", f"trap 'exit {number}' TERM; trap 'exit {number}' SEGV; "
                                                           "echo up; while :; do sleep 0.01; done"])
        wait_until(lambda one=name: "up" in containerd.output(one), "the traps")
        containerd.kill_and_delete(name, number, signal)


@scenario("a program that is not there: an error that names it, no exit status, nothing left")
def not_found(containerd):
    seen = containerd.run("none", ["/no/such"], code=None)
    check(seen.code not in (0, None), "an exit status that says failure")
    contains(seen.err, "/no/such", "the error")
    contains(seen.err.lower(), "no such file", "the error's cause")


@scenario("run -d, tasks ls, ps, metrics, state; then kill and delete")
def in_the_background(containerd):
    name = containerd.start("bg", ["sh", "-c", "echo hello; exec probe wait"])
    pid = containerd.pid(name)
    equal(containerd.status(name), "RUNNING", "status")
    wait_until(lambda: containerd.output(name) == "hello\n", "the output in the file")
    wait_until(lambda: host.status_of(pid)["Name"] == "probe", "the shell to become its program")
    contains(containerd("tasks", "ps", name).out, str(pid), "tasks ps")
    figures = json.loads(containerd("tasks", "metrics", "--format", "json", name).out)
    check(figures, "metrics")
    contains(json.dumps(figures).lower(), "pids", "metrics")
    check(containerd("tasks", "delete", name, code=None).code != 0, "a running task is not deleted")
    equal(containerd.status(name), "RUNNING", "status after a delete that is refused")
    containerd.kill_and_delete(name, 137)
    check(not os.path.exists(f"/proc/{pid}"), "the process is gone")


@scenario("ps lists the processes of cgroups that the container made below its own")
def nested_processes(containerd):
    name = containerd.start("--privileged", "nest", ["sh", "-c", NESTED])
    wait_until(lambda: "up" in containerd.output(name), f"the nested cgroup; {containerd.output(name)}")
    # The header, sh and the child.
    equal(len(containerd("tasks", "ps", name).out.splitlines()), 3, "lines of tasks ps")


NESTED = """
for place in /sys/fs/cgroup /sys/fs/cgroup/*; do
  mount -o remount,rw $place 2>/dev/null
  [ -e $place/cgroup.procs ] && mkdir -p $place/below
done
probe wait &
for place in /sys/fs/cgroup /sys/fs/cgroup/*; do [ ! -e $place/below/cgroup.procs ] || echo $! >$place/below/cgroup.procs; done
echo up
wait
"""


def _settled(containerd, name):
    """A container's output when there is none more after a call to the daemon and back; None otherwise."""
    first = containerd.output(name)
    containerd("tasks", "ls")
    return first if containerd.output(name) == first else None


@scenario("pause and resume: frozen by the cgroup; a second pause and an exec meanwhile are refused")
def pause(containerd):
    name = containerd.start("pp", ["sh", "-c", "while :; do echo tick; sleep 0.02; done"])
    wait_until(lambda: "tick" in containerd.output(name), "ticks")
    containerd("tasks", "pause", name)
    equal(containerd.status(name), "PAUSED", "status")
    # The shim may have the last ticks still to write.
    before = wait_until(lambda: _settled(containerd, name), "the output to stand still")
    refused = containerd.exec(name, ["true"], code=None)
    check(refused.code not in (0, None), "exec in a paused container is refused")
    equal(containerd.output(name), before, "output while paused")
    containerd("tasks", "resume", name)
    equal(containerd.status(name), "RUNNING", "status")
    wait_until(lambda: len(containerd.output(name)) > len(before), "more ticks")


@scenario("a paused container that is killed exits, and is reported")
def killed_while_paused(containerd):
    name = containerd.start("pk")
    containerd("tasks", "pause", name)
    containerd("tasks", "kill", "-s", "KILL", name)
    containerd.until(name, "STOPPED")
    containerd.delete_task(name, 137)


@scenario("run -t: a terminal that is resized, a shell that ends with exit")
def terminal(containerd):
    words = containerd.command(*containerd.run_words("--rm", "-t", "tt", ["sh"]))
    with Terminal(*words, rows=24, columns=80) as term:
        term.expect("#")
        term.send("tty\n")
        term.expect("/dev/pts/0")
        # The client sets it a moment after the start.
        wait_until(lambda: term.size_is(24, 80), "the program's terminal to be 24 80")
        term.resized(40, 100)
        term.send("exit 9\n")
        equal(term.wait(), 9, "exit status")


@scenario("attach: output and input of a container that another client started")
def attach(containerd):
    words = [str(word) for word in containerd.command(*containerd.run_words("--rm", "at", ["cat"]))]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        containerd.until("at", "RUNNING")
        first.stdin.write(b"one\n")
        first.stdin.flush()
        equal(first.stdout.readline(), b"one\n", "the first client")
        first.kill()
        first.wait()
    words = [str(word) for word in containerd.command("tasks", "attach", "at")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as second:
        second.stdin.write(b"two\n")
        second.stdin.flush()
        equal(second.stdout.readline(), b"two\n", "the second client")
        containerd("tasks", "kill", "-s", "KILL", "at")
        equal(second.wait(20), 137, "attach ends with the container's status")


@scenario("a memory limit is kept: exit 137")
def memory_limit(containerd):
    containerd.run("--memory-limit", str(24 << 20), "mm", ["probe", "hog", "100"], code=137)
    name = containerd.start("--memory-limit", str(24 << 20), "ml")
    pid = containerd.pid(name)
    lines = Path(f"/proc/{pid}/cgroup").read_text()
    contains(lines, f"/{containerd.namespace}/{name}", "its cgroup")


@scenario("a large output arrives whole, on both streams")
def large_output(containerd):
    size = 32 << 20
    seen = containerd.run("big", ["sh", "-c", f"probe burst {size} & probe burst {size} >&2; wait"])
    equal((len(seen.out), len(seen.err)), (size, size), "bytes")


@scenario("a client whose own reader is slow: output that it has not read when the program exits is not lost")
def slow_reader(containerd):
    # As much as the pipes between the two hold.
    size = 150_000
    for number in range(10):
        name = f"slow{number}"
        words = containerd.run_words("--rm", name, ["sh", "-c", f"read go; probe burst {size}"])
        words = [str(word) for word in containerd.command(*words)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
            containerd.until(name, "RUNNING")
            pid = containerd.pid(name)
            begin = time.monotonic()
            client.stdin.write(b"go\n")
            client.stdin.flush()
            wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "its end", 20)
            # The end waits for two seconds at the most.
            seen = len(client.stdout.read()) if time.monotonic() - begin < 1 else None
            client.stdin.close()
            equal((client.wait(60), seen or size), (0, size), "status and bytes")
        if seen:
            return
    raise Failure("none of ten programs ended within a second: this machine is too busy to tell")


@scenario("the shim waits for output of a program's orphans after its exit, with a deadline")
def orphans(containerd):
    # A process that leaves the container's init is killed with the pid namespace, so this one is in the host's.
    equal(containerd.run("orph", ["sh", "-c", "(sleep 0.3; echo late) & echo early"]).out, "early\n", "output")


@scenario("twelve containers at once")
def many(containerd):
    words = [[str(word) for word in containerd.command(*containerd.run_words("--rm", f"m{n}", ["echo", f"{n}"]))]
             for n in range(12)]
    clients = [subprocess.Popen(one, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
               for one in words]
    for number, client in enumerate(clients):
        out, _ = client.communicate(timeout=60)
        equal((client.returncode, out.decode()), (0, f"{number}\n"), f"container {number}")


@scenario("run without pivot_root: options that a client makes for runtimes of other names are understood")
def no_pivot(containerd):
    equal(containerd.run("--no-pivot", "np", ["echo", "words"]).text, "words", "the output")
