"""An OpenAI-compatible server on this machine that answers as a test tells it to."""

import contextlib
import http.server
import json
import math
import signal
import threading
import time


def completion(text, top=None, finish_reason="stop", total_tokens=100):
    """A chat completion as such a server sends it; `top`: token → probability at the first place."""
    logprobs = None
    if top:
        first = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in top.items()]
        logprobs = {"content": [{**first[0], "top_logprobs": first}], "refusal": None}
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": finish_reason, "message": message, "logprobs": logprobs}
    usage = {"prompt_tokens": total_tokens, "completion_tokens": 0, "total_tokens": total_tokens}
    whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage, "choices": [choice]}
    return json.dumps(whole)


class Server(http.server.ThreadingHTTPServer):
    """`answer(number of the request, its prompt)` gives (status, body) or (status, body, headers).

    Status 0 ends the connection without an answer, "cut" in the middle of one. Errors ask for a try after 10 ms, unless
    `answer` gives headers. `prompts`, `keys` and `times` hold what was received and when; `sent` counts the
    answers that went out whole.
    """

    daemon_threads = True

    def __init__(self, answer, delay_seconds=0.0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.delay_seconds = answer, delay_seconds
        self.prompts, self.keys, self.times, self.sent, self.guard = [], [], [], 0, threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def environment(self, prefix, key, model="scribe-1"):
        """The variables of an endpoint, as a process would find them in its environment."""
        return {f"{prefix}_BASE_URL": self.url, f"{prefix}_MODEL": model, f"{prefix}_API_KEY": key}

    def handle_error(self, request, client_address):
        pass  # a client that gave up waiting is part of the tests


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        with server.guard:
            server.prompts.append(prompt)
            server.keys.append(self.headers["Authorization"].removeprefix("Bearer "))
            server.times.append(time.monotonic())
            number = len(server.prompts)
        status, text, *headers = server.answer(number, prompt)
        time.sleep(server.delay_seconds)
        if status == 0:
            return self.connection.close()
        data = text.encode()
        whole = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        if status == "cut":
            status, whole["Content-Length"] = 200, str(len(data) + 1000)
        elif status != 200:
            whole["retry-after-ms"] = "10"
        self.send_response(status)
        for name, value in (whole | {"retry-after-ms": "0"} | headers[0] if headers else whole).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()
        with server.guard:
            server.sent += 1

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(answer, delay_seconds=0.0):
    """A Server that runs until the block ends."""
    with Server(answer, delay_seconds) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


def kill_after(process, server, answers):
    """Kill a process when the server has sent it so many answers; returns when what was under way is served, too."""
    deadline = time.monotonic() + 300
    while server.sent < answers and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    time.sleep(0.5)
