"""What `improve` is asked: from what to learn, in how many rounds, and what is to stay as it is."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from engine.api_learning import MAX_REHEARSED, SuiteName, each_once
from engine.api_models import Frozen


class ImproveRequest(Frozen):
    """Body of POST /improve: run, keep what was verified, train, evaluate, promote, and again."""

    suite: SuiteName
    rounds: int = Field(default=1, ge=1, le=20)
    explore: bool = True
    """Where the model solves nothing, let the explorer search for solutions."""
    demonstrations: str | None = None
    """Absolute path of a JSONL file of `{"prompt", "completion"}` to learn from besides."""
    preset: str = "standard"
    limit: int | None = Field(default=None, ge=1)
    """Tasks of the train split in one round."""
    rehearse: Annotated[tuple[SuiteName, ...], AfterValidator(each_once)] = Field(
        default=("general", "inkwell", "runekit"), max_length=MAX_REHEARSED
    )
    """Suites on which the base model's own answers are kept; `suite` itself is left out of them. By default ordinary
    requests, and other domains: adapters of `runekit` raised the perplexity of plain text by 17 % where only `general`
    was kept, by 1 to 3 % where `inkwell` was kept too."""
    seed: int = Field(default=0, ge=0, lt=2**31)
