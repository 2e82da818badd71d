"""containerd's CRI plugin where systemd makes the cgroups, in a machine of its own."""

import re

from kit import host
from kit.commands import run
from kit.cri import NETWORK, OURS, Cri
from kit.installed import manifest


class InMachine:
    """Differences of both kinds of CRI clients in a machine of their own; precedes them among the bases of a class."""

    def __init__(self, place, shim):
        # The machine's root is an overlay already, on which no overlay can write.
        run("mount", "-t", "tmpfs", "-o", "mode=711", self.name, place)
        super().__init__(place, shim)

    def close(self):
        """The same, and what it stood on."""
        super().close()
        run("umount", "--lazy", self.place)

    def network(self):
        """The machine's kernel has no table of address translation: so without published ports and masquerade."""
        return {**NETWORK, "plugins": [{**NETWORK["plugins"][0], "ipMasq": False}]}


class CriUnderSystemd(InMachine, Cri):
    """The same with SystemdCgroup = true. The handler brig is the file that the document's DaemonSet writes."""

    name = "cri-systemd"
    timeout_factor = 6
    slice = "test.slice"
    handlers = OURS[:1]
    # Where there is no file there is no handler of that name.
    default = "runc"

    @property
    def drop_ins(self):
        """The directory in the place of the document's /etc/containerd/conf.d."""
        return self.base / "conf.d"

    def write_handler(self):
        """The file as the DaemonSet writes it."""
        script = manifest("daemonset")["spec"]["template"]["spec"]["containers"][0]["args"][0]
        self.drop_ins.mkdir(exist_ok=True)
        (self.drop_ins / "brig.toml").write_text(re.search(r"<<END\n(.*?)^END$", script, re.S | re.M)[1])

    def configuration(self):
        """The same, with what is in that directory."""
        self.write_handler()
        imports = f'version = 3\nimports = ["{self.drop_ins}/*.toml"]\n'
        return super().configuration().replace("version = 3\n", imports, 1)

    def tables(self, handlers):
        """Those of the others, with the option for systemd."""
        return super().tables([(*table, f"SystemdCgroup = true\n  {options}") for *table, options in handlers
                               if table[0] != "brig"])

    def _cgroups(self):
        return list(host.CGROUPS.glob("**/cri-containerd-*.scope"))
