"""Time, taken so that it means something: by a launcher that weighs nothing, contenders in turn, with pauses, medians
and spread."""

import statistics
import subprocess
import sys
import time

from measure.contenders import compiled

PAUSE = 0.02  # seconds; an idle machine pays for grace periods of RCU that a tight loop hides


def seconds(command):
    """From vfork to the reaping of one command, which has to succeed; launcher.c says what that includes."""
    return _launch(command, command)


def seconds_at_once(chains, at_once):
    """All of `chains`, each a list of as many commands that follow one another; `at_once` of them at a time."""
    words = "".join(f"{word}\0" for chain in chains for command in chain for word in [*command, ""])
    return _launch(["--at-once", str(at_once), str(len(chains[0]))], chains[0][0], words.encode())


def _launch(words, example, given=None):
    done = subprocess.run([compiled("launcher"), *words], input=given, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"bench: {' '.join(example)}: ended with {done.returncode}")
    return int(done.stdout) / 1e9


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
