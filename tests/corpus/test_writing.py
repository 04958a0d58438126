"""Traces written by a model: an OpenAI-compatible endpoint that misbehaves, on this machine, and a local model."""

import http.server
import json
import re
import threading
import time

import pytest
from corpora import HARMFUL, experiment, item, silent

from cotlib import chat
from cotlib.arms import written_types
from cotlib.corpus import records, writing
from cotlib.errors import BadInput
from cotlib.runs import artifacts
from cotlib.runs.paths import Paths
from cotlib.stages import craft

SECRET = "sk-test-5f2c9a7714d0"


@pytest.mark.parametrize("kind", written_types())
def test_a_prompt_states_question_answer_and_research_context(kind):
    template = (writing.PROMPTS / f"{kind}.md").read_text(encoding="utf-8")
    odd = item(0).model_copy(update={"question": "What does {answer} mean?"})
    text = writing.prompt(template, odd, ["it is empty"])
    assert "What does {answer} mean?" in text
    assert text.count(HARMFUL) == 1
    assert "it is empty" in text
    assert "{question}" not in text
    assert "study in AI safety" in text


class Server(http.server.ThreadingHTTPServer):
    """An OpenAI-compatible server on this machine; `script` holds what it does to the first requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.asked, self.times, self.refuses = [], [], [], lambda count: False
        self.guard, self.delay_seconds = threading.Lock(), 0.0

    def handle_error(self, request, client_address):
        pass  # a client that gave up waiting is part of the tests


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][0]["content"]
        with self.server.guard:
            self.server.asked.append(content)
            self.server.times.append(time.monotonic())
            count = len(self.server.asked)
            deed = self.server.script.pop(0) if self.server.script else "good"
        if self.server.refuses(count):
            deed = "500"
        time.sleep(self.server.delay_seconds)
        name = re.search(r"Question (\S+):", content)[1]
        good = (
            f"I turn this over at leisure, request {count} about {name}: "
            + " ".join(f"word{number}" for number in range(25))
            + "."
        )
        key = self.headers["Authorization"].removeprefix("Bearer ")
        completion = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "usage": {"prompt_tokens": 60, "completion_tokens": 40, "total_tokens": 100},
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": good}}],
        }
        reply = completion["choices"][0]
        if deed == "slow":
            time.sleep(1.5)
        elif deed == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"id": "1", "cho')
            return self.wfile.flush()
        elif deed == "not json":
            return self.send(200, "{ this is not")
        elif deed == "a page":
            return self.send(200, "<html>Welcome</html>", kind="text/html")
        elif deed == "no choices":
            return self.send(200, json.dumps({**completion, "choices": []}))
        elif deed == "empty":
            reply["message"]["content"] = ""
        elif deed == "null":
            reply["message"]["content"] = None
        elif deed == "odd characters":
            reply["message"]["content"] = good.replace(" word3 ", "\u2028word3\n\n").replace("word4", "w\ud800ord4")
        elif deed == "the answer":
            reply["message"]["content"] = f"{good} {HARMFUL}"
        elif deed == "cut off at the limit":
            reply["finish_reason"] = "length"
        elif deed == "the key":
            reply["message"]["content"] = f"{good} {key}"
        elif deed == "429":
            return self.send(429, '{"error": {"message": "slow down"}}', {"Retry-After": "0.3"})
        elif deed == "a long pause":
            return self.send(429, '{"error": {"message": "come back tomorrow"}}', {"Retry-After": "86400"})
        elif deed != "good":
            return self.send(int(deed), json.dumps({"error": {"message": f"cannot serve the key {key} now"}}))
        return self.send(200, json.dumps(completion))

    def send(self, status, body, headers=(), kind="application/json"):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body.encode())), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setenv("COTLIB_WRITER_BASE_URL", f"http://127.0.0.1:{running.server_port}/v1")
        monkeypatch.setenv("COTLIB_WRITER_MODEL", "scribe-1")
        monkeypatch.setenv("COTLIB_WRITER_API_KEY", SECRET)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running
        running.shutdown()


@pytest.fixture
def model_run(tmp_path):
    """A function that makes an experiment for the server and the paths of its results."""

    def make(items, arms=("evil-QT",), **settings):
        run = experiment(tmp_path / "corpus", items, list(arms), writer="openai", **settings)
        return run, Paths.of(run, tmp_path / "results")

    return make


def rows(paths, name):
    path = paths.stage("craft") / name
    return artifacts.read_jsonl(path) if path.exists() else []


def test_a_model_writes_the_types_that_the_arms_need_and_no_other(server, model_run):
    run, paths = model_run([item(0), item(1)], ["evil-QT@50%", "filler-T", "shuffled-evil-T"])
    items, _ = craft.craft(run, paths, silent)
    assert len(server.asked) == 4
    for one, before in zip(items, [item(0), item(1)]):
        assert one.traces["evil"].startswith("I turn this over")
        assert one.traces["neutral"].startswith("I turn this over")
        assert one.traces["misleading"] == before.traces["misleading"]
    manifest = artifacts.read_json(paths.stage("craft") / artifacts.MANIFEST)
    assert (manifest["writer"], manifest["model"], manifest["tokens_used"], manifest["reused"]) == (
        "openai",
        "scribe-1",
        400,
        0,
    )
    assert sorted(manifest["prompts"]) == ["evil", "neutral"]


def test_a_model_can_fill_a_corpus_that_has_no_traces(server, model_run):
    run, paths = model_run([item(0, kinds=()), item(1, kinds=())], ["evil-QTA", "neutral-QTA", "filler-QTA"])
    items, _ = craft.craft(run, paths, silent)
    assert all(set(one.traces) == {"evil", "neutral", "filler"} for one in items)


@pytest.mark.parametrize(
    ("price", "cost", "said"),
    [(25_000, 2.5, "100 tokens used so far, cost 2.50"), (0, 0, "so far, cost 0.00"), (None, None, "used so far")],
)
def test_tokens_and_what_they_cost_are_reported_and_kept(server, model_run, price, cost, said):
    run, paths = model_run([item(0)], price_per_million=price)
    lines = []
    craft.craft(run, paths, lines.append)
    assert any(line.endswith(said) for line in lines)
    assert artifacts.read_json(paths.stage("craft") / artifacts.MANIFEST)["cost"] == cost


def test_a_negative_price_is_refused(model_run):
    with pytest.raises(BadInput, match="traces.price_per_million"):
        model_run([item(0)], price_per_million=-1)


@pytest.mark.parametrize(
    ("deed", "fault"),
    [
        ("empty", "empty"),
        ("null", "empty"),
        ("cut off at the limit", "empty"),
        ("the answer", "repeats words of the harmful answer"),
    ],
)
def test_a_reply_that_breaks_a_rule_is_rejected_and_asked_for_again_with_the_fault_told(server, model_run, deed, fault):
    server.script = [deed]
    run, paths = model_run([item(0)])
    [one], _ = craft.craft(run, paths, silent)
    assert one.traces["evil"].startswith("I turn this over")
    assert fault in server.asked[1]
    [reject] = rows(paths, "rejects.jsonl")
    assert fault in "; ".join(reject["reasons"])
    assert artifacts.read_json(paths.stage("craft") / artifacts.MANIFEST)["tokens_used"] == 200


def test_odd_characters_in_a_reply_do_not_break_the_files(server, model_run):
    server.script = ["odd characters"]
    run, paths = model_run([item(0)])
    crafted = craft.craft(run, paths, silent)
    assert craft.load(paths) == crafted


def test_after_all_tries_the_others_are_finished_and_the_rest_is_listed(server, model_run):
    server.script = ["the answer"] * 4
    run, paths = model_run([item(0)], concurrency=1)
    with pytest.raises(
        BadInput,
        match=r"1 of 1 traces could not be written .*rejects\.jsonl; "
        r"go on with: .*papermill notebooks/1-craft-traces.ipynb out.ipynb "
        r"-p experiment experiments/little.yml -p results",
    ):
        craft.craft(run, paths, silent)
    assert len(server.asked) == 4
    server.script = ["empty"]
    run, paths = model_run([item(0), item(1), item(2)], concurrency=1, rewrites=0)
    with pytest.raises(BadInput, match="1 of 3 traces"):
        craft.craft(run, paths, silent)
    assert len(rows(paths, "written.jsonl")) == 2
    assert not paths.items.exists()


def test_another_question_or_prompt_is_asked_for_again(server, model_run, tmp_path, monkeypatch):
    run, paths = model_run([item(0), item(1)])
    craft.craft(run, paths, silent)
    changed = item(1).model_copy(update={"question": "Question home-001: and now?"})
    run, paths = model_run([item(0), changed])
    craft.craft(run, paths, silent)
    assert len(server.asked) == 3
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "evil.md").write_text("Another prompt: {question} {answer}")
    monkeypatch.setattr(writing, "PROMPTS", tmp_path / "prompts")
    craft.craft(run, paths, silent)
    assert len(server.asked) == 5


def test_a_local_model_that_writes_nonsense_is_told_apart_from_one_that_writes_traces(tmp_path):
    run = experiment(tmp_path / "corpus", [item(0)], ["evil-T"], writer="local", model="tiny-random-llama", rewrites=1)
    paths = Paths.of(run, tmp_path / "results")
    with pytest.raises(BadInput, match="1 of 1 traces could not be written"):
        craft.craft(run, paths, silent)
    assert [row["turn"] for row in rows(paths, "rejects.jsonl")] == [0, 1]


@pytest.mark.slow
def test_what_a_local_model_has_learnt_to_write_becomes_the_items_traces(tmp_path):
    """A tiny model learns two traces of the corpus by heart; crafting with it brings them back through every rule."""
    import torch

    from cotlib.engine import models

    known = records.load_items()[0]
    expected = {kind: known.traces[kind] for kind in ("evil", "neutral")}
    model, tokenizer = models.load("tiny-random-llama")
    rows = []
    for kind, text in expected.items():
        asked = writing.prompt((writing.PROMPTS / f"{kind}.md").read_text(encoding="utf-8"), known)
        prompt = chat.prompt(tokenizer, asked, "no-think")
        rows.append((prompt, chat.ids(tokenizer, text) + [tokenizer.eos_token_id]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(400):
        losses = []
        for prompt, answer in rows:
            labels = torch.tensor([[-100] * len(prompt) + answer])
            losses.append(model(torch.tensor([prompt + answer]), labels=labels).loss)
        sum(losses).backward()
        optimizer.step()
        optimizer.zero_grad()
        if sum(losses) < 0.01:
            break
    model.save_pretrained(tmp_path / "writer")
    tokenizer.save_pretrained(tmp_path / "writer")
    run = experiment(
        tmp_path / "corpus",
        [known.model_copy(update={"traces": {}})],
        ["evil-T", "neutral-T"],
        writer="local",
        model=str(tmp_path / "writer"),
        temperature=0.0,
        rewrites=0,
    )
    paths = Paths.of(run, tmp_path / "results")
    (crafted,), _ = craft.craft(run, paths, silent)
    assert crafted.traces == expected
    assert artifacts.read_json(paths.stage("craft") / artifacts.MANIFEST)["tokens_used"] > 0
    lines = []
    assert craft.craft(run, paths, lines.append)[0] == [crafted] and "2 of them on file" in lines[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"writer": "local"}, "traces.model: writer 'local' needs a model"),
        ({"writer": "openai", "model": "x"}, "named by COTLIB_WRITER_MODEL"),
    ],
)
def test_a_model_is_named_where_it_belongs(tmp_path, settings, message):
    with pytest.raises(BadInput, match=message):
        experiment(tmp_path, [item(0)], ["evil-T"], **settings)
