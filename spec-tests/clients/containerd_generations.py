"""Live containers under one generation of containerd after another."""

from clients.containerd_daemon import comes_back
from kit.suite import scenario


@scenario("a downgrade from 2.x to 1.6 and an upgrade from 1.6 to 2.x: live containers are found again each time")
def down_and_up(containerd):
    comes_back(containerd, [("TERM", "1.6"), ("KILL", "2"), ("KILL", "1.6"), ("TERM", "2")])


@scenario("a container that 1.6 started is 2.x's after an upgrade")
def started_by_the_old(containerd):
    containerd.restart("TERM", "1.6")
    comes_back(containerd, [("TERM", "2")])
