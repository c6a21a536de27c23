"""curl, a browser's WebSocket, and the official client for Node drive real sessions."""

import json
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from clients.conftest import KEY
from clients.servers import tls_before

pytestmark = pytest.mark.clients

TEXT = "Good morning, how are you today? I like cats and dogs. Where is the station?"
WAIT_S = 180


def curl(*arguments, data=None):
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed")
    command = [program, "--silent", "--show-error", "--no-buffer", "--max-time", "150", *arguments]
    if data is not None:
        command += ["--data-binary", data]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def events_of(stream):
    """The numbered messages of server-sent events, by the rules of the standard."""
    found = []
    for block in stream.replace("\r\n", "\n").split("\n\n"):
        lines = [line.partition(": ") for line in block.splitlines() if not line.startswith(":")]
        values = {name: value for name, _, value in lines}
        if "id" in values:
            message = json.loads(values["data"])
            assert message["seq"] == int(values["id"])
            found.append(message)
    return found


def target_of(events):
    deltas = [e["delta"] for e in events if e["type"] == "session.output_transcript.delta"]
    return "".join(deltas)


@pytest.fixture
def stream(server):
    """A stream that curl has begun: its address, and its secret as an option of curl."""
    begun = json.loads(curl(f"{server.url}/v1/streams", data="{}"))
    return f"{server.url}/v1/streams/{begun['id']}", f"Authorization: Bearer {begun['secret']}"


def test_curl_speaks_and_hears(stream, translation):
    place, secret = stream
    for at in range(0, len(TEXT), 9):
        piece = json.dumps({"text": TEXT[at : at + 9]})
        taken = json.loads(curl(f"{place}/text", "-H", secret, data=piece))
        assert taken["source_chars"] == min(len(TEXT), at + 9)
    curl(place, "-X", "DELETE", "-H", secret)
    heard = curl(f"{place}/events")  # ends with the stream
    events = events_of(heard)
    assert target_of(events) == translation(TEXT)
    assert events[-1]["type"] == "session.closed"

    half = len(events) // 2
    assert events_of(curl(f"{place}/events?after={half}")) == events[half:]
    assert events_of(curl(f"{place}/events", "-H", f"Last-Event-ID: {half}")) == events[half:]


def test_curl_fetches_transcripts(stream, translation):
    place, secret = stream
    plain = ("-H", secret, "-H", "Content-Type: text/plain")
    curl(f"{place}/text", *plain, data="I like cats. I like dogs.")
    curl(place, "-X", "DELETE", "-H", secret)
    curl(f"{place}/events")
    each = [translation("I like cats."), translation("I like dogs.")]
    assert curl(f"{place}/transcript.txt").split("\n")[:2] == each
    assert curl(f"{place}/transcript.vtt").startswith("WEBVTT")
    assert each[1] in curl(f"{place}/transcript.srt?side=both")
    turns = json.loads(curl(f"{place}/transcript.json"))["turns"]
    assert [turn["target_text"] for turn in turns] == each


def test_a_wrong_secret_speaks_for_nobody(stream):
    place, _ = stream
    wrong = ("-H", "Authorization: Bearer wrong", "-o", "/dev/null", "-w", "%{http_code}")
    assert curl(f"{place}/text", *wrong, data='{"text": "I like cats."}') == "401"
    assert json.loads(curl(place))["source_chars"] == 0


def connected(port, key, **options):
    """A WebSocket as a browser opens it: it sets no headers but the subprotocols and an origin."""
    connect = pytest.importorskip("websockets.sync.client").connect
    return connect(
        f"ws://127.0.0.1:{port}/v1/realtime/translations?model=en-fr",
        subprotocols=["realtime", f"openai-insecure-api-key.{key}"],
        **options,
    )


def test_a_browser_gives_its_key_as_a_subprotocol(keyed, translation):
    with connected(keyed.port, KEY, origin=keyed.url) as socket:
        assert socket.subprotocol == "realtime"  # and not the one with the key
        append = {"type": "session.input_text_buffer.append", "text": "I like cats."}
        socket.send(json.dumps(append))
        socket.send(json.dumps({"type": "session.close"}))
        events = [json.loads(message) for message in socket]
    assert events[0]["type"] == "session.created" and events[-1]["type"] == "session.closed"
    assert target_of(events) == translation("I like cats.")


@pytest.mark.parametrize(
    ("key", "origin", "status"),
    [("wrong", None, 401), (KEY, "https://elsewhere.example", 403)],
)
def test_a_browser_is_refused(keyed, key, origin, status):
    from websockets.exceptions import InvalidStatus

    with pytest.raises(InvalidStatus) as refused, connected(keyed.port, key, origin=origin):
        pass
    assert refused.value.response.status_code == status


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """A certificate for localhost, and the file of the authority that signed it."""
    trustme = pytest.importorskip("trustme", reason="tox -e clients installs it")
    own = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.issue_cert("localhost").configure_cert(context)
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    own.cert_pem.write_to_path(path)
    return context, path


def test_the_official_client_for_node(keyed, node_modules, authority, translation):
    """It speaks TLS alone, so TLS stands before the server."""
    context, certificate = authority
    script = shutil.copy(Path(__file__).parent / "npm" / "speak.mjs", node_modules)
    with tls_before(keyed.port, context) as port:
        done = subprocess.run(
            [shutil.which("node"), script, f"https://localhost:{port}/v1", KEY],
            input=json.dumps([TEXT[at : at + 6] for at in range(0, len(TEXT), 6)]),
            env={"NODE_EXTRA_CA_CERTS": str(certificate)},
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
    assert done.returncode == 0, done.stderr
    heard = json.loads(done.stdout)
    assert heard["target"] == translation(TEXT)
    assert heard["source"] == TEXT
    assert heard["created"] == "fr" and heard["policy"] == "wait-k:3"
    assert heard["models"] == ["en-fr"]
    assert heard["errors"] == ["unknown_type"]
    assert heard["turns"] == 3  # our own type, which it passes on unnamed
