"""Faults around a shim: the shim is killed, the daemon exits, two daemons meet, pids are reused, thousands of forks."""

import os
import signal
import threading
import time
from pathlib import Path

from clients.shim_start import RUNC_OPTIONS
from clients.shim_task import refused
from kit import host, ttrpc
from kit.commands import Failure, check, contains, equal, run, wait_until
from kit.shim import RUNNING, STOPPED, Reader
from kit.suite import scenario
from kit.ttrpc import any_of, decode


@scenario("SIGKILL of the shim: `delete` kills every process and leaves nothing", deadline=60)
def shim_killed(shim):
    one = shim.container(root="rootfs", args=["sh", "-c", "probe wait & exec probe wait"]).launch()
    (one.bundle / "rootfs").mkdir()
    pid = one.create(rootfs=[{1: "bind", 2: str(shim.root), 4: ["rbind", "rw"]}])
    one.call("Start")
    exec_pid = one.exec("ex", ["probe", "wait"])
    shim.kill_servers()
    done = one.daemon.invoke(one.bundle, one.name, "delete")
    equal((done.returncode, decode(done.stdout).get(2)), (0, [137]), f"delete ({done.stderr!r})")
    wait_until(lambda: host.has_exited(pid) and host.has_exited(exec_pid), "both processes to be gone")
    equal(list((one.bundle / "rootfs").iterdir()), [], "the rootfs is unmounted")
    wait_until(lambda: not shim.leftovers(), f"leftovers to go: {shim.leftovers()}")


@scenario("SIGKILL of the shim after an exit: `delete` answers the container's own status, time and pid, as often as it is "
          "asked", deadline=60)
def exit_status_is_kept(shim):
    ends = {"code": ("exit 42", 42), "zero": ("exit 0", 0), "signal": ("kill -TERM $$", 143)}
    for name, (script, status) in ends.items():
        # Init of a pid namespace of its own would be spared by its own signals.
        one = shim.container(name, args=["sh", "-c", script], namespaces=("mount", "uts"))
        pid = one.run()
        one.events_until("exit")
        told = next(fields for topic, fields in one.daemon.events(name) if topic == "exit")
        one.client.close()
        shim.kill_servers()
        for _ in range(2):
            done = one.daemon.invoke(one.bundle, one.name, "delete")
            equal(done.returncode, 0, f"delete ({done.stderr!r})")
            answer = decode(done.stdout)
            equal((answer.get(1), answer.get(2, [0])), ([pid], [status]), f"pid and status of {name}")
            equal(answer[3], told[5], "the time of the exit, as the event has it")


@scenario("SIGKILL of the shim while an unread output holds the exit event back: `delete` returns the status", deadline=60)
def exit_status_is_kept_before_the_event(shim):
    one = shim.container(args=["sh", "-c", "echo words; exit 42"])
    out = Reader(one.bundle / "out", opens=False)
    silent = os.open(out.path, os.O_RDONLY | os.O_NONBLOCK)
    pid = one.run(stdout=out.path, stderr=out.path)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its exit")
    wait_until(lambda: (one.bundle / "init.exit").exists() or "exit" in one.daemon.topics("one"), "its status")
    shim.kill_servers()
    done = one.daemon.invoke(one.bundle, one.name, "delete")
    equal((done.returncode, decode(done.stdout).get(2)), (0, [42]), f"delete ({done.stderr!r})")
    os.close(silent)


@scenario("SIGKILL of the shim of a running container: neither an exec's exit nor that of an earlier container of the bundle "
          "is taken for its own", deadline=60)
def foreign_exit_status(shim):
    first = shim.container(args=["sh", "-c", "read line; exit 42"])
    first.run()
    equal(first.wait(), 42, "status")
    equal(first.delete(), 42, "status")
    first.shutdown()
    wait_until(lambda: not shim.shims(), "the shim to end")
    config = first.bundle / "config.json"
    config.write_text(config.read_text().replace("read line; exit 42", "exec probe wait"))
    pid = first.run()
    first.exec("init", ["sh", "-c", "exit 7"])
    equal(first.wait("init"), 7, "status of the exec")
    shim.kill_servers()
    done = first.daemon.invoke(first.bundle, first.name, "delete")
    equal((done.returncode, decode(done.stdout).get(1), decode(done.stdout).get(2)), (0, [pid], [137]),
          f"delete ({done.stderr!r})")


@scenario("a damaged exit status in the bundle: `delete` removes the container all the same, and says so", deadline=60)
def damaged_exit_status(shim):
    one = shim.container(args=["sh", "-c", "exit 42"])
    one.run()
    equal(one.wait(), 42, "status")
    shim.kill_servers()
    (one.bundle / "init.exit").write_text("{")
    done = one.daemon.invoke(one.bundle, one.name, "delete")
    equal((done.returncode, decode(done.stdout).get(2)), (0, [137]), f"delete ({done.stderr!r})")
    contains(done.stderr.decode(), "init.exit", "standard error")


@scenario("SIGKILL of the shim of a group: every container of it can be cleaned up", deadline=60)
def group_killed(shim):
    members = shim.pod("aa", "bb", "cc")
    pids = [one.run() for one in members]
    shim.kill_servers()
    for one in members:
        equal(one.daemon.invoke(one.bundle, one.name, "delete").returncode, 0, f"delete of {one.name}")
    wait_until(lambda: all(map(host.has_exited, pids)), "all processes to be gone")


@scenario("SIGTERM of a shim with a container, and SIGUSR1: the container continues, or is cleaned up, never lost", deadline=60)
def signals(shim):
    one = shim.container()
    pid = one.run()
    server = shim.shims()[0]
    os.kill(server, signal.SIGUSR1)
    equal(one.status(), RUNNING, "status after SIGUSR1")
    os.kill(server, signal.SIGTERM)
    # The shim either continues to serve, or exits: then the daemon's delete removes its remains.
    try:
        wait_until(lambda: not shim.shims(), "the shim to end")
    except Failure:
        equal(one.status(), RUNNING, "status")
        one.finish()
        return
    equal(one.daemon.invoke(one.bundle, one.name, "delete").returncode, 0, "delete")
    wait_until(lambda: host.has_exited(pid), "the process to be gone")


@scenario("a daemon that is stopped: exits are reported in order once it is restarted", deadline=60)
def daemon_away(shim):
    one = shim.container()
    one.run()
    one.exec("ex", ["sh", "-c", "probe wait"])
    one.events_until("exec-started")
    one.daemon.sink.hang_up()
    one.kill(exec_id="ex", signal=9)
    equal(one.wait("ex"), 137, "the exec's status")
    one.kill()
    equal(one.wait(), 137, "status")
    one.daemon.sink.listen()
    one.events_until("exit", times=2)
    one.delete()
    one.events_until("delete")
    told = []
    for event in one.daemon.events("one"):
        # Events that the daemon received but did not acknowledge before it exited are published again.
        if told[-1:] != [event]:
            told.append(event)
    wanted = ["create", "start", "exec-added", "exec-started", "exit", "exit", "delete"]
    equal([topic for topic, _ in told], wanted, "events")
    one.shutdown()


@scenario("a daemon that answers no event for a while: 200 exits are all reported, in order, init's last", deadline=60)
def slow_daemon(shim):
    one = shim.container()
    one.run()
    one.events_until("start")
    one.daemon.sink.open.clear()
    names = [f"x{number}" for number in range(200)]
    for name in names:
        one.exec(name, ["true"])
    for name in names:
        equal(one.wait(name), 0, f"status of {name}")
    equal(one.status(), RUNNING, "the shim answers meanwhile")
    one.kill()
    equal(one.wait(), 137, "status")
    one.daemon.sink.open.set()
    one.events_until("exit", times=201)
    exits = [fields[2][0].decode() for topic, fields in one.daemon.events("one") if topic == "exit"]
    equal(sorted(exits), sorted([*names, "one"]), "exits")
    equal(exits[-1], "one", "the last exit")
    for name in names:
        seen = [topic for topic, fields in one.daemon.events("one")
                if name.encode() in (fields.get(2, [b""])[0], fields.get(5, [b""])[0]) and topic != "delete"]
        equal(seen, ["exec-added", "exec-started", "exit"], f"events of {name}")
    one.delete()
    one.shutdown()


@scenario("120 execs at once while the container is killed: every call is answered, every exit reported once", deadline=60)
def killed_meanwhile(shim):
    one = shim.container()
    one.run()
    started, problems = [], []

    def start(number):
        try:
            one.exec(f"k{number}", ["probe", "wait"])
            started.append(f"k{number}")
        except ttrpc.Status as status:
            if status.code == ttrpc.UNKNOWN:
                problems.append(str(status))
        except Failure as failure:
            problems.append(str(failure))

    threads = [threading.Thread(target=start, args=(number,)) for number in range(120)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(started) > 10, "some to run", 30)
    one.kill()
    for thread in threads:
        thread.join(30)
    equal(one.wait(), 137, "status")
    for name in started:
        equal(one.wait(name), 137, f"status of {name}")
    one.events_until("exit", times=len(started) + 1, timeout=20)
    exits = [fields[2][0].decode() for topic, fields in one.daemon.events("one") if topic == "exit"]
    equal(sorted(exits), sorted([*started, "one"]), "exits")
    equal(exits[-1], "one", "the last exit")
    check(not problems, f"{len(problems)} calls without a true cause, such as {problems[:3]}")
    one.delete()
    one.shutdown()


@scenario("a Delete that fails half way can be tried again", deadline=60)
def delete_again(shim):
    one = shim.container()
    pid = one.run()
    cgroups = [Path(line.split(":")[1] or "unified") / line.split(":")[2].lstrip("/")
               for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    # Someone else's process in the container's cgroup: it cannot be removed while that is there.
    intruder = os.fork()
    if intruder == 0:
        signal.pause()
    try:
        for cgroup in cgroups:
            procs = host.CGROUPS / cgroup / "cgroup.procs"
            if one.name in str(cgroup) and procs.exists():
                procs.write_text(str(intruder))
        one.kill()
        equal(one.wait(), 137, "status")
        try:
            equal(one.delete(), 137, "the deleted one's status")
            again = False
        except ttrpc.Status as status:
            check(status.code != ttrpc.NOT_FOUND, f"Delete: {status}")
            again = True
    finally:
        os.kill(intruder, signal.SIGKILL)
        os.waitpid(intruder, 0)
    if again:
        equal(one.delete(), 137, "the second Delete's status")
    one.events_until("delete")
    equal(one.daemon.topics("one"), ["create", "start", "exit", "delete"], "events")
    one.shutdown()


@scenario("a Delete that removes all but the record's directory: the task stays, and the next one removes the rest", deadline=60)
def delete_from_half_way(shim):
    one = shim.container()
    one.run()
    record = next(path for path in Path("/run").glob(f"*/*/{shim.namespace}/{one.name}"))
    busy = record / "busy"
    busy.mkdir()
    run("mount", "-t", "tmpfs", "busy", busy)
    one.kill()
    equal(one.wait(), 137, "status")
    try:
        for _ in range(2):
            text = refused(one.delete, ttrpc.UNKNOWN)
            contains(text, "busy", "why")
            equal(one.status(), STOPPED, "status after a Delete that failed")
    finally:
        run("umount", busy)
    equal(one.delete(), 137, "the last Delete's status")
    check(not record.exists(), "the record's directory is gone")
    one.events_until("delete")
    equal(one.daemon.topics("one"), ["create", "start", "exit", "delete"], "events")
    one.shutdown()


@scenario("ten containers of one shim, and outputs without a reader, take one inotify instance at the most, of which "
          "a user has few", deadline=60)
def inotify_instances(shim):
    members = shim.pod(*(f"c{number}" for number in range(10)), resources={"memory": {"limit": 1 << 26}})
    server = {shim.shim_of(one.run()) for one in members}
    equal(len(server), 1, "shims")
    outputs = []
    for number, one in enumerate(members):
        outputs.append(Reader(one.bundle / "late", opens=False))
        one.exec("said", ["echo", f"words {number}"], stdout=str(outputs[-1].path))
        equal(one.wait("said"), 0, "an exec's status")
    descriptors = Path(f"/proc/{server.pop()}/fd")
    kinds = [kind for entry in descriptors.iterdir() if (kind := host.readlink(entry))]
    check(kinds.count("anon_inode:inotify") <= 1, f"open files: {kinds}")
    for number, output in enumerate(outputs):
        equal(output.path.read_text(), f"words {number}\n", "what a late reader gets")
    for one in members:
        one.end()


@scenario("two daemons with one namespace and one name: neither touches the other's container", deadline=60)
def two_daemons(shim):
    first = shim.container("same")
    pid = first.run()
    second = shim.container("same")
    try:
        second.run()
    except ttrpc.Status:
        pass  # what Go's runtime directory allows is one of a name; the question is what becomes of the first
    equal(second.daemon.invoke(second.bundle, "same", "delete").returncode, 0, "delete of the second")
    check(not host.has_exited(pid), "the first's process lives")
    equal(first.status(), RUNNING, "the first's status")
    first.exec("ex", ["true"])
    equal(first.wait("ex"), 0, "an exec in the first")
    first.finish()


@scenario("a reused pid: a kill of the exec that had it reaches no process", deadline=60)
def pid_reuse(shim):
    one = shim.container()
    one.run()
    old = one.exec("old", ["true"])
    equal(one.wait("old"), 0, "status")

    def same_pid(number=[0]):
        number[0] += 1
        # The next pid of this suite's own pid namespace; others start processes too, so it takes some tries.
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(max(2, old - 1 - number[0] % 8)))
        name = f"new{number[0]}"
        if one.exec(name, ["probe", "wait"]) == old:
            return name
        one.kill(exec_id=name)
        one.wait(name)
        one.delete(name)
        return None

    name = wait_until(same_pid, f"an exec with the pid {old}")
    refused(lambda: one.kill(exec_id="old"), ttrpc.NOT_FOUND)
    equal(one.status(name), RUNNING, "the one that has the pid now")
    equal(one.delete("old"), 0, "the first's status")
    equal(one.status(name), RUNNING, "the one that has the pid now")
    one.finish()


@scenario("pids that are reused all the time: each exit is its own process's", deadline=60)
def small_pid_max(shim):
    limit = Path("/proc/sys/kernel/pid_max")
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    before = limit.read_text()
    if release >= (6, 14):  # since then each pid namespace has its own
        limit.write_text("420")
    try:
        one = shim.container()
        one.run()
        for number in range(250):
            if release < (6, 14) and number % 20 == 0:
                Path("/proc/sys/kernel/ns_last_pid").write_text("400")
            one.exec(f"p{number}", ["probe", "exit", str(number % 100)])
            equal(one.wait(f"p{number}"), number % 100, f"status of exec {number}")
            equal(one.delete(f"p{number}"), number % 100, f"status of exec {number}")
        one.finish()
    finally:
        limit.write_text(before)


@scenario("a container that forks 10 000 children is killed within its deadline", deadline=150)
def many_children(shim):
    # No more than a third of what the host gives: it is shared.
    room = min(int(Path("/proc/sys/kernel/pid_max").read_text()), int(Path("/proc/sys/kernel/threads-max").read_text()))
    wanted = min(10000, room // 3)
    one = shim.container(args=["probe", "crowd", str(wanted)])
    out = Reader(one.bundle / "out")
    one.run(stdout=out.path, stderr=out.path)
    out.until(f"started {wanted}".encode(), 90)
    equal(len(one.call("Pids")[1]), wanted + 1, "Pids")
    begin = time.monotonic()
    one.end(timeout=80)
    check(time.monotonic() - begin < 80, f"kill and delete took {time.monotonic() - begin:.1f} s")
    one.shutdown()


@scenario("a paused container that is killed exits, and can be deleted", deadline=60)
def killed_while_paused(shim):
    for every in (0, 1):
        one = shim.container(f"paused{every}")
        one.run()
        one.call("Pause")
        one.call("Kill", signal=9, all=every)
        equal(one.wait(), 137, "status")
        equal(one.delete(), 137, "status")
        one.shutdown()


@scenario("a slow call of one container of a pod stalls no other", deadline=60)
def no_stall(shim):
    daemon = shim.daemon()
    first, slow = shim.pod("aa", "bb", daemon=daemon)
    first.run()
    slow.launch()
    logger = daemon.base / "logger"
    # The logger never reports that it is ready, so Create waits for it.
    logger.write_text("#!/bin/sh\nexec sleep 1000\n")
    logger.chmod(0o755)
    waiting = slow.send("Create", 60, bundle=str(slow.bundle), stdout=f"binary://{logger}", stderr=f"binary://{logger}")
    for number in range(5):
        equal(first.status(), RUNNING, "status")
        first.exec(f"ex{number}", ["true"])
        equal(first.wait(f"ex{number}"), 0, "an exec's status")
    # Create waits ten seconds for the logger. An answer now would mean that the others have waited for it.
    check(not waiting.is_answered(), "the slow call has its answer, after those of the other container")
    try:
        waiting(60)
    except Failure:
        pass  # how it fails is the affair of another scenario
    first.end()


@scenario("a kill that takes longer than its container's exit is answered before the deletion", deadline=60)
def slow_kill(shim):
    # The daemon hangs up after the deletion, and who has no answer by then has an error: "ttrpc: closed".
    daemon = shim.daemon()
    gate, runtime = daemon.base / "gate", daemon.base / "slow-to-return"
    os.mkfifo(gate)
    runtime.write_text(f'#!/bin/sh\nrunc "$@" || exit\ncase " $* " in *" kill "*) read -r _ <{gate} ;; esac\n:\n')
    runtime.chmod(0o755)
    one = shim.container(daemon=daemon, options=any_of(RUNC_OPTIONS, {6: str(runtime), 7: f"{daemon.base}/state"}))
    one.run()
    killed = one.send("Kill", signal=9)
    equal(one.wait(), 137, "status")
    deleted = one.send("Delete")
    one.events_until("delete")
    gate.write_text("go on\n")
    equal(deleted()[2], [137], "the deleted task's exit status")
    # At once: what came before the deletion's answer is there.
    killed(0)
    one.shutdown()


@scenario("hundreds of connections that come and go leave nothing open in the shim", deadline=60)
def connections(shim):
    one = shim.container()
    pid = one.run()
    server = shim.shim_of(pid)
    one.status()
    before = len(os.listdir(f"/proc/{server}/fd"))
    for _ in range(200):
        client = ttrpc.Client(one.socket)
        one.call("State", client=client)
        client.close()
    for number in range(30):
        one.exec(f"e{number}", ["true"])
        one.wait(f"e{number}")
        one.delete(f"e{number}")
    wait_until(lambda: len(os.listdir(f"/proc/{server}/fd")) <= before + 2, "open files to be as before: "
               f"{before}, now {len(os.listdir(f'/proc/{server}/fd'))}", 5)
    one.finish()
