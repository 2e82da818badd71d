"""run, create, start, state, exec, kill, delete: each alone, of every contender, in turn."""

import subprocess
import sys
import time

from measure.bundle import Bundle, dump_filter
from measure.contenders import OURS
from measure.timing import PAUSE, Hung, Series, seconds

VERBS = ["run", "create", "state", "start", "exec", "kill", "delete"]


def make_bundles(place, contenders):
    """One bundle whose program ends at once, and one whose program waits. The limit gets brig's seccomp program."""
    short = Bundle(place / "short", ["/bin/true"])
    waiting = Bundle(place / "waiting", ["/bin/sleep", "1000"])
    short.filter = waiting.filter = str(dump_filter(contenders[0], waiting, place / "filter.bpf"))
    return short, waiting


def measure(place, contenders, rounds):
    """{verb: {contender: Series}}."""
    short, waiting = make_bundles(place, contenders)
    times = {verb: {one.name: Series() for one in contenders} for verb in VERBS}
    for number in range(rounds + 2):
        for one in contenders:
            # The first two rounds fill the caches.
            keep = (lambda verb, took: times[verb][one.name].add(took)) if number >= 2 else (lambda verb, took: None)
            life(one, short, waiting, f"bench-{number}", keep)
    return times


def life(one, short, waiting, ident, keep, measured=seconds):
    """One container's life and one run; `keep` gets the `measured` value of each verb's command. A contender that
    hangs lacks the rest of its round."""
    try:
        _life(one, short, waiting, ident, keep, measured)
    except Hung as hung:
        if one.name == OURS:
            raise
        print(f"bench: {hung}", file=sys.stderr)
        subprocess.run(one.delete_by_force(ident), stdout=subprocess.DEVNULL, check=True)


def _life(one, short, waiting, ident, keep, measured):
    steps = [("run", one.run(short, ident)), ("create", one.create(waiting, ident)), ("state", one.state(ident)),
             ("start", one.start(ident)), ("exec", one.exec(short, ident)), ("kill", one.kill(ident))]
    for verb, command in steps:
        keep(verb, measured(command))
        time.sleep(PAUSE)
    # The program has exited by now: only the removal is measured.
    keep("delete", measured(one.delete(ident)))
    time.sleep(PAUSE)


