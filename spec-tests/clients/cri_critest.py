"""Kubernetes' own tests of the Container Runtime Interface, over brig's shim and over Go's."""

from kit.critest import group

group(__name__, "pods and idempotence", r"\[k8s.io\] (PodSandbox|Idempotence|Runtime info)", skip="RemoveImage")
group(__name__, "containers: lifecycle, exec, stats, logs, volumes", r"\[k8s.io\] Container runtime")
group(__name__, "containers: mounts, propagation, OOM", r"\[k8s.io\] Container (Mount|OOM)")
group(__name__, "streaming: exec, attach, port-forward", r"\[k8s.io\] Streaming")
group(__name__, "networking, and several containers in a pod", r"\[k8s.io\] (Networking|Multiple)")
group(__name__, "security context", r"\[k8s.io\] Security Context")
group(__name__, "user namespaces, in the place of Go's shim", r"UserNamespaces", handlers=("drop-in",))
