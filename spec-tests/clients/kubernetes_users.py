"""A cluster's pods with users of their own, which takes a kernel that can map the owners of what they stand on."""

from kit import host
from kit.commands import check, equal
from kit.suite import scenario


@scenario("hostUsers: false: the pod's root has no privileges outside, and owns its files inside")
def user_namespace(cluster):
    cluster.install()
    cluster.pod("apart", ["sh", "-c", "touch /made /share/made; exec probe wait"],
                volumeMounts=[{"name": "share", "mountPath": "/share"}],
                spec={"hostUsers": False, "volumes": [{"name": "share", "emptyDir": {}}]})
    cluster.ready("apart")
    number = cluster.pid("apart")
    check(int(host.status_of(number)["Uid"].split()[0]) >= 65536, f"the user outside: {host.status_of(number)['Uid']}")
    seen = cluster("exec", "apart", "--", "stat", "-c", "%u", "/made", "/share/made").out
    equal(seen, "0\n0\n", "the files' owner inside")
