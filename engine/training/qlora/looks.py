"""The kill switch's side in the child: asks the model being trained, tells its answers, and does as the engine rules.

    due ─► questions ─► greedy answers ─► an `answer` each ─► wait ─► ruling: goes on, or TrainingError

Whether the model got worse is not decided here, and no answer is run here: the engine judges them in its sandbox.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from engine.errors import TrainingError
from engine.training.protocol import MAX_ANSWER, Answer, Loading
from engine.training.qlora.data import Encoder
from engine.training.qlora.ear import Ear
from engine.training.qlora.greedy import Greedy, Tokens, Written
from engine.training.qlora.voice import Voice
from engine.training.spec import MAX_ROW_BYTES, LookSpec, Question
from registry.clock import Clock

TOO_LONG = Written((), cut=True)
"""The answer to a question that does not fit into the context."""


class Looks:
    """Every look of one run.

    Raises:
        TrainingError: the questions cannot be read.
    """

    def __init__(self, spec: LookSpec, encoder: Encoder, greedy: Greedy, ear: Ear, voice: Voice, clock: Clock) -> None:
        self._spec = spec
        self._encoder = encoder
        self._greedy = greedy
        self._ear = ear
        self._voice = voice
        self._clock = clock
        self._looked = spec.looked
        self._prompts = tuple(_read(spec.questions, encoder))
        self._seconds = 0.0

    def is_due(self, step: int) -> bool:
        """Whether the model is to be asked after that many steps, which it was not yet.

        Raises:
            TrainingError: it is past its first step, and nobody knows what it could do before.
        """
        if self._looked is None:
            if step > 0:
                raise TrainingError("What the model could do before the first step is not known; start the job over.")
            return True
        return step > self._looked and step % self._spec.cadence == 0

    def seconds_left(self, step: int, steps: int) -> float:
        """Of the looks from this step on, that one included, to the end; 0.0 where none was made in this run."""
        return self._seconds * (steps // self._spec.cadence - max(0, step - 1) // self._spec.cadence)

    def answers(self, size: int) -> list[Written]:
        """Answer every question, `size` at once, in the order of the questions."""
        room = self._spec.context_tokens - self._spec.max_tokens
        order = sorted(range(len(self._prompts)), key=lambda index: -len(self._prompts[index]))
        asked = [index for index in order if len(self._prompts[index]) <= room]
        found = [TOO_LONG] * len(self._prompts)
        for start in range(0, len(asked), size):
            some = asked[start : start + size]
            written = self._greedy.answer([self._prompts[index] for index in some], self._spec.max_tokens)
            for index, one in zip(some, written, strict=True):
                found[index] = one
        return found

    def look(self, step: int, answers: Callable[[], Sequence[Written]]) -> None:
        """Have the model answer, tell what it wrote, and wait for the ruling.

        Raises:
            TrainingError: the engine rules that the training ends; says why.
        """
        began = self._clock.monotonic()
        when = f"after step {step}" if step else "before the first step"
        self._voice.say(Loading(note=f"answering {len(self._prompts)} tasks {when}"))
        for number, written in enumerate(answers()):
            text = self._encoder.text(written.tokens)
            cut = written.cut or len(text) > MAX_ANSWER
            self._voice.say(Answer(step=step, number=number, text=text[:MAX_ANSWER], cut=cut))
        ruling = self._ear.ruling(step)
        self._voice.waited()
        self._seconds = self._clock.monotonic() - began
        if ruling.halt:
            raise TrainingError(ruling.halt)
        self._looked = step


def _read(path: Path, encoder: Encoder) -> Iterator[Tokens]:
    try:
        with path.open("rb") as lines:
            while line := lines.readline(MAX_ROW_BYTES + 1):
                yield encoder.prompt(Question.model_validate_json(line).messages)
    except (OSError, ValidationError) as error:
        raise TrainingError(f"The questions of the kill switch cannot be read: {error}") from error
