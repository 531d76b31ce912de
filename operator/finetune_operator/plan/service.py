"""The headless Service that gives the nodes of a gang names."""

from typing import Any

from finetune_api import names
from finetune_operator.plan.shape import Shape


def service_of(shape: Shape) -> dict[str, Any] | None:
    """Return the Service of an attempt; None for one node, which talks to nobody."""
    if shape.nodes == 1:
        return None
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": shape.metadata(shape.service_name),
        "spec": {
            "clusterIP": "None",
            # The nodes look for each other before they are ready.
            "publishNotReadyAddresses": True,
            "selector": {names.JOB_NAME_LABEL: shape.name},
            "ports": [{"name": "rendezvous", "port": names.RENDEZVOUS_PORT, "protocol": "TCP"}],
        },
    }
