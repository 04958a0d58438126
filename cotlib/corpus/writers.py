"""The models that write traces: one behind an OpenAI-compatible endpoint, or a causal LM on this machine.

Knows nothing about items and types: prompts go in, replies come out as they arrive. What becomes of a
reply is decided in `writing.py`.
"""

import dataclasses

from cotlib import chat
from cotlib.engine import endpoint, models
from cotlib.engine.endpoint import Reply
from cotlib.runs import artifacts

PREFIX = "COTLIB_WRITER"  # of the environment variables that name the endpoint
LOCAL_BATCH, LOCAL_TOKENS = 96, 160


class LocalModel:
    """A causal language model on this machine as the writer; `down` stays empty: it is always available."""

    down = ""

    def __init__(self, experiment):
        self.model, self.settings, self.seed = (
            models.require(experiment.traces.model),
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
    """White space of any kind, line separators included, becomes a blank."""
    return " ".join(text.split())


class Endpoint:
    """A model behind an OpenAI-compatible endpoint as the writer, named by the variables COTLIB_WRITER_*."""

    def __init__(self, experiment):
        settings = experiment.traces
        self.temperature = settings.temperature
        self._endpoint = endpoint.Endpoint(
            PREFIX,
            "traces.writer: 'openai'",
            timeout_seconds=settings.timeout_seconds,
            attempts=settings.attempts,
            concurrency=settings.concurrency,
            instead="write 'writer: bundled'",
        )
        self.model = self._endpoint.model

    @property
    def down(self):
        """Why the endpoint counts as gone; empty while it does not."""
        return self._endpoint.down

    def ask(self, prompts, receive, turn):
        """Call `receive(number, reply)` from another thread as each reply comes; yields after each."""

        def tidied(number, reply):
            # A trace cut off at the server's limit is no use, whatever its length.
            receive(number, dataclasses.replace(reply, text="" if reply.cut else _one_line(reply.text)))

        return self._endpoint.ask(prompts, tidied, temperature=self.temperature)
