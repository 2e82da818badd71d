"""Costs of each verb that are independent of other load on the machine: system calls and processes,
by strace, and instructions, in a machine that counts them."""

import re
import subprocess
import sys
import time
from pathlib import Path

from measure import timing
from measure.timing import Series
from measure.verbs import VERBS, life, make_bundles

# A poll that is woken once more is no regression: the least of a few is the verb's own.
ROUNDS = 3
# The number of rounds for the median: occasional work of the kernel affects single rounds.
INSTRUCTION_ROUNDS = 5
_CALL = re.compile(r"^(\d+) +(?!<\.\.\. |\+\+\+|---)(\w+)\(")


def _trace(log, command):
    """Runs a command under strace."""
    subprocess.run(["strace", "-f", "-qq", "-o", log, *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   check=True, timeout=120)


def _trace_create(log, one, bundle, ident):
    """create leaves its init behind, traced: what counts is in the log once the gate is reached."""
    Path(log).unlink(missing_ok=True)  # an older log describes another exit
    tracer = subprocess.Popen(["strace", "-f", "-q", "-o", log, *one.create(bundle, ident)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    # create has ended when its own process has, the first in the log; init is what waits then.
    while not _creator_ended(log):
        if tracer.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"counts: {one.name}'s create did not come to its end under strace; see {log}")
        time.sleep(0.01)
    text = Path(log).read_text()
    for command in one.end(ident):
        subprocess.run(command, check=True)
    tracer.wait()
    Path(log).write_text(text)


def _creator_ended(log):
    lines = Path(log).read_text().splitlines() if Path(log).exists() else []
    if not lines:
        return False
    ended = re.compile(rf"{lines[0].split()[0]} +\+\+\+ exited ")
    return any(ended.match(line) for line in lines)


def _count(log):
    """Calls and processes in a log of strace."""
    calls = [found for found in map(_CALL.match, Path(log).read_text().splitlines()) if found]
    return {"calls": len(calls), "processes": len({found[1] for found in calls})}


def calls(place, one, short, waiting):
    """{verb: {calls, processes}}, the least of each."""
    found = {}
    for number in range(ROUNDS):
        log, ident = place / "log", f"counts-{number}"

        def keep(verb):
            counted = _count(log)
            least = found.setdefault(verb, counted)
            found[verb] = {key: min(least[key], counted[key]) for key in counted}
        _trace(log, one.run(short, ident))
        keep("run")
        _trace_create(log, one, waiting, ident)
        keep("create")
        # The traced container is gone; the other verbs get one without a tracer.
        subprocess.run(one.create(waiting, ident), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
        for verb, command in [("state", one.state(ident)), ("start", one.start(ident)),
                              ("exec", one.exec(short, ident)), ("kill", one.kill(ident))]:
            _trace(log, command)
            keep(verb)
        one.wait_stopped(ident)
        _trace(log, one.delete(ident))
        keep("delete")
    return found


def instructions(place, contenders):
    """{verb: {contender: instructions}}, medians; in a machine that counts."""
    short, waiting = make_bundles(place, contenders)
    counted = {verb: {one.name: Series() for one in contenders} for verb in VERBS}
    for number in range(INSTRUCTION_ROUNDS + 1):
        for one in contenders:
            # The first round fills the caches.
            keep = (lambda verb, count: counted[verb][one.name].values.append(count)) if number else lambda verb, count: None
            life(one, short, waiting, f"bench-{number}", keep, timing.executed)
    return {verb: {name: round(one.median) for name, one in series.items()} for verb, series in counted.items()}
