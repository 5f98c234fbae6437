"""A chat endpoint on this machine that answers as a test tells it to."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def answer(text, *, tokens_in=10, tokens_out=5):
    """A body in OpenAI's shape."""
    usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage})


class Server(ThreadingHTTPServer):
    """`script(number, request)` gives `(status, body)` or `(status, body, headers)` or `(..., ..., ..., delay)`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.lock = threading.Lock()
        self.requests = []
        self.busy = self.most_busy = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """A client that hangs up is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.requests)
            server.requests.append({"path": self.path, "headers": dict(self.headers), "body": body})
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
        try:
            status, text, headers, delay = full(server.script(number, body))
            time.sleep(delay)
        finally:
            with server.lock:
                server.busy -= 1
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


def full(reply):
    """A reply of two, three or four parts, with what was left out."""
    return (*reply, *({}, 0.0)[len(reply) - 2 :])


@contextlib.contextmanager
def serving(script):
    """A running server; it is closed at the end."""
    server = Server(script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
