"""Observability of shims: traces, where there is a collector, and the debug log."""

import http.server
import re
import threading
from collections import namedtuple
from pathlib import Path

from kit.commands import check, contains, equal, wait_until
from kit.containerd import Containerd2
from kit.suite import scenario
from kit.ttrpc import decode

Span = namedtuple("Span", "service name trace id parent attributes")


class Collector:
    """A collector of spans over OTLP/HTTP; a context manager. `spans` has the spans received so far."""

    def __init__(self):
        self.spans, self.strange = [], []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf"):
                    collector.spans += spans_of(body)
                else:
                    collector.strange.append((self.path, dict(self.headers)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                """Discards the request log."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def _attributes(pairs):
    """KeyValue messages of strings: {key: value}."""
    found = {}
    for pair in map(decode, pairs):
        value = decode(pair[2][0]) if 2 in pair else {}
        found[pair[1][0].decode()] = value[1][0].decode() if 1 in value else value
    return found


def spans_of(body):
    """The spans of an ExportTraceServiceRequest."""
    found = []
    for of_resource in map(decode, decode(body).get(1, [])):
        service = _attributes(decode(of_resource[1][0])[1])["service.name"]
        for of_scope in map(decode, of_resource[2]):
            for span in map(decode, of_scope[2]):
                parent = span.get(4, [b""])[0].hex()
                found.append(Span(service, span[5][0].decode(), span[1][0].hex(), span[2][0].hex(), parent,
                                  _attributes(span.get(9, []))))
    return found


class Traced(Containerd2):
    """A daemon that sends its spans to a collector, as its documentation says."""

    generations = ("2",)
    url = None

    def configuration(self):
        """The same with the part that sends traces."""
        text = super().configuration()
        plugin = '"io.containerd.tracing.processor.v1.otlp", '
        contains(text, plugin, "what other daemons do without")
        return text.replace(plugin, "")

    def environment(self):
        """The same with the collector's address."""
        return {**super().environment(), "OTEL_EXPORTER_OTLP_ENDPOINT": self.url}


@scenario("a daemon with a collector: the shim's spans are children of the daemon's calls, under the shim's own name",
          deadline=120)
def goes_on(containerd):
    with Collector() as collector:
        Traced.url = collector.url
        traced = Traced(containerd.place, containerd.shim, "traced")
        containerd.others.append(traced)
        traced.start("spans")
        traced.exec("spans", ["probe", "exit", "3"], code=3)
        check(traced("tasks", "exec", "--exec-id", "no", "spans", "/no/such", code=None).code, "a call that fails")
        traced.kill_and_delete("spans", 137)
        # The last of what waits is sent when daemon and shim end.
        wait_until(lambda: not traced.shims(), "the shim to end")
        traced.close()
        containerd.others.remove(traced)
        mine = [span for span in collector.spans if span.service == "containerd-shim-spans"]
        daemons = {span.id: span for span in collector.spans if span.service == "containerd"}
        services = {span.service for span in collector.spans}
        equal(services, {"containerd", "containerd-shim-spans"}, "who sent spans")
        equal(collector.strange, [], "requests that are no spans")
        seen = {span.name.rsplit("/", 1)[-1] for span in mine}
        check({"Create", "Start", "Exec", "Wait", "Kill", "Delete"} <= seen, f"the shim's calls: {sorted(seen)}")
        for span in mine:
            caller = daemons.get(span.parent)
            check(caller, f"the span of {span} has a parent among the daemon's")
            equal(span.trace, caller.trace, f"the trace of {span.name}")
            equal(span.attributes.get("container.id", "spans"), "spans", f"whose {span.name} it is")


def _told(containerd, name):
    """The shim's calls, events and signals of a container in the daemon's log: (message, the other fields). Calls that
    only look, or come only if the client is quick enough (CloseIO), are left out, and so are the engine's own lines."""
    found = []
    for line in Path(containerd.log.name).read_text(errors="replace").splitlines():
        fields = {key: value.strip('"') for key, value in re.findall(r'(\w+)=("[^"]*"|\S+)', line)}
        if fields.get("id") == name and "shim" in fields and re.match(r"[A-Z]\w*$|event |a signal ", fields["msg"]) and fields["msg"] not in ("State", "Wait", "Pids", "CloseIO"):
            found.append((fields["msg"], fields))
    return found


@scenario("the daemon's debug log has the life cycle of each container, of two in one shim too")
def story(containerd):
    group = ("--annotation", "io.containerd.runc.v2.group=pod")
    for name in ("story-one", "story-two"):
        containerd.start(*group, name)
    pid = containerd.pid("story-two")
    containerd("tasks", "exec", "--exec-id", "inner", "story-two", "probe", "exit", "3", code=3)
    containerd.kill_and_delete("story-two", 137)
    containerd.kill_and_delete("story-one", 137)
    wait_until(lambda: not containerd.shims(), "the shim to end")
    begin = ["Create", "event /tasks/create", "Start", "event /tasks/start"]
    of_exec = ["Exec", "event /tasks/exec-added", "Start", "event /tasks/exec-started", "event /tasks/exit", "Delete"]
    end = ["Kill", "a signal is sent", "event /tasks/exit", "Delete", "event /tasks/delete", "Shutdown"]
    # The daemon copies the shim's log as it comes to it.
    for name in ("story-one", "story-two"):
        wait_until(lambda one=name: any(message == "Shutdown" for message, _ in _told(containerd, one)), f"the end of {name}")
    one, two = (_told(containerd, name) for name in ("story-one", "story-two"))
    equal([message for message, _ in one], begin + end, "the story of the first")
    equal([message for message, _ in two], begin + of_exec + end, "the story of the second")
    equal([message for message, fields in two if fields.get("exec") == "inner"], of_exec, "what is of the exec")
    exits = [fields["status"] for message, fields in two if message == "event /tasks/exit"]
    equal(exits, ["3", "137"], "exit statuses")
    pids = {fields["pid"] for message, fields in two if message in ("event /tasks/create", "event /tasks/delete")}
    equal(pids, {str(pid)}, "init's pid")
    equal([fields["signal"] for message, fields in two if message == "a signal is sent"], ["9"], "the signal")
