"""A server on a free port of this machine, and clients for it."""

import base64
import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import httpx
import uvicorn
from served import WAIT_S
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from mlx_simul.serving.app import make_app, server_config
from mlx_simul.serving.keys import Keys
from mlx_simul.serving.options import ServingOptions
from mlx_simul.serving.streams import Streams


class Server:
    """Serves a model, and perhaps a recogniser, until it is stopped."""

    def __init__(self, loader, options=None, owners=None, recogniser=None):
        options = ServingOptions() if options is None else options
        self.streams = Streams({"tiny": loader}, options, recogniser)
        self.keys = Keys(owners)
        self.streams.load()
        self.config = server_config(make_app(self.streams, self.keys), options.capacity)
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)  # of its connections
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._uvicorn = uvicorn.Server(self.config)
        self._thread = threading.Thread(target=self._uvicorn.run, args=([listener],))
        self._thread.start()
        self.http = httpx.Client(base_url=self.url, timeout=WAIT_S)
        until(lambda: self._uvicorn.started)

    def stop(self):
        self.http.close()
        self._uvicorn.should_exit = True
        self._thread.join()

    @contextmanager
    def limited(self, **capacity):
        """With other limits for a while."""
        options = self.streams.options
        self.streams.options = replace(options, capacity=replace(options.capacity, **capacity))
        try:
            yield
        finally:
            self.streams.options = options

    def speak(self, query="", **how):
        url = f"{self.url.replace('http', 'ws')}/v1/realtime/translations?{query}"
        return Talk(connect(url, open_timeout=WAIT_S, max_size=None, **how))

    def run(self, function, *args):
        """Call a function of streams on their own thread."""
        done, out = threading.Event(), []

        def call():
            out.append(function(*args))
            done.set()

        self.streams._loop.call_soon_threadsafe(call)
        assert done.wait(WAIT_S)
        return out[0]

    def transcript(self, name, kind, **query):
        return self.http.get(f"/v1/streams/{name}/transcript.{kind}", params=query)

    def listen(self, name, **how):
        """Server-sent events up to the end, as pairs of an id and a message."""
        with self.http.stream("GET", f"/v1/streams/{name}/events", **how) as response:
            assert response.status_code == 200, response.read()
            return list(events(response.iter_lines()))


def events(lines):
    """The events of a stream of lines, by the rules of EventSource."""
    name = None
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "id":
            name = int(value)
        elif field == "data":
            yield name, json.loads(value)
            name = None


class Talk:
    """A speaker's WebSocket."""

    def __init__(self, socket):
        self.socket, self.messages, self.code = socket, [], None
        self.created = json.loads(socket.recv(WAIT_S))
        self.session = self.created["session"]
        self.name = self.session["id"]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.socket.close()

    def send(self, kind, **values):
        self.socket.send(json.dumps({"type": f"session.{kind}", **values}))

    def append(self, text):
        self.send("input_text_buffer.append", text=text)

    def speak(self, audio, piece_bytes=9600):
        """Send audio in pieces, of 200 ms by default."""
        for at in range(0, len(audio), piece_bytes):
            piece = base64.b64encode(audio[at : at + piece_bytes]).decode()
            self.send("input_audio_buffer.append", audio=piece)

    def until(self, kind, n=1):
        """The messages up to the n-th of a kind from now on."""
        first = len(self.messages)
        while n:
            message = json.loads(self.socket.recv(WAIT_S))
            self.messages.append(message)
            n -= message["type"] == kind
        return self.messages[first:]

    def to_the_end(self):
        """The messages up to the server's own end of it."""
        try:
            while True:
                self.messages.append(json.loads(self.socket.recv(WAIT_S)))
        except ConnectionClosed as error:
            self.code = None if error.rcvd is None else error.rcvd.code
        return self.messages

    def say(self, text):
        """All messages about a text."""
        self.append(text)
        self.send("close")
        return self.to_the_end()

    def lose(self):
        """Lose the connection, as networks do."""
        self.socket.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def numbered(messages):
    return [each for each in messages if "seq" in each]


def target(messages):
    kind = "session.output_transcript.delta"
    return "".join(each["delta"] for each in messages if each["type"] == kind)


def until(is_so):
    """Wait for something that is not announced."""
    end_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.005)
