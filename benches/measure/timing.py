"""Time, taken so that it means something: contenders in turn, with pauses, medians and spread."""

import os
import statistics
import sys
import time

PAUSE = 0.02  # seconds; an idle machine pays for grace periods of RCU that a tight loop hides
_NULL = os.open("/dev/null", os.O_RDWR)
_STDIO = [(os.POSIX_SPAWN_DUP2, _NULL, 0), (os.POSIX_SPAWN_DUP2, _NULL, 1)]


def seconds(command):
    """From spawn to exit of one command, which has to succeed."""
    program = command[0]
    begin = time.perf_counter()
    pid = os.posix_spawnp(program, command, os.environ, file_actions=_STDIO)
    _, status = os.waitpid(pid, 0)
    took = time.perf_counter() - begin
    if status:
        sys.exit(f"bench: {' '.join(command)}: ended with {os.waitstatus_to_exitcode(status)}")
    return took


def quietly(command):
    """The same, not timed; a pause comes before the next."""
    seconds(command)
    time.sleep(PAUSE)


class Series:
    """Times of one thing by one contender, in milliseconds."""

    def __init__(self):
        self.values = []

    def add(self, took):
        self.values.append(took * 1000)

    @property
    def median(self):
        return statistics.median(self.values)

    def spread(self):
        """The tenth and the ninetieth of a hundred."""
        ordered = sorted(self.values)
        return ordered[len(ordered) // 10], ordered[len(ordered) * 9 // 10]

    def summary(self):
        low, high = self.spread()
        return {"median": round(self.median, 3), "p10": round(low, 3), "p90": round(high, 3), "rounds": len(self.values)}
