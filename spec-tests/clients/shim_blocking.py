"""Calls that block, and calls that have to be answered meanwhile: hooks, execs, log files and slow clients."""

import json
import os
import socket
import statistics
import struct
import time

from clients.shim_task import refused
from kit import host, ttrpc
from kit.commands import Failure, check, contains, equal, wait_until
from kit.shim import CREATED, GROUP, RUNNING, gate, process_of
from kit.suite import scenario
from kit.ttrpc import any_of

# Maximum duration of a short call, in seconds.
_SHORT = 0.1
# Starts of execs of one container at the same time (SHIM, calls.rs).
_EXECS = 16


def _neighbour(shim, daemon):
    """A container whose short calls are measured, with an exec."""
    [one] = shim.pod("aa", daemon=daemon)
    one.run()
    one.exec("ex", ["probe", "wait"])
    return one


def _member(shim, neighbour, name, **config):
    """A further container of the same shim, with a connection of its own."""
    one = shim.container(name, daemon=neighbour.daemon, annotations={GROUP: neighbour.name}, **config)
    return one.join(neighbour)


def measure(one, when):
    """Fails unless State, Pids, Stats and Kill of a container take as long as short calls do."""
    for method, fields in (("State", {}), ("Pids", {}), ("Stats", {}), ("Kill", {"signal": 18}),
                           ("Kill", {"exec_id": "ex", "signal": 18})):
        took = []
        for _ in range(9):
            begin = time.monotonic()
            one.call(method, 20, **fields)
            took.append(time.monotonic() - begin)
        check(statistics.median(took) <= _SHORT, f"{when}: {method} took {statistics.median(took):.3f} s")


def _register(one, name, args, **streams):
    """Exec without Start."""
    one.exec(name, args, start=False, **streams)


def _unanswered(calls):
    return [call for call in calls if not call.is_answered()]


@scenario("64 creates whose hook blocks: short calls of another container take 100 ms, and a further create does not wait", deadline=240)
def blocked_creates(shim):
    daemon = shim.daemon()
    first = _neighbour(shim, daemon)
    with gate(daemon.base / "gate") as go_on:
        blocked, calls = [], []
        for number in range(64):
            one = _member(shim, first, f"b{number}")
            path = one.bundle / "config.json"
            config = json.loads(path.read_text())
            hook = f"echo >{one.bundle}/began; read -r _ <{daemon.base}/gate"
            config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", hook]}]}
            path.write_text(json.dumps(config))
            blocked.append(one)
            calls.append(one.send("Create", 200, bundle=str(one.bundle)))
        wait_until(lambda: all((one.bundle / "began").exists() for one in blocked), "all hooks to run", 120)
        measure(first, "64 creates")
        equal(len(_unanswered(calls)), 64, "creates that are blocked")
        further = _member(shim, first, "further")
        further.create()
        equal(further.status(), CREATED, "a further container's status")
        first.exec("quick", ["true"])
        equal(first.wait("quick"), 0, "an exec's status")
        go_on(64)
        for call in calls:
            call(200)
    for one in (*blocked, further, first):
        one.end()


@scenario("64 execs that the container stops: short calls of it and of another container take 100 ms, and each exec exits", deadline=240)
def stopped_execs(shim):
    daemon = shim.daemon()
    daemon.environment["BRIG_EXEC_TIMEOUT"] = "3"
    first = _neighbour(shim, daemon)
    hostile = _member(shim, first, "hostile", args=["sh", "-c", "while :; do kill -STOP -1; usleep 200; done"])
    pid = hostile.create()
    hostile.call("Start")
    for number in range(64):
        _register(hostile, f"x{number}", ["true"])
    calls = [hostile.send("Start", 120, exec_id=f"x{number}") for number in range(64)]
    wait_until(lambda: len(_unanswered(calls)) < 48, "some to be answered", 60)
    check(len(_unanswered(calls)) > 8, "most are still waiting")
    measure(first, "64 execs")
    # Its own calls are no slower.
    for method in ("State", "Pids"):
        begin = time.monotonic()
        hostile.call(method, 20)
        check(time.monotonic() - begin < 10 * _SHORT, f"{method} of the container itself")
    stopped = 0
    for call in calls:
        try:
            call(120)
        except ttrpc.Status as status:
            contains(status.text, "made no progress for 3 s", "why")
            equal(status.code, ttrpc.DEADLINE_EXCEEDED, "the code")
            stopped += 1
    check(stopped > 0, "the container was too slow to stop one")
    hostile.end()
    check(host.has_exited(pid), "the process is gone")
    first.end()


@scenario("log files that cannot be opened, or not be written to, block their own process alone", deadline=120)
def hung_files(shim):
    daemon = shim.daemon()
    first = _neighbour(shim, daemon)
    # A FIFO stands for a file of a file system that does not answer: without a reader its open blocks, and with one
    # that does not read a write does.
    never, full = daemon.base / "never", daemon.base / "full"
    os.mkfifo(never)
    os.mkfifo(full)
    reader = os.open(full, os.O_RDONLY | os.O_NONBLOCK)
    one = _member(shim, first, "one", args=["sh", "-c", "while :; do echo words; done"])
    one.create(stdout=f"file://{full}")
    one.call("Start")
    calls = []
    for number in range(_EXECS + 4):
        _register(one, f"x{number}", ["true"], stdout=f"file://{never}")
        calls.append(one.send("Start", 100, exec_id=f"x{number}"))
    measure(first, "files that hang")
    equal(one.status(), RUNNING, "status")
    equal(len(_unanswered(calls)), len(calls), "execs that wait for their file")
    one.call("Pause")
    one.call("Resume")
    one.kill()
    equal(one.wait(timeout=10), 137, "status")
    # Of the output that is not copied it may wait ten seconds, as for any.
    equal(one.delete(timeout=15), 137, "status")
    measure(first, "files that hang")
    os.close(reader)
    reader = os.open(never, os.O_RDONLY | os.O_NONBLOCK)
    for call in calls:
        try:
            call(60)
            raise Failure("an exec was started in a container that has ended")
        except ttrpc.Status as status:
            check(status.code in (ttrpc.FAILED_PRECONDITION, ttrpc.NOT_FOUND), f"{status}")
    os.close(reader)
    first.end()


@scenario("a queued call does not start once its client has disconnected or its deadline has passed", deadline=60)
def callers_gone(shim):
    one = shim.container()
    one.run()
    never = one.bundle / "never"
    os.mkfifo(never)
    holding = []
    for number in range(_EXECS):
        _register(one, f"x{number}", ["true"], stdout=f"file://{never}")
        holding.append(one.send("Start", 60, exec_id=f"x{number}"))
    for name in ("late", "gone", "here"):
        _register(one, name, ["true"])
    refused(lambda: one.call("Start", 1, exec_id="late"), ttrpc.DEADLINE_EXCEEDED)
    other = ttrpc.Client(one.socket)
    one.send("Start", 60, other, exec_id="gone")
    one.call("Connect", client=other)
    other.close()
    here = one.send("Start", 60, exec_id="here")
    one.status()
    check(not here.is_answered(), "its turn has not come")
    reader = os.open(never, os.O_RDONLY | os.O_NONBLOCK)
    for call in (*holding, here):
        call(60)
    os.close(reader)
    equal(one.wait("here"), 0, "the status of the one whose caller waited")
    for name in ("late", "gone"):
        equal(one.status(name), CREATED, f"the status of {name}")
        one.call("Start", exec_id=name)
        equal(one.wait(name), 0, f"the status of {name}, started again")
    one.finish()


def _anonymous_memory(pid):
    """In bytes."""
    return int(host.status_of(pid)["RssAnon"].split()[0]) << 10


@scenario("Wait calls of a connection that is closed leave the shim's memory", deadline=120)
def waits_of_the_gone(shim):
    one = shim.container()
    server = shim.shim_of(one.run())

    def wait_and_go():
        client = ttrpc.Client(one.socket)
        for _ in range(3000):
            one.send("Wait", 100, client)
        # An answer says that what came before it was read.
        one.call("Connect", client=client)
        client.close()
        wait_until(lambda: len(os.listdir(f"/proc/{server}/fd")) <= before, "the connection to be closed", 20)

    before = len(os.listdir(f"/proc/{server}/fd"))
    wait_and_go()
    first = _anonymous_memory(server)
    for _ in range(4):
        wait_and_go()
    grown = _anonymous_memory(server) - first
    check(grown < 8 << 20, f"12 000 calls have left {grown >> 10} KiB")
    one.finish()


@scenario("100 connections with a request of 4 MiB that never completes: the shim's memory is bounded, and others are served", deadline=120)
def partial_frames(shim):
    one = shim.container()
    server = shim.shim_of(one.run())
    before = _anonymous_memory(server)
    frame = struct.pack(">IIBB", 4 << 20, 1, 1, 0) + bytes((4 << 20) - 1)
    connections = []
    for _ in range(100):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(one.socket))
        connection.setblocking(False)
        connections.append((connection, memoryview(frame)))

    def push():
        """Sends what the shim takes; true when it takes no more."""
        moved = False
        for number, (connection, left) in enumerate(connections):
            try:
                sent = connection.send(left) if left else 0
            except BlockingIOError:
                sent = 0
            except OSError:
                left, sent = left[:0], 0  # the shim has closed it
            moved = moved or sent > 0
            connections[number] = (connection, left[sent:])
        return not moved

    most = 0
    until = time.monotonic() + 8
    while time.monotonic() < until:
        if push():
            one.status()
        most = max(most, _anonymous_memory(server) - before)
    check(most < 64 << 20, f"{most >> 20} MiB for 100 partial requests")
    spec = json.dumps({**process_of(["true"]), "env": ["PATH=/bin", f"LONG={'x' * 100_000}"]}).encode()
    check(len(spec) > 64 << 10, "the request is one that has to wait for its share")
    # Those that are left have to make room one after the other.
    for connection, _ in connections[20:]:
        connection.close()
    client = ttrpc.Client(one.socket)
    one.call("Exec", 100, client, exec_id="large",
             spec=any_of("types.containerd.io/opencontainers/runtime-spec/1/Process", spec))
    client.close()
    for connection, _ in connections[:20]:
        connection.close()
    one.call("Start", exec_id="large")
    equal(one.wait("large"), 0, "the status of an exec with a large request")
    one.finish()
