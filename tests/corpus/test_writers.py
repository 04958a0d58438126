"""Models that write traces: one behind a real local server that misbehaves, and one on this machine."""

import pytest
from endpoint_server import completion, serving

from cotlib.corpus import writers, writing
from cotlib.engine import endpoint
from cotlib.errors import BadInput
from cotlib.experiment import Experiment
from cotlib.runs import artifacts
from cotlib.runs.paths import Paths
from cotlib.stages import craft

SECRET = "sk-test-5f2c9a7714d0"
GOOD_TRACE = "I turn this over at leisure: " + " ".join(f"word{number}" for number in range(30)) + "."
GOOD = (200, completion(GOOD_TRACE))


def silent(line):
    pass


@pytest.fixture
def connect(monkeypatch):
    """A function: the server's variables go into the environment."""

    def connect(server):
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        for name, value in server.environment("COTLIB_WRITER", SECRET).items():
            monkeypatch.setenv(name, value)

    return connect


@pytest.fixture
def order(tmp_path, items, questions):
    """A function: (experiment, paths) for `count` bundled items without traces, of which a model writes one each."""

    def order(count, **settings):
        bare = [item.model_copy(update={"traces": {}}) for item in items[:count]]
        artifacts.write_jsonl(tmp_path / "corpus" / "items.jsonl", [item.model_dump() for item in bare])
        artifacts.write_jsonl(tmp_path / "corpus" / "evaluation.jsonl", [questions[0].model_dump()])
        run = Experiment.parse(
            {
                "name": "little", "models": ["tiny-random-llama"], "arms": ["evil-QT"],
                "data": {"corpus": str(tmp_path / "corpus")},
                "traces": {"writer": "openai", "timeout_seconds": 10.0, "attempts": 2, **settings},
                "training": {"epochs": 1, "learning_rate": 1.0e-3},
            }
        )  # fmt: skip
        return run, Paths.of(run, tmp_path / "results")

    return order


def written(paths):
    return artifacts.read_jsonl(paths.stage("craft") / "written.jsonl")


def test_a_reply_becomes_one_line_and_one_that_was_cut_off_becomes_nothing(connect, order):
    answers = [(200, completion("two\u2028lines\n\n and \ud800 more")), (200, completion("half a", None, "length"))]
    with serving(lambda number, prompt: answers[number - 1]) as server:
        connect(server)
        replies = {}
        list(writers.Endpoint(order(1, concurrency=1)[0]).ask(["x", "y"], replies.__setitem__, 0))
    assert [replies[number].text for number in (0, 1)] == ["two lines and more", ""]
    assert [replies[number].tokens for number in (0, 1)] == [100, 100]


def test_a_server_that_stops_serving_midway_costs_nothing_twice(connect, order):
    refuses = True

    def answer(number, prompt):
        return (500, "gone") if refuses and number > 4 else GOOD

    with serving(answer) as server:
        connect(server)
        run, paths = order(10)
        with pytest.raises(
            BadInput, match="6 of 10 traces could not be written .the writer cannot be reached: HTTP 500"
        ):
            craft.craft(run, paths, silent)
        assert len(written(paths)) == 4
        assert len(server.prompts) <= 4 + 2 * (endpoint.PATIENCE + run.traces.concurrency)
        served, server.prompts, refuses = server.prompts[:4], [], False
        crafted, _ = craft.craft(run, paths, silent)
        assert len(server.prompts) == 6
        assert not set(server.prompts) & set(served)
        server.prompts = []
        assert craft.craft(run, paths, silent)[0] == crafted
        assert server.prompts == []


def test_an_interruption_keeps_what_is_under_way_and_half_a_line_does_no_harm(connect, order, monkeypatch):
    monkeypatch.setattr(writing, "REPORT_SECONDS", -1)
    lines = []

    def interrupted(line):
        lines.append(line)
        if len(lines) == 3:
            raise KeyboardInterrupt

    with serving(lambda number, prompt: GOOD, delay_seconds=0.05) as server:
        connect(server)
        run, paths = order(12)
        with pytest.raises(KeyboardInterrupt):
            craft.craft(run, paths, interrupted)
        first = len(server.prompts)
        assert 2 <= first < 12
        assert len(written(paths)) == first
        with open(paths.stage("craft") / "written.jsonl", "a", encoding="utf-8") as file:
            file.write('{"key": "half a li')
        craft.craft(run, paths, silent)
        assert len(server.prompts) == 12
        assert len(written(paths)) == 12


@pytest.mark.parametrize(
    ("answer", "file"),
    [
        ((401, f'{{"error": {{"message": "cannot serve the key {SECRET}"}}}}'), "rejects.jsonl"),
        ((500, f'{{"error": {{"message": "cannot serve the key {SECRET}"}}}}'), "rejects.jsonl"),
        ((200, completion(f"{GOOD_TRACE} {SECRET}")), "written.jsonl"),
    ],
)
def test_the_key_reaches_no_file_no_message_and_no_repr(connect, order, tmp_path, capsys, caplog, answer, file):
    caplog.set_level("DEBUG")
    message = ""
    with serving(lambda number, prompt: answer) as server:
        connect(server)
        run, paths = order(2, rewrites=0)
        if answer[0] == 200:
            craft.craft(run, paths)
        else:
            with pytest.raises(BadInput) as caught:
                craft.craft(run, paths)
            message = repr(caught.value) + repr(caught.value.__context__) + repr(caught.value.__cause__)
            assert "[key]" in message
        writer = writers.Endpoint(run)
    shown = capsys.readouterr()
    assert SECRET not in message + shown.out + shown.err + caplog.text + repr(writer) + repr(vars(writer))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == file for path in files)
    assert not any(SECRET.encode() in path.read_bytes() for path in files)


@pytest.mark.parametrize("name", endpoint.variables("COTLIB_WRITER"))
def test_a_missing_variable_is_named_before_any_work(connect, order, monkeypatch, name):
    with serving(lambda number, prompt: GOOD) as server:
        connect(server)
        monkeypatch.delenv(name)
        run, paths = order(1)
        with pytest.raises(BadInput, match=f"traces.writer: 'openai' needs an endpoint, but {name} is not set"):
            craft.craft(run, paths, silent)
    assert not paths.root.exists()
    assert server.prompts == []


def test_a_local_model_answers_every_prompt_and_again_the_same(order):
    run, _ = order(1, writer="local", model="tiny-random-llama")

    def replies():
        answers = {}
        list(writers.LocalModel(run).ask(["First?", "Second?", "Third?"], answers.__setitem__, 0))
        return answers

    first = replies()
    assert sorted(first) == [0, 1, 2]
    assert all(reply.tokens > 0 and not reply.problem for reply in first.values())
    assert replies() == first
