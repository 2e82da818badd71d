"""Standard streams: FIFOs with and without readers, files, loggers that work, dawdle, or die; the shim's own log."""

import json
import os
import select
import subprocess
import time
from pathlib import Path

from kit.commands import Failure, check, contains, equal, wait_until
from kit.shim import RUNNING, Reader
from kit.suite import scenario
from kit.ttrpc import any_of

LOGGER = """#!/usr/bin/python3
# A logger as containerd's documents have it: 3 is stdout, 4 is stderr, and closing 5 says that it is ready.
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(out, ("for " + os.environ["CONTAINER_ID"] + " of " + os.environ["CONTAINER_NAMESPACE"] + "\\n").encode())
os.close(5)
if "die" in sys.argv:
    sys.exit(3)
import select
open_ends = [3, 4]
while open_ends:
    for end in select.select(open_ends, [], [])[0]:
        data = os.read(end, 4096)
        if data:
            os.write(out, data)
        else:
            open_ends.remove(end)
os.write(out, b"end\\n")
"""


def logger(daemon, *more):
    """A binary:// address of a logger that writes to `logged`; returns both."""
    program, target = daemon.base / "logger", daemon.base / "logged"
    program.write_text(LOGGER)
    program.chmod(0o755)
    # Each key is an argument, and each value that is not empty another.
    return f"binary://{program}?{target}={'&'.join(more)}", target


@scenario("FIFOs: both outputs whole, input to its end, and the readers see the end after Delete", deadline=60)
def fifos(shim):
    one = shim.container(args=["sh", "-c", "cat; echo err >&2; probe burst 3000000"])
    out, err = Reader(one.bundle / "out"), Reader(one.bundle / "err")
    os.mkfifo(one.bundle / "in")
    one.run(stdin=one.bundle / "in", stdout=out.path, stderr=err.path)
    with open(one.bundle / "in", "w") as writer:
        writer.write("typed\n")
    one.call("CloseIO", stdin=1)
    equal(one.wait(), 0, "status")
    equal(one.delete(), 0, "status")
    wait_until(lambda: out.ended.is_set() and err.ended.is_set(), "the ends of the outputs")
    equal(len(out.text), 6 + 3000000, "bytes of the output")
    equal((out.text[:6], err.text), (b"typed\n", b"err\n"), "output")
    one.shutdown()


@scenario("CloseIO closes standard input though the writer stays, after the data written before", deadline=60)
def close_io(shim):
    one = shim.container()
    one.run()
    for number in range(5):
        out = Reader(one.bundle / f"out{number}")
        os.mkfifo(one.bundle / f"in{number}")
        writer = os.open(one.bundle / f"in{number}", os.O_RDWR)
        one.exec(f"e{number}", ["cat"], stdin=str(one.bundle / f"in{number}"), stdout=str(out.path), stderr=str(out.path))
        os.write(writer, b"x" * 5000)
        one.call("CloseIO", exec_id=f"e{number}", stdin=1)
        equal(one.wait(f"e{number}", timeout=5), 0, "status")
        one.delete(f"e{number}")
        wait_until(out.ended.is_set, "the end of the output")
        equal(len(out.text), 5000, "bytes of the output")
        os.close(writer)
    one.finish()


@scenario("CloseIO before Start, from a client with little input: an exec still reads the end of its input", deadline=60)
def close_early(shim):
    one = shim.container()
    one.run()
    path = one.bundle / "in"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    try:
        os.write(writer, b"early")
        out = Reader(one.bundle / "out")
        one.exec("ex", ["cat"], start=False, stdin=str(path), stdout=str(out.path))
        one.call("CloseIO", exec_id="ex", stdin=1)
        one.call("Start", exec_id="ex")
        equal(one.wait("ex"), 0, "status")
        one.delete("ex")
        wait_until(out.ended.is_set, "the end of the output")
        equal(out.text, b"early", "the output")
    finally:
        os.close(writer)
    one.finish()


@scenario("the exit of a process is reported after its output has been read: a client that closes its ends then loses nothing", deadline=120)
def read_before_the_end(shim):
    one = shim.container()
    one.run()
    for number in range(10):
        os.mkfifo(path := one.bundle / f"out{number}")
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        begin = time.monotonic()
        pid = one.exec(f"e{number}", ["echo", "words"], stdout=str(path))
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "its end")
        status = one.status(f"e{number}")
        seen = time.monotonic() - begin
        equal(os.read(reader, 100), b"words\n", "output")
        os.close(reader)
        equal(one.wait(f"e{number}"), 0, "status")
        one.delete(f"e{number}")
        # The wait for the reader has a deadline.
        if seen < 1:
            equal(status, RUNNING, "its status before its output was read")
            return one.finish()
    raise Failure("none of ten processes ended within a second: this machine is too busy to tell")


@scenario("a reader that never reads: the container can be killed and deleted, and Create did not wait", deadline=60)
def never_reads(shim):
    one = shim.container(args=["sh", "-c", "exec cat /dev/zero"])
    out = Reader(one.bundle / "out", opens=False)
    silent = os.open(out.path, os.O_RDONLY | os.O_NONBLOCK)
    begin = time.monotonic()
    one.run(stdout=out.path, stderr=out.path)
    check(time.monotonic() - begin < 20, "Create and Start do not wait for the output")
    equal(one.status(), RUNNING, "status")
    one.kill()
    equal(one.wait(), 137, "status")
    begin = time.monotonic()
    equal(one.delete(timeout=60), 137, "status")
    check(time.monotonic() - begin < 30, f"Delete took {time.monotonic() - begin:.1f} s")
    os.close(silent)
    one.shutdown()


@scenario("a reader that has closed: neither the exit event nor Delete waits, of a container and of an exec, with full outputs, "
          "with one output for both streams, with a terminal, and with a child that keeps the output", deadline=60)
def reader_gone(shim):
    scripts = {"full": "exec cat /dev/zero", "both": "exec cat /dev/zero", "tty": "exec cat /dev/zero",
               "child": "cat /dev/zero & echo words; exec probe wait"}
    for name, script in scripts.items():
        terminal = name == "tty"
        one = shim.container(name, args=["sh", "-c", script], terminal=terminal)
        outputs = {process: Reader(one.bundle / process, opens=False) for process in ("init", "exec")}
        ends = {process: os.open(output.path, os.O_RDONLY | os.O_NONBLOCK) for process, output in outputs.items()}

        def streams(process):
            path = str(outputs[process].path)
            return {"stdout": path, "stderr": path if name == "both" else ""}
        one.run(**streams("init"))
        one.exec("ex", ["sh", "-c", script], terminal=terminal, **streams("exec"))
        for end in ends.values():
            wait_until(lambda end=end: select.select([end], [], [], 0)[0], "output")
            os.read(end, 10)
            os.close(end)
        for exec_id in ("ex", ""):
            begin = time.monotonic()
            one.kill(exec_id=exec_id)
            equal(one.wait(exec_id), 137, "status")
            waited = time.monotonic() - begin
            equal(one.delete(exec_id), 137, "status")
            deleted = time.monotonic() - begin - waited
            # Waits for a reader in vain take two seconds and ten.
            check(waited < 1.5 and deleted < 1.5, f"{name} {exec_id}: exit after {waited:.1f} s, Delete took {deleted:.1f} s")
        one.shutdown()


@scenario("a reader that never reads delays the exit event and Delete as long as the options say", deadline=60)
def configured_timeouts(shim):
    options = any_of("runtimeoptions.v1.Options", {3: "ExitOutputTimeoutSec = 0\nDeleteOutputTimeoutSec = 1\n"})
    one = shim.container(args=["cat", "/dev/zero"], options=options)
    out = Reader(one.bundle / "out", opens=False)
    silent = os.open(out.path, os.O_RDONLY | os.O_NONBLOCK)
    one.run(stdout=out.path)
    wait_until(lambda: select.select([silent], [], [], 0)[0], "output")
    begin = time.monotonic()
    one.kill()
    equal(one.wait(), 137, "status")
    waited = time.monotonic() - begin
    equal(one.delete(), 137, "status")
    deleted = time.monotonic() - begin - waited
    check(waited < 1.5 and 0.9 < deleted < 5, f"exit after {waited:.1f} s, Delete took {deleted:.1f} s")
    os.close(silent)
    one.shutdown()


@scenario("a reader that opens late, closes, and opens again, like a daemon that restarts: no output is lost", deadline=60)
def reader_returns(shim):
    one = shim.container(args=["sh", "-c", "read a; echo one; read b; echo two; read c; echo three"])
    for name in ("in", "out"):
        os.mkfifo(one.bundle / name)
    reader = os.open(one.bundle / "out", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(one.bundle / "in", os.O_RDWR)
    one.run(stdin=one.bundle / "in", stdout=one.bundle / "out", stderr=one.bundle / "out")
    seen = b""
    for word in (b"one\n", b"two\n", b"three\n"):
        os.write(writer, b"go\n")
        if word == b"two\n":
            os.close(reader)
            time.sleep(0.2)
            reader = os.open(one.bundle / "out", os.O_RDONLY | os.O_NONBLOCK)
        seen = b""

        def arrived(wanted=word):
            nonlocal seen
            try:
                seen += os.read(reader, 100)
            except BlockingIOError:
                pass
            return wanted in seen
        wait_until(arrived, f"{word} after {seen}")
    equal(one.wait(), 0, "status")
    os.close(reader)
    os.close(writer)
    one.delete()
    one.shutdown()


@scenario("file://: made with its directory, appended to, both streams in one file", deadline=60)
def file(shim):
    daemon = shim.daemon()
    target = daemon.base / "deep" / "log"
    for number in range(2):
        one = shim.container(f"f{number}", daemon=daemon, args=["sh", "-c", f"echo out{number}; echo err{number} >&2"])
        one.run(stdout=f"file://{target}", stderr=f"file://{target}")
        equal(one.wait(), 0, "status")
        one.delete()
        one.shutdown()
    equal(sorted(target.read_text().split()), ["err0", "err1", "out0", "out1"], "the file")


@scenario("binary://: the logger has both streams and reports when it is ready; it is stopped with the container", deadline=60)
def binary(shim):
    daemon = shim.daemon()
    uri, target = logger(daemon)
    one = shim.container(daemon=daemon, args=["sh", "-c", "echo out; echo err >&2; exec probe wait"])
    begin = time.monotonic()
    one.run(stdout=uri, stderr=uri)
    check(time.monotonic() - begin < 5, "Create does not wait for the logger's end")
    wait_until(lambda: "err" in target.read_text(), "the output")
    one.exec("ex", ["echo", "of-an-exec"], stdout=uri, stderr=uri)
    one.wait("ex")
    one.delete("ex")
    one.finish()
    wait_until(lambda: target.read_text().count("end\n") == 2, f"both loggers' ends: {target.read_text()}")
    text = target.read_text()
    contains(text, f"for one of {shim.namespace}", "the logger's environment")
    for word in ("out\n", "err\n", "of-an-exec\n"):
        contains(text, word, "what was logged")


@scenario("binary://: a logger that exits does not affect the container, which continues and exits normally", deadline=60)
def dead_logger(shim):
    daemon = shim.daemon()
    uri, _ = logger(daemon, "die")
    one = shim.container(daemon=daemon, args=["sh", "-c", "trap '' PIPE; n=0; while [ $n -lt 200 ]; do "
                                              "probe burst 1000 2>/dev/null; n=$((n + 1)); done; exit 4"])
    one.run(stdout=uri, stderr=uri)
    equal(one.wait(timeout=15), 4, "status")
    equal(one.delete(), 4, "status")
    one.shutdown()


@scenario("binary://: a logger that is not there, or never ready: Create fails in time and names it", deadline=60)
def no_logger(shim):
    daemon = shim.daemon()
    one = shim.container("absent", daemon=daemon).launch()
    try:
        one.create(stdout="binary:///no/such/logger", stderr="binary:///no/such/logger")
        problem = "Create went through"
    except Failure as failure:
        problem = str(failure)
    contains(problem, "/no/such/logger", "the error")
    uri, _ = logger(daemon)
    program = daemon.base / "logger"
    program.write_text("#!/bin/sh\nexec 5>&-\nexit 1\n")
    two = shim.container("quits", daemon=daemon).launch()
    try:
        two.create(stdout=uri, stderr=uri)
    except Failure as failure:
        contains(str(failure), "logger", "the error")


@scenario("an address of no known kind is an error that names it", deadline=60)
def unknown_scheme(shim):
    one = shim.container().launch()
    try:
        one.create(stdout="gopher://x/y", stderr="gopher://x/y")
    except Failure as failure:
        contains(str(failure), "gopher", "the error")
        return
    raise Failure("Create went through")


@scenario("streams that are not given are /dev/null", deadline=60)
def none(shim):
    one = shim.container(args=["sh", "-c", "cat && echo x && echo y >&2 && exit 8"])
    one.run()
    equal(one.wait(), 8, "status")
    one.delete()
    one.shutdown()


@scenario("a terminal: output, input, size", deadline=60)
def terminal(shim):
    one = shim.container(args=["sh"], terminal=True)
    out = Reader(one.bundle / "out")
    os.mkfifo(one.bundle / "in")
    one.run(stdin=one.bundle / "in", stdout=out.path)
    with open(one.bundle / "in", "w", buffering=1) as writer:
        writer.write("tty\n")
        out.until(b"/dev/pts/0")
        one.call("ResizePty", width=70, height=20)
        writer.write("stty size\n")
        out.until(b"20 70")
        one.exec("ex", ["sh", "-c", "tty; stty -echo"], terminal=True, stdout=str(out.path))
        out.until(b"/dev/pts/1")
        equal(one.wait("ex"), 0, "the exec's status")
        one.delete("ex")
        writer.write("exit 3\n")
        equal(one.wait(), 3, "status")
    equal(one.delete(), 3, "status")
    one.shutdown()


@scenario("eight terminals at once, with a shim that gets a fifth of a processor: output moves all the time, each is whole, and "
          "each Wait is answered", deadline=240)
def busy_terminals(shim):
    one = shim.container()
    server = shim.shim_of(one.run())
    paths = [one.bundle / f"out{number}" for number in range(8)]
    readers, busy = [], []
    try:
        for path in paths:
            os.mkfifo(path)
            readers.append(subprocess.Popen(["sh", "-c", f"wc -c <{path}"], stdout=subprocess.PIPE))
        processor = {min(os.sched_getaffinity(0))}
        for _ in range(4):
            busy.append(subprocess.Popen(["sh", "-c", "while :; do :; done"]))
        # The thread that copies is the first one.
        for pid in (server, *(one.pid for one in busy)):
            os.sched_setaffinity(pid, processor)
        waiting = []
        for path in paths:
            one.exec(path.name, ["seq", "-s", " ", "1000000"], terminal=True, stdout=str(path))
            waiting.append(one.send("Wait", 400, exec_id=path.name))

        def copied():
            fields = dict(line.split(": ") for line in Path(f"/proc/{server}/io").read_text().splitlines())
            return int(fields["wchar"])

        while not all(wait.is_answered() for wait in waiting):
            before = copied()
            wait_until(lambda before=before: copied() > before or all(wait.is_answered() for wait in waiting),
                       "output to move, or the exits", 60)
        for path, wait, reader in zip(paths, waiting, readers):
            equal(wait().get(1, [0]), [0], "an exit status")
            one.delete(path.name, 60)
            # The terminal adds a carriage return to the line feed.
            equal(int(reader.communicate(timeout=60)[0]), 6888897, "bytes of an output")
    finally:
        for process in (*busy, *readers):
            process.kill()
            process.wait()
    one.finish()


@scenario("a full log without a reader stalls nothing", deadline=60)
def full_log(shim):
    one = shim.container()
    try:
        while True:
            os.write(one.log, b"x" * 4096)
    except BlockingIOError:
        pass
    one.launch(debug=True)
    one.create()
    one.call("Start")
    for number in range(20):
        one.exec(f"e{number}", ["true"])
        equal(one.wait(f"e{number}"), 0, "an exec's status")
        one.delete(f"e{number}")
    one.finish()


@scenario("a log without a reader stalls nothing, and its shim is not killed by SIGPIPE", deadline=60)
def log_without_reader(shim):
    one = shim.container()
    one.launch(debug=True)
    one.create()
    os.close(one.log)
    one.log = os.open("/dev/null", os.O_RDONLY)
    one.call("Start")
    for number in range(10):
        one.exec(f"e{number}", ["true"])
        equal(one.wait(f"e{number}"), 0, "an exec's status")
    one.finish()


@scenario("with -debug the log has the container's life cycle", deadline=60)
def log_story(shim):
    one = shim.container()
    one.launch(debug=True)
    one.create()
    one.call("Start")
    one.finish()
    wait_until(lambda: not shim.shims(), "the shim to end")
    lines = os.read(one.log, 1 << 16).decode(errors="replace").splitlines()
    for what in ("Create", "event /tasks/create", "Start", "event /tasks/start", "Kill", "event /tasks/exit", "Delete",
                 "event /tasks/delete", "Shutdown"):
        check(any(what in line and " id=one" in line for line in lines), f"a line of {what} that names the container: {lines}")


@scenario("a log of several containers names the container of each line, the engine's lines too", deadline=60)
def whose_line(shim):
    first, second = shim.pod("aa", "bb")
    first.launch(debug=True)
    # Of what it does not know, the engine warns.
    path = second.bundle / "config.json"
    config = json.loads(path.read_text())
    config["process"]["capabilities"]["bounding"].append("CAP_OF_THE_FUTURE")
    path.write_text(json.dumps(config))
    second.launch(debug=True)
    for one in (first, second):
        one.create()
        one.call("Start")
    second.exec("ex", ["true"])
    second.wait("ex")
    for one in (second, first):
        one.finish()
    wait_until(lambda: not shim.shims(), "the shim to end")
    lines = os.read(first.log, 1 << 16).decode(errors="replace").splitlines()
    warned = [line for line in lines if "CAP_OF_THE_FUTURE" in line]
    check(warned and all(" id=bb " in f"{line} " for line in warned), f"the engine's lines: {warned}")
    for what in ("event /tasks/exit", "event /tasks/delete"):
        told = sorted(line.rsplit(" id=", 1)[-1].split()[0] for line in lines if what in line and " id=" in line)
        check({"aa", "bb"} <= set(told), f"{what} of both: {told}")


@scenario("an exec's outputs with a reader each, a hundred at once", deadline=60)
def many_execs(shim):
    one = shim.container()
    one.run()
    readers = [Reader(one.bundle / f"out{number}") for number in range(100)]
    for number, reader in enumerate(readers):
        one.exec(f"e{number}", ["sh", "-c", f"echo {number}; exit {number}"], stdout=str(reader.path),
                 stderr=str(reader.path))
    for number, reader in enumerate(readers):
        equal(one.wait(f"e{number}"), number, "status")
        one.delete(f"e{number}")
        wait_until(reader.ended.is_set, "the end of the output")
        equal(reader.text, f"{number}\n".encode(), "output")
    one.finish()


@scenario("the output of an exec of an unknown user, a directory that is not there: errors, not outputs", deadline=60)
def exec_errors(shim):
    one = shim.container()
    one.run()
    spec = b'{"args": ["true"], "cwd": "/no/such", "user": {"uid": 0, "gid": 0}}'
    one.call("Exec", exec_id="cwd", spec=any_of("types.containerd.io/opencontainers/runtime-spec/1/Process", spec))
    try:
        one.call("Start", exec_id="cwd")
        failed = one.wait("cwd") != 0  # some runtimes only see it in the child
    except Failure as failure:
        contains(str(failure), "/no/such", "the error")
        failed = True
    check(failed, "an exec in a directory that is not there fails")
    one.finish()
