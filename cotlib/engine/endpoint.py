"""A model behind an OpenAI-compatible endpoint: prompts go out, replies come back as they arrive.

Knows nothing about traces or judges. Retries, their pauses and `Retry-After` are the OpenAI client's own.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import os
import queue

from cotlib.errors import BadInput

PARTS = ("BASE_URL", "MODEL", "API_KEY")
PATIENCE = 3  # requests in a row that failed for good, after which the endpoint counts as down
HOPELESS = (401, 403, 404)  # statuses of an endpoint that will serve no prompt
REFUSED = (400, 413, 422)  # statuses that may stand for one prompt alone, such as one that a filter stops
SHORTEST_SECRET = 8  # a key such as "none" is a placeholder, and may be a word of a reply
NOT_A_COMPLETION = "the reply is not a chat completion"


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a model answered, or the problem that kept the answer from coming.

    `tokens`: read and written, as the server counts them. `cut`: the text ended at the server's limit of tokens.
    `top`: the likeliest first tokens with their log-probabilities, if the request asked for them; else None.
    """

    text: str = ""
    tokens: int = 0
    problem: str = ""
    cut: bool = False
    top: tuple[tuple[str, float], ...] | None = None


def variables(prefix):
    """The three environment variables of an endpoint: its address, the model's name and the key."""
    return tuple(f"{prefix}_{part}" for part in PARTS)


def from_environment(prefix, setting, instead="", environment=os.environ):
    """The values of the three variables.

    Args:
        setting: what needs the endpoint, for messages: `traces.writer: 'openai'`.
        instead: what a reader without an endpoint may write.
    Raises:
        BadInput: a variable is not set or cannot work. Its value is not shown.
    """
    names = variables(prefix)
    values = [environment.get(name, "").strip() for name in names]
    missing = [name for name, value in zip(names, values) if not value]
    if missing:
        raise BadInput(
            f"{setting} needs an endpoint, but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set; "
            f"set {'it' if len(missing) == 1 else 'them'} with: export {missing[0]}=…{instead and f', or {instead}'}"
        )
    if not values[0].startswith(("http://", "https://")):
        raise BadInput(
            f"{names[0]} does not begin with http:// or https://; write an address such as http://localhost:8000/v1"
        )
    if not (values[2].isascii() and values[2].isprintable()):
        raise BadInput(f"{names[2]} holds characters that a key cannot have; copy it again")
    return values


class Endpoint:
    """A model behind an endpoint, named by the environment variables of `prefix`.

    The key goes into the client and nowhere else: what a server says is cleared of it before it is kept or shown.
    `down` says why the endpoint counts as gone, and is empty while it does not; nothing is sent to it then.
    """

    def __init__(self, prefix, setting, *, timeout_seconds, attempts, concurrency, instead="", environment=os.environ):
        url, self.model, key = from_environment(prefix, setting, instead, environment)
        self.timeout_seconds, self.concurrency = timeout_seconds, concurrency
        self.down, self._failures, self._served = "", 0, False

        def client(around):
            """A client that sends every request, retries too, through `around`. It belongs to one event loop."""
            import openai

            class Http(openai.DefaultAsyncHttpxClient):
                async def send(self, request, **options):
                    return await around(super().send, request, options)

            return openai.AsyncOpenAI(
                base_url=url,
                api_key=key,
                timeout=timeout_seconds,
                max_retries=attempts - 1,
                http_client=Http(timeout=timeout_seconds),
            )

        def without_key(text, shortest=1):
            return text.replace(key, "[key]") if len(key) >= shortest else text

        self._client, self._without_key = client, without_key

    def ask(self, prompts, receive, **parameters):
        """Send every prompt; yields after each reply, which `receive(number, reply)` has got from another thread.

        A caller that is interrupted waits for the requests under way, whose replies are still received; no other is
        sent, and no pause between two tries is waited for.

        Args:
            parameters: of the request, such as `temperature`.
        """
        arrived, stop = queue.SimpleQueue(), concurrent.futures.Future()

        def deliver(number, reply):
            receive(number, reply)
            arrived.put(True)

        # A notebook's thread already runs an event loop, so ours gets a thread of its own.
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            session = pool.submit(asyncio.run, self._ask_all(prompts, deliver, stop, parameters))
            session.add_done_callback(lambda _: arrived.put(False))
            try:
                while arrived.get():
                    yield
                session.result()
            finally:
                _halt(stop)

    async def _ask_all(self, prompts, deliver, stop, parameters):
        """Share the prompts out among `concurrency` workers, until all are sent, or `stop` is set."""
        halted, under_way, numbered = asyncio.wrap_future(stop), set(), iter(enumerate(prompts))

        async def work(client):
            try:
                for number, text in numbered:
                    if self.down or halted.done():
                        break
                    deliver(number, await self._send(client, text, parameters))
                    under_way.discard(asyncio.current_task())
            except Exception:
                _halt(stop)
                raise
            if self.down:
                _halt(stop)

        async def send(post, request, options):
            if self.down or halted.done():  # the client is about to try again
                raise asyncio.CancelledError
            under_way.add(asyncio.current_task())
            try:
                response = await post(request, **options)
                if response.is_success:
                    _check_readable(response)
                    return response  # under way until it is delivered
            except BaseException:
                under_way.discard(asyncio.current_task())
                raise
            under_way.discard(asyncio.current_task())  # what follows is a pause before the next try, or the end
            return response

        async with self._client(send) as client:
            workers = [asyncio.create_task(work(client)) for _ in range(min(self.concurrency, len(prompts)))]
            halted.add_done_callback(lambda _: [worker.cancel() for worker in workers if worker not in under_way])
            ends = await asyncio.gather(*workers, return_exceptions=True)
        halted.cancel()
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
                raise end

    async def _send(self, client, text, parameters):
        """The reply to one prompt, after as many tries as the client makes."""
        import httpx2
        import openai

        try:
            raw = await client.chat.completions.with_raw_response.create(
                model=self.model, messages=[{"role": "user", "content": text}], **parameters
            )
            reply = read(raw.http_response.json())
            self._failures, self._served = 0, True
            return dataclasses.replace(reply, text=self._without_key(reply.text, SHORTEST_SECRET))
        except openai.APIStatusError as error:
            status, message = error.status_code, " ".join(_clean(str(error.message)).split())
            return self._failed(f"HTTP {status}, {self._without_key(message)[:200]}", status)
        except openai.APITimeoutError:
            return self._failed(f"no reply within {self.timeout_seconds:g} s")
        except openai.APIConnectionError as error:
            unreadable = isinstance(error.__cause__, httpx2.DecodingError)
            return self._failed(NOT_A_COMPLETION if unreadable else "the connection failed or was cut")

    def _failed(self, problem, status=None):
        """The Reply that says so; after `PATIENCE` of them in a row the endpoint counts as down."""
        # An endpoint that has served before and now refuses a prompt as such is still there.
        self._failures += not (self._served and status in REFUSED)
        if status in HOPELESS or self._failures >= PATIENCE:
            self.down = self.down or problem
        return Reply(problem=problem)


def _halt(stop):
    with contextlib.suppress(concurrent.futures.InvalidStateError):
        stop.set_result(None)


def _check_readable(response):
    """Raise what makes the client try again if a successful response holds no chat completion."""
    import httpx2  # what the OpenAI client sends with

    try:
        read(response.json())
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise httpx2.DecodingError(NOT_A_COMPLETION, request=response.request) from None


def read(completion):
    """The Reply in a chat completion, a mapping.

    Raises ValueError, TypeError, LookupError or AttributeError if it is none.
    """
    choice = completion["choices"][0]
    text = choice["message"].get("content") or ""
    tokens = (completion.get("usage") or {}).get("total_tokens", 0)
    places = (choice.get("logprobs") or {}).get("content")
    top = None
    if places:
        # A logarithm of a probability is at most 0, whatever rounding made of it.
        first = places[0].get("top_logprobs") or []
        top = tuple((_clean(token["token"]), min(0.0, float(token["logprob"]))) for token in first)
    return Reply(
        text=_clean(text),
        tokens=tokens if isinstance(tokens, int) else 0,
        cut=choice.get("finish_reason") == "length",
        top=top,
    )


def _clean(text):
    """A text without what UTF-8 cannot hold, such as half of a surrogate pair."""
    return text.encode("utf-8", "ignore").decode()
