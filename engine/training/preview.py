"""What a training job would take, said before anything runs: examples, steps, memory, who sleeps, how long. Pure.

The parent has no tokenizer, so tokens are estimated from characters, a little too high. The trainer counts for itself
and leaves out what is really too long.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.api_training import TrainPreview
from engine.config import TrainSection
from engine.training.dataset import Dataset
from engine.training.estimate import ModelShape, estimated_tokens, peak_mib, seconds, trained_tokens
from engine.training.job_rows import Speed
from engine.training.kill_switch import sentence
from engine.training.recipes import check_steps

TEMPLATE_TOKENS = 40
"""What a chat template puts around an example; SmolLM2's, with its system turn, is 34."""
_CPU_FLAGS = Path("/proc/cpuinfo")
_BF16_UNITS = ("avx512_bf16", "amx_bf16")


@dataclass(frozen=True)
class Room:
    """The device's memory as a trainer would find it."""

    free_mib: int
    """Free now."""
    given_back_mib: int = 0
    """What the model server gives back when it sleeps or is stopped."""
    asleep: tuple[str, ...] = ()
    """Who that is."""
    margin_mib: int = 0
    """Free memory beyond the need."""
    is_gpu: bool = False


def need_mib(shape: ModelShape, recipe: TrainSection, longest: int, *, gpu: bool, bf16: bool) -> int:
    """Estimate of the trainer's peak on data whose longest row has so many characters."""
    return peak_mib(shape, recipe, bf16=bf16 or gpu, gpu=gpu, longest=_tokens(longest))


def preview(
    shape: ModelShape, recipe: TrainSection, data: Dataset, room: Room, speed: Speed | None, *, bf16: bool
) -> TrainPreview:
    """The whole preview.

    Raises:
        InputError: so little is left that nothing would be learned.
    """
    fitting = [tokens for tokens in map(_tokens, data.learned) if tokens <= recipe.max_tokens]
    kept = [tokens for tokens in map(_tokens, data.kept) if tokens <= recipe.max_tokens]
    steps = check_steps(len(fitting), recipe, len(kept))
    tokens = sum(fitting) + sum(kept)
    longest = max((*data.learned, *data.kept, *data.held_out))
    need = need_mib(shape, recipe, longest, gpu=room.is_gpu, bf16=bf16)
    free = room.free_mib + room.given_back_mib
    trained = trained_tokens(tokens, len(fitting) + len(kept), recipe)
    return TrainPreview(
        examples=len(fitting),
        held_out=len(data.held_out),
        kept=len(kept),
        left_out=data.left_out + len(data.learned) - len(fitting) + len(data.kept) - len(kept),
        tokens=tokens,
        steps=steps,
        peak_mib=need,
        free_mib=free,
        fits=need + room.margin_mib <= free,
        asleep=room.asleep,
        seconds=None if speed is None else seconds(trained, speed.tokens_per_second, speed.start_seconds),
        method=recipe.method,
        note=" ".join(filter(None, (_note(need, free, room), sentence(recipe, steps)))),
    )


def cpu_has_bf16() -> bool:
    """Whether this CPU has units for bfloat16; without them the trainer computes in float32. Reads a small file."""
    try:
        flags = _CPU_FLAGS.read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False
    return any(unit in flags for unit in _BF16_UNITS)


def _tokens(characters: int) -> int:
    return estimated_tokens(characters) + TEMPLATE_TOKENS


def _note(need: int, free: int, room: Room) -> str:
    if need + room.margin_mib > free:
        return (
            f"It needs about {need} MiB and {room.margin_mib} MiB beyond, and {free} MiB are free: "
            "it would be refused. Take method qlora, a smaller max_tokens or a smaller micro_batch."
        )
    given = (
        f", {room.given_back_mib} MiB of it given back by {' and '.join(room.asleep)}" if room.given_back_mib else ""
    )
    return f"About {need} of {free} MiB{given}; tokens and memory are estimates."
