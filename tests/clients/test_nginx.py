"""The configurations of docs/ in a real nginx: TLS, and three servers behind one address."""

import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from contextlib import ExitStack

import pytest
from clients.interrupted import interrupted
from clients.servers import serving
from repository import ROOT

pytestmark = pytest.mark.clients

TEXT = "Good morning, how are you today? I have never seen such a big dog. Where is the station?"
START_S = 20
NEVER_S = 120
PREFIXES = "abc"


def free_ports(n):
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def configuration(folder, text, changes):
    """What a page says, with ports and certificates of the test, as a file for nginx."""
    for old, new in changes.items():
        assert old in text, f"the configuration has no {old}"
        text = text.replace(old, new)
    kinds = ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
    own = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    path = folder / "nginx.conf"
    head = f"daemon off; pid {folder}/pid; error_log stderr; events {{}}"
    path.write_text(f"{head}\nhttp {{\naccess_log off;\n{own}{text}}}\n", "utf-8")
    return path


@pytest.fixture
def program():
    """nginx."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if found is None:
        pytest.skip("nginx is not installed: the configurations of docs/ are not tried")
    return found


@pytest.fixture
def certificate(tmp_path):
    """Changes that put a certificate in the place of the page's, and what trusts it."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    for at, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(tmp_path / "chain.pem", append=at > 0)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    changes = {
        "/etc/ssl/simul.example.org.pem": str(tmp_path / "chain.pem"),
        "/etc/ssl/simul.example.org.key": str(tmp_path / "key.pem"),
    }
    return changes, context


def test_nginx_takes_the_configuration_for_one_server(program, certificate, tmp_path):
    page = (ROOT / "docs" / "serving.md").read_text("utf-8")
    (text,) = re.findall(r"^```nginx\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    port = free_ports(1)[0]
    path = configuration(tmp_path, text, {**certificate[0], "listen 443": f"listen {port}"})
    subprocess.run([program, "-t", "-p", str(tmp_path), "-c", str(path)], check=True)


class Behind:
    """Three servers over one folder of journals, behind nginx."""

    def __init__(self, folder, ports, stack):
        self._folder, self._stack = folder, stack
        self.ports = dict(zip(PREFIXES, ports, strict=True))
        self.servers = {}
        for prefix in PREFIXES:
            self.start(prefix)

    def start(self, prefix):
        journal = ("--journal", str(self._folder / "journals"))
        port = ("--port", str(self.ports[prefix]))
        server = serving("--id-prefix", prefix, *port, *journal)
        self.servers[prefix] = self._stack.enter_context(server)

    def kill(self, prefix):
        self.servers.pop(prefix).end(signal.SIGKILL)

    def n_elsewhere(self, prefix):
        """How often a server has said that another one has a stream."""
        url = f"http://127.0.0.1:{self.ports[prefix]}/metrics"
        with urllib.request.urlopen(url, timeout=NEVER_S) as answer:
            found = re.search(r'code="session_elsewhere"\} ([0-9.]+)', answer.read().decode())
        return 0 if found is None else float(found[1])


@pytest.fixture
def nginx(program, certificate, tmp_path):
    """Three servers; the port of nginx before them; and what trusts its certificate."""
    changes, context = certificate
    port, others, *ports = free_ports(5)
    text = (ROOT / "docs" / "nginx.conf").read_text("utf-8")
    moved = {"listen 443 ssl": f"listen 127.0.0.1:{port} ssl", "8770": str(others)}
    moved |= {str(8771 + at): str(each) for at, each in enumerate(ports)}
    path = configuration(tmp_path, text, changes | moved)
    with ExitStack() as stack:
        behind = Behind(tmp_path, ports, stack)
        process = subprocess.Popen([program, "-p", str(tmp_path), "-c", str(path)])
        try:
            wait_for(lambda: is_open(port), lambda: process.poll() is None)
            yield behind, port, context
        finally:
            process.terminate()
            process.wait(START_S)


def is_open(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def wait_for(happened, may_still=lambda: True):
    until_s = time.monotonic() + NEVER_S
    while not happened():
        assert may_still() and time.monotonic() < until_s, "it never happened"
        time.sleep(0.1)


def ask(nginx, method, path, data=None, secret=None):
    _, port, context = nginx
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    request = urllib.request.Request(
        f"https://localhost:{port}{path}", data, headers, method=method
    )
    with urllib.request.urlopen(request, context=context, timeout=NEVER_S) as answer:
        return answer.read().decode()


def say(nginx, stream, text):
    data = json.dumps({"text": text}).encode()
    ask(nginx, "POST", f"/v1/streams/{stream['id']}/text", data, stream["secret"])


def heard(nginx, stream):
    """The messages of a stream that has ended, from the first one on."""
    events = ask(nginx, "GET", f"/v1/streams/{stream['id']}/events")
    lines = [line for line in events.splitlines() if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def end(nginx, stream):
    """End a stream; return its translation.

    It is told once: messages are numbered without a gap, whichever servers said them.
    """
    ask(nginx, "DELETE", f"/v1/streams/{stream['id']}", secret=stream["secret"])
    said = [message for message in heard(nginx, stream) if "seq" in message]
    assert [message["seq"] for message in said] == list(range(1, len(said) + 1))
    deltas = [m["delta"] for m in said if m["type"] == "session.output_transcript.delta"]
    return "".join(deltas)


def begin(nginx, n):
    """Streams, at least one on each server."""
    begun = [json.loads(ask(nginx, "POST", "/v1/streams", b"{}")) for _ in range(n)]
    assert {stream["id"][5] for stream in begun} == set(PREFIXES)
    return begun


def test_a_stream_stays_with_the_server_that_began_it(nginx, translation):
    for stream in begin(nginx, 6):
        say(nginx, stream, "I like cats.")
        assert end(nginx, stream) == translation("I like cats.")
    assert [nginx[0].n_elsewhere(prefix) for prefix in PREFIXES] == [0, 0, 0]


def test_another_server_takes_over_a_conversation(nginx, translation):
    openai = pytest.importorskip("openai")
    behind, port, context = nginx
    client = openai.OpenAI(
        api_key="any",
        base_url=f"https://localhost:{port}/v1",
        websocket_base_url=f"wss://localhost:{port}/v1",
    )
    options = {"websocket_connection_options": {"ssl": context}}
    spoken = interrupted(client, TEXT, lambda name: behind.kill(name[5]), **options)
    assert spoken == translation(TEXT)
    # And once more, with a server fewer.
    spoken = interrupted(client, TEXT, lambda name: behind.kill(name[5]), **options)
    assert spoken == translation(TEXT)


def test_streams_go_on_though_servers_are_killed_and_return(nginx, translation):
    behind = nginx[0]
    first, second, third = TEXT[:20], TEXT[20:50], TEXT[50:]
    streams = begin(nginx, 6)
    for stream in streams:
        say(nginx, stream, first)
    behind.kill("a")
    for stream in streams:
        say(nginx, stream, second)
    # It comes back, but its streams are on the others, to which it has nginx pass them on.
    behind.start("a")
    of_a = next(stream for stream in streams if stream["id"][5] == "a")
    wait_for(lambda: ask(nginx, "GET", f"/v1/streams/{of_a['id']}") and behind.n_elsewhere("a"))
    for stream in streams:
        say(nginx, stream, third)
    assert [end(nginx, stream) for stream in streams] == [translation(TEXT)] * 6


def test_one_server_is_enough_for_all(nginx, translation):
    behind = nginx[0]
    streams = begin(nginx, 6)
    for stream in streams:
        say(nginx, stream, TEXT[:40])
    behind.kill("c")
    behind.kill("a")
    for stream in streams:
        say(nginx, stream, TEXT[40:])
    assert [end(nginx, stream) for stream in streams] == [translation(TEXT)] * 6
