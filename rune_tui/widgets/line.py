"""One line of spans: titles, the status line, error lines. Its size never changes, so it never causes a layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.widget import Widget

from rune_tui.terminal_text import clean_line
from rune_tui.widgets.row import Span, Tone


class Line(Widget):
    """Spans side by side, cut at the edge."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"line--{tone}" for tone in Tone}

    def __init__(self, *spans: Span, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._spans: tuple[Span, ...] = spans

    def show(self, spans: Sequence[Span]) -> None:
        """Replace the spans; draws only when they changed."""
        if tuple(spans) != self._spans:
            self._spans = tuple(spans)
            self.refresh()

    @property
    def text(self) -> str:
        """What it says, without tones."""
        return "".join(span.text for span in self._spans)

    def render(self) -> Text:
        """The spans as one renderable."""
        line = Text(no_wrap=True, overflow="ellipsis")
        for span in self._spans:
            style = self.get_component_rich_style(f"line--{span.tone}", partial=True)
            line.append(clean_line(span.text), style)
        return line
