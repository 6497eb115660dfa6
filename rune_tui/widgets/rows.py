"""The list that every pane is made of: draws only the lines that are on screen.

Built on Textual's line API because Tree and DataTable measure every row on each change: here a list of 100,000 rows
costs what its visible rows cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.cache import LRUCache
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import Reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from rune_tui.terminal_text import clean_line
from rune_tui.widgets.row import Row, Span, Tone, row, wrapped

FOLLOW_STEP = 4
"""Lines by which a text that follows its end scrolls: each time the whole pane is drawn, which is most of the cost of
streamed output; and the lines stand still for a moment, to be read."""

BLANK = "blank"

MAX_STRIPS = 200
"""Drawn lines that are kept: those of a tall screen and what scrolls in next."""


class Rows(ScrollView, can_focus=True):
    """A list with a cursor, or (`text=True`) a text that wraps and follows its end."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        *(f"rows--{tone}" for tone in Tone),
        "rows--cursor",
        "rows--cursor-blurred",
    }

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "move_page(-1)", "Page up", show=False),
        Binding("pagedown", "move_page(1)", "Page down", show=False),
        Binding("home,g", "move_to_end(-1)", "First", show=False),
        Binding("end,G", "move_to_end(1)", "Last", show=False),
        Binding("enter", "choose", "Open", show=False),
    ]

    @dataclass
    class Highlighted(Message):
        """The cursor came to another row."""

        rows: Rows
        key: str

        @property
        def control(self) -> Rows:
            """The list that sent it."""
            return self.rows

    @dataclass
    class Chosen(Message):
        """Enter or a double click on a row."""

        rows: Rows
        key: str

        @property
        def control(self) -> Rows:
            """The list that sent it."""
            return self.rows

    def __init__(self, *, id: str | None = None, text: bool = False, follow: bool = True) -> None:
        super().__init__(id=id)
        self._text = text
        self._source: tuple[Row, ...] = ()
        self._rows: list[Row] = []
        self._starts: list[int] = []
        """Index in `_rows` at which each row of `_source` begins."""
        self._cursor = 0
        self._follow = text and follow
        self._wrap_width = 0
        self._styles: dict[str, Style] = {}
        self._strips: LRUCache[Row, Strip] = LRUCache(MAX_STRIPS)

    # --- content ---

    @property
    def rows(self) -> Sequence[Row]:
        """What is shown, wrapped, top to bottom."""
        return self._rows

    @property
    def cursor_key(self) -> str:
        """Key of the row under the cursor; empty where there is none."""
        return self._rows[self._cursor].key if self._cursor < len(self._rows) else ""

    @property
    def follows(self) -> bool:
        """Whether a text keeps its end in view; scrolling up stops that, going to the end starts it again."""
        return self._follow

    def show(self, rows: Sequence[Row]) -> None:
        """Replace the rows. The cursor stays on its key; only lines that changed are drawn again."""
        source = tuple(rows)
        kept = _common(source, self._source)
        if kept == len(source) == len(self._source):
            return
        key, before, top = self.cursor_key, self._rows, self.scroll_y
        self._source = source
        self._lay_out(kept)
        if not self._text:
            self._put_cursor(self._index_of(key))
        if self.scroll_y == top:  # else the scrolling has drawn everything again
            self._refresh_changed(before)

    def _refresh_changed(self, before: Sequence[Row]) -> None:
        """Draw the lines on the screen that differ from what they were."""
        now, top, width = self._rows, round(self.scroll_offset.y), self.size.width
        for y in range(self.size.height):
            old = before[top + y] if top + y < len(before) else None
            new = now[top + y] if top + y < len(now) else None
            if old is not new and old != new:
                self.refresh(Region(0, y, width, 1))

    def select(self, key: str) -> None:
        """Put the cursor on that row, if it is there."""
        if key != self.cursor_key and any(item.key == key for item in self._rows):
            self._put_cursor(self._index_of(key))

    def rewind(self) -> None:
        """A text of something else now: forget where the reader was."""
        self._follow = self._text
        self.scroll_to(y=0, animate=False)

    def _lay_out(self, kept: int = 0) -> None:
        """Fold the rows to the width; the first `kept` of them are folded already."""
        width = self.scrollable_content_region.width
        kept = kept if width == self._wrap_width else 0
        self._wrap_width = width
        starts = self._starts[:kept]
        lines = self._rows[: self._starts[kept]] if kept < len(self._starts) else list(self._rows)
        for item in self._source[kept:]:
            starts.append(len(lines))
            lines.extend(self._folded(item, width))
        self._starts, self._rows = starts, lines
        self._resize_content(Size(width, self._content_height(len(lines))))

    def _content_height(self, lines: int) -> int:
        """So much that a text that follows its end scrolls by several lines at once, into room that fills then."""
        beyond = lines - self.container_size.height
        return lines + -beyond % FOLLOW_STEP if self._follow and beyond > 0 else lines

    def _folded(self, item: Row, width: int) -> Sequence[Row]:
        if item.key and not self._text:  # what can be chosen is cut
            return (item,)
        only = item.spans[0].text if len(item.spans) == 1 else ""
        if only and len(only) <= width and only.isascii() and only.isprintable():  # most lines of code
            return (item,)
        return wrapped(item, width)

    def _resize_content(self, size: Size) -> None:
        """Tell Textual the new size; a layout of the whole screen only where a scrollbar comes or goes."""
        overflows = size.height > self.container_size.height
        if size.width == self.virtual_size.width and overflows is self.show_vertical_scrollbar:
            self.set_reactive(cast("Reactive[Size]", Widget.virtual_size), size)  # no layout
            if overflows and self._has_scrollbar:
                self.vertical_scrollbar.window_virtual_size = size.height
            end = self.max_scroll_y
            if self._follow or self.scroll_y > end:
                self.scroll_to(y=end, animate=False, immediate=True)
            return
        if size != self.virtual_size:
            self.virtual_size = size
        if self._follow:
            self.call_after_refresh(self.scroll_end, animate=False, immediate=True)

    def on_resize(self, event: events.Resize) -> None:
        """Wrap again to the new width, keeping the cursor in view."""
        del event
        if self.scrollable_content_region.width != self._wrap_width:
            self._lay_out()
        self._show_cursor()

    def _index_of(self, key: str) -> int:
        """The row of that key, else the nearest row to where the cursor was that can be chosen."""
        for index, item in enumerate(self._rows):
            if key and item.key == key:
                return index
        candidates = [index for index, item in enumerate(self._rows) if item.key]
        return min(candidates, key=lambda index: abs(index - self._cursor), default=0)

    # --- cursor ---

    def _put_cursor(self, index: int) -> None:
        before = self.cursor_key
        at = self._cursor
        self._cursor = max(0, min(index, len(self._rows) - 1)) if self._rows else 0
        if self._cursor != at:
            self.refresh()
        self._show_cursor()
        key = self.cursor_key
        if key and key != before:
            self.post_message(self.Highlighted(self, key))

    def _show_cursor(self) -> None:
        if not self._text and self._rows:
            region = Region(0, self._cursor, 1, 1)
            self.scroll_to_region(region, animate=False, force=True, immediate=True)

    def action_move(self, step: int) -> None:
        """One row up or down; a text scrolls."""
        if self._text:
            self._scroll_text(step)
            return
        index = self._cursor + step
        while 0 <= index < len(self._rows) and not self._rows[index].key:
            index += step
        if 0 <= index < len(self._rows):
            self._put_cursor(index)

    def action_move_page(self, direction: int) -> None:
        """One screenful up or down."""
        step = direction * max(1, self.scrollable_content_region.height - 1)
        if self._text:
            self._scroll_text(step)
        else:
            self._jump(self._cursor + step)

    def action_move_to_end(self, direction: int) -> None:
        """To the first or the last row."""
        if self._text:
            self._scroll_text(direction * len(self._rows))
        else:
            self._jump(0 if direction < 0 else len(self._rows) - 1)

    def action_choose(self) -> None:
        """Enter."""
        if self.cursor_key:
            self.post_message(self.Chosen(self, self.cursor_key))

    def _jump(self, index: int) -> None:
        index = max(0, min(index, len(self._rows) - 1))
        candidates = [place for place, item in enumerate(self._rows) if item.key]
        if candidates:
            self._put_cursor(min(candidates, key=lambda place: abs(place - index)))

    def move_section(self, step: int) -> None:
        """In a text: to the next or previous row that has a key."""
        top = round(self.scroll_target_y)
        starts = [index for index, item in enumerate(self._rows) if item.key and not self._continues(index)]
        targets = [index for index in starts if (index > top if step > 0 else index < top)]
        if targets:
            self._scroll_text((targets[0] if step > 0 else targets[-1]) - top)

    def _continues(self, index: int) -> bool:
        return index > 0 and self._rows[index - 1].key == self._rows[index].key

    def _scroll_text(self, step: int) -> None:
        target = max(0, min(round(self.scroll_target_y) + step, round(self.max_scroll_y)))
        self._follow = target >= round(self.max_scroll_y)
        self.scroll_to(y=target, animate=False, immediate=True)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Reading back: do not pull the reader to the end."""
        del event
        self._follow = False

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """At the end again: follow."""
        del event
        self._follow = self._text and self.is_vertical_scroll_end

    def on_click(self, event: events.Click) -> None:
        """Select a row; a double click opens it."""
        index = event.y + round(self.scroll_offset.y)
        if self._text or not 0 <= index < len(self._rows) or not self._rows[index].key:
            return
        self._put_cursor(index)
        if event.chain > 1:
            self.action_choose()

    # --- drawing ---

    def notify_style_update(self) -> None:
        """The theme changed."""
        super().notify_style_update()
        self._styles.clear()
        self._strips.clear()

    @property
    def _has_scrollbar(self) -> bool:
        """Whether the scrollbar takes room: one that does not must not be told to draw itself."""
        return self.show_vertical_scrollbar and self.styles.scrollbar_size_vertical > 0

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Draw what is in view now."""
        if self._has_scrollbar:
            super().watch_scroll_y(old_value, new_value)
        elif round(old_value) != round(new_value):
            self.refresh(self.size.region)

    def on_focus(self) -> None:
        """The cursor looks different in the list that has the keys, and a text gets its scrollbar."""
        if self.show_vertical_scrollbar:
            self.vertical_scrollbar.position = self.scroll_y
        self.refresh()

    def on_blur(self) -> None:
        """See on_focus."""
        self.refresh()

    def _style(self, name: str, *, partial: bool = False) -> Style:
        """Of a tone; `partial` leaves open what the stylesheet does not set."""
        if name not in self._styles:
            self._styles[name] = self.get_component_rich_style(f"rows--{name}", partial=partial)
        return self._styles[name]

    def _blank_style(self) -> Style:
        """Of the room beside the text; Textual works it out from all its ancestors at each asking."""
        if BLANK not in self._styles:
            self._styles[BLANK] = self.rich_style
        return self._styles[BLANK]

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        width = self.size.width
        index = y + round(self.scroll_offset.y)
        if index >= len(self._rows):
            return Strip.blank(width, self._blank_style())
        strip = self._strip(self._rows[index], width)
        if self._text or index != self._cursor or not self._rows[index].key:
            return strip
        over = self._style("cursor" if self.has_focus else "cursor-blurred", partial=True)
        return Strip(Segment.apply_style(strip, post_style=over), strip.cell_length)

    def _strip(self, item: Row, width: int) -> Strip:
        """The row as Textual draws it; kept, because a text that scrolls shows the same rows again."""
        strip = self._strips.get(item)
        if strip is None or strip.cell_length != width:
            segments = [Segment(clean_line(span.text), self._style(span.tone)) for span in item.spans]
            strip = Strip(segments, sum(cell_len(segment.text) for segment in segments))
            strip = self._strips[item] = strip.adjust_cell_length(width, self._blank_style())
        return strip


def _common(one: Sequence[Row], other: Sequence[Row]) -> int:
    """How many rows at the beginning are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a is not b and a != b), min(len(one), len(other)))


def notice(text: str, tone: Tone = Tone.DIM) -> list[Row]:
    """What a pane shows instead of rows: that it is empty, loading, or failed, and what to do."""
    return [row(""), Row((Span(f"  {text}", tone),), indent=2)]
