"""Volumes, binds, tmpfs, and the logs."""

from kit.commands import check, contains, equal, run
from kit.docker import DEBIAN
from kit.suite import scenario


@scenario("21 two containers on one volume, one of them read-only; data survives rm -f")
def volume(docker):
    docker("volume", "create", "data")
    docker.start("--name", "writer", "-v", "data:/data", ["probe", "wait"])
    docker.start("--name", "reader", "-v", "data:/data:ro", ["probe", "wait"])
    docker("exec", "writer", "sh", "-c", "echo kept >/data/file")
    equal(docker("exec", "reader", "cat", "/data/file").text, "kept", "the reader's view")
    contains(docker("exec", "reader", "touch", "/data/x", code=1).err, "Read-only file system", "the reader's write")
    docker("rm", "-f", "writer", "reader")
    equal(docker("run", "--rm", "-v", "data:/data", "busybox", "cat", "/data/file").text, "kept", "after rm -f")


@scenario("21 a directory, a single file and a socket bound from the host; read-only ones stay so")
def binds(docker):
    shared = docker.base / "shared"
    shared.mkdir(exist_ok=True)
    (shared / "file").write_text("from the host\n")
    out = docker("run", "--rm", "-v", f"{shared}:/in:ro", "-v", f"{shared}/file:/etc/one", "-v",
                 f"{docker.base}/docker.sock:/sock", "busybox", "sh", "-c",
                 "cat /in/file /etc/one; test -S /sock; touch /in/x || echo refused").out
    equal(out, "from the host\nfrom the host\nrefused\n", "inside")
    docker("run", "--rm", "-v", f"{shared}:/in", "--user", "1000", "busybox", "sh", "-c", "! touch /in/x 2>/dev/null")
    missing = docker("run", "--rm", "--mount", f"type=bind,src={docker.base}/none,dst=/x", "busybox", "true", code=125)
    contains(missing.err, "does not exist", "a source that is not there")


@scenario("21 a bind mount below a read-only tmpfs is mounted and writable; the tmpfs refuses writes")
def below_a_read_only_tmpfs(docker):
    shared = docker.base / "below"
    shared.mkdir(exist_ok=True)
    (shared / "file").write_text("from the host\n")
    seen = docker("run", "--rm", "--tmpfs", "/x:ro", "-v", f"{shared}:/x/y", "busybox", "sh", "-c",
                  "cat /x/y/file; touch /x/y/new && ls /x/y; touch /x/z", code=1)
    equal(seen.out, "from the host\nfile\nnew\n", "the bind mount")
    contains(seen.err, "Read-only file system", "a write to the tmpfs")


@scenario("21 propagation: a mount made on the host afterwards shows with rslave, and not with rprivate")
def propagation(docker):
    outer = docker.base / "outer"
    (outer / "sub").mkdir(parents=True, exist_ok=True)
    run("mount", "--bind", outer, outer)
    run("mount", "--make-shared", outer)
    try:
        docker.start("--name", "slave", "-v", f"{outer}:/o:rslave", ["probe", "wait"])
        docker.start("--name", "private", "-v", f"{outer}:/o:rprivate", ["probe", "wait"])
        run("mount", "-t", "tmpfs", "later", outer / "sub")
        contains(docker("exec", "slave", "cat", "/proc/mounts").out, "/o/sub", "rslave")
        check("/o/sub" not in docker("exec", "private", "cat", "/proc/mounts").out, "rprivate stays as it was")
    finally:
        run("umount", "-R", outer)


@scenario("21 an entry point that starts as root, owns the volume to a plain user, and becomes that user with gosu")
def gosu(docker):
    image = docker.need(DEBIAN)
    script = 'chown -R www-data /data; exec gosu www-data "$@"'
    out = docker("run", "--rm", "-v", "owned:/data", "--entrypoint", "sh", image, "-ec", script, "sh", "sh", "-c",
                 "id -un; touch /data/mine; stat -c %U /data /data/mine; cat /proc/1/comm; grep CapEff /proc/self/status").out
    equal(out.split(), ["www-data", "www-data", "www-data", "sh", "CapEff:", "0" * 16], "inside")


@scenario("21 an anonymous volume is filled from the image and removed with --rm")
def anonymous(docker):
    equal(docker("run", "--rm", "-v", "/etc", "busybox", "cat", "/etc/plain").text, "not a program", "filled")
    equal(docker("volume", "ls", "-q").text, "", "volumes afterwards")


@scenario("shm-size, tmpfs options, and ulimits")
def sizes(docker):
    script = "df -k /dev/shm | tail -n 1 | awk '{print $2}'; ulimit -n; ulimit -c; grep ' /t ' /proc/mounts"
    out = docker("run", "--rm", "--shm-size", "32m", "--ulimit", "nofile=500:600", "--ulimit", "core=0", "--tmpfs",
                 "/t:size=2m,mode=700,noexec", "busybox", "sh", "-c", script).out.splitlines()
    equal(out[:3], ["32768", "500", "0"], "shm, open files, core")
    for part in ("size=2048k", "mode=700", "noexec"):
        contains(out[3], part, "the tmpfs")


@scenario("22 logs: -f, --tail, --since, both streams, and through /dev/stdout")
def logs(docker):
    docker.start("--name", "ll", ["sh", "-c", "for i in 1 2 3 4 5; do echo line $i; done; echo oops >&2; "
                                 "ln -s /dev/stdout /log; echo linked >/log; ln -s /dev/stderr /err; echo bad >/err"])
    docker("wait", "ll")
    logs_of = docker("logs", "ll")
    equal(logs_of.out, "".join(f"line {i}\n" for i in range(1, 6)) + "linked\n", "stdout")
    equal(logs_of.err, "oops\nbad\n", "stderr")
    last = docker("logs", "--tail", "2", "ll")
    equal(len((last.out + last.err).splitlines()), 2, "lines of --tail 2")
    equal(docker("logs", "--since", "2099-01-01T00:00:00Z", "ll").out, "", "--since the future")
    third = next(line for line in docker("logs", "-t", "ll").out.splitlines() if line.endswith("line 3"))
    equal(docker("logs", "--since", third.split()[0], "ll").out.splitlines()[:2], ["line 3", "line 4"], "--since the third line")
    docker.start("--name", "ff", ["sh", "-c", "for i in 1 2 3; do echo tick $i; sleep 0.2; done"])
    equal(docker("logs", "-f", "ff").out, "tick 1\ntick 2\ntick 3\n", "-f follows to the end")


@scenario("22 a burst of 64 MB is in the log to its last line")
def logged_burst(docker):
    total = 64 << 20
    docker("run", "--name", "bb", "busybox", "probe", "burst", total)
    count = run("sh", "-c", f"docker -H {docker.socket} logs bb | wc -c", timeout=120).text
    equal(int(count), total, "bytes in the log")


@scenario("22 a burst of 1 GB on stdout loses nothing")
def burst(docker):
    total = 1 << 30
    count = run("sh", "-c", f"docker -H {docker.socket} run --rm --log-driver none busybox probe burst {total} | wc -c",
                timeout=300).text
    equal(int(count), total, "bytes that came through")


@scenario("stdin: piped input reaches the program, and its end too")
def stdin(docker):
    text = "x" * 65536 + "\n"
    equal(docker("run", "--rm", "-i", "busybox", "cat", input=text * 20).out, text * 20, "cat's output")
    equal(docker("run", "--rm", "busybox", "wc", "-c").text, "0", "without -i stdin is empty")
