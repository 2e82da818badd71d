"""`ctr tasks exec`: into a running container, with and without a terminal, many at once, too late, twice."""

import subprocess
import threading

from kit.commands import check, contains, equal, wait_until
from kit.suite import scenario
from kit.terminal import Terminal


@scenario("exec: outputs, standard input, exit statuses, user and directory")
def plain(containerd):
    name = containerd.start("xx")
    seen = containerd.exec(name, ["sh", "-c", "echo out; echo err >&2; exit 5"], code=5)
    equal((seen.out, seen.err), ("out\n", "err\n"), "outputs")
    equal(containerd.exec(name, ["cat"], input="through\n").out, "through\n", "standard input")
    equal(containerd.exec(name, "--user", "app", "--cwd", "/home/app", ["sh", "-c", "id -u; pwd"]).out, "1000\n/home/app\n",
          "user and directory")
    for signal, number in (("KILL", 137), ("SEGV", 139), ("TERM", 143)):
        containerd.exec(name, ["sh", "-c", f"kill -{signal} $$"], code=number)
    equal(containerd.status(name), "RUNNING", "the container afterwards")


@scenario("exec -t: a terminal that is resized")
def terminal(containerd):
    name = containerd.start("xt")
    words = containerd.command("tasks", "exec", "-t", "--exec-id", "term", name, "sh")
    with Terminal(*words, rows=30, columns=90) as term:
        term.expect("#")
        term.resized(41, 101)
        term.send("exit 3\n")
        equal(term.wait(), 3, "exit status")


@scenario("exec of a program that is not there: an error that names it; its id is free again")
def not_found(containerd):
    name = containerd.start("nf")
    for _ in range(2):
        seen = containerd("tasks", "exec", "--exec-id", "same", name, "/no/such", code=None)
        check(seen.code not in (0, None), "an exit status that says failure")
        contains(seen.err, "/no/such", "the error")
    containerd("tasks", "exec", "--exec-id", "same", name, "true")


@scenario("an exec id that is in use is refused, and the first exec continues")
def duplicate(containerd):
    name = containerd.start("dd")
    words = [str(word) for word in containerd.command("tasks", "exec", "--exec-id", "twin", name, "cat")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        first.stdin.write(b"one\n")
        first.stdin.flush()
        equal(first.stdout.readline(), b"one\n", "the first exec")
        seen = containerd("tasks", "exec", "--exec-id", "twin", name, "true", code=None)
        check(seen.code not in (0, None), "the second is refused")
        contains(seen.err, "already exists", "the error")
        first.stdin.write(b"two\n")
        first.stdin.flush()
        equal(first.stdout.readline(), b"two\n", "the first exec goes on")
        first.stdin.close()
        equal(first.wait(20), 0, "its status")


@scenario("exec after the container exited is refused, and leaves nothing")
def too_late(containerd):
    name = containerd.start("ll", ["true"])
    containerd.until(name, "STOPPED")
    seen = containerd.exec(name, ["true"], code=None)
    check(seen.code not in (0, None), f"refused: {seen}")
    containerd("tasks", "delete", name)


@scenario("120 execs, 12 at once: every output and status arrives")
def many(containerd):
    name = containerd.start("120")
    results, lock = [], threading.Lock()

    def some(first):
        for number in range(first, 120, 12):
            seen = containerd("tasks", "exec", "--exec-id", f"n{number}", name, "sh", "-c",
                              f"echo {number}; exit {number % 7}", code=None)
            with lock:
                results.append((number, seen.out, seen.code))

    threads = [threading.Thread(target=some, args=(first,)) for first in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    equal(sorted(results), [(number, f"{number}\n", number % 7) for number in range(120)], "results")


@scenario("execs under way when the container is killed all end, and the container is reported once")
def killed_meanwhile(containerd):
    name = containerd.start("km")
    words = [[str(word) for word in containerd.command("tasks", "exec", "--exec-id", f"k{n}", name, "probe", "wait")]
             for n in range(40)]
    clients = [subprocess.Popen(one, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
               for one in words]
    wait_until(lambda: len(containerd("tasks", "ps", name).out.splitlines()) > 12, "some execs to run", 60)
    containerd("tasks", "kill", "-s", "KILL", name)
    for client in clients:
        out, _ = client.communicate(timeout=60)
        check(client.returncode != 0, f"an exec in a killed container: {out}")
    containerd.until(name, "STOPPED")
    containerd.delete_task(name, 137)
