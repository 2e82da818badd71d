"""Time, taken so that it means something: by a launcher that weighs nothing, contenders in turn, with pauses, medians
and spread."""

import os
import signal
import statistics
import subprocess
import sys

from measure.contenders import compiled

# Seconds after which one command has come to no end: youki's run misses the end of its container now and then.
DEADLINE = 30
PAUSE = 0.02  # seconds; an idle machine pays for grace periods of RCU that a tight loop hides
# Seconds after which the kernel has freed what thousands of mounts, cgroups or namespaces were: until then every grace
# period of RCU takes longer, and a container waits for some.
SETTLING = 5


class Hung(Exception):
    """A command that did not exit, and was killed."""


def seconds(command):
    """From vfork to the reaping of one command, which has to succeed; launcher.c says what that includes."""
    return _launch(command, command, deadline=DEADLINE)


def seconds_at_once(chains, at_once):
    """All of `chains`, each a list of as many commands that follow one another; `at_once` of them at a time."""
    words = "".join(f"{word}\0" for chain in chains for command in chain for word in [*command, ""])
    return _launch(["--at-once", str(at_once), str(len(chains[0]))], chains[0][0], words.encode())


def executed(command):
    """Instructions from the start of one command, which has to succeed, to its exit: the kernel's and those of all other
    tasks too. Only in a machine that counts (spec-tests/beds/qemu --count)."""
    return round(_launch(["--executed", *command], command, deadline=DEADLINE) * 1e9)


def _launch(words, example, given=None, deadline=None):
    launcher = subprocess.Popen([compiled("launcher"), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                start_new_session=True)
    try:
        told, _ = launcher.communicate(given, deadline)
    except subprocess.TimeoutExpired:
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()
        raise Hung(f"{' '.join(example)}: came to no end within {deadline} s, and was killed") from None
    if launcher.returncode:
        sys.exit(f"bench: {' '.join(example)}: ended with {launcher.returncode}")
    return int(told) / 1e9


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
