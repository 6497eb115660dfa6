"""The spec and the words between engine and trainer child: what is refused, and what makes a checkpoint foreign."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import load_config
from engine.errors import TrainingError
from engine.training.protocol import (
    MAX_WORD_BYTES,
    Checkpoint,
    Failure,
    Heartbeat,
    Loading,
    Progress,
    Shrunk,
    Word,
    encode,
    parse,
)
from engine.training.spec import MAX_ROW_BYTES, MAX_SPEC_BYTES, TrainSpec, parse_row, read_spec, recipe_digest

FINITE = st.floats(allow_nan=False, allow_infinity=False)
WORDS: st.SearchStrategy[Word] = st.one_of(
    st.just(Heartbeat()),
    st.builds(Loading, note=st.text(max_size=50)),
    st.builds(Failure, reason=st.text(max_size=50)),
    st.builds(Checkpoint, step=st.integers(0, 10**9)),
    st.builds(Shrunk, micro_batch=st.integers(1, 64), accumulation=st.integers(1, 64)),
    st.builds(
        Progress,
        step=st.integers(1, 10**6),
        steps=st.integers(1, 10**6),
        loss=FINITE,
        held_out_loss=st.none() | FINITE,
        learning_rate=FINITE,
        grad_norm=FINITE,
        tokens_per_second=FINITE,
        memory_mib=st.integers(0, 10**6),
        eta_seconds=FINITE,
    ),
)


@pytest.fixture
def spec(tmp_path: Path) -> TrainSpec:
    return TrainSpec(
        job_id="job-1",
        base_directory=tmp_path / "base",
        base_model_id="tiny",
        data=tmp_path / "data.jsonl",
        recipe=load_config(tmp_path / "none.toml").train,
        seed=1,
        output=tmp_path / "out",
        checkpoints=tmp_path / "checkpoints",
    )


def test_a_spec_survives_its_file(spec: TrainSpec, tmp_path: Path) -> None:
    spec.write(tmp_path / "spec.json")
    assert read_spec(tmp_path / "spec.json") == spec


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"output": "relative/path"}, "output: .*absolute"),
        ({"seed": -1}, "seed"),
        ({"surprise": 1}, "surprise"),
        ({"job_id": "../up"}, "job_id"),
    ],
)
def test_a_spec_that_is_not_valid_is_refused_by_field(
    spec: TrainSpec, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({**json.loads(spec.model_dump_json()), **change}))
    with pytest.raises(TrainingError, match=said):
        read_spec(path)


def test_a_spec_that_is_huge_or_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be read"):
        read_spec(tmp_path / "absent.json")
    (tmp_path / "huge.json").write_bytes(b" " * (MAX_SPEC_BYTES + 1))
    with pytest.raises(TrainingError, match="bytes"):
        read_spec(tmp_path / "huge.json")


def test_a_checkpoint_outlives_what_only_changes_rounding_and_nothing_else(spec: TrainSpec) -> None:
    def with_recipe(**keys: object) -> str:
        return spec.model_copy(update={"recipe": spec.recipe.model_copy(update=keys)}).fingerprint("data")

    same = spec.fingerprint("data")
    assert with_recipe(micro_batch=1) == same
    assert with_recipe(threads=7) == same

    def other(value: object) -> object:
        return value + 1 if isinstance(value, int | float) else f"{value}-other"

    changed = {key: other(value) for key, value in spec.recipe if key not in ("method", "micro_batch", "threads")}
    others = [with_recipe(**{key: value}) for key, value in changed.items()] + [with_recipe(method="lora")]
    others += [spec.model_copy(update={"seed": 2}).fingerprint("data"), spec.fingerprint("other data")]
    others += [spec.model_copy(update={"base_digest": "other"}).fingerprint("data")]
    others += [spec.model_copy(update={"warm_start": Path("/adapters/abc")}).fingerprint("data")]
    assert same not in others
    assert len(set(others)) == len(others)


def test_equal_recipes_have_equal_digests(spec: TrainSpec) -> None:
    assert recipe_digest(spec.recipe) == recipe_digest(spec.recipe.model_copy())
    assert recipe_digest(spec.recipe) != recipe_digest(spec.recipe.model_copy(update={"rank": 3}))


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"not json",
        b'{"messages":[],"completion":"x"}',
        b'{"messages":[{"role":"user","content":"x"}],"completion":""}',
        b'{"messages":[{"role":"user","content":"x"}],"completion":"x","weight":2}',
        b" " * (MAX_ROW_BYTES + 1),
    ],
)
def test_a_row_that_is_not_valid_is_refused_by_number(line: bytes) -> None:
    with pytest.raises(TrainingError, match="Row 7 "):
        parse_row(line, 7)


@given(word=WORDS)
def test_every_word_survives_its_line(word: Word) -> None:
    line = encode(word)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert parse(line) == word


@pytest.mark.parametrize(
    "line",
    [b"", b"Loading weights: 100%", b'{"type":"dance"}', b'{"type":"heartbeat","x":1}', b"x" * (MAX_WORD_BYTES + 1)],
)
def test_what_is_no_word_is_refused(line: bytes) -> None:
    with pytest.raises(TrainingError):
        parse(line)


def test_progress_becomes_the_event_of_its_job() -> None:
    word = Progress(
        step=1, steps=2, loss=0.5, learning_rate=1e-4, grad_norm=1.0, tokens_per_second=9.0, memory_mib=1, eta_seconds=3
    )
    assert word.of_job("job-1").model_dump() == {"job_id": "job-1", **word.model_dump(exclude={"type"})}
