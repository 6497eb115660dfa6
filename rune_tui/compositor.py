"""Textual's compositor, asked for less: where one line of one pane changed, only that line of that pane is rendered.

Textual 8 has every widget of a column render all its lines whenever one line of one of them changes (it compares the
change with the room that a widget may use, not with the widget), which was half of the processor time of streamed
output. What comes to the screen is the same; a test draws both ways and compares.
"""

from __future__ import annotations

from collections.abc import Iterable

from textual._compositor import Compositor  # there is no public way to draw less
from textual.geometry import Region
from textual.strip import Strip


class ThriftyCompositor(Compositor):
    """A `Compositor` that renders what is inside of the changed region and not hidden there."""

    def _get_renders(self, crop: Region | None = None) -> Iterable[tuple[Region, Region, list[Strip]]]:
        """Region, clip and lines of each widget that shows in `crop`, front to back."""
        wanted = self.size.region if crop is None else crop
        for widget, (region, clip) in self.visible_widgets.items():
            shown = region.intersection(clip)
            if not shown.overlaps(wanted):
                continue
            # Whole lines: a line is cut at the edges of widgets, so it may not begin in the middle of one.
            lines = shown.intersection(Region(shown.x, wanted.y, shown.width, wanted.height))
            yield region, lines, widget.render_lines(lines.translate(-region.offset))
            if shown.contains_region(wanted):  # it hides all that is behind it
                return
