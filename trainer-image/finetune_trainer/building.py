"""The model of a run: loaded, set up by its method, and proven on two rows before its first step."""

from dataclasses import replace

import torch
from torch import nn

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer import certificates
from finetune_trainer.methods import Prepared, prepare
from finetune_trainer.models import load_model
from finetune_trainer.noise import add_embedding_noise
from finetune_trainer.objectives import anchoring
from finetune_trainer.preparation import Prepared as Data
from finetune_trainer.reporting import Reporter
from finetune_trainer.runtime import Decision, seed_everything


def build_model(spec: FineTuneJobSpec, data: Data, device: torch.device, reporter: Reporter) -> Prepared:
    """Load the model and set up what is trained.

    Args:
        spec: The manifest's.
        data: Where the model's files are, and the task that decides its head.
        device: Where it will be.
        reporter: Told every decision.

    Returns:
        The model with its method.
    """
    reporter.phase("model", f"loading {spec.model.uri}")
    seed_everything(spec.training.seed)
    pretrained = spec.model.weights == "pretrained"
    loaded = load_model(data.files, data.task.head, pretrained=pretrained, dropout=spec.training.dropout)
    if data.files.revision:
        reporter.decision(Decision("revision", data.files.revision, "the commit that was fetched"))
    if loaded.frozen:
        parts = ", ".join(data.task.head.frozen)
        reporter.decision(Decision("kept", str(len(loaded.frozen)), f"pretrained {parts} stays as it is in this task"))
    if loaded.new_parameters and pretrained:
        names = ", ".join(loaded.new_parameters[:4])
        reporter.decision(Decision("newWeights", str(len(loaded.new_parameters)), f"not in the model: {names}"))
    prepared = prepare(spec.method, loaded)
    reporter.decision(Decision("trained", prepared.decision, prepared.reason))
    anchor = anchoring(prepared.trainable(), loaded.new_parameters, spec.training.anchor)
    prepared = replace(prepared, hooks=(*prepared.hooks, *anchor))
    if spec.training.embedding_noise is not None:
        add_embedding_noise(prepared.model, spec.training.embedding_noise)
    prepared.model.to(device)
    return prepared


def prove(
    seed: int, data: Data, prepared: Prepared, device: torch.device, reporter: Reporter
) -> dict[str, nn.Parameter]:
    """Check on two rows what later numbers rest on, and freeze weights that the task never uses.

    Args:
        seed: Decides what is random in the check.
        data: The training rows and their task.
        prepared: The model with its method.
        device: Where the model is.
        reporter: Told every finding.

    Returns:
        The trained parameters by name.
    """
    parameters = prepared.trainable()
    seed_everything(seed)
    table = data.encoded["train"].table
    finding, unused = certificates.accumulation_is_exact(data.task, prepared.model, parameters, table, device)
    reporter.decision(finding)
    for name in unused:
        parameters.pop(name).requires_grad_(False)
    if unused:
        reporter.decision(Decision("frozen", str(len(unused)), f"never used: {', '.join(sorted(unused)[:4])}"))
    reporter.decision(certificates.saving_is_lossless(parameters))
    return parameters
