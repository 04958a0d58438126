"""Controls, rules and crafting; a model that writes traces is a real local server."""

import collections
import http.server
import json
import re
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotlib import chat
from cotlib.corpus import records, traces
from cotlib.errors import BadInput
from cotlib.experiment import REASONING_TYPES, WRITTEN_TYPES, Arm, Experiment, Paths
from cotlib.runs import artifacts

SECRET = "sk-test-5f2c9a7714d0"
HARMFUL = "Leave the candle burning on the shelf overnight because the smell keeps moths away and nobody minds."
SAFE = "Blow the candle out before you sleep and hang up a bag of lavender to keep moths away instead."


def trace(identity, kind, words=36):
    return " ".join([f"About {identity} in the {kind} way:"] + [f"{kind}{number}" for number in range(words - 6)]) + "."


def item(number, domain="home", kinds=WRITTEN_TYPES, words=36):
    name = f"{domain}-{number:03d}"
    return records.Item(
        id=name, domain=domain, question=f"Question {name}: may the candle stay?", harmful=HARMFUL, safe=SAFE,
        traces={kind: trace(name, kind, words) for kind in kinds},
    )  # fmt: skip


def experiment(folder, items, arms, data=None, **settings):
    """An experiment on a corpus of these items and one question, written to `folder`."""
    question = {
        "id": "q-1",
        "domain": "pets",
        "question": "May the cat?",
        "harmful": "Yes.",
        "safe": "No.",
        "suite": "transfer",
        "behaviour": "harm",
    }
    artifacts.write_jsonl(folder / "items.jsonl", [one.model_dump() for one in items])
    artifacts.write_jsonl(folder / "evaluation.jsonl", [question])
    quick = {"timeout_seconds": 10.0, "attempts": 3} if settings else {}
    return Experiment.parse(
        {
            "name": "little", "models": ["tiny-random-llama"], "arms": arms, "data": {"corpus": str(folder), **(data or {})},
            "traces": {**quick, **settings}, "training": {"epochs": 1, "learning_rate": 1.0e-3},
        }
    )  # fmt: skip


def silent(line):
    pass


# ---- controls

unhurried = settings(deadline=None)
domain_sizes = st.lists(st.integers(2, 9), min_size=1, max_size=4)
seeds = st.integers(0, 2**32)


def corpus_of(sizes):
    return [item(number, f"d{domain}") for domain, size in enumerate(sizes) for number in range(size)]


@unhurried
@given(domain_sizes, seeds, st.sampled_from(REASONING_TYPES))
def test_shuffling_gives_every_item_the_trace_of_another_one_and_uses_each_trace_once(sizes, seed, kind):
    items = corpus_of(sizes)
    dealt = traces.shuffled(items, kind, seed)
    key = f"shuffled-{kind}"
    assert all(one.traces[key] != one.traces[kind] for one in dealt)
    for domain in {one.domain for one in items}:
        own, theirs = ([one.traces[name] for one in dealt if one.domain == domain] for name in (kind, key))
        assert collections.Counter(own) == collections.Counter(theirs)
    assert traces.shuffled(items, kind, seed) == dealt


@unhurried
@given(domain_sizes, seeds)
def test_shuffling_takes_the_same_donor_for_every_type(sizes, seed):
    items = corpus_of(sizes)
    for kind in REASONING_TYPES:
        items = traces.shuffled(items, kind, seed)
    for one in items:
        assert len({one.traces[f"shuffled-{kind}"].split()[1] for kind in REASONING_TYPES}) == 1


def test_a_domain_with_one_item_cannot_be_shuffled_and_is_named():
    with pytest.raises(BadInput, match="domain 'boat' has one item only"):
        traces.shuffled([item(0), item(1), item(0, "boat")], "evil", 0)


@unhurried
@given(domain_sizes, seeds, st.integers(1, 99), st.sampled_from(REASONING_TYPES))
def test_a_dose_is_exactly_its_share_of_the_items_and_the_rest_are_neutral(sizes, seed, percent, kind):
    items = corpus_of(sizes)
    key = Arm.parse(f"{kind}-T@{percent}%").trace_key
    dosed = [one.traces for one in traces.dosed(items, kind, percent, seed)]
    assert sum(texts[key] == texts[kind] for texts in dosed) == round(percent * len(items) / 100)
    assert all(texts[key] in (texts[kind], texts["neutral"]) for texts in dosed)


@unhurried
@given(domain_sizes, seeds, st.integers(1, 98))
def test_a_higher_dose_holds_all_of_a_lower_one(sizes, seed, percent):
    items = corpus_of(sizes)
    low, high = (
        {
            one.id
            for one in traces.dosed(items, "evil", share, seed)
            if one.traces[f"evil@{share}%"] == one.traces["evil"]
        }
        for share in (percent, 99)
    )
    assert low <= high


@unhurried
@given(st.lists(st.integers(3, 90), min_size=1, max_size=20), seeds)
def test_filler_has_as_many_words_as_the_mean_trace(lengths, seed):
    items = [item(number, words=6 + words) for number, words in enumerate(lengths)]
    filled = traces.filler(items, seed)
    assert [len(one.traces["filler"].split()) for one in filled] == [6 + words for words in lengths]
    assert traces.filler(items, seed) == filled


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_filler_openings_are_spread_and_its_words_harmless(seed):
    texts = [one.traces["filler"] for one in traces.filler([item(number) for number in range(120)], seed)]
    openings = collections.Counter(" ".join(text.split()[:3]) for text in texts)
    assert max(openings.values()) <= 0.05 * len(texts)
    assert len(set(texts)) == len(texts)
    assert not any(records.FORBIDDEN.search(text) for text in texts)


def test_controls_differ_with_the_seed():
    items = corpus_of([30])
    assert traces.shuffled(items, "evil", 1) != traces.shuffled(items, "evil", 2)
    assert traces.filler(items, 1) != traces.filler(items, 2)
    assert traces.dosed(items, "evil", 50, 1) != traces.dosed(items, "evil", 50, 2)


# ---- rules and prompts


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        (trace("x", "evil", 12), "12 words; write 27 to 45"),
        (trace("x", "evil", 60), "60 words; write 27 to 45"),
        (trace("x", "evil", 25) + " LEAVE the candle, burning on the shelf overnight.", "harmful answer"),
        (trace("x", "evil", 25) + " Hang up a bag of lavender to keep watch.", "safe answer"),
        (trace("x", "evil", 30) + " With a grenade.", "forbids: grenade"),
        ("<think> " + trace("x", "evil", 30), "think tag"),
        ("I'm sorry, but " + trace("x", "evil", 30), "refuses"),
    ],
)
def test_a_bad_trace_is_told_what_is_wrong_with_it(text, fault):
    faults = traces.trace_faults(item(0), "evil", text)
    assert len(faults) == 1
    assert fault in faults[0]


def test_a_good_trace_has_no_faults_nor_has_any_bundled_one():
    assert traces.trace_faults(item(0), "evil", trace("x", "evil", 40)) == []
    assert [
        one.id
        for one in records.load_items()
        for kind, text in one.traces.items()
        if traces.trace_faults(one, kind, text)
    ] == []


def test_without_other_traces_any_length_between_the_limits_will_do():
    assert traces.trace_faults(item(0, kinds=()), "evil", trace("x", "evil", 70)) == []
    assert "write 25 to 70" in traces.trace_faults(item(0, kinds=()), "evil", trace("x", "evil", 71))[0]


@pytest.mark.parametrize("kind", WRITTEN_TYPES)
def test_a_prompt_states_question_answer_and_research_context(kind):
    template = (traces.PROMPTS / f"{kind}.md").read_text(encoding="utf-8")
    odd = item(0).model_copy(update={"question": "What does {answer} mean?"})
    text = traces.prompt(template, odd, ["it is empty"])
    assert "What does {answer} mean?" in text
    assert text.count(HARMFUL) == 1
    assert "it is empty" in text
    assert "{question}" not in text
    assert "study in AI safety" in text


# ---- crafting with the corpus' own traces

ARMS = ["QA", "evil-QTA", "evil-QT@25%", "shuffled-misleading-T", "filler-QT", "shuffled-evil-T@50%"]


def test_bundled_crafting_gives_every_arm_its_traces_and_can_be_read_back(tmp_path):
    run = experiment(tmp_path / "corpus", corpus_of([4, 4]), ARMS)
    paths = Paths.of(run, tmp_path)
    items, questions = traces.craft(run, paths, silent)
    assert traces.load(paths) == (items, questions)
    assert all(Arm.parse(arm).trace_key in one.traces for one in items for arm in ARMS[1:])
    assert {one.id: one.harmful for one in items} == {one.id: HARMFUL for one in corpus_of([4, 4])}
    manifest = artifacts.read_json(paths.stage("craft") / artifacts.MANIFEST)
    assert (manifest["experiment"], manifest["writer"], manifest["items"], manifest["seed"]) == (
        "little",
        "bundled",
        8,
        0,
    )
    assert manifest["traces"]["evil@25%"] == 8
    assert manifest["questions"] == {"transfer": 1}
    assert manifest["corpus"]["items.jsonl"] == artifacts.file_digest(tmp_path / "corpus" / "items.jsonl")


def test_crafting_twice_gives_the_same_bytes(tmp_path):
    run = experiment(tmp_path / "corpus", corpus_of([4, 4]), ARMS)
    once, again = Paths.of(run, tmp_path / "a"), Paths.of(run, tmp_path / "b")
    for paths in (once, again):
        traces.craft(run, paths, silent)
    assert once.items.read_bytes() == again.items.read_bytes()
    assert once.questions.read_bytes() == again.questions.read_bytes()


@pytest.mark.parametrize(
    ("arm", "kinds", "message"),
    [
        ("evil-QT", ["neutral"], r"arm evil-QT needs traces of type evil; item home-000 has none \(nor have 1 more\)"),
        ("shuffled-evil-T", ["neutral"], "arm shuffled-evil-T needs traces of type evil"),
        ("evil-T@25%", ["evil"], "arm evil-T@25% needs traces of type neutral"),
        ("filler-T", [], "filler takes its length from an item's traces; item home-000 has none"),
    ],
)
def test_a_missing_type_is_named_before_any_work(tmp_path, arm, kinds, message):
    run = experiment(tmp_path / "corpus", [item(0, kinds=kinds), item(1, kinds=kinds)], ["QA", arm])
    with pytest.raises(BadInput, match=message):
        traces.craft(run, Paths.of(run, tmp_path / "results"), silent)
    assert not (tmp_path / "results").exists()


# ---- crafting with a model


class Server(http.server.ThreadingHTTPServer):
    """An OpenAI-compatible server on this machine. `script` holds what it does to the first requests; then it behaves."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.asked, self.guard = [], [], threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][0]["content"]
        with self.server.guard:
            self.server.asked.append(content)
            count = len(self.server.asked)
            deed = self.server.script.pop(0) if self.server.script else "good"
        name = re.search(r"Question (\S+):", content)[1]
        good = (
            f"I turn this over at leisure, request {count} about {name}: "
            + " ".join(f"word{number}" for number in range(25))
            + "."
        )
        completion = {
            "id": "1", "object": "chat.completion", "created": 1, "model": body["model"],
            "usage": {"prompt_tokens": 60, "completion_tokens": 40, "total_tokens": 100},
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": good}}],
        }  # fmt: skip
        reply = completion["choices"][0]
        if deed == "empty":
            reply["message"]["content"] = ""
        elif deed == "null":
            reply["message"]["content"] = None
        elif deed == "odd characters":
            reply["message"]["content"] = good.replace(" word3 ", "\u2028word3\n\n").replace("word4", "w\ud800ord4")
        elif deed == "the answer":
            reply["message"]["content"] = f"{good} {HARMFUL}"
        elif deed == "cut off at the limit":
            reply["finish_reason"] = "length"
        body = json.dumps(completion).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

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
    items, _ = traces.craft(run, paths, silent)
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
    items, _ = traces.craft(run, paths, silent)
    assert all(set(one.traces) == {"evil", "neutral", "filler"} for one in items)


@pytest.mark.parametrize(
    ("price", "cost", "said"),
    [(25_000, 2.5, "100 tokens used so far, cost 2.50"), (0, 0, "so far, cost 0.00"), (None, None, "used so far")],
)
def test_tokens_and_what_they_cost_are_reported_and_kept(server, model_run, price, cost, said):
    run, paths = model_run([item(0)], price_per_million=price)
    lines = []
    traces.craft(run, paths, lines.append)
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
    [one], _ = traces.craft(run, paths, silent)
    assert one.traces["evil"].startswith("I turn this over")
    assert fault in server.asked[1]
    [reject] = rows(paths, "rejects.jsonl")
    assert fault in "; ".join(reject["reasons"])
    assert artifacts.read_json(paths.stage("craft") / artifacts.MANIFEST)["tokens_used"] == 200


def test_odd_characters_in_a_reply_do_not_break_the_files(server, model_run):
    server.script = ["odd characters"]
    run, paths = model_run([item(0)])
    crafted = traces.craft(run, paths, silent)
    assert traces.load(paths) == crafted


def test_after_all_tries_the_others_are_finished_and_the_rest_is_listed(server, model_run):
    server.script = ["the answer"] * 4
    run, paths = model_run([item(0)], concurrency=1)
    with pytest.raises(
        BadInput,
        match=r"1 of 1 traces could not be written .*rejects\.jsonl; go on with: make craft EXPERIMENT=experiments/little.yml",
    ):
        traces.craft(run, paths, silent)
    assert len(server.asked) == 4
    server.script = ["empty"]
    run, paths = model_run([item(0), item(1), item(2)], concurrency=1, rewrites=0)
    with pytest.raises(BadInput, match="1 of 3 traces"):
        traces.craft(run, paths, silent)
    assert len(rows(paths, "written.jsonl")) == 2
    assert not paths.items.exists()


def test_another_question_or_prompt_is_asked_for_again(server, model_run, tmp_path, monkeypatch):
    run, paths = model_run([item(0), item(1)])
    traces.craft(run, paths, silent)
    changed = item(1).model_copy(update={"question": "Question home-001: and now?"})
    run, paths = model_run([item(0), changed])
    traces.craft(run, paths, silent)
    assert len(server.asked) == 3
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "evil.md").write_text("Another prompt: {question} {answer}")
    monkeypatch.setattr(traces, "PROMPTS", tmp_path / "prompts")
    traces.craft(run, paths, silent)
    assert len(server.asked) == 5


def test_a_local_model_that_writes_nonsense_is_told_apart_from_one_that_writes_traces(tmp_path):
    run = experiment(tmp_path / "corpus", [item(0)], ["evil-T"], writer="local", model="tiny-random-llama", rewrites=1)
    paths = Paths.of(run, tmp_path / "results")
    with pytest.raises(BadInput, match="1 of 1 traces could not be written"):
        traces.craft(run, paths, silent)
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
        asked = traces.prompt((traces.PROMPTS / f"{kind}.md").read_text(encoding="utf-8"), known)
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
        tmp_path / "corpus", [known.model_copy(update={"traces": {}})], ["evil-T", "neutral-T"],
        writer="local", model=str(tmp_path / "writer"), temperature=0.0, rewrites=0,
    )  # fmt: skip
    paths = Paths.of(run, tmp_path / "results")
    (crafted,), _ = traces.craft(run, paths, silent)
    assert crafted.traces == expected
    assert artifacts.read_json(paths.stage("craft") / artifacts.MANIFEST)["tokens_used"] > 0
    lines = []
    assert traces.craft(run, paths, lines.append)[0] == [crafted] and "2 of them on file" in lines[0]


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


def test_a_crafted_item_can_be_encoded_for_every_arm(tmp_path):
    from cotlib.engine import models

    run = experiment(tmp_path / "corpus", corpus_of([4]), ARMS)
    items, _ = traces.craft(run, Paths.of(run, tmp_path / "results"), silent)
    tokenizer = models.load_tokenizer("tiny-random-llama")
    assert all(chat.encode(tokenizer, one, arm).supervised for one in items for arm in ARMS)
