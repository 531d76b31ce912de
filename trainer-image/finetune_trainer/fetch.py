"""Bring everything that a run reads from a hub into its cache, so that the ranks need no network.

Runs in a container of its own before the ranks; only that container holds the hub's token.
"""

from typing import Any

from finetune_api.run_config import RunConfig
from finetune_api.spec import FineTuneJobSpec
from finetune_api.uri import parse_uri
from finetune_trainer.sources import locate_data, locate_model, places_of


def fetch(config: RunConfig) -> dict[str, Any]:
    """Fetch every hf:// address of a run; what is there already is not fetched again.

    Args:
        config: The run.

    Returns:
        Under `fetched` the folder of each address.

    Raises:
        TrainerError: One of them cannot be had, for the reason of the error's class.
    """  # noqa: DOC502
    places = places_of(config, keeps_first=True)
    fetched: dict[str, str] = {}
    distillation = config.spec.training.distillation
    for uri in (config.spec.model.uri, *([distillation.teacher] if distillation else [])):
        if parse_uri(uri).scheme == "hf":
            fetched[uri] = str(locate_model(uri, places).folder)
    for uri in _data(config.spec):
        if parse_uri(uri).scheme == "hf":
            fetched[uri] = str(locate_data(uri, places))
    return {"fetched": fetched}


def _data(spec: FineTuneJobSpec) -> list[str]:
    data, training = spec.data, spec.training
    earlier = [each.data for each in (training.ewc, training.replay) if each is not None]
    sources = (data.train, data.validation, data.test, *earlier)
    return [each.uri for each in sources if each is not None and each.uri is not None]
