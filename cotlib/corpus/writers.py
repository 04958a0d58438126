"""The models that write traces: one behind an OpenAI-compatible endpoint, or a causal LM on this machine.

Knows nothing about items and types: prompts go in, replies come out as they arrive. What becomes of a
reply is decided in `traces.py`.
"""

import concurrent.futures
import dataclasses
import email.utils
import os
import random
import threading
import time

from cotlib import chat
from cotlib.engine import models
from cotlib.errors import BadInput
from cotlib.runs import artifacts

BASE_URL, MODEL, KEY = VARIABLES = ("COTLIB_WRITER_BASE_URL", "COTLIB_WRITER_MODEL", "COTLIB_WRITER_API_KEY")
LONGEST_PAUSE_SECONDS = 120  # a server that asks for more is as good as down
PATIENCE = 3  # requests in a row that failed for good, after which the endpoint counts as down
LOCAL_BATCH, LOCAL_TOKENS = 96, 160


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a writer brought back: a text, or the problem that kept it from coming."""

    text: str = ""
    tokens: int = 0
    problem: str = ""


class LocalModel:
    """A causal language model on this machine as the writer; `down` stays empty, since it cannot go away."""

    down = ""

    def __init__(self, experiment):
        self.model, self.settings, self.seed = (
            models.check(experiment.traces.model),
            experiment.traces,
            experiment.data.seed,
        )
        self._loaded = None

    def ask(self, prompts, receive, turn):
        """Call `receive(number, reply)` for every prompt; yields after each batch."""
        from cotlib.engine import decoding

        for start in range(0, len(prompts), LOCAL_BATCH):
            self._loaded = model, tokenizer = self._loaded or models.load(self.model)
            asked = [chat.prompt(tokenizer, text, "no-think") for text in prompts[start : start + LOCAL_BATCH]]
            seed = int(artifacts.digest(self.seed, turn, start)[:8], 16)
            answers = decoding.generate(
                model, tokenizer, asked, max_new_tokens=LOCAL_TOKENS, temperature=self.settings.temperature, seed=seed
            )
            for number, (question, answer) in enumerate(zip(asked, answers, strict=True), start):
                receive(
                    number,
                    Reply(_one_line(tokenizer.decode(answer, skip_special_tokens=True)), len(question) + len(answer)),
                )
            yield


def _one_line(text):
    """White space of any kind, line separators included, becomes a blank; what UTF-8 cannot hold is left out."""
    return " ".join(text.encode("utf-8", "ignore").decode().split())


class Endpoint:
    """A model behind an OpenAI-compatible endpoint as the writer, named by three environment variables.

    Pauses are ours rather than the client's, so that they can be set and are cut short by a stop. The key goes
    into the client and nowhere else: what a server says is cleared of it before anything is kept or shown.
    `down` says why the endpoint counts as gone; the prompts then left are not sent.
    """

    def __init__(self, experiment):
        values = {name: os.environ.get(name, "").strip() for name in VARIABLES}
        missing = [name for name in VARIABLES if not values[name]]
        if missing:
            raise BadInput(
                f"traces.writer: 'openai' needs the environment variable {' and '.join(missing)}; set it with: export {missing[0]}=…"
            )
        if not values[BASE_URL].startswith(("http://", "https://")):
            raise BadInput(
                f"{BASE_URL} does not begin with http:// or https://; write an address such as http://localhost:8000/v1"
            )
        if not (values[KEY].isascii() and values[KEY].isprintable()):
            raise BadInput(f"{KEY} holds characters that a key cannot have; copy it again")
        import openai

        self.model, self.settings, self.down = values[MODEL], experiment.traces, ""
        self._key, self._stop, self._failures = values[KEY], threading.Event(), 0
        self._client = openai.OpenAI(
            base_url=values[BASE_URL], api_key=self._key, timeout=self.settings.timeout_seconds, max_retries=0
        )

    def ask(self, prompts, receive, turn):
        """Call `receive(number, reply)` in a thread as each reply comes; yields after each. An interruption waits for what is under way."""
        with concurrent.futures.ThreadPoolExecutor(self.settings.concurrency) as pool:
            waiting = [pool.submit(self._serve, number, text, receive) for number, text in enumerate(prompts)]
            try:
                for future in concurrent.futures.as_completed(waiting):
                    future.result()
                    yield
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _serve(self, number, text, receive):
        for attempt in range(self.settings.attempts):
            if self._stop.is_set():
                return
            reply, again, pause = self._send(text)
            gone = again is None or pause > LONGEST_PAUSE_SECONDS
            if gone or not again:
                break
            self._stop.wait(pause or self.settings.backoff_seconds * 2**attempt * random.uniform(1, 1.25))
        self._failures = self._failures + 1 if reply.problem else 0
        if gone or self._failures >= PATIENCE:
            self.down = reply.problem
            self._stop.set()
        receive(number, reply)

    def _send(self, text):
        """One request: (reply, whether to try again: None if no request can succeed, seconds the server asks to wait)."""
        import openai

        try:
            completion = self._client.chat.completions.create(
                model=self.model, temperature=self.settings.temperature, messages=[{"role": "user", "content": text}]
            )
            choice, tokens = completion.choices[0], getattr(completion.usage, "total_tokens", 0)
            # A reply cut off at the server's limit is no use, whatever its length.
            content = "" if choice.finish_reason == "length" else choice.message.content or ""
            return Reply(_one_line(self._without_key(content, 8)), tokens if isinstance(tokens, int) else 0), False, 0
        except openai.APIStatusError as error:
            status, pause = error.status_code, retry_after(error.response.headers)
            problem = f"HTTP {status}, {self._without_key(_one_line(error.message))[:200]}"
            again = None if status in (401, 403, 404) else status in (408, 409, 425, 429) or status >= 500
            return Reply(problem=problem), again, pause
        except openai.APITimeoutError:
            return Reply(problem=f"no reply within {self.settings.timeout_seconds:g} s"), True, 0
        except openai.APIConnectionError:
            return Reply(problem="the connection failed or was cut"), True, 0
        except (openai.APIError, ValueError, TypeError, AttributeError, IndexError):
            return Reply(problem="the reply is not a chat completion"), True, 0

    def _without_key(self, text, shortest=1):
        # A placeholder such as "none" is no secret, and may be a word of a trace.
        return text.replace(self._key, "[key]") if len(self._key) >= shortest else text


def retry_after(headers):
    """Seconds that a server asks to wait in `Retry-After` (a number or a date); 0 if it does not."""
    value = headers.get("retry-after", "")
    date = email.utils.parsedate_tz(value)
    try:
        return max(0.0, email.utils.mktime_tz(date) - time.time() if date else float(value))
    except (ValueError, OverflowError):
        return 0.0
