"""Create, start, stop, pause, kill: what a container's life looks like from Docker."""

import os
import signal
import socket
import time
from pathlib import Path

from kit import host
from kit.commands import check, contains, equal, run, wait_until
from kit.suite import scenario


@scenario("16 create, then start: nothing of the container runs before; its parent is the shim")
def create_then_start(docker):
    docker("create", "--name", "cc", "busybox", "probe", "wait")
    equal(docker.pid("cc"), 0, "pid before start")
    docker("start", "cc")
    parent = host.status_of(docker.pid("cc"))["PPid"]
    contains(host.status_of(parent)["Name"], "containerd-shim", "the parent")


@scenario("13 stop: a program that ignores SIGTERM is killed after ten seconds; -t 30 waits; STOPSIGNAL; shell form")
def stop_graces(docker):
    docker.start("--name", "deaf", ["sh", "-c", "trap '' TERM; echo ready; probe wait & wait; wait"])
    docker.start("--name", "slow", ["sh", "-c", "trap 'sleep 11; exit 5' TERM; echo ready; probe wait & wait"])
    for name in ("deaf", "slow"):
        wait_until(lambda one=name: "ready" in docker("logs", one).out, f"{name} to be ready")
    begin = time.monotonic()
    docker.together(("stop", "deaf"), ("stop", "-t", "30", "slow"))
    took = time.monotonic() - begin
    equal(docker.inspect("deaf", "State.ExitCode"), 137, "deaf's exit code")
    equal(docker.inspect("slow", "State.ExitCode"), 5, "slow's exit code: its handler had the time that it takes")
    check(10 <= took < 30, f"ten seconds of grace: took {took:.1f} s")


@scenario("13 stop: a handler that exits 0 gives Exited (0); STOPSIGNAL is honoured; -t 0 kills at once")
def stop_handlers(docker):
    docker.start("--name", "polite", "--stop-timeout", "3600", ["sh", "-c", "trap 'exit 0' TERM; echo ready; probe wait & wait"])
    docker.start("--name", "quit", "--stop-signal", "QUIT", "--stop-timeout", "3600", ["sh", "-c", "trap 'exit 9' QUIT; echo ready; probe wait & wait"])
    docker.start("--name", "now", ["sh", "-c", "trap '' TERM; echo ready; probe wait & wait; wait"])
    for name in ("polite", "quit", "now"):
        wait_until(lambda one=name: "ready" in docker("logs", one).out, f"{name} to be ready")
    # None of the three needs its grace.
    docker("stop", "polite")
    docker("stop", "quit")
    docker("stop", "-t", "0", "now")
    contains(docker("ps", "-a", "--format", "{{.Names}} {{.Status}}").out, "polite Exited (0)", "ps -a")
    equal(docker.inspect("quit", "State.ExitCode"), 9, "exit code of the STOPSIGNAL handler")
    equal(docker.inspect("now", "State.ExitCode"), 137, "exit code after -t 0")


@scenario("13 an image's STOPSIGNAL; the exec form gets it as PID 1, the shell form keeps it from the program")
def process_one(docker):
    context = docker.base / "stop-signal"
    context.mkdir(exist_ok=True)
    (context / "program").write_text("#!/bin/sh\ntrap 'echo stopped; exit 0' INT\necho ready\nwhile :; do sleep 0.1; done\n")
    for form, command in (("exec-form", '["/bin/program"]'), ("shell-form", "/bin/program; true")):
        (context / "Dockerfile").write_text("FROM busybox\nCOPY program /bin/\nRUN chmod 755 /bin/program\n"
                                            f"STOPSIGNAL SIGINT\nCMD {command}\n")
        docker("build", "-q", "-t", form, context)
        docker("run", "-d", "--name", form, form)
        wait_until(lambda one=form: "ready" in docker("logs", one).out, f"{form} to be ready")
    equal(docker("exec", "exec-form", "cat", "/proc/1/comm").text, "program", "PID 1 of the exec form")
    equal(docker("exec", "shell-form", "cat", "/proc/1/comm").text, "sh", "PID 1 of the shell form")
    docker.together(("stop", "exec-form"), ("stop", "-t", "1", "shell-form"))
    equal((docker("logs", "exec-form").out, docker.inspect("exec-form", "State.ExitCode")), ("ready\nstopped\n", 0), "exec form")
    equal((docker("logs", "shell-form").out, docker.inspect("shell-form", "State.ExitCode")), ("ready\n", 137), "shell form")


@scenario("15 pause is the freezer: memory, open files and a TCP connection survive; exec is refused meanwhile")
def pause(docker):
    docker.start("--name", "pp", ["probe", "echo", "9"])
    address = docker.inspect("pp", "NetworkSettings.IPAddress")
    wait_until(lambda: "listening" in docker("logs", "pp").out, "the echo server")
    with socket.create_connection((address, 9), timeout=10) as line:
        line.sendall(b"before\n")
        equal(line.recv(64), b"before\n", "the echo")
        docker("pause", "pp")
        equal(docker.inspect("pp", "State.Status"), "paused", "status")
        state = host.status_of(docker.pid("pp"))["State"]
        check("stopped" not in state, f"frozen, not stopped by a signal: {state}")
        line.settimeout(0.3)
        line.sendall(b"during\n")
        try:
            check(False, f"a paused server answered {line.recv(64)!r}")
        except socket.timeout:
            pass
        contains(docker("exec", "pp", "true", code=None).err, "paused", "exec while paused")
        docker("unpause", "pp")
        line.settimeout(10)
        equal(line.recv(64), b"during\n", "the echo after unpause")
    equal(docker.inspect("pp", "State.Status"), "running", "status")


@scenario("15 pause stops every process at once; memory and an open file go on where they were")
def pause_counts(docker):
    script = "exec 3>/count; i=0; while :; do i=$((i+1)); echo $i >&3; probe exit 0; done"
    docker.start("--name", "pp", ["sh", "-c", script])

    def counted():
        docker("cp", "pp:/count", docker.base / "count")
        return (docker.base / "count").read_text().split()

    wait_until(lambda: len(counted()) > 3, "the counter")
    docker("pause", "pp")
    first = counted()
    equal(counted(), first, "the count of a paused container")
    docker("unpause", "pp")
    later = wait_until(lambda: (lambda lines: lines if len(lines) > len(first) + 3 else None)(counted()), "the count to go on")
    equal(later, [str(number) for number in range(1, len(later) + 1)], "nothing was lost or done twice")


@scenario("15 stop and rm -f of a paused container")
def remove_paused(docker):
    docker.start("--name", "pp", ["probe", "wait"])
    docker("pause", "pp")
    docker("rm", "-f", "pp")
    equal(docker("ps", "-aq").text, "", "containers")


@scenario("kill: SIGKILL by default, another signal by name, and a stopped container is an error")
def kill(docker):
    docker.start("--name", "kk", ["sh", "-c", "trap 'exit 3' USR1; echo ready; probe wait & wait"])
    wait_until(lambda: "ready" in docker("logs", "kk").out, "the handler")
    docker("kill", "-s", "USR1", "kk")
    equal(docker("wait", "kk").text, "3", "exit code of the USR1 handler")
    contains(docker("kill", "kk", code=1).err, "is not running", "kill of a stopped one")
    docker("start", "kk")
    docker("kill", "kk")
    equal(docker("wait", "kk").text, "137", "exit code after kill")


@scenario("restart: the same container runs again, as often as asked")
def restart(docker):
    docker.start("--name", "rr", ["sh", "-c", "echo run >>/log; trap 'exit 0' TERM; probe wait & wait"])
    for runs in range(1, 5):
        wait_until(lambda wanted="run\n" * runs: docker("exec", "rr", "cat", "/log", code=None).out == wanted, f"run {runs}")
        if runs < 4:
            docker("restart", "-t", "2", "rr")


@scenario("a container that exits with its children inside leaves none on the host")
def children_die(docker):
    docker.start("--name", "many", ["sh", "-c", "for i in 1 2 3 4 5; do probe wait & done; echo ready; wait"])
    wait_until(lambda: "ready" in docker("logs", "many").out, "the children")
    first = docker.pid("many")
    children = run("pgrep", "-P", first).out.split()
    equal(len(children), 5, "children")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "the children to be gone")
    equal(docker("wait", "many").text, "137", "exit code")
