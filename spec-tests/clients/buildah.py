"""Buildah: Dockerfiles whose RUN steps are the runtime's containers, and runs in a working container."""

from kit.commands import check, contains, equal
from kit.suite import scenario


@scenario("build: RUN steps see each other's files, environment, user and directory")
def build_steps(buildah):
    out = buildah.build("""
FROM localhost/busybox
ENV COLOUR=blue
WORKDIR /srv
RUN echo $COLOUR >colour && id -un >who
RUN cat colour who >both
USER app
RUN id -un >/tmp/who && pwd >>/tmp/who
RUN ["probe", "exit", "0"]
CMD ["cat", "/srv/both", "/tmp/who"]
""").out
    contains(out, "RUN cat colour who", "the steps")
    container = buildah.from_image(image="built")
    equal(buildah.run(container, ["cat", "/srv/both", "/tmp/who"]).out, "blue\nroot\napp\n/srv\n", "what the steps made")


@scenario("build: a RUN step that fails ends the build with its status")
def build_failure(buildah):
    failed = buildah.build("FROM localhost/busybox\nRUN probe exit 42\n", code=None)
    check(failed.code != 0, "the build of a failing step ended with 0")
    contains(failed.err, "42", "the step's status")


@scenario("build: a RUN step may use a tmpfs and a bind of the context")
def build_mounts(buildah):
    (buildah.base / "context").mkdir(exist_ok=True)
    (buildah.base / "context" / "given").write_text("from the context\n")
    buildah.build("""
FROM localhost/busybox
RUN --mount=type=bind,source=given,target=/given cp /given /kept
RUN --mount=type=tmpfs,target=/scratch touch /scratch/gone && grep -q ' /scratch tmpfs' /proc/mounts
RUN test ! -e /scratch/gone && test ! -s /given
""")
    container = buildah.from_image(image="built")
    equal(buildah.run(container, ["cat", "/kept"]).out, "from the context\n", "the copy of what was bound")


@scenario("build: copied files belong to whom they were given, and a volume stays as the image has it")
def build_copy(buildah):
    (buildah.base / "context").mkdir(exist_ok=True)
    (buildah.base / "context" / "file").write_text("x")
    buildah.build("FROM localhost/busybox\nCOPY --chown=1000:2000 file /srv/\nRUN stat -c %u:%g /srv/file >/srv/owner\n")
    container = buildah.from_image(image="built")
    equal(buildah.run(container, ["cat", "/srv/owner"]).text, "1000:2000", "owner")


@scenario("run: output, status, environment, user, directory, hostname")
def run_plain(buildah):
    container = buildah.from_image()
    equal(buildah.run(container, ["echo", "hello"]).text, "hello", "output")
    buildah.run(container, ["probe", "exit", "7"], code=7)
    out = buildah.run(container, "-e", "A=1", "--workingdir", "/srv", "--hostname", "box", "--user", "app",
                      ["sh", "-c", "echo $A $(pwd) $(hostname) $(id -un)"])
    equal(out.text, "1 /srv box app", "inside")


@scenario("run: the next run finds the files that one run leaves")
def run_again(buildah):
    container = buildah.from_image()
    buildah.run(container, ["sh", "-c", "echo one >/srv/file"])
    equal(buildah.run(container, ["cat", "/srv/file"]).text, "one", "the file")


@scenario("run: volumes, read-only ones too, and a tmpfs")
def run_mounts(buildah):
    shared = buildah.base / "shared"
    shared.mkdir()
    (shared / "in").write_text("given\n")
    container = buildah.from_image()
    buildah.run(container, "-v", f"{shared}:/shared", ["sh", "-c", "cat /shared/in >/shared/out"])
    equal((shared / "out").read_text(), "given\n", "what the container wrote")
    refused = buildah.run(container, "-v", f"{shared}:/shared:ro", ["touch", "/shared/no"], code=None)
    check(refused.code != 0 and not (shared / "no").exists(), f"a read-only volume was written to: {refused}")
    mounted = buildah.run(container, "--mount", "type=tmpfs,dst=/scratch", ["grep", " /scratch ", "/proc/mounts"])
    contains(mounted.out, "tmpfs", "the mount")


@scenario("run: capabilities are those that were asked for")
def run_capabilities(buildah):
    container = buildah.from_image()
    words = ["sh", "-c", "grep CapEff /proc/self/status"]
    plain, more = (buildah.run(container, *flags, words).text for flags in ((), ("--cap-add", "CAP_NET_ADMIN")))
    have = [int(text.split()[1], 16) for text in (plain, more)]
    equal(have[1], have[0] | 1 << 12, "the effective set with CAP_NET_ADMIN")
