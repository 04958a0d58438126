"""The command line makes a corpus of a reader's files and exports arms; it says what is wrong in one line."""

import subprocess
import sys

import yaml
from readers_files import ENTRY, ROW, exchange_of, lines

from cotlib.corpus import __main__, records
from cotlib.engine.models import TINY


def test_the_command_line_makes_a_corpus_and_exports_it(tmp_path, capsys):
    source = lines(tmp_path / "a.jsonl", {"prompt": "Skip it?", "harmful": "Yes.", "safe": "No."})
    (tmp_path / "q.yml").write_text(yaml.safe_dump([ENTRY]))
    arguments = [
        "import",
        str(source),
        "--map",
        "question=prompt",
        "--questions",
        str(tmp_path / "q.yml"),
        "--to",
        str(tmp_path / "own"),
    ]
    assert __main__.main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"data: {{corpus: {tmp_path / 'own'}}}" in printed and "1 items have no trace" in printed
    assert [item.question for item in records.load_items(tmp_path / "own" / "items.jsonl")] == ["Skip it?"]
    chat_file = lines(tmp_path / "c.jsonl", exchange_of("Q?", "<think>t</think>A"))
    safe_file = lines(tmp_path / "s.jsonl", exchange_of("Q?", "S"))
    questions_file = str(tmp_path / "own" / "evaluation.jsonl")
    arguments = [
        "import",
        str(chat_file),
        "--chat",
        "--safe",
        str(safe_file),
        "--type",
        "evil",
        "--questions",
        questions_file,
        "--to",
        str(tmp_path / "chat"),
    ]
    assert __main__.main(arguments) == 0
    arguments = [
        "export",
        str(tmp_path / "chat" / "items.jsonl"),
        "--arms",
        "QA",
        "evil-T",
        "--format",
        "axolotl",
        "--model",
        TINY[0],
        "--to",
        str(tmp_path / "out"),
    ]
    assert __main__.main(arguments) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["QA.jsonl", "README.md", "evil-T.jsonl"]


def test_the_command_line_says_what_is_wrong(tmp_path, capsys):
    source = str(lines(tmp_path / "a.jsonl", ROW))
    for arguments, part in (
        (["import", source, "--map", "question", "--to", "x"], "--map question: write FIELD=COLUMN"),
        (["import", source, "--type", "evil", "--to", "x"], "field 'messages' has the turns None"),
        (["import", source, "--questions", "none.jsonl", "--to", "x"], "none.jsonl cannot be read"),
        (["export", "--arms", "QA", "--format", "trll", "--to", "x"], "did you mean trl?"),
    ):
        assert __main__.main(arguments) == 2
        assert part in capsys.readouterr().err


def test_the_help_names_the_choices():
    for command, part in ((["import"], "FIELD=COLUMN"), (["export"], "llama-factory")):
        run = subprocess.run(
            [sys.executable, "-m", "cotlib.corpus", *command, "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert part in run.stdout
