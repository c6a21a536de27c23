"""When target units would have been there, had a source that was fed without waiting come live."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from mlx_simul.errors import InvalidOptionError


def live_times_ms(
    times_ms: Iterable[float],
    fed_ms: Sequence[float],
    word_ms: float,
    said: Sequence[float] | None = None,
) -> list[float]:
    """When each unit would have been there, had the source come at a steady pace.

    Source word j ends at j * ``word_ms``; the rest is :func:`live_times_of_speech_ms`.

    Args:
        times_ms: of target units, on the recording's clock.
        fed_ms: when each source word was fed, on the same clock.
        word_ms: milliseconds from one source word to the next; 0 if all are there at once.
        said: words of speech in the first j source words, from j = 0 on, where these are shorter
            than words, as the graphemes of a script without spaces are. By default j itself.

    Returns:
        Milliseconds since the source began.

    Raises:
        InvalidOptionError: if a unit was there before the first word was fed.
    """
    n_said = range(1, len(fed_ms) + 1) if said is None else said[1 : len(fed_ms) + 1]
    return live_times_of_speech_ms(times_ms, fed_ms, [n * word_ms for n in n_said])


def live_times_of_speech_ms(
    times_ms: Iterable[float], fed_ms: Sequence[float], said_ms: Sequence[float]
) -> list[float]:
    """When each unit would have been there, had each source word come when it was said.

    A word is fed once it is said, or once the work on the word before it is done, if that is later.
    The work takes as long as it took in the recording, where words were fed without waiting. So
    time spent while there was nothing to do is not counted, and falling behind is.

    Args:
        times_ms: of target units, on the recording's clock.
        fed_ms: when each source word was fed, on the same clock.
        said_ms: when each source word had been said, since the source began.

    Returns:
        Milliseconds since the source began.

    Raises:
        InvalidOptionError: if a unit was there before the first word was fed.
    """
    starts: list[float] = []
    for j, (fed, said) in enumerate(zip(fed_ms, said_ms, strict=True)):
        done = starts[-1] + fed - fed_ms[j - 1] if starts else 0.0
        starts.append(max(said, done))
    live: list[float] = []
    for time in times_ms:
        j = bisect_right(fed_ms, time) - 1
        if j < 0:
            raise InvalidOptionError(
                f"a unit was shown at {time} ms, before any source was fed; both must be on one "
                "clock."
            )
        live.append(starts[j] + (time - fed_ms[j]))
    return live
