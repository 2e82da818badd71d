"""Podman: run, exec, limits, pause, stop, remove; scenarios 1, 8 and 14."""


from clients.docker_network import answers
from kit import host
from kit.commands import contains, equal, wait_until
from kit.podman import BUSYBOX
from kit.suite import scenario
from kit.terminal import Terminal


@scenario("run: output, stdin, environment, user, workdir, hostname")
def run_plain(podman):
    equal(podman.run(["echo", "hello"]).text, "hello", "output")
    equal(podman.run("-i", ["cat"], input="through\n").out, "through\n", "stdin")
    out = podman.run("-e", "A=1", "-w", "/srv", "--hostname", "box", "--user", "app", ["sh", "-c", "echo $A $(pwd) $(hostname) $(id -un)"])
    equal(out.text, "1 /srv box app", "inside")


@scenario("1 a server with hostname, port, volume, env file, workdir, user, memory, CPU, restart policy and health command")
def server(podman):
    env_file = podman.base / "env"
    env_file.write_text("COLOUR=blue\n")
    podman.start("--name", "web", "--network", "host", "--hostname", "web", "-v", "site:/site", "--env-file", env_file,
                 "-w", "/site", "--user", "app", "-m", "512m", "--cpus", "1", "--restart", "on-failure:3",
                 "--health-cmd", "probe reach 127.0.0.1:8085", "--health-interval", "disable", ["probe", "serve", "8085"])
    equal(wait_until(lambda: answers("http://127.0.0.1:8085/"), "the server"), "probe\n", "the answer")
    podman("healthcheck", "run", "web")
    equal(podman.inspect("web", "State.Status"), "running", "status")
    equal(podman("exec", "web", "sh", "-c", "echo $COLOUR $(pwd) $(id -un) $(hostname)").text, "blue /site app web", "inside")


@scenario("14 exit codes: the program's own, 125, 126, 127, 137, 139, 143")
def exits(podman):
    for code in (0, 1, 42, 255):
        podman.run(["probe", "exit", code], code=code)
    podman.run("--no-such-flag", ["true"], code=125)
    podman.run(["/etc/plain"], code=126)
    podman.run(["no-such"], code=127)
    for name, number in (("KILL", 137), ("SEGV", 139), ("TERM", 143)):
        podman.run(["sh", "-c", f"sh -c 'kill -{name} $$'; exit $?"], code=number)
    podman.start("--name", "killed", ["probe", "wait"])
    podman("kill", "killed")
    equal(podman("wait", "killed").text, "137", "wait after kill")


@scenario("exec: status, user, environment, stdin, detached; and programs that cannot run")
def exec_plain(podman):
    podman.start("--name", "x", ["probe", "wait"])
    podman("exec", "x", "probe", "exit", "7", code=7)
    podman("exec", "x", "/etc/plain", code=126)
    podman("exec", "x", "no-such", code=127)
    equal(podman("exec", "-u", "app", "-e", "A=b", "-w", "/srv", "x", "sh", "-c", "id -un; echo $A; pwd").out, "app\nb\n/srv\n", "exec")
    equal(podman("exec", "-i", "x", "cat", input="in\n").out, "in\n", "exec -i")
    podman("exec", "-d", "x", "touch", "/tmp/made")
    wait_until(lambda: podman("exec", "x", "test", "-e", "/tmp/made", code=None).code == 0, "the detached exec")


@scenario("run -it and exec -it on a terminal, with a resize")
def terminals(podman):
    with Terminal(*podman.command(*podman.run_words("--rm", "-it"), BUSYBOX, "sh"), rows=31, columns=97) as screen:
        screen.expect("#")
        screen.send("tty; echo out-$((40+2))\n")
        screen.expect("/dev/pts/0")
        screen.expect("out-42")
        screen.send("exit 6\n")
        equal(screen.wait(), 6, "exit status")
    podman.start("--name", "x", ["probe", "wait"])
    with Terminal(*podman.command("exec", "-it", "x", "sh"), rows=20, columns=90) as screen:
        screen.expect("#")
        screen.resized(44, 99)
        screen.send("exit 4\n")
        equal(screen.wait(), 4, "exit status")


@scenario("8 out of memory: exit 137")
def out_of_memory(podman):
    podman.run("-m", "24m", "--memory-swap", "24m", ["probe", "hog", "100"], code=137)


@scenario("limits: memory, pids and CPU are read back inside; a fork bomb is refused")
def limits(podman):
    podman.start("--name", "l", "-m", "64m", "--memory-swap", "64m", "--pids-limit", "60", "--cpus", "0.5", ["probe", "wait"])
    v2 = host.pure_v2()
    files = {"memory/memory.limit_in_bytes": "memory.max", "pids/pids.max": "pids.max"}
    seen = [podman("exec", "l", "cat", f"/sys/fs/cgroup/{new if v2 else old}").text for old, new in files.items()]
    equal(seen, [str(64 << 20), "60"], "memory and pids")
    quota = podman("exec", "l", "cat", "/sys/fs/cgroup/cpu.max" if v2 else "/sys/fs/cgroup/cpu/cpu.cfs_quota_us").text
    equal(quota, "50000 100000" if v2 else "50000", "CPU")
    contains(podman("exec", "l", "probe", "fork", "100").out, "Resource temporarily unavailable", "the fork bomb")


@scenario("pause and unpause; stop with its grace, -t 0; restart; rm -f")
def life(podman):
    podman.start("--name", "p", ["sh", "-c", "trap 'exit 5' TERM; echo ready; probe wait & wait"])
    wait_until(lambda: "ready" in podman("logs", "p").out, "the handler")
    podman("pause", "p")
    equal(podman.inspect("p", "State.Status"), "paused", "status")
    podman("unpause", "p")
    podman("stop", "p")
    equal(podman.inspect("p", "State.ExitCode"), 5, "the handler's exit code")
    podman("start", "p")
    podman("restart", "-t", "1", "p")
    equal(podman.inspect("p", "State.Status"), "running", "status after restart")
    podman.start("--name", "deaf", "--stop-timeout", "3600", ["sh", "-c", "trap '' TERM; echo ready; probe wait & wait; wait"])
    wait_until(lambda: "ready" in podman("logs", "deaf").out, "the deaf one")
    podman("stop", "-t", "0", "deaf")
    equal(podman.inspect("deaf", "State.ExitCode"), 137, "exit code")
    podman("rm", "-f", "p", "deaf")


@scenario("hardening: read-only, tmpfs, no capabilities, no new privileges")
def hardening(podman):
    options = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE", "--security-opt", "no-new-privileges")
    fields = host.parse_status(podman.run(*options, ["probe", "status"]).out)
    equal([int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")], [1 << 10] * 3, "capabilities")
    equal((fields["NoNewPrivs"], fields["Seccomp"]), ("1", "2"), "NoNewPrivs, Seccomp")
    podman.run(*options, ["sh", "-c", "touch /tmp/x && ! touch /x 2>/dev/null"])


@scenario("top, logs, ps, cp, diff")
def manage(podman):
    podman.start("--name", "m", ["sh", "-c", "echo a line; probe wait"])
    wait_until(lambda: "probe" in podman("top", "m").out, "the program in top")
    wait_until(lambda: "a line" in podman("logs", "m").out, "the log")
    contains(podman("ps", "--format", "{{.Names}} {{.Status}}").out, "m Up", "ps")
    (podman.base / "file").write_text("carried\n")
    podman("cp", podman.base / "file", "m:/srv/in")
    equal(podman("exec", "m", "cat", "/srv/in").text, "carried", "cp")
    contains(podman("diff", "m").out, "A /srv/in", "diff")


@scenario("volumes, a read-only bind, shm size, ulimit, sysctl, a device")
def storage(podman):
    bound = podman.base / "bound"
    bound.mkdir(exist_ok=True)
    (bound / "file").write_text("from the host\n")
    out = podman.run("-v", f"{bound}:/in:ro", "--shm-size", "8m", "--ulimit", "core=0:0", "--device", "/dev/kmsg", "--sysctl",
                     "net.core.somaxconn=777", ["sh", "-c", "cat /in/file; touch /in/x 2>/dev/null || echo refused; "
                     "ulimit -c; cat /proc/sys/net/core/somaxconn; test -c /dev/kmsg; df -k /dev/shm | tail -n 1 | awk '{print $2}'"])
    equal(out.out, "from the host\nrefused\n0\n777\n8192\n", "inside")


@scenario("a pod: two containers share network, IPC and host name")
def pod(podman):
    podman.start("--name", "first", "--ipc", "shareable", "--network", "none", ["probe", "serve", "8000"])
    podman.start("--name", "second", "--ipc", "container:first", "--network", "container:first", "--pid", "container:first", ["probe", "wait"])
    equal(wait_until(lambda: podman("exec", "second", "probe", "fetch", "127.0.0.1:8000", code=None).out, "the answer"),
          "probe\n", "the answer")
    for kind in ("net", "ipc", "pid"):
        link = f"/proc/self/ns/{kind}"
        equal(podman("exec", "second", "readlink", link).text, podman("exec", "first", "readlink", link).text, kind)
    podman("rm", "-f", "-t", "0", "second")


@scenario("--init reaps, --pid host sees the host, --userns maps")
def namespaces(podman):
    podman.start("--name", "i", "--init", "--init-path", "/usr/bin/tini-static", ["sh", "-c", "(sleep 0 &); while :; do sleep 0.1; done"])
    wait_until(lambda: "Z" not in podman("exec", "i", "ps", "-o", "stat").out, "no zombies")
    podman.run("--pid", "host", ["sh", "-c", "test -d /proc/$PPID"])
    mapped = podman.run("--uidmap", "0:100000:5000", "--gidmap", "0:100000:5000", ["cat", "/proc/self/uid_map"]).text.split()
    equal(mapped, ["0", "100000", "5000"], "uid_map")
