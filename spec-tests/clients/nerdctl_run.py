"""Usual nerdctl commands: Docker's syntax, brig's shim as --runtime, and networks by hooks of the runtime."""

import json

from kit.commands import check, contains, equal, run, wait_until
from kit.suite import scenario
from kit.terminal import Terminal

_WAIT = ["probe", "wait"]


@scenario("run --rm: outputs, input, status, environment, user and directory")
def run_to_the_end(nerdctl):
    seen = nerdctl.run(["sh", "-c", "echo out; echo err >&2"])
    equal((seen.out, seen.err), ("out\n", "err\n"), "outputs")
    equal(nerdctl.run("-i", ["cat"], input="given\n").out, "given\n", "input")
    nerdctl.run(["probe", "exit", "7"], code=7)
    equal(nerdctl.run("-e", "A=1", "-w", "/srv", "-u", "app", ["sh", "-c", "echo $A $(pwd) $(id -un)"]).out,
          "1 /srv app\n", "inside")
    missing = nerdctl.run(["/no/such"], code=None)
    check(missing.code != 0, "a program that is not there")
    contains(missing.err, "/no/such", "the error")


@scenario("run -d, ps, exec, logs, inspect, stop, start, rm")
def in_the_background(nerdctl):
    # nerdctl's logger leaves when it hears of the exit, whether or not it has read all that was written before it.
    last = "echo bye; sleep 1; exit 3"
    name = nerdctl.start("bg", ["sh", "-c", f"trap '{last}' TERM; echo hello; while :; do sleep 0.1; done"])
    wait_until(lambda: nerdctl.nerdctl("logs", name).out == "hello\n", "the log")
    contains(nerdctl.nerdctl("ps").out, "Up", "ps")
    # nerdctl itself exits with 1 for any status, and prints the status.
    seen = nerdctl.nerdctl("exec", name, "sh", "-c", "echo in; exit 4", code=None)
    equal(seen.out, "in\n", "exec")
    contains(seen.err, "exit code 4", "its status")
    with Terminal(*nerdctl.words("exec", "-it", name, "sh")) as term:
        term.expect("#")
        term.send("tty; exit 5\n")
        term.expect("/dev/pts/0")
        check(term.wait() != 0, "the shell's status")
    nerdctl.nerdctl("stop", name)
    state = json.loads(nerdctl.nerdctl("inspect", name).out)[0]["State"]
    equal((state["Status"], state["ExitCode"]), ("exited", 3), "the state")
    wait_until(lambda: nerdctl.nerdctl("logs", name).out == "hello\nbye\n", "the log at the end")
    nerdctl.nerdctl("start", name, detached=True)
    wait_until(lambda: nerdctl.nerdctl("logs", name).out.count("hello") == 2, "the log of its second life")
    nerdctl.nerdctl("rm", "-f", name)
    equal(nerdctl.nerdctl("ps", "-aq").out, "", "containers")


@scenario("a published port, a network between containers, a name in it")
def network(nerdctl):
    nerdctl.start("web", "-p", "12020:80", ["httpd", "-f", "-p", "80", "-h", "/etc"])
    wait_until(lambda: run("busybox", "wget", "-q", "-O-", "http://127.0.0.1:12020/plain", code=None).out ==
               "not a program\n", "the published port")
    address = json.loads(nerdctl.nerdctl("inspect", "web").out)[0]["NetworkSettings"]["IPAddress"]
    equal(nerdctl.run(["wget", "-q", "-O-", f"http://{address}/plain"]).out, "not a program\n", "by address")
    equal(nerdctl.run("--network", "none", ["ls", "/sys/class/net"]).out.split(), ["lo"], "network none")


@scenario("volumes, read-only root, tmpfs, capabilities, no-new-privileges")
def options(nerdctl):
    shared = nerdctl.base / "shared"
    shared.mkdir(exist_ok=True)
    (shared / "in").write_text("given\n")
    nerdctl.run("-v", f"{shared}:/shared", ["sh", "-c", "cat /shared/in >/shared/out"])
    equal((shared / "out").read_text(), "given\n", "what the container wrote")
    seen = nerdctl.run("--read-only", "--tmpfs", "/scratch", ["sh", "-c", "touch /scratch/yes; touch /no 2>&1; true"])
    contains(seen.out, "Read-only", "the root")
    seen = nerdctl.run("--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE", ["grep", "Cap[EB]", "/proc/self/status"])
    equal([int(word, 16) for word in seen.out.split()[1::2]], [1 << 10, 1 << 10], "capabilities")
    seen = nerdctl.run("-u", "app", "--security-opt", "no-new-privileges", ["setuid-probe", "status"])
    contains(seen.out, "Uid:\t1000\t1000", "a setuid program")


@scenario("pause, unpause, kill, limits, update and stats")
def limits(nerdctl):
    name = nerdctl.start("lim", "-m", "64m", "--pids-limit", "50", _WAIT)
    nerdctl.nerdctl("pause", name)
    contains(nerdctl.nerdctl("ps", "-a").out, "Paused", "ps")
    nerdctl.nerdctl("unpause", name)
    nerdctl.nerdctl("update", "-m", "96m", name)
    figures = json.loads(nerdctl.nerdctl("stats", "--no-stream", "--format", "json", name).out)
    contains(figures["MemUsage"], "96MiB", "stats")
    nerdctl.nerdctl("kill", name)
    wait_until(lambda: json.loads(nerdctl.nerdctl("inspect", name).out)[0]["State"]["ExitCode"] == 137, "its status")
    nerdctl.run("-m", "24m", "--memory-swap", "24m", ["probe", "hog", "100"], code=137)


_STEPS = """
FROM scratch AS base
ADD busybox.tar /
ENV COLOUR=blue
WORKDIR /srv
RUN echo $COLOUR >colour && id -un >who
RUN --mount=type=cache,target=/cache echo kept >/cache/file && cat colour who >both
USER app
RUN id -un >/tmp/who && ! touch /etc/no 2>/dev/null
USER root
RUN --mount=type=tmpfs,target=/scratch touch /scratch/gone && grep -q ' /scratch tmpfs' /proc/mounts
RUN --mount=type=secret,id=word cat /run/secrets/word >/srv/secret
FROM scratch
COPY --from=base /srv/ /srv/
COPY --from=base /tmp/who /who
"""


@scenario("BuildKit builds a Dockerfile: RUN steps over the command, and over the shim", deadline=300)
def build(nerdctl):
    for worker in ("oci", "containerd"):
        builder = nerdctl.builder(worker)
        secret = builder.base / "word"
        secret.write_text("mellon\n")
        builder.build(_STEPS, "--secret", f"id=word,src={secret}")
        texts = {name: (builder.base / "out" / name).read_text() for name in ("srv/both", "srv/secret", "who")}
        wanted = {"srv/both": "blue\nroot\n", "srv/secret": "mellon\n", "who": "app\n"}
        equal(texts, wanted, f"{worker}: what was built")
        failed = builder.build("FROM scratch\nADD busybox.tar /\nRUN probe exit 42\n", code=None)
        check(failed.code != 0, f"{worker}: a step that fails")
        contains(failed.err, "exit code: 42", f"{worker}: the step's status")


@scenario("nerdctl build, and run of the built image", deadline=300)
def build_and_run(nerdctl):
    builder = nerdctl.builder("oci")
    context = builder.context("FROM scratch\nADD busybox.tar /\nRUN echo built >/made\nCMD [\"cat\", \"/made\"]\n")
    nerdctl.nerdctl("--snapshotter", "overlayfs", "build", "--buildkit-host", builder.address, "-t", "made", context,
                    timeout=180)
    equal(nerdctl.run([], image="made").out, "built\n", "what it prints")
    nerdctl.nerdctl("rmi", "-f", "made")
