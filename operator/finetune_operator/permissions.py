"""What the operator may do in a cluster: RBAC rules, each with the reason for it.

The one list: the chart's ClusterRole and the account of the tests are made from it. It reads no Secret, no ConfigMap
and no Node, runs nothing in pods, and may not change what a person wrote: `spec` belongs to its author.
"""

from typing import Any, Final

from finetune_api.names import GROUP, PLURAL

Rule = dict[str, Any]

PERMISSIONS: Final[tuple[Rule, ...]] = (
    # delete: ttlSecondsAfterFinished.
    {"apiGroups": [GROUP], "resources": [PLURAL], "verbs": ["get", "list", "watch", "delete"]},
    {"apiGroups": [GROUP], "resources": [f"{PLURAL}/status"], "verbs": ["patch"]},
    # Owner references of the children block the owner's deletion; admission may ask for this right (it does by default
    # on OpenShift). No finalizer is ever set.
    {"apiGroups": [GROUP], "resources": [f"{PLURAL}/finalizers"], "verbs": ["update"]},
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
    # Exit codes, termination messages, and why a pod is pending.
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    # The ranks' rendezvous, and the work volume: made once, deleted with their owner.
    {"apiGroups": [""], "resources": ["services", "persistentvolumeclaims"], "verbs": ["get", "create"]},
    # list: why a quota or a LimitRange refuses a Job's pods stands in the Job's events alone.
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "list"]},
    # One acting operator among several replicas.
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
    # The mirror of Kueue's admission; without Kueue it grants nothing.
    {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads"], "verbs": ["list", "watch"]},
)
