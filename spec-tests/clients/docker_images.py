"""Whole programs: nginx as people run it, static programs on scratch, entry points, process ones."""

import json

from clients.docker_limits import MIB, limit
from clients.docker_network import answers
from kit import host
from kit.commands import check, contains, equal, run, wait_until
from kit.docker import DEBIAN, SCRATCH
from kit.suite import scenario

NGINX = """
worker_processes 2;
pid /tmp/nginx.pid;
error_log /dev/stderr;
events {}
http {
  access_log /dev/stdout;
  client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
  server { listen 80; root /site; }
}
"""


def nginx_config(docker):
    """A configuration with which nginx runs as a plain user."""
    path = docker.base / "nginx.conf"
    path.write_text(NGINX)
    return path


@scenario("1 nginx with everything that people give it; it is seen running and healthy")
def nginx(docker):
    image = docker.need(DEBIAN)
    env_file = docker.base / "env"
    env_file.write_text("COLOUR=blue\nSHAPE=round\n")
    docker("volume", "create", "site")
    docker("run", "--rm", "-v", "site:/site", "busybox", "sh", "-c", "echo 'hello from the volume' >/site/index.html")
    docker.start("--name", "web", "--hostname", "web", "-p", "8080:80", "-v", "site:/site:ro",
                 "-v", f"{nginx_config(docker)}:/etc/nginx/nginx.conf:ro", "--env-file", env_file, "-w", "/tmp",
                 "--user", "www-data", "-m", "512m", "--cpus", "1", "--restart", "on-failure:3",
                 "--health-cmd", "test -s /tmp/nginx.pid", "--health-interval", "500ms", "--health-retries", "20",
                 ["nginx", "-g", "daemon off;"], image=image)
    contains(wait_until(lambda: answers("http://127.0.0.1:8080/"), "nginx to answer"), "hello from the volume", "the page")
    wait_until(lambda: docker.inspect("web", "State.Health.Status") == "healthy", "healthy")
    equal(docker.inspect("web", "State.Status"), "running", "status")
    equal(limit(docker, "web", "memory/memory.limit_in_bytes", "memory.max"), str(512 * MIB), "memory")
    quota, wanted = (("cpu.max", "100000 100000") if host.pure_v2() else ("cpu/cpu.cfs_quota_us", "100000"))
    equal(limit(docker, "web", quota, quota), wanted, "CPU")
    equal(docker("exec", "web", "sh", "-c", "echo $COLOUR $SHAPE; pwd; id -un; hostname").out,
          "blue round\n/tmp\nwww-data\nweb\n", "environment, workdir, user, hostname")
    wait_until(lambda: "GET / HTTP" in docker("logs", "web").out, "the access log")


@scenario("17 nginx is PID 1 inside and another pid on the host; it exits with 0 on stop")
def nginx_is_one(docker):
    image = docker.need(DEBIAN)
    docker.start("--name", "web", "-v", f"{nginx_config(docker)}:/etc/nginx/nginx.conf:ro",
                 ["nginx", "-g", "daemon off;"], image=image)
    wait_until(lambda: docker("exec", "web", "cat", "/proc/1/comm").text == "nginx", "nginx to be PID 1")
    pid = docker.pid("web")
    check(pid != 1, "another pid on the host")
    equal(host.status_of(pid)["Name"], "nginx", "its name on the host")
    equal(host.status_of(pid)["NSpid"].split()[-1], "1", "NSpid")
    wait_until(lambda: "nginx: worker" in docker("top", "web").out, "the workers in docker top")
    docker("stop", "web")
    equal(docker.inspect("web", "State.ExitCode"), 0, "exit code")


@scenario("17 zombies are reaped with --init, and by a shell that is PID 1")
def zombies(docker):
    for name, options in (("init", ["--init"]), ("shell", [])):
        docker.start("--name", name, *options, ["sh", "-c", "(sleep 0 &) ; (sleep 0 &); while :; do sleep 0.1; done"])
        wait_until(lambda one=name: "Z" not in docker("exec", one, "ps", "-o", "stat").out, f"no zombies under {name}")
    contains(docker("exec", "init", "cat", "/proc/1/cmdline").out, "docker-init", "PID 1 with --init")


@scenario("20 a scratch image with one static program: no shell, no /etc/passwd")
def scratch(docker):
    image = docker.need(SCRATCH)
    equal(host.parse_status(docker("run", "--rm", image).out)["Pid"], "1", "its pid")
    docker("run", "--rm", image, "exit", "5", code=5)
    docker("run", "--rm", "--user", "1234:5678", image)
    docker("run", "--rm", "--entrypoint", "/bin/sh", image, code=127)
    docker("create", "--name", "ss", image)
    listing = run("sh", "-c", f"docker -H {docker.socket} export ss | tar t").out
    check("etc/passwd" not in listing, "no /etc/passwd was made")


@scenario("20 ENTRYPOINT and CMD, combined and overridden")
def entrypoints(docker):
    docker("create", "--name", "base", "busybox")
    docker("commit", "-c", 'ENTRYPOINT ["echo", "entry"]', "-c", 'CMD ["default"]', "base", "both")
    equal(docker("run", "--rm", "both").text, "entry default", "ENTRYPOINT with CMD")
    equal(docker("run", "--rm", "both", "given").text, "entry given", "with arguments")
    equal(docker("run", "--rm", "--entrypoint", "pwd", "-w", "/srv", "both").text, "/srv", "another entry point")
    docker("commit", "-c", "CMD echo shell-form $0", "base", "shell")
    equal(docker("run", "--rm", "shell").text, "shell-form /bin/sh", "the shell form")


@scenario("the runtime is chosen with --runtime, and docker info knows it")
def chosen(docker):
    contains(docker("info", "--format", "{{json .Runtimes}}").out, "tested", "docker info")
    equal(docker("run", "--rm", "--runtime", "tested", "busybox", "echo", "hi").text, "hi", "run --runtime")
    docker.start("--name", "cc", "--runtime", "tested", ["probe", "wait"])
    equal(json.loads(docker("inspect", "cc").out)[0]["HostConfig"]["Runtime"], "tested", "inspect")
