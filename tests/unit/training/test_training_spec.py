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
    MAX_ANSWER,
    MAX_WORD_BYTES,
    Answer,
    Checkpoint,
    Failure,
    Heartbeat,
    Loading,
    Progress,
    Ruling,
    Shrunk,
    Word,
    encode,
    parse,
    parse_ruling,
)
from engine.training.spec import (
    MAX_ROW_BYTES,
    MAX_SPEC_BYTES,
    WATCHING_ONLY,
    TrainSpec,
    parse_row,
    read_spec,
    recipe_digest,
)

FINITE = st.floats(allow_nan=False, allow_infinity=False)
WORDS: st.SearchStrategy[Word] = st.one_of(
    st.just(Heartbeat()),
    st.builds(Loading, note=st.text(max_size=50)),
    st.builds(Failure, reason=st.text(max_size=50)),
    st.builds(
        Answer, step=st.integers(0, 10**6), number=st.integers(0, 99), text=st.text(max_size=50), cut=st.booleans()
    ),
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

    irrelevant = {"method", "micro_batch", "threads", *WATCHING_ONLY}
    changed = {key: other(value) for key, value in spec.recipe if key not in irrelevant}
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
    told = word.of_job("job-1")
    assert told.model_dump(exclude={"score", "baseline_score"}) == {
        "job_id": "job-1",
        **word.model_dump(exclude={"type"}),
    }
    assert (told.score, told.baseline_score) == (None, None), "the child does not measure itself"


# --- the kill switch's words


@given(st.builds(Ruling, step=st.integers(0, 10**6), halt=st.text(max_size=50)))
def test_every_ruling_survives_its_line(ruling: Ruling) -> None:
    line = encode(ruling)
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and parse_ruling(line) == ruling


def test_what_is_no_ruling_is_refused() -> None:
    for line in (b"", b"{}", encode(Checkpoint(step=1)), b'{"type": "ruling", "step": 1, "surprise": 2}'):
        with pytest.raises(TrainingError, match="not a ruling"):
            parse_ruling(line)
    with pytest.raises(TrainingError, match="not a word"):
        parse(encode(Ruling(step=1)))


def test_an_answer_of_any_characters_fits_into_a_line() -> None:
    for character in ("\x00", "\\", '"', "\U0001f600", "a"):
        word = Answer(step=10**6, number=10**4, text=character * MAX_ANSWER, cut=False)
        assert len(encode(word)) <= MAX_WORD_BYTES and parse(encode(word)) == word


def test_a_checkpoint_outlives_a_change_of_the_kill_switch_and_of_nothing_that_is_learned(spec: TrainSpec) -> None:
    """Also one that was made before there was a kill switch: its recipe had none of these keys."""
    changed = {"kill_switch": True, "kill_benchmark": "x", "kill_samples": 99, "kill_cadence": 7, "kill_delta": 0.5}
    assert set(changed) == WATCHING_ONLY
    other = spec.model_copy(update={"recipe": spec.recipe.model_copy(update=changed)})
    assert other.fingerprint("d") == spec.fingerprint("d")
    learned = spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"learning_rate": 0.5})})
    assert learned.fingerprint("d") != spec.fingerprint("d")
