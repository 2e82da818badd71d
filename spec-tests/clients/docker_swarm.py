"""A swarm of one node: a service of three replicas, an update, a rollback, a drain."""

from kit.commands import wait_until
from kit.suite import scenario


@scenario("26 a service of three replicas, an update, a rollback, a node drain; a task that exits is replaced")
def swarm(docker):
    docker("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1")
    try:
        docker("service", "create", "--detach", "--name", "svc", "--replicas", "3", "--stop-grace-period", "1s",
               "--update-delay", "0s", "--update-parallelism", "3", "--no-resolve-image", "--restart-delay", "0s",
               "--env", "WORD=one", "busybox", "probe", "wait")
        running(docker, "one", 3)
        docker("kill", running(docker, "one", 3)[0])
        running(docker, "one", 3)
        docker("service", "update", "--detach", "--env-add", "WORD=two", "svc")
        running(docker, "two", 3)
        docker("service", "rollback", "--detach", "svc")
        running(docker, "one", 3)
        docker("service", "scale", "--detach", "svc=1")
        running(docker, "one", 1)
        docker("node", "update", "--availability", "drain", docker("node", "ls", "-q").text)
        wait_until(lambda: not docker("ps", "-q").out.split(), "the node to be drained", 90)
    finally:
        docker("service", "rm", "svc", code=None)
        wait_until(lambda: not docker("ps", "-aq", "--filter", "label=com.docker.swarm.service.name=svc").out.split(),
                   "the tasks' containers to go", 90)
        docker("swarm", "leave", "--force")


def running(docker, word, count):
    """Waits until as many tasks run, all with that word in their environment; returns their containers."""

    def all_run():
        ids = docker("ps", "-q", "--filter", "status=running").out.split()
        words = [docker("inspect", "--format", "{{json .Config.Env}}", one, code=None).out for one in ids]
        return len(ids) == count and all(f"WORD={word}" in one for one in words) and ids

    return wait_until(all_run, f"{count} tasks of {word}: {docker('service', 'ps', '--no-trunc', 'svc').out}", 120)
