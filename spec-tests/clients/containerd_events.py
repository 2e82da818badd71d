"""The daemon's events: each once, in the order in which things happen."""

from kit.commands import check, equal, wait_until
from kit.containerd import DROP_IN, Events
from kit.suite import scenario


@scenario("events of a container, in order: create, start, exit, delete")
def in_order(containerd):
    with Events(containerd) as events:
        for number in range(3):
            containerd.run(f"ev{number}", ["probe", "exit", str(number)], code=number)
            events.until(f"ev{number}", "delete")
            equal(events.topics(f"ev{number}"), ["create", "start", "exit", "delete"], "topics")
            content = dict(events.tasks(f"ev{number}"))
            equal(content["exit"].get("exit_status", 0), number, "the exit's status")
            pids = {topic: one.get("pid") for topic, one in content.items()}
            equal(len(set(pids.values())), 1, f"one pid in all: {pids}")
            equal(content["exit"]["id"], f"ev{number}", "the exit's process is the container's own")


@scenario("events of an exec lie between the container's: exec-added, exec-started, exit; init's exit is the last")
def of_an_exec(containerd):
    with Events(containerd) as events:
        name = containerd.start("ee")
        containerd("tasks", "exec", "--exec-id", "first", name, "probe", "exit", "3", code=3)
        events.until(name, "exit")
        containerd.kill_and_delete(name, 137)
        events.until(name, "delete")
        seen = [(topic, content.get("exec_id") or content.get("id", "")) for topic, content in events.tasks(name)]
        # Deleting an exec is an event of some daemons and not of others.
        seen = [one for one in seen if one != ("delete", "first")]
        equal(seen[:5], [("create", ""), ("start", ""), ("exec-added", "first"), ("exec-started", "first"), ("exit", "first")],
              "up to the exec's end")
        equal(seen[5][0], "exit", "init's exit")
        equal(seen[5][1], name, "init's exit")
        equal([topic for topic, _ in seen[6:]], ["delete"], "the end")


@scenario("pause and resume are events")
def paused(containerd):
    with Events(containerd) as events:
        name = containerd.start("pe")
        containerd("tasks", "pause", name)
        containerd("tasks", "resume", name)
        events.until(name, "resumed")
        equal(events.topics(name), ["create", "start", "paused", "resumed"], "topics")


@scenario("out of memory is an event, before the exit if it kills init")
def out_of_memory(containerd):
    with Events(containerd) as events:
        containerd.run("--memory-limit", str(24 << 20), "oom", ["probe", "hog", "100"], code=137)
        events.until("oom", "delete")
        check("oom" in events.topics("oom"), f"an oom event: {events.topics('oom')}")


@scenario("out of memory of a child is an event too, each time, and the container continues to run")
def child_out_of_memory(containerd):
    with Events(containerd) as events:
        name = containerd.start("--memory-limit", str(24 << 20), "ooc")
        containerd.exec(name, ["probe", "hog", "100"], code=137)
        events.until(name, "oom")
        containerd.exec(name, ["probe", "hog", "100"], code=137)
        events.until(name, "oom", times=2)
        equal(containerd.status(name), "RUNNING", "status")


@scenario("out of memory is an event too where another runtime has the container")
def out_of_memory_elsewhere(containerd):
    with Events(containerd) as events:
        containerd.run("--runc-binary", "runc", "--memory-limit", str(24 << 20), "oor", ["probe", "hog", "100"], code=137,
                       runtime=DROP_IN)
        events.until("oor", "delete")
        equal([topic for topic in events.topics("oor") if topic != "oom"], ["create", "start", "exit", "delete"], "topics")
        check("oom" in events.topics("oor"), f"an oom event: {events.topics('oor')}")


@scenario("exits of sixty processes that end at once are all reported, once each, init's last")
def many_exits(containerd):
    with Events(containerd) as events:
        name = containerd.start("many")
        for number in range(60):
            containerd("tasks", "exec", "-d", "--exec-id", f"x{number}", name, "probe", "wait")
        containerd("tasks", "kill", "-s", "KILL", name)
        events.until(name, "exit", times=61)
        exits = [content["id"] for topic, content in events.tasks(name) if topic == "exit"]
        equal(sorted(exits), sorted([name] + [f"x{number}" for number in range(60)]), "exits")
        equal(exits[-1], name, "the last exit")
        containerd.until(name, "STOPPED")


@scenario("short containers never show an exit before their start")
def short_lives(containerd):
    with Events(containerd) as events:
        names = [f"s{number}" for number in range(8)]
        for name in names:
            containerd.run(name, ["true"])
        wait_until(lambda: all("delete" in events.topics(name) for name in names), "all events")
        for name in names:
            equal(events.topics(name), ["create", "start", "exit", "delete"], name)
