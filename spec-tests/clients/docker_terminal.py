"""Terminals: -it, resize, attach and detach, a Python prompt, exec with a terminal."""

from kit.commands import contains, equal, wait_until
from kit.docker import DEBIAN
from kit.suite import scenario
from kit.terminal import Terminal


@scenario("18 run -it: a shell on a terminal of the asked size; it exits with the shell's status")
def shell(docker):
    with Terminal(*docker.command("run", "--rm", "-it", "busybox", "sh"), rows=33, columns=101) as screen:
        screen.expect("#")
        screen.send("tty; echo out-$((40+2))\n")
        screen.expect("/dev/pts/0")
        screen.expect("out-42")
        wait_until(lambda: screen.size_is(33, 101), "the terminal to have the window's size")
        screen.send("exit 6\n")
        equal(screen.wait(), 6, "exit status")


@scenario("18 run -it: resizing the window reaches the program")
def resize(docker):
    with Terminal(*docker.command("run", "--rm", "-it", "busybox", "sh")) as screen:
        screen.expect("#")
        screen.resized(50, 120)
        screen.send("exit\n")
        equal(screen.wait(), 0, "exit status")


@scenario("18 run -it: ^C interrupts the command, and the shell continues")
def interrupt(docker):
    with Terminal(*docker.command("run", "--rm", "-it", "busybox", "sh")) as screen:
        screen.expect("#")
        screen.send("probe serve 9\n")
        screen.expect("listening")
        screen.send("\x03")
        screen.expect("#")
        screen.send("echo status=$?\n")
        screen.expect("status=130")
        screen.send("exit\n")
        screen.wait()


@scenario("18 exec -it with a resize; exec -t without a terminal on the client's side fails clearly")
def exec_terminal(docker):
    docker.start("--name", "xx", ["probe", "wait"])
    with Terminal(*docker.command("exec", "-it", "xx", "sh"), rows=20, columns=90) as screen:
        screen.expect("#")
        screen.send("tty; echo here-$((1+1))\n")
        screen.expect("/dev/pts/")
        screen.expect("here-2")
        screen.resized(44, 99)
        screen.send("exit 4\n")
        equal(screen.wait(), 4, "exit status")
    contains(docker("exec", "-t", "xx", "tty").out, "/dev/pts/", "exec -t")


@scenario("18 a Python prompt under run -it")
def python_prompt(docker):
    image = docker.need(DEBIAN)
    with Terminal(*docker.command("run", "--rm", "-it", image, "python3"), rows=24, columns=80) as screen:
        screen.expect(">>>", timeout=40)
        screen.send("print(6 * 7)\n")
        screen.expect("\n42")
        screen.send("exit(3)\n")
        equal(screen.wait(), 3, "exit status")


@scenario("18 exec with user, environment, directory, stdin: -u, -e, -w, -i; files of root are denied to a plain user")
def exec_options(docker):
    docker.start("--name", "xx", "--user", "1000:1000", ["probe", "wait"])
    equal(docker("exec", "xx", "whoami").text, "app", "whoami")
    equal(docker("exec", "xx", "id", "-u").text, "1000", "id -u")
    contains(docker("exec", "xx", "touch", "/etc/x", code=1).err, "Permission denied", "touch /etc/x")
    equal(docker("exec", "-u", "root", "xx", "whoami").text, "root", "exec -u root")
    docker("exec", "-u", "root", "xx", "touch", "/etc/x")
    equal(docker("exec", "-e", "GREETING=hello there", "xx", "probe", "env", "GREETING").text, "hello there", "exec -e")
    equal(docker("exec", "-w", "/srv", "xx", "pwd").text, "/srv", "exec -w")
    equal(docker("exec", "-i", "xx", "cat", input="through\n").out, "through\n", "exec -i")


@scenario("exec: detached, and while many others run")
def exec_more(docker):
    docker.start("--name", "xx", ["probe", "wait"])
    docker("exec", "-d", "xx", "sh", "-c", "echo done >/tmp/made")
    wait_until(lambda: docker("exec", "xx", "cat", "/tmp/made", code=None).text == "done", "the detached exec")
    results = docker.together(*[("exec", "xx", "sh", "-c", f"echo number {number}") for number in range(12)])
    equal([result.text for result in results], [f"number {number}" for number in range(12)], "twelve at once")


@scenario("23 attach, detach by keys, attach again")
def attach(docker):
    docker("run", "-dit", "--name", "aa", "busybox", "sh")
    with Terminal(*docker.command("attach", "--detach-keys", "ctrl-x,x", "aa")) as screen:
        screen.send("echo first-$((1+1))\n")
        screen.expect("first-2")
        screen.send("\x18x")
        screen.wait()
    equal(docker.inspect("aa", "State.Running"), True, "running after the detach")
    with Terminal(*docker.command("attach", "aa")) as screen:
        screen.send("echo second-$((1+1))\n")
        screen.expect("second-2")
        screen.send("exit 0\n")
        equal(screen.wait(), 0, "exit status")
