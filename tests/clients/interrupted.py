"""A talk whose server ends in the middle, and which the official client's reconnection goes on."""

from collections.abc import Callable
from typing import Any

from clients.servers import appended


def interrupted(client: Any, text: str, interrupt: Callable[[str], None], **options: Any) -> str:
    """Have half a text translated, interrupt, and have the rest translated.

    Args:
        client: ``openai.OpenAI``.
        text: the source.
        interrupt: called once, after the first words, with the id of the session; the server has
            to be gone then.
        options: of the connection.

    Returns:
        The target as a whole.
    """
    session_id, last_seq, target, n_created = "", 0, "", 0

    def resume(_: Any) -> dict[str, Any]:
        query = {"model": "en-fr", "session": session_id, "after": str(last_seq)}
        return {"extra_query": query}

    manager = client.realtime.translations.connect(
        model="en-fr", on_reconnecting=resume, max_retries=60, max_delay=2, **options
    )
    with manager as connection:
        for event in connection:
            last_seq = getattr(event, "seq", last_seq)
            if event.type == "session.created":
                n_created += 1
                assert event.resumed is (n_created > 1)
                session_id = event.session.id
                if n_created == 1:
                    connection.send(appended(text[: len(text) // 2]))
                else:
                    connection.send(appended(text[event.source_chars :]))
                    connection.session.close()
            elif event.type == "session.output_transcript.delta":
                target += event.delta
                if n_created == 1 and interrupt is not None:
                    interrupt(session_id)
                    interrupt = None
            elif event.type == "session.closed":
                break
    assert n_created == 2, "the connection was never lost"
    return target
