"""How a shim is started, joined, asked about itself, and cleaned up after, by each generation of containerd."""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kit import host
from kit.commands import Failure, check, contains, equal, run, wait_until
from kit.shim import GROUP, parse_answer, socket_path
from kit.suite import scenario
from kit.ttrpc import Client, any_of, decode

RUNC_OPTIONS = "containerd.runc.v1.Options"


@scenario("start: 1.6 gets a plain address and task v2; the bundle has the address too", deadline=60)
def plain_16(shim):
    _old(shim, "1.6")


@scenario("start: 1.7 and 2.0 to 2.2 get the plain address", deadline=60)
def plain_17(shim):
    _old(shim, "1.7")


def _old(shim, generation):
    one = shim.container(generation=generation)
    one.run()
    answer = one.answer.decode()
    if answer.startswith("{"):
        check(generation != "1.6" and json.loads(answer)["version"] == 2, f"JSON of version 2 at most: {answer}")
    else:
        equal(answer, answer.strip(), "the answer has no blank space around it")
    equal(one.version, 2, "the version")
    equal((one.bundle / "address").read_text(), f"unix://{one.socket}", "the file `address`")
    one.finish()


@scenario("start: 2.3 and later get a proto with version 3; options come as an extension", deadline=60)
def proto(shim):
    daemon = shim.daemon()
    one = shim.container(daemon=daemon, options=any_of(RUNC_OPTIONS, {7: f"{daemon.base}/state"}))
    one.run()
    told = decode(one.answer)
    equal((told[1], told[3]), ([3], [b"ttrpc"]), "version and protocol")
    equal(one.version, 3, "the version")
    check((daemon.base / "state").is_dir(), "the options' root is used")
    one.finish()


@scenario("an old daemon's options are not taken for a bootstrap message", deadline=60)
def legacy_any(shim):
    daemon = shim.daemon("1.6")
    one = shim.container(daemon=daemon, options=any_of(RUNC_OPTIONS, {7: f"{daemon.base}/state"}))
    one.run()
    equal(one.version, 2, "the version")
    check((daemon.base / "state").is_dir(), "the options' root is used")
    one.finish()


@scenario("both task services answer on one socket", deadline=60)
def both_services(shim):
    for generation in ("1.6", "2.3"):
        one = shim.container(generation, generation=generation)
        pid = one.run()
        for version in (2, 3):
            one.version = version
            equal(one.call("State")[3], [pid], f"State of v{version}")
        one.finish()


@scenario("the socket: a name of at most 106 characters, mode 0600, of the hash that daemons know; removed at the end", deadline=60)
def socket(shim):
    one = shim.container()
    one.run()
    check(len(str(one.socket)) <= 106, f"{one.socket} is too long")
    equal(one.socket.stat().st_mode & 0o777, 0o600, "the mode")
    equal(one.socket, socket_path(one.socket.parent, one.daemon.address, shim.namespace, one.name), "the name")
    one.finish()
    wait_until(lambda: not one.socket.exists(), "the socket to go")


@scenario("the shim: a subreaper's parent of init, in a process group of its own, with the OOM score of its parent + 1", deadline=60)
def process(shim):
    one = shim.container()
    pid = one.run()
    server = shim.shim_of(pid)
    score = int(open("/proc/self/oom_score_adj").read())
    equal(int(open(f"/proc/{server}/oom_score_adj").read()), min(score + 1, 1000), "the shim's OOM score")
    check(os.getpgid(server) == server != os.getpgid(0), "a process group of its own")
    equal(os.readlink(f"/proc/{server}/cwd"), str(one.bundle), "its working directory")
    # Not more than it must hold: a pipe of the daemon's would keep that waiting.
    streams = [os.readlink(f"/proc/{server}/fd/{number}") for number in (0, 1)]
    equal(streams, ["/dev/null", "/dev/null"], "standard input and output")
    one.finish()


@scenario("containers of one group share one process; joining starts none, and the last one stops it", deadline=60)
def grouped(shim):
    for annotation in (GROUP, "io.kubernetes.cri.sandbox-id"):
        daemon = shim.daemon()
        first = shim.container(f"first-{daemon.base.name}", daemon=daemon,
                               annotations={annotation: f"first-{daemon.base.name}"})
        second = shim.container(f"second-{daemon.base.name}", daemon=daemon,
                                annotations={annotation: f"first-{daemon.base.name}"})
        server = shim.shim_of(first.run())
        before = shim.shims()
        second.launch()
        equal(shim.shims(), before, "shims after a join")
        equal(second.socket, first.socket, "the socket")
        pid = second.create()
        second.call("Start")
        equal(shim.shim_of(pid), server, "the second's shim")
        for one in (first, second):
            one.finish()
        wait_until(lambda: not shim.shims(), "the shim to end")


@scenario("a container of an old daemon joins a group as well, and its bundle has the address", deadline=60)
def grouped_old(shim):
    daemon = shim.daemon("1.6")
    first, second = shim.pod("first", "second", daemon=daemon)
    first.launch()
    second.launch()
    equal(second.socket, first.socket, "the socket")
    for one in (first, second):
        equal((one.bundle / "address").read_text(), f"unix://{first.socket}", "the file `address`")


@scenario("joining a shim of another generation reports the version of its server", deadline=60)
def join_across(shim):
    daemon = shim.daemon("1.6")
    first = shim.container("first", daemon=daemon, annotations={GROUP: "first"})
    first.run()
    daemon.generation = "2.3"
    second = shim.container("second", daemon=daemon, annotations={GROUP: "first"}).launch()
    pid = second.create()
    second.call("Start")
    equal(shim.shim_of(pid), shim.shims()[0], "the shim")


@scenario("a shim whose container was never created exits on Shutdown, and on SIGTERM", deadline=60)
def never_created(shim):
    one = shim.container("down").launch()
    one.shutdown()
    wait_until(lambda: not shim.shims(), "the shim to end")
    two = shim.container("term").launch()
    two.call("Connect")  # the socket is there before the server, and a signal may come before either
    os.kill(shim.shims()[0], 15)
    wait_until(lambda: not shim.shims(), "the shim to end")
    wait_until(lambda: not two.socket.exists(), "the socket to go")


@scenario("two starts at once of one group end in one shim", deadline=60)
def two_starts(shim):
    daemon = shim.daemon()
    names = [f"race{number}" for number in range(6)]
    members = shim.pod(*names, daemon=daemon)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda one: one.launch(), members))
    equal({one.socket for one in members}, {members[0].socket}, "sockets")
    wait_until(lambda: len(shim.shims()) == 1, f"one shim: {shim.shims()}")
    for one in members:
        one.create()


@scenario("delete: quick, a proto on standard output, status 137, and again the same; also where nothing ever was", deadline=60)
def delete(shim):
    one = shim.container()
    pid = one.run()
    for server in shim.shims():
        os.kill(server, 9)
    wait_until(lambda: not shim.shims(), "the shim to be gone")
    for attempt in range(2):
        begin = time.monotonic()
        done = one.daemon.invoke(one.bundle, one.name, "delete", before=("-bundle", str(one.bundle)))
        equal(done.returncode, 0, f"status of delete ({done.stderr!r})")
        check(time.monotonic() - begin < 5, "delete within the daemon's five seconds")
        told = decode(done.stdout)
        equal(told.get(2), [137], f"exit status of attempt {attempt}")
        check(3 in told, "the time of the exit")
        check(host.has_exited(pid), "the process is gone")
    never = shim.container("never", daemon=one.daemon)
    equal(never.daemon.invoke(never.bundle, "never", "delete").returncode, 0, "status of delete of nothing")


@scenario("-v and -info: the name and version, and the features of the runtime", deadline=60)
def about(shim):
    daemon = shim.daemon()
    for flag in ("-v", "-version"):
        said = daemon.invoke(daemon.base, "x", "start", before=(flag,))
        equal(said.returncode, 0, f"status of {flag}")
        contains(said.stdout.lower(), b"version", flag)
    said = daemon.invoke(daemon.base, "x", "start", before=("-info",), stdin=b"")
    equal(said.returncode, 0, f"status of -info ({said.stderr!r})")
    info = decode(said.stdout)
    check(info.get(1), "a name")
    features = decode(info[4][0])
    contains(features[1][0], b"Features", "the type of the features")
    contains(json.loads(features[2][0]), "ociVersionMin", "the features")


@scenario("a bundle that is no bundle: start says why, and leaves nothing", deadline=60)
def no_bundle(shim):
    one = shim.container()
    (one.bundle / "config.json").write_text("{")
    done = one.daemon.invoke(one.bundle, one.name, "start", stdin=one.daemon.bootstrap(one.name))
    check(done.returncode != 0, f"a status that says failure: {done}")
    contains(done.stdout + done.stderr, b"config.json", "the reason")


@scenario("the drop-in name: a program called containerd-shim-runc-v2 does the same", deadline=60)
def drop_in(shim):
    daemon = shim.daemon()
    one = shim.container(daemon=daemon, options=any_of(RUNC_OPTIONS, {7: f"{daemon.base}/state"}))
    program = one.daemon.base / "containerd-shim-runc-v2"
    program.symlink_to(shim.program)
    one.launch(program=program)
    one.create()
    one.call("Start")
    one.finish()


@scenario("by hand: -help prints the flags, a wrong flag is an error on a line, and start without a bundle leaves nothing")
def by_hand(shim):
    daemon = shim.daemon()
    done = run(shim.program, "-help")
    equal((done.code, done.err), (0, ""), "status and standard error of -help")
    for flag in ("-namespace", "-id", "-address", "-bundle", "-debug", "-info", "-v", "start", "delete"):
        contains(done.out, flag, "the usage text")
    done = run(shim.program, "-nope", code=1)
    check(done.err.startswith("unknown flag -nope") and done.err.endswith("\n"), f"an error on a line: {done.err!r}")
    nowhere = daemon.base / "nowhere"
    nowhere.mkdir()
    for generation in ("1.6", "2.3"):
        daemon.generation = generation
        done = daemon.invoke(nowhere, "one", "start", stdin=daemon.bootstrap("one"))
        equal((done.returncode, done.stdout), (1, b""), "status and answer of start")
        contains(done.stderr.decode(), f"{nowhere} is no bundle", "the error")
    equal((list(nowhere.iterdir()), shim.shims(), shim.leftovers()), ([], [], []), "what is left")


@scenario("options as runtimeoptions.v1: a body or a file of TOML; a fault in it is reported", deadline=60)
def toml(shim):
    daemon = shim.daemon()

    def attempt(name, **fields):
        numbers = {"path": 2, "body": 3}
        options = any_of("runtimeoptions.v1.Options", {1: RUNC_OPTIONS, **{numbers[k]: v for k, v in fields.items()}})
        return shim.container(name, daemon=daemon, options=options)

    one = attempt("body", body=f'Root = "{daemon.base}/of-body"\nSystemdCgroup = false\n'.encode())
    one.run()
    check((daemon.base / "of-body").is_dir(), "Root of the body is used")
    one.finish()
    file = daemon.base / "options.toml"
    file.write_text(f'Root = "{daemon.base}/of-file"\nNewKey = 1\n')
    two = attempt("file", path=str(file))
    two.run()
    check((daemon.base / "of-file").is_dir(), "Root of the file is used, and an unknown key does no harm")
    two.finish()
    three = attempt("wrong", body=b'SystemdCgroup = "yes"\n')
    try:
        three.launch()
        three.create()
        problem = ""
    except Exception as error:
        problem = str(error)
    contains(problem, "SystemdCgroup", "the error about a key of the wrong type")


@scenario("BinaryName: verbs execute the runtime that the options name", deadline=60)
def binary_name(shim):
    daemon = shim.daemon()
    record = daemon.base / "calls"
    wrapper = daemon.base / "wrapped-runc"
    wrapper.write_text(f'#!/bin/sh\necho "$*" >>{record}\nexec runc "$@"\n')
    wrapper.chmod(0o755)
    one = shim.container(daemon=daemon, options=any_of(RUNC_OPTIONS, {6: str(wrapper), 7: f"{daemon.base}/state"}))
    one.run()
    one.exec("ex", ["probe", "exit", "4"])
    equal(one.wait("ex"), 4, "the exec's status")
    equal(one.delete("ex"), 4, "the exec's status")
    # Its name is that of a file in the bundle.
    config = (one.bundle / "config.json").read_bytes()
    one.exec("config", ["probe", "exit", "5"])
    equal(one.wait("config"), 5, "the exec's status")
    equal((one.bundle / "config.json").read_bytes(), config, "the configuration")
    for method in ("Pids", "Pause", "Resume", "State"):
        one.call(method)
    one.finish()
    calls = record.read_text()
    for verb in ("create", "start", "exec", "ps", "pause", "resume", "state", "kill", "delete"):
        contains(calls, f" {verb} ", "the wrapper's calls")
    for call in calls.splitlines():
        contains(call, f"--log {one.bundle}/log.json --log-format json", "a call")


@scenario("errors name a runtime that is not there in quotation marks, and an exec that failed as other shims do", deadline=60)
def error_texts(shim):
    daemon = shim.daemon()
    for name in ("no-such-runtime", "/no/such/runtime"):
        absent = shim.container("absent" + name.replace("/", "-"), daemon=daemon, options=any_of(RUNC_OPTIONS, {6: name})).launch()
        try:
            absent.create()
            problem = "it was created"
        except Failure as failure:
            problem = str(failure)
        contains(problem, f'"{name}"', "the error of Create")
    one = shim.container(daemon=daemon)
    one.run()
    try:
        one.exec("ex", ["no-such-program"])
        problem = "it was started"
    except Failure as failure:
        problem = str(failure)
    contains(problem, 'OCI runtime exec failed: exec failed: unable to start container process: exec: "no-such-program": '
             'executable file not found in $PATH', "the error of Start")
    for prefix in ("InvalidArgument", "NotFound", "FailedPrecondition"):
        check(prefix not in problem, f"an error without a name of its code: {problem}")
    one.finish()


@scenario("BinaryName: a runtime whose errors are in its log alone: the last one is the answer's", deadline=60)
def errors_in_the_log(shim):
    daemon = shim.daemon()
    wrapper = daemon.base / "silent-runc"
    wrapper.write_text('#!/bin/sh\nexec runc "$@" 2>/dev/null\n')
    wrapper.chmod(0o755)
    one = shim.container(daemon=daemon, options=any_of(RUNC_OPTIONS, {6: str(wrapper), 7: f"{daemon.base}/state"}))
    one.run()
    for args, words in ((["no-such-program"], "no-such-program"), (["other-program"], "other-program")):
        try:
            one.exec(f"of-{words}", args)
            problem = "it was started"
        except Failure as failure:
            problem = str(failure)
        contains(problem, words, "the error of the exec")
    try:
        one.call("Update", resources=any_of("types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", b"wrong"))
        problem = "it was updated"
    except Failure as failure:
        problem = str(failure)
    check("program" not in problem and "invalid" in problem, f"the error of the update is its own: {problem}")
    one.finish()


@scenario("a daemon that restarts finds its container by Connect and Pids", deadline=60)
def reload(shim):
    one = shim.container(generation="1.7")
    pid = one.run()
    one.client.close()
    one.client = Client(parse_answer((one.bundle / "address").read_bytes())[0].removeprefix("unix://"))
    told = one.call("Connect")
    equal(told.get(2), [pid], "Connect's task pid")
    check(told[1][0] in shim.shims(), "Connect's shim pid")
    equal([decode(entry)[1] for entry in one.call("Pids")[1]], [[pid]], "Pids")


@scenario("an upgraded shim: one of yesterday runs init from its own build, at its first container and later", deadline=120)
def upgraded(shim):
    for way in ("replaced", "covered"):
        daemon = shim.daemon()
        program, new = (daemon.base / name / shim.program.name for name in ("bin", "new"))
        for path, mark in ((program, b"yesterday"), (new, b"the new 1")):
            path.parent.mkdir()
            path.write_bytes(shim.program.read_bytes() + mark)
            path.chmod(0o755)
        # The file of the group's first container makes the server; both containers are made after the upgrade.
        pair = shim.pod(f"{way}0", f"{way}1", daemon=daemon)
        pair[0].launch(program=program)
        if way == "replaced":
            os.replace(new, program)
            # The name that the kernel gives a deleted file.
            shutil.copy(program, program.with_name(f"{program.name} (deleted)"))
        else:
            run("mount", "--bind", new.parent, program.parent)
        pair[1].launch(program=program)
        for one in pair:
            pid = one.create()
            exe = Path(f"/proc/{pid}/exe").read_bytes()
            equal(exe[-9:], b"yesterday", f"the end of init's program, {way}, container {one.name}")
            one.call("Start")
        for one in pair:
            one.finish()
        wait_until(lambda: not shim.shims(), "the shim to end")
        if way == "covered":
            run("umount", program.parent)
