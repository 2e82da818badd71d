"""Live containers below containerd 1.7, the generations beside it, and 1.7 again."""

from clients.containerd_daemon import comes_back
from kit.suite import scenario


@scenario("from 1.7 up to 2.x and down again, and down to 1.6 and up again: live containers are found each time")
def up_and_down(containerd):
    comes_back(containerd, [("TERM", "2"), ("KILL", "1.7"), ("TERM", "1.6"), ("KILL", "1.7")])
