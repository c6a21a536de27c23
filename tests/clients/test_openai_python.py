"""The official Python client, which knows nothing of us, drives real sessions."""

import asyncio
import signal

import pytest
from clients.conftest import KEY
from clients.interrupted import interrupted
from clients.servers import Server, appended, serving

openai = pytest.importorskip("openai", reason="tox -e clients installs the official client")
from openai.lib.realtime_translation import (  # noqa: E402
    AsyncTranslationSession,
    TranslationSession,
)

pytestmark = pytest.mark.clients

TEXT = "Good morning, how are you today? I have never seen such a big dog. Where is the station?"
PIECES = [TEXT[at : at + 7] for at in range(0, len(TEXT), 7)]
WAIT_S = 120


def client_of(server, key="any key will do", kind=openai.OpenAI):
    return kind(
        api_key=key,
        base_url=f"{server.url}/v1",
        websocket_base_url=f"ws://127.0.0.1:{server.port}/v1",
    )


def target_of(events):
    return "".join(e.delta for e in events if e.type == "session.output_transcript.delta")


def test_a_session_writes_what_generate_writes(server, translation):
    with client_of(server).realtime.translations.connect(model="en-fr") as connection:
        created = connection.recv()
        assert created.type == "session.created" and created.session.audio.output.language == "fr"
        for piece in PIECES:
            connection.send(appended(piece))
        connection.session.close()
        events = list(connection)
    assert target_of(events) == translation(TEXT)
    assert events[-1].type == "session.closed" and events[-1].usage["turns"] == 3
    source = [e.delta for e in events if e.type == "session.input_transcript.delta"]
    assert "".join(source) == TEXT
    assert [e.seq for e in events] == list(range(1, len(events) + 1))


def test_two_texts_are_not_translated_alike(translation):
    assert translation(TEXT) != translation(TEXT.replace("dog", "cat"))


def test_its_types_fit_all_that_it_knows(server):
    """It builds what it hears without checking; here it is checked."""
    from openai.types.realtime import RealtimeTranslationServerEvent
    from pydantic import TypeAdapter

    known = TypeAdapter(RealtimeTranslationServerEvent)
    with client_of(server).realtime.translations.connect(model="en-fr") as connection:
        connection.send({"type": "no.such", "event_id": "mine"})
        connection.session.update(session={"audio": {"output": {"language": "fr"}}})
        connection.send(appended("I like cats. "))
        connection.session.close()
        events = [connection.parse_event(connection.recv_bytes())]
        events += list(connection)
    ours = {"session.turn.done", "session.input_text_buffer.committed"}
    kinds = {event.type for event in events}
    assert kinds - ours == {
        "session.created", "session.updated", "session.closed", "error",
        "session.input_transcript.delta", "session.output_transcript.delta",
    }  # fmt: skip
    for event in events:
        if event.type not in ours:
            assert known.validate_python(event.to_dict()).type == event.type
    (error,) = [event.error for event in events if event.type == "error"]
    assert (error.code, error.param, error.event_id) == ("unknown_type", "type", "mine")


def test_handlers_hear_our_own_types_too(server):
    done = []
    with client_of(server).realtime.translations.connect(model="en-fr") as connection:
        connection.on("session.turn.done", done.append)
        connection.send(appended("I like cats. I like dogs."))
        connection.session.close()
        connection.dispatch_events()
    assert [turn.source_text for turn in done] == ["I like cats.", "I like dogs."]


def test_its_own_session_sends_close_once_and_drains(server, translation):
    session = TranslationSession(client_of(server).realtime.translations, model="en-fr")
    with session as connection:
        connection.send(appended(TEXT))
        connection.send({"type": "session.close"})
        connection.send({"type": "session.close"})
        events = []
        while not events or events[-1].type != "session.closed":
            events.append(connection.recv())
    assert target_of(events) == translation(TEXT)


def test_many_at_once_hear_their_own(server, translation):
    texts = [TEXT, "I like cats. ", "My train leaves at seven o'clock.", "She bought a new car."]

    async def one(text):
        translations = client_of(server, kind=openai.AsyncOpenAI).realtime.translations
        async with AsyncTranslationSession(translations, model="en-fr") as connection:
            for at in range(0, len(text), 5):
                await connection.send(appended(text[at : at + 5]))
            await connection.send({"type": "session.close"})
            events = [await connection.recv()]
            while events[-1].type != "session.closed":
                events.append(await connection.recv())
        return target_of(events)

    async def all_of_them():
        return await asyncio.wait_for(asyncio.gather(*map(one, texts)), WAIT_S)

    assert asyncio.run(all_of_them()) == [translation(text) for text in texts]


def test_a_policy_and_a_commit(server, translation):
    async def talk():
        client = client_of(server, kind=openai.AsyncOpenAI)
        async with client.realtime.translations.connect(model="en-fr") as connection:
            await connection.session.update(session={"policy": "wait-k:1"})
            await connection.send(appended("I like cats"))
            await connection.send({"type": "session.input_text_buffer.commit"})
            events = []
            async for event in connection:
                events.append(event)
                if event.type == "session.input_text_buffer.committed":
                    await connection.session.close()
        return events

    events = asyncio.run(talk())
    assert target_of(events) == translation("I like cats", policy="wait-k:1")
    (updated,) = [event for event in events if event.type == "session.updated"]
    assert updated.session.policy == "wait-k:1"


def test_a_secret_stands_for_a_key(keyed, translation):
    client = client_of(keyed, KEY)
    secret = client.realtime.translations.client_secrets.create(
        session={"model": "en-fr"}, expires_after={"anchor": "created_at", "seconds": 60}
    )
    assert secret.value.startswith("ek_") and secret.session.audio.output.language == "fr"
    page = client_of(keyed, secret.value)
    with page.realtime.translations.connect(model="en-fr") as connection:
        connection.send(appended("I like cats."))
        connection.session.close()
        assert target_of(connection) == translation("I like cats.")


def test_a_wrong_key_is_refused(keyed):
    from websockets.exceptions import InvalidStatus

    client = client_of(keyed, "wrong")
    with pytest.raises(openai.AuthenticationError, match="asks for a key"):
        client.realtime.translations.client_secrets.create(session={"model": "en-fr"})
    with (
        pytest.raises(InvalidStatus, match="401"),
        client.realtime.translations.connect(model="en-fr"),
    ):
        pass


def test_models_are_listed(server):
    assert [model.id for model in client_of(server).models.list()] == ["en-fr"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_reconnects_to_a_server_that_was_started_again(how, tmp_path, translation):
    """Its reconnection asks for our session and the last message; the journal knows the rest."""
    journal = ("--journal", str(tmp_path))
    again = []

    with serving(*journal) as first:

        def restart(_):
            first.end(how)
            again.append(Server("--port", str(first.port), *journal))

        try:
            assert interrupted(client_of(first), TEXT, restart) == translation(TEXT)
        finally:
            codes = [server.end() for server in again]
    assert codes == [0]
    assert any(line.get("resumed") for line in again[0].log)
