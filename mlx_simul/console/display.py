"""Shows a session on a terminal while it runs."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.align import Align
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from mlx_simul.console.panels import Progress, render
from mlx_simul.events import Event, Tail

if TYPE_CHECKING:
    from mlx_simul.console.live import Arrival

_PROMPT = "> "
_HINT = "Enter sends a line, Ctrl-D ends"


class Display:
    """Source and target side by side, redrawn in place; the last state stays on the screen.

    As a context manager it takes the terminal and gives it back.

    Args:
        console: the terminal.
        source_label: what stands above the source.
        target_label: what stands above the target.
    """

    def __init__(
        self, console: Console, source_label: str = "Source", target_label: str = "Target"
    ) -> None:
        self.progress = Progress()
        self._console = console
        self._labels = source_label, target_label
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Display:
        self._live.start()
        self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.progress.notes.append("interrupted")
        self._leave()

    def arrived(self, piece: Arrival) -> None:
        """Show what has arrived of the source, or that it has ended (``None``)."""
        self.progress.arrive(piece)
        self._draw()

    def show(self, event: Event | Tail) -> None:
        """Show an event."""
        self.progress.update(event)
        self._draw()

    def note(self, remark: str) -> None:
        """Show a remark below the texts, to the end."""
        self.progress.notes.append(remark)
        self._draw()

    def _draw(self) -> None:
        rows = self._console.height - 1
        self._live.update(
            render(self.progress, self._console, self._labels, max_rows=rows), refresh=True
        )

    def _leave(self) -> None:
        self._live.update(render(self.progress, self._console, self._labels))
        self._live.stop()


class TypedDisplay(Display):
    """The same where the source is typed on this terminal, line by line.

    It works on the alternate screen, with the line being typed at the bottom, and prints the last
    state on the main one when it leaves. The terminal's own line editing and echo are left alone:
    what is redrawn is only what stands above that line.
    """

    def __enter__(self) -> TypedDisplay:
        self._console.set_alt_screen(True)
        self._ask()
        return self

    def arrived(self, piece: Arrival) -> None:
        """Show a line that was typed, and make room for the next one."""
        self.progress.arrive(piece)
        self._ask()

    def _ask(self) -> None:
        # Enter on the very last row would scroll the screen, so this is the one above.
        row = max(self._console.height - 1, 1)
        self._write(f"\x1b[{row};1H\x1b[J{_PROMPT}")
        self._draw()

    def _draw(self) -> None:
        rows = max(self._console.height - 2, 1)
        panels = render(self.progress, self._console, self._labels, max_rows=rows - 1)
        screen = Align.left(Group(panels, Text(_HINT, style="dim")), vertical="top", height=rows)
        with self._console.capture() as capture:
            self._console.print(screen, height=rows, crop=True)
        lines = capture.get().splitlines()[:rows]
        # Save the cursor, go home, draw and clear each line to its end, restore the cursor.
        self._write("\x1b7\x1b[H" + "".join(f"{line}\x1b[K\r\n" for line in lines) + "\x1b8")

    def _leave(self) -> None:
        self._console.set_alt_screen(False)
        self._console.print(render(self.progress, self._console, self._labels))

    def _write(self, codes: str) -> None:
        self._console.file.write(codes)
        self._console.file.flush()
