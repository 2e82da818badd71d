"""The seccomp program of Docker's default profile: what it costs to install, and what it costs every call."""

import subprocess

from measure.bundle import Bundle, dump_filter
from measure.contenders import limit_program
from measure.timing import Series


def measure(place, contenders, rounds):
    """{contender: {instructions, install: Series (ms), getpid (ns)}}; the contenders have to be runtimes."""
    programs = {}
    for one in contenders:
        waiting = Bundle(place / f"filter-{one.name}", ["/bin/sleep", "1000"])
        programs[one.name] = dump_filter(one, waiting, place / f"{one.name}.bpf")
    facts = {name: {"install": Series(), "getpid": []} for name in programs}
    for _ in range(rounds):
        for name, path in programs.items():
            printed = subprocess.run([limit_program(), "install", path], stdout=subprocess.PIPE, text=True, check=True)
            instructions, install, getpid = printed.stdout.split()
            facts[name]["instructions"] = int(instructions)
            facts[name]["install"].add(int(install) / 1e9)
            facts[name]["getpid"].append(float(getpid))
    for entry in facts.values():
        # Other load makes a loop slower and never quicker: the minimum is the cost of the filter.
        entry["getpid"] = min(entry["getpid"])
    return facts
