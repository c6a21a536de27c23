"""The configuration of docs/serving.md in a real nginx: TLS, and two servers behind it."""

import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.request

import pytest
from clients.interrupted import interrupted
from clients.servers import serving
from repository import ROOT

pytestmark = pytest.mark.clients

TEXT = "Good morning, how are you today? I have never seen such a big dog. Where is the station?"
START_S = 20


def configuration(folder, port, ports):
    """What the page says, with ports and certificates of the test, as a file for nginx."""
    page = (ROOT / "docs" / "serving.md").read_text("utf-8")
    one, several = re.findall(r"^```nginx\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    text = one.replace("http://127.0.0.1:8765", "http://$simul") + several
    for old, new in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/simul.example.org.pem": str(folder / "chain.pem"),
        "/etc/ssl/simul.example.org.key": str(folder / "key.pem"),
        "127.0.0.1:8771": f"127.0.0.1:{ports[0]}",
        "127.0.0.1:8772": f"127.0.0.1:{ports[1]}",
    }.items():
        assert old in text, f"the page has no {old}"
        text = text.replace(old, new)
    kinds = ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
    own = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    path = folder / "nginx.conf"
    head = f"daemon off; pid {folder}/pid; error_log stderr; events {{}}"
    path.write_text(f"{head}\nhttp {{\n{own}{text}}}\n", "utf-8")
    return path


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def two_servers(tmp_path):
    """Two servers with one folder of journals, whose sessions begin with a and with b."""
    options = ("--journal", str(tmp_path / "journals"))
    with serving("--id-prefix", "a", *options) as a, serving("--id-prefix", "b", *options) as b:
        yield {"a": a, "b": b}


@pytest.fixture
def nginx(tmp_path, two_servers):
    """The port of nginx before them, and what trusts its certificate."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed: the page's configuration is not tried")
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for at, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(tmp_path / "chain.pem", append=at > 0)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    port = free_port()
    path = configuration(tmp_path, port, [server.port for server in two_servers.values()])
    process = subprocess.Popen([program, "-p", str(tmp_path), "-c", str(path)])
    try:
        for _ in range(START_S * 10):
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, "nginx has not begun"
            time.sleep(0.1)
        yield port, context
    finally:
        process.terminate()
        process.wait(START_S)


def ask(nginx, method, path, data=None, secret=None):
    port, context = nginx
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    request = urllib.request.Request(
        f"https://localhost:{port}{path}", data, headers, method=method
    )
    with urllib.request.urlopen(request, context=context, timeout=120) as answer:
        return answer.read().decode()


def test_a_stream_stays_with_the_server_that_began_it(nginx, two_servers, translation):
    begun = [json.loads(ask(nginx, "POST", "/v1/streams", b"{}")) for _ in range(4)]
    assert {one["id"][5] for one in begun} == set(two_servers)
    for one in begun:
        place = f"/v1/streams/{one['id']}"
        ask(nginx, "POST", f"{place}/text", b'{"text": "I like cats."}', one["secret"])
        ask(nginx, "DELETE", place, secret=one["secret"])
        assert "session.closed" in ask(nginx, "GET", f"{place}/events")
        assert ask(nginx, "GET", f"{place}/transcript.txt") == f"{translation('I like cats.')}\n"


def test_the_other_server_takes_over(nginx, two_servers, translation):
    openai = pytest.importorskip("openai")
    port, context = nginx
    client = openai.OpenAI(
        api_key="any",
        base_url=f"https://localhost:{port}/v1",
        websocket_base_url=f"wss://localhost:{port}/v1",
    )

    def kill(session_id):
        two_servers[session_id[5]].end(signal.SIGKILL)

    options = {"websocket_connection_options": {"ssl": context}}
    assert interrupted(client, TEXT, kill, **options) == translation(TEXT)
