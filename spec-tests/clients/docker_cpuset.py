"""Which CPUs a container runs on, where the host has more than one and the controller."""

from clients.docker_limits import limit
from kit import host
from kit.commands import equal
from kit.suite import scenario


@scenario("10 cpuset 0,1: read back, seen by an exec, and updated")
def cpuset(docker):
    docker.start("--name", "cpus", "--cpuset-cpus", "0,1", ["probe", "wait"])
    equal(limit(docker, "cpus", "cpuset/cpuset.cpus", "cpuset.cpus"), "0-1", "cpuset")
    fields = host.parse_status(docker("exec", "cpus", "probe", "status").out)
    equal(fields["Cpus_allowed_list"], "0-1", "exec's cpus")
    docker("update", "--cpuset-cpus", "0", "cpus")
    equal(limit(docker, "cpus", "cpuset/cpuset.cpus", "cpuset.cpus"), "0", "cpuset after update")
