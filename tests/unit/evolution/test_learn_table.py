"""The tables of the proof: everything that was found stands in them, and what a later run looks up costs nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.proof_tables import COLUMNS, drift, results

from benchmarks.learn_bar import bar
from benchmarks.learn_notes import Notes, duration
from benchmarks.learn_plan import FULL, conditions, merges, quick
from benchmarks.learn_table import render
from engine.evaluation.statistics import e_value


def lines_of(text: str, start: str) -> list[list[str]]:
    """Cells of the table rows that begin with that name."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(f"| {start} |")]


def test_every_row_has_its_rates_and_its_e_values() -> None:
    found = results()
    text = render(found, bar(found), 3.0)
    rates, values, _ = lines_of(text, "adapter, seed 1")
    assert rates == ["adapter, seed 1", *(f"{n}/100 [{low}, {high}]" for n, low, high in RATES)]
    assert values[1:4] == [f"gain {e_value(wins, 0):.3g}" for wins in (95, 10, 70)]
    assert values[4:] == [f"loss {e_value(losses, 0):.3g}" for losses in (0, 5, 0)]
    assert "NOT met" not in text


RATES = (
    (95, "89%", "98%"),
    (10, "6%", "17%"),
    (70, "60%", "78%"),
    (0, "0%", "4%"),
    (50, "40%", "60%"),
    (10, "6%", "17%"),
)


def test_the_other_domain_is_a_gain_for_who_learned_it_and_a_loss_for_who_did_not() -> None:
    text = render(results(), [], 3.0)
    other, merge, adapter = (lines_of(text, name)[1] for name in ("other domain", "merged: cat", "adapter, seed 1"))
    column = 1 + COLUMNS.index("other")
    assert other[column].startswith("gain") and merge[column].startswith("gain") and adapter[column].startswith("loss")


def test_seeds_have_a_mean_and_a_range() -> None:
    text = render(results(), [], 3.0)
    (dare,) = lines_of(text, "merged: dare: mean of 2 seeds (range)")
    assert dare[1] == "58% (21% to 95%)"
    (adapter,) = lines_of(text, "adapter: mean of 2 seeds (range)")
    assert adapter[1] == "93% (91% to 95%)"
    assert not lines_of(text, "merged: cat: mean of 1 seeds (range)")


def test_evidence_loop_text_and_times_are_said() -> None:
    found = results(drift={"random": drift(61.3, 1.25)}, seconds={"train a": 120.0, "train b": 60.0, "score x": 30.0})
    text = render(found, [], 12.0)
    assert "runekit-1 to domain: refused, a memoriser, out of distribution +2.0%, from +0.0% on" in text
    assert "- Memoriser: it gains on what it was trained for." in text
    assert (
        "round 1: 0 tasks solved by the model, 346 by the explorer, of 346; calls per solved task 812.5 before" in text
    )
    assert "1.04 after; runekit-ab-1: Promoted" in text and "runekit-ab-2: Not promoted: no gain." in text
    assert "| random | 61.3 | 20 | +206.5% | 1.25 |" in text
    assert "train 180 (2), score 30 (1); together 3.5 min; this command 12 s" in text


def test_json_has_all_of_it() -> None:
    found = json.loads(json.dumps(results().as_json()))
    row = next(one for one in found["rows"] if one["condition"]["name"] == "other domain")
    assert row["rates"]["in"]["against_base"]["e_gain"] == 1.0 and row["rates"]["other"]["passed"] == 96
    assert row["rates"]["general"]["against_base"]["losses"] == 5
    assert found["evidence"]["first"]["memoriser"] and found["loop"]["rounds"][0]["calls_per_task_before"] == 812.5
    assert found["drift"]["adapter, seed 1"]["rise"] == pytest.approx(0.02)
    assert found["seconds"]["train runekit-1"] == 200.0


# --- the plan -------------------------------------------------------------------------------------------------------


def test_the_plan_keeps_the_ids_of_earlier_runs_and_draws_dare_three_times() -> None:
    adapters = [one.adapter for one in merges(FULL)]
    dare = ["merged-dare", "merged-dare-s2", "merged-dare-s3"]
    both = ["merged-dare-ties", "merged-dare-ties-s2", "merged-dare-ties-s3"]
    assert adapters == ["merged-ties", *dare, *both, "merged-linear", "merged-cat", "merged-cat-learned-both"]
    assert len({(one.method, one.seed) for one in merges(FULL)}) == len(adapters)
    known = {one.adapter for one in conditions(FULL)}
    made = {"base", "zero-1", "random-1", "shuffled-1", "short-1", "inkwell-1", "peft-linear", "merged-random"}
    assert known == made | {"runekit-1", "runekit-2", "runekit-3"} | set(adapters)


def test_the_plan_has_the_sizes_that_the_issue_asks_for() -> None:
    limits = {probe.name: probe.limit for probe in FULL.probes}
    assert limits == {"in": 100, "deeper": 60, "paraphrase": 60, "other": 60, "general": 40, "humaneval": 40}
    assert (FULL.seeds, FULL.rounds) == (3, 2)
    assert quick(FULL).rounds == 0 and len(list(merges(quick(FULL)))) == 2


# --- what is kept ---------------------------------------------------------------------------------------------------


@dataclass
class Ended:
    started_at: str | None
    finished_at: str | None


def test_a_stage_counts_as_it_took_when_it_was_done(tmp_path: Path) -> None:
    file = tmp_path / "learn.json"
    file.write_text('{"seed": 7}')  # of an older program, which kept nothing else
    notes = Notes(file)
    assert notes.reveal(99) == 7 and not notes.knows("train a")
    notes.took("train a", 200.04)
    again = Notes(file)
    again.took("train a", 0.1)
    again.took("score b", 3.0)
    assert Notes(file).seconds == {"train a": 200.0, "score b": 3.0}
    assert Notes(file).reveal(99) == 7


def test_drifts_are_kept_by_digest(tmp_path: Path) -> None:
    Notes(tmp_path / "learn.json").keep_drift("d", drift(21, 0.5))
    assert Notes(tmp_path / "learn.json").drift("d") == drift(21, 0.5)
    assert Notes(tmp_path / "learn.json").drift("e") is None


def test_durations_come_from_the_engine() -> None:
    ended = Ended("2026-11-23T05:45:00.250000+00:00", "2026-11-23T05:46:30.750000+00:00")
    assert duration(ended) == 90.5
    assert duration(Ended(None, None)) is None
