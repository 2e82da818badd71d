"""Inspection and management of containers from outside."""

import json
import subprocess

from kit.commands import check, contains, equal, run, wait_until
from kit.suite import scenario


@scenario("23 top and stats of a running container")
def top_and_stats(docker):
    docker.start("--name", "tt", "-m", "64m", ["sh", "-c", "probe wait & probe spin"])
    wait_until(lambda: docker("top", "tt").out.count("probe") >= 2, "both processes in top")
    contains(docker("top", "tt", "-o", "pid,comm").out, "COMMAND", "top with ps options")

    def numbers():
        line = docker("stats", "--no-stream", "--format", "{{json .}}", "tt").text
        return json.loads(line)

    stats = wait_until(lambda: (lambda one: one if one["CPUPerc"] not in ("0.00%", "--") else None)(numbers()), "CPU use")
    check(stats["MemUsage"].endswith("/ 64MiB"), f"memory: {stats['MemUsage']}")
    check(int(stats["PIDs"]) >= 2, f"pids: {stats['PIDs']}")
    stream = subprocess.Popen(docker.command("stats", "--format", "{{.Name}}", "tt"), stdout=subprocess.PIPE, text=True)
    try:
        # Until the first sample comes, which may take the client longer than it waits, the name is "--".
        seen = 0
        while seen < 3:
            line = stream.stdout.readline()
            check(line, "stats goes on")
            seen += "tt" in line
    finally:
        stream.kill()
        stream.communicate()


@scenario("23 events report create, start, exec, pause, die and destroy")
def events(docker):
    begin = run("date", "+%s").text
    docker.start("--name", "ee", ["probe", "wait"])
    docker("exec", "ee", "true")
    docker("pause", "ee")
    docker("unpause", "ee")
    docker("rm", "-f", "ee")
    asked = ("events", "--since", begin, "--until", "0s", "--filter", "container=ee", "--format", "{{.Action}}")
    seen = wait_until(lambda: (lambda out: out if "destroy" in out else None)(docker(*asked).out), "the last event")
    for action in ("create", "start", "exec_start", "exec_die", "pause", "unpause", "die", "destroy"):
        contains(seen, action, "events")


@scenario("23 wait gives the exit code, to several at once")
def wait(docker):
    docker.start("--name", "ww", ["sh", "-c", "trap 'exit 21' TERM; echo ready; probe wait & wait"])
    wait_until(lambda: "ready" in docker("logs", "ww").out, "the handler")
    waiting = [subprocess.Popen(docker.command("wait", "ww"), stdout=subprocess.PIPE, text=True) for _ in range(3)]
    docker("stop", "ww")
    equal([one.communicate(timeout=20)[0].strip() for one in waiting], ["21"] * 3, "three waits")


@scenario("23 cp both ways, diff, commit, rename, export")
def files(docker):
    docker.start("--name", "ff", ["probe", "wait"])
    source = docker.base / "copied"
    source.write_text("carried\n")
    docker("cp", source, "ff:/srv/in")
    equal(docker("exec", "ff", "cat", "/srv/in").text, "carried", "cp into a running container")
    docker("exec", "ff", "sh", "-c", "echo made >/srv/out")
    docker("cp", "ff:/srv/out", docker.base / "out")
    equal((docker.base / "out").read_text(), "made\n", "cp out of it")
    contains(docker("diff", "ff").out, "A /srv/out", "diff")
    docker("commit", "ff", "changed")
    equal(docker("run", "--rm", "changed", "cat", "/srv/out").text, "made", "the committed image")
    docker("rename", "ff", "gg")
    docker("exec", "gg", "true")


@scenario("23 rm -f of a running one, rm of a running one is refused, prune removes the stopped ones")
def removal(docker):
    docker.start("--name", "one", ["probe", "wait"])
    contains(docker("rm", "one", code=1).err, "running container", "rm without -f")
    docker("rm", "-f", "one")
    docker("run", "--name", "two", "busybox", "true")
    contains(docker("container", "prune", "-f").out, "Deleted", "prune")
    equal(docker("ps", "-aq").text, "", "containers")


@scenario("restart policies: on-failure counts its tries, always restarts after a kill from outside")
def policies(docker):
    docker.start("--name", "tries", "--restart", "on-failure:2", ["probe", "exit", "1"])
    wait_until(lambda: docker.inspect("tries", "RestartCount") == 2 and not docker.inspect("tries", "State.Running")
               and not docker.inspect("tries", "State.Restarting"), "two restarts")
    docker.start("--name", "always", "--restart", "always", ["probe", "wait"])
    first = docker.pid("always")
    run("kill", "-9", first)
    wait_until(lambda: docker.pid("always") not in (0, first), "a new process")


@scenario("ten containers at once start, answer and go")
def many(docker):
    names = [f"n{number}" for number in range(10)]
    docker.together(*[("run", "-d", "--name", name, "busybox", "probe", "wait") for name in names])
    results = docker.together(*[("exec", name, "hostname") for name in names])
    equal(len({result.text for result in results}), 10, "different hostnames")
    docker.together(*[("rm", "-f", name) for name in names])
    equal(docker("ps", "-aq").text, "", "containers")
