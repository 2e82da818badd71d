"""`docker build`, the classic builder: steps that run, a cache, several stages, a step that fails."""

from kit.commands import check, contains, equal
from kit.suite import scenario


def build(docker, name, dockerfile, *options, code=0):
    """Builds an image of a Dockerfile's text."""
    context = docker.base / f"context-{name}"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(dockerfile)
    (context / "file").write_text("of the context\n")
    return docker("build", *options, "-t", name, context, code=code, env={"DOCKER_BUILDKIT": "0", "PATH": "/usr/bin:/bin"})


@scenario("24 RUN, COPY, ENV, WORKDIR, USER, ARG; the second build uses the cache alone")
def steps(docker):
    text = ("FROM busybox\nARG WORD=none\nENV KEY=value\nWORKDIR /srv\nCOPY file copied\n"
            "RUN echo $KEY $WORD >made && cat copied >>made\nUSER app\nRUN id -u >/tmp/who\n"
            'CMD ["cat", "/srv/made", "/tmp/who"]\n')
    build(docker, "steps", text, "--build-arg", "WORD=given")
    equal(docker("run", "--rm", "steps").out, "value given\nof the context\n1000\n", "what the steps made")
    contains(build(docker, "steps", text, "--build-arg", "WORD=given").out, "Using cache", "the second build")


@scenario("24 two stages: a program of the first on scratch")
def stages(docker):
    build(docker, "two", "FROM busybox AS first\nRUN cp /bin/probe /made && chmod 755 /made\n"
                         'FROM scratch\nCOPY --from=first /made /made\nENTRYPOINT ["/made"]\nCMD ["exit", "6"]\n')
    docker("run", "--rm", "two", code=6)
    check(docker("run", "--rm", "--entrypoint", "/bin/sh", "two", code=None).code == 127, "there is no shell")


@scenario("24 a step that fails: its status is reported, and no image is made")
def failing(docker):
    seen = build(docker, "bad", "FROM busybox\nRUN exit 42\n", code=None)
    check(seen.code != 0, "a status that says failure")
    contains(seen.out + seen.err, "returned a non-zero code: 42", "the error")
    check(docker("image", "inspect", "bad", code=None).code != 0, "no image")
