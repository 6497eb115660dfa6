"""From a request to the recipe that is trained by: the preset, with what the request replaces. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from engine.api_training import TrainRequest
from engine.config import Config, TrainSection
from engine.errors import ConflictError, InputError
from engine.training.estimate import planned_steps
from registry.models import Adapter

MIN_STEPS = 3
"""Fewer optimizer steps teach nothing: the learning rate is still warming up."""
MAX_VALUE = 80
"""Characters of a value in an error."""

_REPLACEABLE = ("method", "epochs", "max_steps", "learning_rate", "batch_size", "max_tokens")


def recipe_of(request: TrainRequest, config: Config, parent: Adapter | None) -> TrainSection:
    """The whole recipe.

    Args:
        parent: the adapter whose weights are begun with; its rank, alpha and modules hold then.

    Raises:
        InputError: there is no such preset, or a value does not fit the parent, this home's limits or a recipe.
        ConflictError: the parent is of another base model.
    """
    recipe = config.recipe(request.preset)
    given = {name: getattr(request, name) for name in _REPLACEABLE if getattr(request, name) is not None}
    recipe = recipe.model_copy(update=given)
    if request.rank is not None:  # the adapter's weight in the model stays what the preset means it to be
        recipe = recipe.model_copy(update={"rank": request.rank, "alpha": recipe.alpha * request.rank / recipe.rank})
    if parent is not None:
        recipe = recipe.model_copy(update=_of_parent(request, config, parent))
    if recipe.rank > config.registry.max_rank:
        raise InputError(f"rank {recipe.rank}: at most registry.max_rank = {config.registry.max_rank} is kept.")
    # Copies are not checked, and a value that was made of two good ones need not be good.
    return read_recipe(recipe.model_dump() | {"micro_batch": min(recipe.micro_batch, recipe.batch_size)})


def read_recipe(fields: Mapping[str, object]) -> TrainSection:
    """The recipe of these keys.

    Raises:
        InputError: it is not valid; names the first key that is not.
    """
    try:
        return TrainSection.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        value = repr(first["input"])[:MAX_VALUE]
        raise InputError(f"The recipe cannot be used: {key} = {value}: {first['msg']}.") from error


def _of_parent(request: TrainRequest, config: Config, parent: Adapter) -> dict[str, object]:
    if parent.base_model_id != config.model.base_id:
        raise ConflictError(
            f"{parent.id} is of {parent.base_model_id}, and the base model here is {config.model.base_id}."
        )
    if request.rank is not None and request.rank != parent.rank:
        raise InputError(f"A warm start keeps the rank of {parent.id}, which is {parent.rank}; leave the rank out.")
    targets = ",".join(parent.target_modules)
    return {"rank": parent.rank, "alpha": parent.alpha, "targets": targets, "first_layer": 0}


def check_steps(examples: int, recipe: TrainSection, kept: int = 0) -> int:
    """How many optimizer steps that will be.

    Args:
        examples: rows that are learned from; they alone must make enough steps.
        kept: rows besides of which nothing is learned.

    Raises:
        InputError: too few to learn anything.
    """
    steps = planned_steps(examples, recipe)
    if steps < MIN_STEPS:
        raise InputError(
            f"{examples} examples make {steps} steps, and fewer than {MIN_STEPS} teach nothing; "
            "give more data, more epochs or a smaller batch."
        )
    return planned_steps(examples + kept, recipe)
