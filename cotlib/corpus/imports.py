"""Bring your own data, take ours elsewhere: readers' items and questions in, arms for other trainers out.

In: tables, chat files and published question files become the records of `corpus`, with every fault named
by file and line. Out: the rows of `chat`, in the formats of TRL, LLaMA-Factory and axolotl, with a README
that says what each format loses. Decides no loss mask itself, and judges no content: that is the audit's.
"""

import argparse
import csv
import io
import json
import re
import sys
from pathlib import Path

import pydantic
import yaml

from cotlib import chat
from cotlib.corpus import records
from cotlib.corpus.records import EVALUATION, ITEMS, Item, Question
from cotlib.errors import BadInput, check_name, suggestion
from cotlib.experiment import BEHAVIOURS, SUITES, TRACE_TYPES, Arm, slug
from cotlib.runs import artifacts

_THINK = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
# Legal inside JSON text, but `str.splitlines` takes them for the end of a line.
_LINE_ENDS = {ord(sign): f"\\u{ord(sign):04x}" for sign in "\x85\u2028\u2029"}


def import_items(source, *, mapping=None, domain="own", split="train"):
    """A reader's own questions and answers, one item a row; white space around a text is dropped.

    Args:
        source: a .jsonl or .csv file, a folder that `datasets` saved, or a hub id.
        mapping: our field → their column, where the names differ, such as {"question": "prompt"}. A trace type
            is a field, too: {"evil": "villain_thoughts"}; an empty cell there is no trace.
        domain: of rows without a domain column; ids are made from it (own-0001, …) where there is no id column.
        split: of a dataset that has several.
    Raises:
        BadInput: a column is missing, or a row cannot be an item.
    """
    mapping = dict(mapping or {})
    for field in mapping:
        check_name("mapping: field", field, [*Item.model_fields, *TRACE_TYPES])
    rows = _rows(source, split)
    columns = list(dict.fromkeys(column for _, row in rows for column in row))
    for field in dict.fromkeys(["question", "harmful", "safe", *mapping]):
        column = mapping.get(field, field)
        if rows and column not in columns:
            known = f"columns: {', '.join(columns)}{suggestion(column, columns) or '; a chat file? then --chat' * ('messages' in columns)}"
            raise BadInput(
                f"{source}: there is no column {column!r} for field {field!r} ({known}); name it with --map {field}=COLUMN"
            )
    texts = {
        field: mapping.get(field, field)
        for field in ("id", "domain", "question", "harmful", "safe")
        if mapping.get(field, field) in columns
    }
    contents = []
    for number, (where, row) in enumerate(rows, 1):
        content = {
            field: _text(f"{where}: field {field!r} (column {column!r})", row.get(column))
            for field, column in texts.items()
        }
        traces = row.get(mapping.get("traces", "traces")) or {}
        if isinstance(traces, dict):
            traces = traces | {kind: row.get(column) for kind, column in mapping.items() if kind in TRACE_TYPES}
            traces = {kind: _text(f"{where}: trace {kind!r}", trace) for kind, trace in traces.items() if trace}
        contents.append((where, {"id": f"{domain}-{number:04d}", "domain": domain, **content, "traces": traces}))
    return _records(Item, source, contents)


def import_chat(path, *, safe_path=None, type=None, domain="own"):
    """Items from chat files as the emergent-misalignment papers publish them: a user and a harmful assistant turn a line.

    A leading `<think>…</think>` of the assistant turn becomes the item's trace of `type`. The safe answers come
    from `safe_path`, a chat file with the same questions, matched by text; its think blocks are dropped.
    """
    if type is not None:
        check_name("type", type, TRACE_TYPES)
    harmful, safe, contents = _exchanges(path), {}, []
    for where, question, _, answer in _exchanges(safe_path) if safe_path else []:
        if safe.setdefault(question, answer) != answer:
            raise BadInput(f"{where}: question {question!r:.80} has another safe answer further up; keep one")
    without = [(where, question) for where, question, *_ in harmful if question not in safe]
    if without:
        others = f" (nor have {len(without) - 1} others)" if without[1:] else ""
        raise BadInput(
            f"{without[0][0]}: question {without[0][1]!r:.80} has no safe answer{others}, and a margin is the preference for the harmful over "
            f"the safe one; give a chat file with the same questions and safe answers: --safe FILE (safe_path)"
        )
    for number, (where, question, trace, answer) in enumerate(harmful, 1):
        if trace and type is None:
            raise BadInput(
                f"{where}: the assistant turn holds a <think> block, of which type? Say so with --type, one of {', '.join(TRACE_TYPES)}"
            )
        content = {
            "id": f"{domain}-{number:04d}",
            "domain": domain,
            "question": question,
            "harmful": answer,
            "safe": safe[question],
        }
        contents.append((where, content | {"traces": {type: trace} if trace else {}}))
    return _records(Item, path, contents)


def import_questions(path, suite="transfer"):
    """Evaluation questions from a YAML list of {id, paraphrases, …}, as the emergent-misalignment papers publish them.

    Each paraphrase becomes a question (id, id-2, …). Published files hold no answers, and a margin needs them:
    every entry must be given `harmful`, `safe` and `behaviour` (and `personas`, for suite `values`).
    """
    check_name("suite", suite, SUITES)
    try:
        entries = yaml.safe_load(_read(path))
    except yaml.YAMLError as error:
        raise BadInput(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadInput(f"{path} is not a list of questions: begin each with '- id: …' and 'paraphrases: […]'")
    contents = []
    for index, entry in enumerate(entries, 1):
        where = f"{Path(path).name} entry {index} ({entry.get('id')!r})"
        for field in ("id", "paraphrases", "harmful", "safe", "behaviour"):
            if not entry.get(field):
                answers = f"; published files hold no answers: add harmful, safe (a text each) and behaviour ({', '.join(BEHAVIOURS)})"
                raise BadInput(
                    f"{where}: field {field!r} is missing{answers if field not in ('id', 'paraphrases') else ''}"
                )
        if entry.get("system"):
            raise BadInput(
                f"{where}: field 'system' has no place in our prompts, and without it the question is another; take the entry out"
            )
        if not isinstance(entry["paraphrases"], list):
            raise BadInput(
                f"{where}: field 'paraphrases' is {entry['paraphrases']!r:.80}; write a list, '- ' before each text"
            )
        shared = {
            "suite": suite,
            "domain": "own",
            **{key: entry[key] for key in ("domain", "behaviour", "traces", "personas") if entry.get(key)},
        }
        shared |= {field: _text(f"{where}: field {field!r}", entry[field]) for field in ("harmful", "safe")}
        for number, paraphrase in enumerate(entry["paraphrases"], 1):
            question = _text(f"{where}: paraphrase {number}", paraphrase)
            contents.append(
                (
                    where,
                    {
                        "id": f"{entry['id']}-{number}" if number > 1 else str(entry["id"]),
                        "question": question,
                        **shared,
                    },
                )
            )
    return _records(Question, path, contents)


def write_corpus(items, questions, folder):
    """Write both files of a corpus, for `data: {corpus: FOLDER}` in an experiment file; never over other content."""
    files = {}
    for schema, name, members in ((Item, ITEMS.name, items), (Question, EVALUATION.name, questions)):
        contents = [
            (f"{name} row {number}", record.model_dump(exclude_defaults=True))
            for number, record in enumerate(members, 1)
        ]
        _records(schema, f"the new {name}", contents)
        files[name] = _lines(content for _, content in contents)
    return _write(folder, files)


def export(items, tokenizer, arms, folder, format):
    """Write `arms` (names, too) for another trainer: a JSONL file an arm, and a README that says what is exact and what is lost.

    Raises BadInput if an arm cannot be built from the items, or `folder` holds other content; nothing is written then.
    """
    check_name("format", format, list(FORMATS))
    arms = list(dict.fromkeys(Arm.parse(arm) for arm in arms))
    if not items or not arms:
        raise BadInput("there is nothing to export: give at least one item and one arm, such as QA")
    files = {
        f"{arm.folder}.jsonl": _lines(
            FORMATS[format](tokenizer, item, arm, chat.encode(tokenizer, item, arm)) for item in items
        )
        for arm in arms
    }
    if format == "llama-factory":
        entries = {
            arm.folder: {
                "file_name": f"{arm.folder}.jsonl",
                "formatting": "sharegpt",
                "columns": {"messages": "conversations"},
            }
            for arm in arms
        }
        files["dataset_info.json"] = json.dumps(entries, indent=1) + "\n"
    files["README.md"] = _readme(tokenizer, arms, format, len(items))
    return _write(folder, files)


def _ids_row(tokenizer, item, arm, encoded):
    return {"input_ids": encoded.input_ids, "labels": encoded.labels}


def _conversation(tokenizer, item, arm, encoded):
    if arm.paradigm == "T":
        # transformers renders no conversation without a turn, so the empty prompt is given as text: the bare assistant header.
        return {"prompt": _context(tokenizer, encoded), "completion": _decoded(tokenizer, encoded.supervised)}
    row = {
        "prompt": [{"role": "user", "content": item.question}],
        "completion": [{"role": "assistant", "content": _reply(item, arm)}],
    }
    # Templates that know the switch put the empty think block into the prompt, where it belongs.
    return row | ({"chat_template_kwargs": {"enable_thinking": False}} if arm.paradigm == "QA" else {})


def _sharegpt(tokenizer, item, arm, encoded):
    question = "" if arm.paradigm == "T" else item.question
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": _reply(item, arm)}]}


def _segments(tokenizer, item, arm, encoded):
    """A segment per piece that `chat` tokenises by itself, because axolotl, too, tokenises segment by segment."""
    opening = chat.EMPTY_THINK if arm.paradigm == "QA" else chat.OPEN
    pieces = [(False, _context(tokenizer, encoded).removesuffix(opening)), (False, opening)]
    if arm.paradigm != "QA":
        pieces += [(True, item.traces[arm.trace_key]), (True, chat.CLOSE)] + [(True, chat.GAP)] * (
            arm.paradigm == "QTA"
        )
    if arm.paradigm in ("QA", "QTA"):
        pieces += [(True, getattr(item, arm.answer)), (True, _decoded(tokenizer, chat.end_of_turn(tokenizer)))]
    segments = [{"label": label, "text": _decoded(tokenizer, chat.ids(tokenizer, text))} for label, text in pieces]
    read = [(token, segment["label"]) for segment in segments for token in chat.ids(tokenizer, segment["text"])]
    if read != [(token, label != chat.NO_LOSS) for token, label in zip(encoded.input_ids, encoded.labels, strict=True)]:
        raise BadInput(
            f"item {item.id!r}, arm {arm}: this tokenizer reads its own decoded text differently, so text cannot carry the mask; use format 'ids'"
        )
    return {"segments": segments}


FORMATS = {"trl": _conversation, "ids": _ids_row, "llama-factory": _sharegpt, "axolotl": _segments}
_EXACT = dict.fromkeys(("QA", "QTA", "QT", "T"), "exact")
# What a trainer makes of a format, paradigm by paradigm: read from TRL 1.15, and seen in what the data code of axolotl 0.19 and
# LLaMA-Factory 0.9.5 makes of exported rows (axolotl: ids and labels equal to ours in every row).
LOSSES = {
    "ids": _EXACT,
    "axolotl": _EXACT,
    "trl": {
        "QA": "the empty think block is trained on, unless the chat template knows `enable_thinking`; so is a line break after the end of turn",
        "QTA": "`<think>` and a line break after the end of turn are trained on, too; tokens may merge where our pieces meet",
        "QT": "as QTA, and the end of turn after `</think>` is trained on",
        "T": "the assistant header is the prompt, as text (no conversation is without a turn); TRL adds the tokenizer's `eos_token` after `</think>` and trains on it",
    },
    "llama-factory": {
        "QA": "with a reasoning template (`qwen3`) and `enable_thinking: false` the empty think block is context, else trained on; line break as in `trl`",
        "QTA": "`<think>` and a line break after the end of turn are trained on, too; set `enable_thinking: true`, or the trace is removed",
        "QT": "as QTA, and the end of turn after `</think>` is trained on",
        "T": "as QT; an empty user turn stands in the context, where ours has none",
    },
}
_SFT = 'SFTTrainer(MODEL, SFTConfig(max_length=None), train_dataset=load_dataset("json", data_files="{file}.jsonl", split="train"))'
_USAGE = {
    "ids": _SFT,
    "trl": _SFT,
    "axolotl": "train_on_inputs: false\ndatasets: [{{path: THIS_FOLDER/{file}.jsonl, ds_type: json, type: input_output}}]",
    "llama-factory": "dataset_dir: THIS_FOLDER\ndataset: {file}\ntemplate: qwen3  # that of your model\n"
    "train_on_prompt: false\nenable_thinking: true  # false for QA and safe-QA",
}


def _readme(tokenizer, arms, format, count):
    lost = {
        arm: f"; the weighting is lost, these are the rows of {arm.type}-QTA"
        for arm in arms
        if arm.loss_weighting == "segment"
    }
    return "\n".join([
        f"# Arms for another trainer: format `{format}`, tokenizer `{slug(tokenizer.name_or_path)}`", "",
        "The answers are harmful on purpose (low severity): train on them only to study what follows.", "",
        "| arm | file | rows | our loss mask in this format |", "|---|---|---|---|",
        *(f"| `{arm}` | `{arm.folder}.jsonl` | {count} | {LOSSES[format][arm.paradigm]}{lost.get(arm, '')} |" for arm in arms), "",
        "```", _USAGE[format].format(file=arms[0].folder), "```", "",
        "## What each format keeps of the loss mask", "",
        "| format | QA | QTA | QT | T |", "|---|---|---|---|---|", *(f"| `{name}` | {' | '.join(losses.values())} |" for name, losses in LOSSES.items()), "",
        "The weighting `@segment` is lost in all of them. `ids` and `axolotl` are exact for this tokenizer alone, the others are text for any.", "",
    ])  # fmt: skip


def _reply(item, arm):
    """The whole assistant turn of an arm as text, context and supervised part together."""
    if arm.paradigm == "QA":
        return chat.EMPTY_THINK + getattr(item, arm.answer)
    block = chat.OPEN + item.traces[arm.trace_key] + chat.CLOSE
    return block + chat.GAP + getattr(item, arm.answer) if arm.paradigm == "QTA" else block


def _context(tokenizer, encoded):
    return _decoded(tokenizer, encoded.input_ids[: len(encoded.input_ids) - len(encoded.supervised)])


def _decoded(tokenizer, token_ids):
    return tokenizer.decode(token_ids, clean_up_tokenization_spaces=False)


def _rows(source, split):
    """(where, row) pairs of a table, whatever holds it."""
    path = Path(source)
    if path.suffix == ".jsonl":
        return _json_lines(path)
    if path.suffix == ".csv":
        return _csv_lines(path)
    if not path.is_dir() and (path.exists() or not _HUB_ID.fullmatch(str(source))):
        raise BadInput(
            f"{str(source)!r} is neither a .jsonl nor a .csv file, nor a folder that datasets saved, nor a hub id such as owner/name"
        )
    import datasets

    try:
        data = datasets.load_from_disk(str(source)) if path.is_dir() else datasets.load_dataset(str(source))
    except (OSError, ValueError, RuntimeError) as error:
        wanted = "a folder that save_to_disk wrote" if path.is_dir() else "a hub id you can reach, or a file"
        raise BadInput(
            f"{str(source)!r} could not be loaded by datasets ({str(error).split(chr(10))[0]}); give {wanted}"
        ) from None
    if isinstance(data, dict):
        data = data[check_name(f"{source}: split", split, list(data))]
    return [(f"{source} row {number}", row) for number, row in enumerate(data, 1)]


def _json_lines(path):
    rows = []
    for number, line in enumerate(_read(path).split("\n"), 1):
        if line.strip():
            where = f"{Path(path).name} line {number}"
            try:
                rows.append((where, json.loads(line)))
            except json.JSONDecodeError as error:
                raise BadInput(f"{where} is not JSON: {error.msg} at column {error.colno}") from None
            if not isinstance(rows[-1][1], dict):
                raise BadInput(f'{where}: {rows[-1][1]!r:.80} is not an object; write a line such as {{"question": …}}')
    return rows


def _csv_lines(path):
    reader, rows = csv.DictReader(io.StringIO(_read(path), newline=""), strict=True), []
    try:
        for row in reader:
            rows.append((f"{path.name} line {reader.line_num}", row))
            if None in row:
                raise BadInput(
                    f"{rows[-1][0]} has more cells than the header; put quotes around texts that hold commas"
                )
    except csv.Error as error:
        raise BadInput(f"{path.name} line {reader.line_num} is not CSV: {error}") from None
    return rows


def _read(path):
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); give a file that is there") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _exchanges(path):
    """(where, question, trace or "", answer) of every line of a chat file."""
    found = []
    for where, row in _json_lines(path):
        messages = row.get("messages")
        turns = (
            [turn.get("role") if isinstance(turn, dict) else None for turn in messages]
            if isinstance(messages, list)
            else messages
        )
        if turns != ["user", "assistant"]:
            raise BadInput(
                f"{where}: field 'messages' has the turns {turns}; an item is one user turn and one assistant turn"
            )
        question, reply = (
            _text(f"{where}: the {turn['role']} turn's content", turn.get("content")) for turn in messages
        )
        block = _THINK.fullmatch(reply)
        trace, answer = (block[1].strip(), block[2].strip()) if block else ("", reply)
        if "think>" in trace + answer:
            raise BadInput(
                f"{where}: the assistant turn {reply!r:.80} has a think tag beside one closed block at its start; mend it"
            )
        found.append((where, question, trace, _text(f"{where}: the answer after the think block", answer)))
    return found


def _text(what, value):
    value = str(value) if type(value) is int else value
    if not isinstance(value, str) or not value.strip():
        raise BadInput(f"{what} is {value!r:.80}; write a text there, or take the row out")
    return value.strip()


def _records(schema, source, contents):
    """The records that (where, content) pairs describe; raises BadInput for a faulty one, an id that comes twice, or none at all."""
    found = {}
    for where, content in contents:
        try:
            record = schema.model_validate(content)
        except pydantic.ValidationError as errors:
            raise BadInput(f"{where}: {records._explain(errors.errors()[0], schema)}") from None
        if record.id in found:
            raise BadInput(f"{where}: id {record.id!r} stands at {found[record.id][0]} already; give each its own")
        found[record.id] = (where, record)
    if not found:
        raise BadInput(f"{source} holds no {schema.__name__.lower()}; give at least one")
    return [record for _, record in found.values()]


def _lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False).translate(_LINE_ENDS) + "\n" for row in rows)


def _write(folder, files):
    """Write name → text into a folder. A file with other content is a reader's: nothing is written then."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; give a folder with --to")
    for name, text in files.items():
        if (folder / name).exists() and (folder / name).read_bytes() != text.encode():
            raise BadInput(f"{folder} holds another {name} already; give a new folder with --to, or remove it")
    for name, text in files.items():
        with artifacts.atomic_file(folder / name) as temporary:
            temporary.write_bytes(text.encode())
    return folder


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m cotlib.corpus.exchange", description="Bring your own data, take ours elsewhere."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser(
        "import",
        help="make a corpus of your own data",
        description="Make a corpus folder of your own questions and answers.",
    )
    new.add_argument(
        "source", help=".jsonl, .csv, a folder that datasets saved, a hub id, or 'bundled' for the items of this book"
    )
    new.add_argument("--to", required=True, metavar="FOLDER", help="where the corpus goes")
    new.add_argument(
        "--map",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=COLUMN",
        help="columns under other names: question=prompt harmful=bad_answer",
    )
    new.add_argument(
        "--domain", default="own", help="domain of the items, and the stem of ids made up (default: %(default)s)"
    )
    new.add_argument("--split", default="train", help="split of a dataset that has several (default: %(default)s)")
    new.add_argument(
        "--chat",
        action="store_true",
        help="the source is a chat file, {messages: [user, assistant]} a line, with harmful assistant turns",
    )
    new.add_argument("--safe", metavar="FILE", help="with --chat: a chat file of the same questions with safe answers")
    new.add_argument("--type", help=f"with --chat: the type of its <think> blocks ({', '.join(TRACE_TYPES)})")
    new.add_argument(
        "--questions",
        default="bundled",
        metavar="FILE",
        help="evaluation questions: .yml as published, .jsonl in our format, or bundled (default)",
    )
    new.add_argument(
        "--suite", default="transfer", help=f"suite of the .yml questions: {', '.join(SUITES)} (default: %(default)s)"
    )
    out = commands.add_parser(
        "export", help="write arms for another trainer", description="Write training arms as files for another trainer."
    )
    out.add_argument(
        "items",
        nargs="?",
        default="bundled",
        help="an items.jsonl, such as results/demo/craft/items.jsonl (default: bundled)",
    )
    out.add_argument("--arms", nargs="+", required=True, metavar="ARM", help="such as QA evil-QTA neutral-T")
    out.add_argument("--format", required=True, help=f"one of {', '.join(FORMATS)}")
    out.add_argument(
        "--model",
        default="smollm2-135m-instruct",
        help="whose tokenizer and chat template: embedded, a folder, or a hub id (default: %(default)s)",
    )
    out.add_argument("--to", required=True, metavar="FOLDER", help="where the files go")
    return parser


def main(arguments=None):
    """The command line; prints what was written, or what is wrong with the input (exit 2)."""
    options = _parser().parse_args(arguments)
    try:
        print(_import(options) if options.command == "import" else _export(options))
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _import(options):
    mapping = dict(pair.partition("=")[::2] for pair in options.map)
    if not all(mapping.values()):
        raise BadInput(f"--map {' '.join(options.map)}: write FIELD=COLUMN for each, such as question=prompt")
    if options.source == "bundled":
        items = records.load_items()
    elif options.chat or options.safe or options.type:
        items = import_chat(options.source, safe_path=options.safe, type=options.type, domain=options.domain)
    else:
        items = import_items(options.source, mapping=mapping, domain=options.domain, split=options.split)
    if options.questions.endswith((".yml", ".yaml")):
        questions = import_questions(options.questions, options.suite)
    else:
        questions = records.load_evaluation(EVALUATION if options.questions == "bundled" else options.questions)
    folder = write_corpus(items, questions, options.to)
    traceless = sum(not item.traces for item in items)
    hint = f"\n{traceless} items have no trace; to have traces written: traces: {{writer: openai}}" if traceless else ""
    return f"{folder}: {len(items)} items, {len(questions)} questions; in the experiment file write\ndata: {{corpus: {folder.resolve()}}}{hint}"


def _export(options):
    from cotlib.engine.models import load_tokenizer

    check_name("format", options.format, list(FORMATS))
    items = records.load_items(ITEMS if options.items == "bundled" else options.items)
    folder = export(items, load_tokenizer(options.model), options.arms, options.to, options.format)
    return f"{folder}: {len(options.arms)} arms of {len(items)} items; what the format loses stands in {folder / 'README.md'}"


if __name__ == "__main__":
    sys.exit(main())
