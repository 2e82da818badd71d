"""The calls of the Task service: what each does, refuses, and with which code."""

import json
import os
import re
import time

from kit import host, ttrpc
from kit.commands import Failure, check, contains, equal, run, wait_until
from kit.shim import CREATED, PAUSED, RUNNING, STOPPED, Reader
from kit.suite import scenario
from kit.ttrpc import any_of, decode


def refused(call, *codes):
    """Fails unless the call is refused with one of the codes; returns the text."""
    try:
        call()
    except ttrpc.Status as status:
        check(status.code in codes, f"expected one of the codes {codes}, saw {status}")
        return status.text
    raise Failure(f"expected an error with one of the codes {codes}, and it was done")


@scenario("the life of a container: every state, status and event", deadline=60)
def life(shim):
    one = shim.container(args=["sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.01; done"]).launch()
    pid = one.create()
    equal(one.status(), CREATED, "status")
    equal(host.status_of(pid)["PPid"], str(shim.shims()[0]), "the parent of init")
    check(b"trap" not in open(f"/proc/{pid}/cmdline", "rb").read(), "the program does not run before Start")
    equal(one.call("Start")[1], [pid], "Start's pid")
    equal(one.status(), RUNNING, "status")
    # Init catches the signal too, until it executes the program.
    wait_until(lambda: b"trap" in open(f"/proc/{pid}/cmdline", "rb").read(), "the program to be executed")
    wait_until(lambda: int(host.status_of(pid)["SigCgt"], 16) & 1 << 14, "the trap to be set")
    one.kill(15)
    equal(one.wait(), 5, "the exit status")
    equal(one.status(), STOPPED, "status")
    state = one.call("State")
    equal((state[9], state[3]), ([5], [pid]), "exit status and pid of a stopped one")
    # A daemon of 2.x that restarts deletes a task that is reported without a pid.
    equal([decode(entry)[1] for entry in one.call("Pids")[1]], [[pid]], "Pids until Delete")
    equal(one.delete(), 5, "the deleted one's status")
    one.events_until("delete")
    equal(one.daemon.topics("one"), ["create", "start", "exit", "delete"], "events")
    refused(lambda: one.call("State"), ttrpc.NOT_FOUND)
    one.shutdown()
    wait_until(lambda: not shim.shims(), "the shim to end")


@scenario("a missing container or exec is NotFound, in every call", deadline=60)
def not_found(shim):
    one = shim.container().launch()
    for method in ("State", "Start", "Delete", "Pids", "Pause", "Resume", "Kill", "Exec", "Wait", "Stats",
                   "Checkpoint", "ResizePty", "CloseIO"):
        refused(lambda: one.call(method), ttrpc.NOT_FOUND)
    one.call("Connect")  # never NotFound: the daemon asks before it knows
    one.create()
    one.call("Start")
    for method in ("State", "Start", "Delete", "Kill", "Wait", "ResizePty", "CloseIO"):
        refused(lambda: one.call(method, exec_id="nobody"), ttrpc.NOT_FOUND)


@scenario("a second Create of the id is AlreadyExists, and the first continues", deadline=60)
def create_twice(shim):
    one = shim.container()
    pid = one.run()
    refused(one.create, ttrpc.ALREADY_EXISTS)
    equal(one.call("State")[3], [pid], "the first")
    equal(one.status(), RUNNING, "status")
    one.finish()


@scenario("a second Start, a Delete of a running one: FailedPrecondition, and nothing happens to it", deadline=60)
def wrong_state(shim):
    one = shim.container()
    one.run()
    refused(lambda: one.call("Start"), ttrpc.FAILED_PRECONDITION)
    refused(one.delete, ttrpc.FAILED_PRECONDITION)
    equal(one.status(), RUNNING, "status after both")
    one.finish()


@scenario("a program that is not there: Create or Start says so, and nothing is left but the shim", deadline=60)
def no_program(shim):
    one = shim.container(args=["/no/such"]).launch()
    try:
        one.create()
        one.call("Start")
        problem = ""
    except ttrpc.Status as status:
        problem = str(status)
    contains(problem, "/no/such", "the error")
    contains(problem.lower(), "no such file", "the cause")


@scenario("a kill of a process that has exited is NotFound", deadline=60)
def kill_ended(shim):
    one = shim.container(args=["true"])
    one.run()
    equal(one.wait(), 0, "status")
    refused(one.kill, ttrpc.NOT_FOUND)
    one.delete()
    one.shutdown()


@scenario("a Wait that is under way survives Delete, and one on a stopped task answers at once", deadline=60)
def wait_survives(shim):
    one = shim.container()
    one.run()
    waits = [one.send("Wait") for _ in range(5)]
    one.kill()
    equal(one.wait(), 137, "a Wait")
    equal(one.wait(), 137, "a Wait after the end")
    one.delete()
    equal([wait()[1] for wait in waits], [[137]] * 5, "the earlier ones")
    one.shutdown()


@scenario("exec: registered, started, exited, deleted; its events, its pid in Pids with its id", deadline=60)
def exec_life(shim):
    one = shim.container()
    pid = one.run()
    one.exec("ex", ["sh", "-c", "probe wait; exit 6"], start=False)
    equal(one.status("ex"), CREATED, "status")
    exec_pid = one.call("Start", exec_id="ex")[1][0]
    equal(one.status("ex"), RUNNING, "status")
    wait_until(lambda: len(one.call("Pids")[1]) == 3, "three processes")
    told = {decode(entry)[1][0]: entry for entry in one.call("Pids")[1]}
    check({pid, exec_pid} <= set(told), f"both pids in Pids: {set(told)}")
    details = decode(decode(told[exec_pid])[2][0])
    equal((details[1], decode(details[2][0])[1]), ([b"containerd.runc.v1.ProcessDetails"], [b"ex"]), "the exec's details")
    child = next(iter(set(told) - {pid, exec_pid}))
    os.kill(child, 9)
    equal(one.wait("ex"), 6, "the exec's status")
    equal(one.status("ex"), STOPPED, "status")
    equal(one.delete("ex"), 6, "the deleted exec's status")
    refused(lambda: one.call("State", exec_id="ex"), ttrpc.NOT_FOUND)
    one.finish()
    one.events_until("delete")
    topics = one.daemon.topics("one")
    equal([topic for topic in topics if topic != "delete"],
          ["create", "start", "exec-added", "exec-started", "exit", "exit"], "events")


@scenario("exec: a duplicate id is AlreadyExists, while it is new, runs, or has exited; free once deleted", deadline=60)
def exec_twice(shim):
    one = shim.container()
    one.run()
    for stage in ("new", "running", "ended"):
        if stage == "new":
            one.exec("twin", ["probe", "wait"], start=False)
        elif stage == "running":
            pid = one.call("Start", exec_id="twin")[1][0]
        else:
            one.kill(exec_id="twin")
            equal(one.wait("twin"), 137, "status")
        refused(lambda: one.exec("twin", ["true"], start=False), ttrpc.ALREADY_EXISTS)
        if stage == "running":
            equal(one.call("State", exec_id="twin")[3], [pid], "the first exec's pid")
    one.delete("twin")
    one.exec("twin", ["true"])
    equal(one.wait("twin"), 0, "the second's status")
    one.finish()


@scenario("exec: not while paused, not after the exit: FailedPrecondition (or NotFound once it exited)", deadline=60)
def exec_refused(shim):
    one = shim.container()
    one.run()
    one.exec("before", ["true"], start=False)
    one.call("Pause")
    equal(one.status(), PAUSED, "status")
    refused(lambda: one.call("Start", exec_id="before"), ttrpc.FAILED_PRECONDITION)
    one.call("Resume")
    one.exec("late", ["true"], start=False)
    one.kill()
    one.wait()
    refused(lambda: one.call("Start", exec_id="late"), ttrpc.FAILED_PRECONDITION, ttrpc.NOT_FOUND)
    one.delete()
    one.shutdown()


@scenario("exec: a start that fails completes its Wait, and its id can be deleted and used again", deadline=60)
def exec_fails(shim):
    one = shim.container()
    one.run()
    one.exec("bad", ["/no/such"], start=False)
    waiting = one.send("Wait", exec_id="bad")
    text = refused(lambda: one.call("Start", exec_id="bad"), ttrpc.NOT_FOUND, ttrpc.INVALID_ARGUMENT,
                   ttrpc.FAILED_PRECONDITION, ttrpc.UNKNOWN)
    contains(text, "/no/such", "the error")
    check(waiting(5).get(1, [0])[0] != 0, "the Wait ends with a status that says failure")
    one.delete("bad")
    one.exec("bad", ["true"])
    equal(one.wait("bad"), 0, "status")
    one.finish()


@scenario("the sealed image is made once: all containers of a shim are created from it", deadline=60)
def one_image(shim):
    members = shim.pod("aa", "bb")
    programs = []
    for one in members:
        one.launch()
        program = f"/proc/{one.create()}/exe"
        programs.append((os.readlink(program), os.stat(program).st_dev, os.stat(program).st_ino))
    # Where no overlay can be mounted, each is a copy in memory.
    check(programs[0] == programs[1] or programs[0][0].startswith("/memfd:"), f"the program of each init: {programs}")
    for one in members:
        one.finish()


@scenario("pids of cgroups below the container's own are reported", deadline=60)
def nested_pids(shim):
    one = shim.container()
    pid = one.run()
    line = next(line for line in open(f"/proc/{pid}/cgroup").read().splitlines() if re.search(r":pids:|^0::", line))
    controller = line.split(":")[1]
    below = (host.CGROUPS / controller if controller else host.CGROUPS) / line.split(":")[2].lstrip("/") / "below"
    if not below.parent.exists():
        below = host.CGROUPS / "unified" / line.split(":")[2].lstrip("/") / "below"
    exec_pid = one.exec("ex", ["probe", "wait"])
    below.mkdir()
    (below / "cgroup.procs").write_text(str(exec_pid))
    equal({decode(entry)[1][0] for entry in one.call("Pids")[1]}, {pid, exec_pid}, "Pids")
    one.finish()
    check(not below.exists(), "the cgroup below goes with its parent")


@scenario("Stats: the daemon's type for this host's cgroups, with the kernel's counters", deadline=60)
def stats(shim):
    one = shim.container(args=["sh", "-c", "probe hog 20 >/dev/null; exec probe wait"])
    one.run()
    told = decode(one.call("Stats")[1][0])
    v2 = host.pure_v2()
    equal(told[1], [b"io.containerd.cgroups.v2.Metrics" if v2 else b"io.containerd.cgroups.v1.Metrics"], "the type")
    fields = decode(told[2][0])
    pids = decode(fields[1 if v2 else 2][0])
    check(pids.get(1, [0])[0] >= 1, f"pids.current: {pids}")
    cpu = decode(fields[2 if v2 else 3][0])
    usage = cpu.get(1, [0])[0] if v2 else decode(cpu[1][0]).get(1, [0])[0]
    check(usage > 0, f"CPU time: {usage}")
    check(fields.get(4), "memory")
    one.finish()


@scenario("out of memory: the event comes before the exit, and Delete does not wait for others to see it", deadline=60)
def out_of_memory(shim):
    took = []
    # One quick one is enough: a Delete that waits for others does so each time.
    for number in range(20):
        one = shim.container(f"oom{number}", args=["probe", "hog", "100"], resources={"memory": {"limit": 24 << 20}})
        one.run()
        equal(one.wait(), 137, "status")
        begin = time.monotonic()
        one.delete()
        took.append(time.monotonic() - begin)
        one.events_until("delete")
        topics = one.daemon.topics(one.name)
        check("oom" in topics and topics[-2:] == ["exit", "delete"], f"events: {topics}")
        one.shutdown()
        if took[-1] < 0.09:
            return
    raise Failure(f"Delete took {', '.join(f'{one * 1000:.0f} ms' for one in took)}")


@scenario("Update: LinuxResources as JSON; nonsense is an error that names it", deadline=60)
def update(shim):
    one = shim.container(resources={"pids": {"limit": 50}})
    pid = one.run()
    kind = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
    one.call("Update", resources=any_of(kind, json.dumps({"pids": {"limit": 77}}).encode()))
    line = next(line for line in open(f"/proc/{pid}/cgroup").read().splitlines() if re.search(r":pids:|^0::", line))
    where = host.CGROUPS / line.split(":")[1] / line.split(":")[2].lstrip("/")
    equal((where / "pids.max").read_text(), "77\n", "pids.max")
    refused(lambda: one.call("Update", resources=any_of(kind, b"{")), ttrpc.INVALID_ARGUMENT, ttrpc.UNKNOWN)
    equal(one.status(), RUNNING, "status")
    one.finish()


@scenario("rootfs mounts of Create: an overlay, and a bind; both are unmounted by Delete", deadline=60)
def rootfs(shim):
    base = shim.place / "layers"
    for name in ("upper", "work"):
        (base / name).mkdir(parents=True, exist_ok=True)
    mounts = {
        "overlay": {1: "overlay", 2: "overlay", 4: [f"lowerdir={shim.root}", f"upperdir={base}/upper",
                                                   f"workdir={base}/work"]},
        "bind": {1: "bind", 2: str(shim.root), 4: ["rbind", "rw"]},
    }
    for name, mount in mounts.items():
        one = shim.container(name, args=["sh", "-c", "echo here >/mark-$0; exec probe wait", name], root="rootfs")
        (one.bundle / "rootfs").mkdir()
        one.launch()
        one.create(rootfs=[mount])
        one.call("Start")
        found = base / "upper" if name == "overlay" else shim.root
        wait_until(lambda: (found / f"mark-{name}").exists(), "the mark")
        one.finish()
        equal(list((one.bundle / "rootfs").iterdir()), [], "the rootfs is unmounted")
    check(not (shim.root / "mark-overlay").exists(), "the lower layer is untouched")
    (shim.root / "mark-bind").unlink()
    run("rm", "-rf", base)


@scenario("a Create that fails after it mounted the rootfs unmounts it, and can be tried again", deadline=60)
def create_fails(shim):
    one = shim.container(root="rootfs", namespaces=("pid", "mount", "no-such-namespace")).launch()
    (one.bundle / "rootfs").mkdir()
    mount = {1: "bind", 2: str(shim.root), 4: ["rbind", "rw"]}
    for _ in range(2):
        refused(lambda: one.create(rootfs=[mount]), *range(1, 17))
        equal(list((one.bundle / "rootfs").iterdir()), [], "the rootfs is unmounted")


@scenario("a checkpoint that is not there is an error, never ignored", deadline=60)
def no_checkpoint(shim):
    one = shim.container().launch()
    try:
        one.create(checkpoint=str(one.bundle / "no-such-checkpoint"))
        one.call("Start")
    except ttrpc.Status:
        return
    raise Failure("a container was started though its checkpoint is not there")


@scenario("Shutdown is a no-op while containers exist", deadline=60)
def shutdown(shim):
    one = shim.container()
    one.run()
    one.call("Shutdown")
    equal(one.status(), RUNNING, "status")
    one.finish()
    wait_until(lambda: not shim.shims(), "the shim to end")


@scenario("a container in the host's pid namespace: Kill of all reaches every process, and none outlives Delete", deadline=60)
def host_pid(shim):
    namespaces = ("ipc", "uts", "mount", "network")
    one = shim.container(args=["sh", "-c", "probe wait & probe wait & echo >/dev/null; wait"], namespaces=namespaces)
    one.run()
    wait_until(lambda: len(one.call("Pids")[1]) == 3, "three processes")
    pids = [decode(entry)[1][0] for entry in one.call("Pids")[1]]
    one.call("Kill", signal=9, all=1)
    equal(one.wait(), 137, "status")
    two = shim.container("two", args=["sh", "-c", "probe wait & exit 3"], namespaces=namespaces)
    two.run()
    equal(two.wait(), 3, "status")
    for container, status in ((one, 137), (two, 3)):
        equal(container.delete(), status, "the deleted one's status")
        container.shutdown()
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "all processes to be gone")


@scenario("ResizePty: also between Create and Start, and its size is there when the program looks", deadline=60)
def resize(shim):
    one = shim.container(args=["stty", "size"], terminal=True)
    out = Reader(one.bundle / "out")
    one.launch()
    one.create(stdout=out.path)
    one.call("ResizePty", width=91, height=31)
    one.call("Start")
    equal(one.wait(), 0, "status")
    out.until(b"31 91")
    one.delete()
    one.shutdown()
