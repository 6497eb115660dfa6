"""What of the measured tasks an adapter learned from, part by part."""

from __future__ import annotations

from support.learning_reports import planned

from engine.api_learning import Split, SuiteTask
from engine.evaluation.overlap import Document
from engine.evolution.seen import Part, Seen, look

GATE = tuple(
    SuiteTask(
        id=f"{group}-{number}",
        prompt=f"Give the list number {number} of the group {group} back in the order of its {word}.",
        split=Split.GATE,
        template=f"t{number}",
        tests="assert True",
        reference=f"def f(xs):\n    return {word}(xs, {group}_{number})",
        group=group,
    )
    for group in ("in", "deeper")
    for number, word in enumerate(("length", "weight", "colour", "age", "price", "name"))
)


def _part(**groups: str) -> Part:
    return Part(GATE, planned(groups))


def test_only_tasks_that_were_asked_count_each_in_its_part() -> None:
    copies = [Document("row", "", task.reference or "") for task in GATE if task.id in ("in-1", "deeper-2", "deeper-5")]
    inside, deeper = look([_part(**{"in": "pppp"}), _part(deeper="pppp")], copies)
    assert (inside.asked, inside.tasks, inside.contamination.exact) == (4, {"in-1"}, 1)
    assert (deeper.asked, deeper.tasks, deeper.contamination.rows) == (4, {"deeper-2"}, 3)
    assert deeper.contamination.examples == ("deeper-2 and row share the same code",)
    assert deeper.of_part("ood").part == "ood" and deeper.of_part("ood").exact == 1


def test_what_is_not_known_is_not_clean() -> None:
    (seen,) = look([_part(deeper="pp")], None)
    assert not seen.contamination.checked and seen.tasks == frozenset()


def test_up_to_a_tenth_may_coincide() -> None:
    report = look([_part(deeper="p")], [])[0].contamination
    assert [Seen(40, frozenset(map(str, range(count))), report).tells for count in (0, 4, 5)] == [True, True, False]
    assert not Seen(5, frozenset("1"), report).tells
