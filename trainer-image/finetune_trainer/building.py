"""The model of a run: loaded, set up by its method, and proven on two rows before its first step."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import nn

from finetune_api.run_config import RunConfig
from finetune_api.spec import FineTuneJobSpec
from finetune_api.spec.objective import DEFAULT_TEMPERATURE
from finetune_trainer import certificates
from finetune_trainer.methods import Prepared, prepare
from finetune_trainer.models import load_model, parameter_counts
from finetune_trainer.noise import add_embedding_noise
from finetune_trainer.objectives import anchoring
from finetune_trainer.objectives.adversarial import Adversarial
from finetune_trainer.objectives.consolidation import Consolidation, importances
from finetune_trainer.objectives.distillation import Distilled
from finetune_trainer.objectives.rdrop import RDrop
from finetune_trainer.preparation import Prepared as Data
from finetune_trainer.reporting import Reporter
from finetune_trainer.runtime import Decision, seed_everything
from finetune_trainer.sources import places_of
from finetune_trainer.tasks.scoring import Learned, Scoring
from finetune_trainer.teaching import load_teacher


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
    consolidation = _consolidation(spec, data, prepared, loaded.new_parameters, reporter)
    return replace(prepared, hooks=(*prepared.hooks, *consolidation))


def _consolidation(
    spec: FineTuneJobSpec, data: Data, prepared: Prepared, new: Collection[str], reporter: Reporter
) -> tuple[Consolidation, ...]:
    """Look at the earlier rows, when the manifest names some."""
    if spec.training.ewc is None or data.earlier is None:
        return ()
    table, parameters = data.earlier.table, prepared.trainable()
    reporter.phase("consolidation", f"looking at {len(table)} earlier rows")
    device = next(iter(parameters.values())).device
    found = importances(data.task, prepared.model, parameters, table, device)
    hook = Consolidation(parameters, new, found, spec.training.ewc.strength)
    reporter.decision(
        Decision("consolidation", str(hook.held), f"trained weights weighed by {len(table)} earlier rows")
    )
    return (hook,)


@dataclass(frozen=True, slots=True)
class Proven:
    """What the loop minimises, and the parameters that it trains, by name."""

    objective: Learned
    parameters: dict[str, nn.Parameter]


def prove(config: RunConfig, data: Data, prepared: Prepared, device: torch.device, reporter: Reporter) -> Proven:
    """Put the objective together, check on two rows what later numbers rest on, freeze weights that it never uses.

    Args:
        config: The run.
        data: The training rows and their task.
        prepared: The model with its method.
        device: Where the model is.
        reporter: Told every finding.

    Returns:
        What to train by, and what to train.
    """
    parameters = prepared.trainable()
    table = data.encoded["train"].table
    objective = _objective(config, data, prepared.model, device, reporter)
    seed_everything(config.spec.training.seed)
    finding, unused = certificates.accumulation_is_exact(objective, prepared.model, parameters, table, device)
    reporter.decision(finding)
    for name in unused:
        parameters.pop(name).requires_grad_(False)
    if unused:
        reporter.decision(Decision("frozen", str(len(unused)), f"never used: {', '.join(sorted(unused)[:4])}"))
    reporter.decision(certificates.saving_is_lossless(parameters))
    return Proven(objective, parameters)


def _objective(config: RunConfig, data: Data, model: nn.Module, device: torch.device, reporter: Reporter) -> Learned:
    """Return the task with the terms that the manifest asks for around it."""
    training, objective = config.spec.training, data.task
    if (distillation := training.distillation) is not None:
        assert isinstance(objective, Scoring), "internal: a rule lists the tasks"
        teacher = load_teacher(distillation.teacher, data, places_of(config)).to(device)
        reporter.decision(Decision("teacher", distillation.teacher, f"{parameter_counts(teacher)[0]:,} parameters"))
        objective = Distilled(objective, teacher, distillation.weight, distillation.temperature or DEFAULT_TEMPERATURE)
    if training.r_drop is not None:
        assert isinstance(objective, Scoring), "internal: a rule lists the tasks"
        dropping = RDrop(objective, training.r_drop)
        dropping.check(model.train(), data.encoded["train"].table, device)
        return dropping
    if training.adversarial is not None:
        return Adversarial(objective, training.adversarial, training.seed)
    return objective
