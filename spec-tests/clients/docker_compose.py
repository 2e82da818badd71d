"""Docker Compose: a stack with health, order, limits and networks; scaled, paused, and taken down."""

import json

from clients.docker_network import answers
from kit.commands import check, contains, equal, run, wait_until
from kit.suite import scenario

STACK = {
    "version": "2.4",
    "services": {
        "database": {
            "image": "busybox", "command": ["sh", "-c", "sleep 0.5; touch /data/ready; exec probe serve 5432"],
            "volumes": ["data:/data"], "networks": ["inside"], "mem_limit": "64m", "cpus": 0.5, "restart": "always",
            "healthcheck": {"test": ["CMD", "probe", "fetch", "127.0.0.1:5432"], "interval": "200ms", "retries": 50},
        },
        "worker": {
            "image": "busybox", "networks": ["inside"], "depends_on": {"database": {"condition": "service_healthy"}},
            "command": ["sh", "-c", "probe fetch database:5432; exec probe wait"], "pids_limit": 50, "read_only": True,
        },
        "proxy": {
            "image": "busybox", "networks": ["inside", "outside"], "command": ["probe", "serve", "80"],
            "ports": ["8090:80"], "depends_on": ["worker"], "environment": {"COLOUR": "blue"}, "stop_grace_period": "1s",
        },
    },
    "volumes": {"data": {}}, "networks": {"inside": {"internal": True}, "outside": {}},
}


@scenario("25 a stack: order by health, an internal network, limits, exec, logs, scale, pause, restart, down")
def stack(docker):
    directory = docker.base / "stack"
    directory.mkdir()
    (directory / "docker-compose.yml").write_text(json.dumps(STACK))

    def compose(*words, **options):
        return run("docker-compose", "-H", docker.socket, "--project-directory", directory, "-f",
                   directory / "docker-compose.yml", *words, **options)

    try:
        compose("up", "-d", timeout=120)
        # An error of the worker's names its program at the line's beginning.
        wait_until(lambda: compose("logs", "--no-color", "worker").text.endswith(" probe"), "the database's answer in the worker")
        contains(wait_until(lambda: answers("http://127.0.0.1:8090/"), "the proxy to answer"), "probe", "the proxy")
        equal(compose("exec", "-T", "proxy", "sh", "-c", "echo $COLOUR; exit 0").text, "blue", "exec")
        compose("exec", "-T", "proxy", "probe", "exit", "7", code=7)
        compose("up", "-d", "--scale", "worker=3", timeout=120)
        equal(len(compose("ps", "-q", "worker").out.split()), 3, "workers")
        compose("pause", "worker")
        equal({docker.inspect(one, "State.Status") for one in compose("ps", "-q", "worker").out.split()}, {"paused"},
              "the workers' status")
        compose("unpause", "worker")
        compose("restart", "-t", "0", "database")
        contains(compose("top", "database").out, "serve 5432", "top")
        container = compose("ps", "-q", "database").text
        docker("exec", container, "kill", "-KILL", "1", code=None)
        equal(docker.inspect(container, "State.Running"), True, "PID 1 is not killed from within")
        compose("kill", "proxy")
        wait_until(lambda: docker.inspect(compose("ps", "-q", "proxy").text, "State.ExitCode") == 137, "the proxy's end")
    finally:
        compose("down", "-v", "-t", "0", timeout=120)
    check(not docker("ps", "-aq").out.split(), "no container is left")
