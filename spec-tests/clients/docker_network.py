"""Networks: none, host, another container's, a bridge of one's own, an internal one, published ports."""

import urllib.request

from kit.commands import Failure, check, contains, equal, wait_until
from kit.suite import scenario


def answers(url):
    """The text behind a URL, or None while there is no answer."""
    try:
        with urllib.request.urlopen(url, timeout=3) as reply:
            return reply.read().decode()
    except OSError:
        return None


@scenario("19 network none: lo alone, and it is up")
def none(docker):
    out = docker("run", "--rm", "--network", "none", "busybox", "sh", "-c", "ls /sys/class/net; ping -c1 -W2 127.0.0.1").out
    equal(out.splitlines()[0], "lo", "interfaces")
    check("lo\n" in out and "eth0" not in out, "only lo")


@scenario("19 network host: a second server on the same port fails")
def shared_with_host(docker):
    docker.start("--name", "one", "--network", "host", ["probe", "serve", "8081"])
    wait_until(lambda: answers("http://127.0.0.1:8081/") == "probe\n", "the server on the host's port")
    taken = docker("run", "--rm", "--network", "host", "busybox", "probe", "serve", "8081", code=1)
    contains(taken.err, "Address in use" if "Address in use" in taken.err else "in use", "the second server")


@scenario("19 network container:OTHER shares its lo")
def shared_with_container(docker):
    docker.start("--name", "server", ["probe", "serve", "8000"])
    docker.start("--name", "client", "--network", "container:server", ["probe", "wait"])
    fetch = ("exec", "client", "probe", "fetch", "127.0.0.1:8000")
    equal(wait_until(lambda: docker(*fetch, code=None).out, "the answer"), "probe\n", "the answer")


@scenario("19 a user-defined bridge resolves names; an internal one reaches nothing outside")
def bridges(docker):
    docker("network", "create", "front")
    docker("network", "create", "--internal", "back")
    docker.start("--name", "server", "--network", "front", ["probe", "serve", "8000"])
    docker.start("--name", "client", "--network", "front", ["probe", "wait"])
    address = docker.inspect("server", "NetworkSettings.Networks.front.IPAddress")
    contains(docker("exec", "client", "nslookup", "server").out, address, "the name of another container")
    fetch = ("exec", "client", "probe", "fetch", f"{address}:8000")
    equal(wait_until(lambda: docker(*fetch, code=None).out, "the answer"), "probe\n", "the answer")
    equal(docker("exec", "client", "wget", "-q", "-O-", "http://server:8000/").out, "probe\n", "the answer by name")
    docker.start("--name", "inner", "--network", "back", ["probe", "serve", "8000"])
    by_name = ("run", "--rm", "--network", "back", "busybox", "wget", "-q", "-O-", "http://inner:8000/")
    equal(wait_until(lambda: docker(*by_name, code=None).out, "the answer inside"), "probe\n", "within the internal network")
    script = f"timeout 2 probe reach {address}:8000 && echo reached; exit 0"
    equal(docker("run", "--rm", "--network", "back", "busybox", "sh", "-c", script).out, "", "an internal network and another")


@scenario("published ports answer on the host; one address, a range and udp are accepted")
def published(docker):
    docker.start("--name", "web", "-p", "127.0.0.1:8090:8000", "-p", "9100-9101:9100-9101", "-p", "9200:9200/udp",
                 ["probe", "serve", "8000"])
    wait_until(lambda: answers("http://127.0.0.1:8090/") == "probe\n", "the published port")
    contains(docker("port", "web").out, "9200/udp", "docker port")


@scenario("hostname, domain name, hosts and DNS as asked")
def names(docker):
    options = ("--hostname", "ship", "--domainname", "sea.example", "--add-host", "shore:10.1.2.3", "--dns", "10.9.9.9")
    out = docker("run", "--rm", *options, "busybox", "sh", "-c", "hostname; cat /etc/hosts /etc/resolv.conf; cat /proc/sys/kernel/domainname").out
    check(out.startswith("ship\n"), f"hostname: {out!r}")
    for part in ("10.1.2.3", "shore", "nameserver 10.9.9.9", "sea.example"):
        contains(out, part, "the container's names")


@scenario("sysctls of the container's own network; one of the host's is refused")
def sysctls(docker):
    read = ("busybox", "cat", "/proc/sys/net/core/somaxconn")
    equal(docker("run", "--rm", "--sysctl", "net.core.somaxconn=777", *read).text, "777", "somaxconn")
    try:
        docker("run", "--rm", "--sysctl", "vm.swappiness=1", "busybox", "true", code=125)
    except Failure as failure:
        raise Failure(f"a sysctl that is not namespaced was not refused: {failure}")
