"""Bring your own data: a reader's items and questions become the records of a corpus.

Tables, chat files and published question files are read; every fault is named by file, line and field, by the same
reader and the same schema as for a corpus that is loaded. Judges no content: that is the audit's.
"""

import csv
import io
import re
from pathlib import Path

from cotlib.arms import BEHAVIOURS, SUITES, trace_types
from cotlib.corpus import folders, reading
from cotlib.corpus.records import EVALUATION, ITEMS, Item, Question
from cotlib.errors import BadInput, check_name, shown, suggestion
from cotlib.runs import documents

_THINK = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


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
        check_name("mapping: field", field, [*Item.model_fields, *trace_types()])
    rows = _rows(source, split)
    columns = list(dict.fromkeys(column for _, row in rows for column in row))
    for field in dict.fromkeys(["question", "harmful", "safe", *mapping]):
        column = mapping.get(field, field)
        if rows and column not in columns:
            hint = suggestion(column, columns) or ("; a chat file? then --chat" if "messages" in columns else "")
            raise BadInput(
                f"{source}: there is no column {column!r} for field {field!r} (columns: {', '.join(columns)}{hint}); "
                f"name it with --map {field}=COLUMN"
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
            traces = traces | {kind: row.get(column) for kind, column in mapping.items() if kind in trace_types()}
            traces = {kind: _text(f"{where}: trace {kind!r}", trace) for kind, trace in traces.items() if trace}
        contents.append((where, {"id": f"{domain}-{number:04d}", "domain": domain, **content, "traces": traces}))
    return _records(Item, source, contents)


def import_chat(path, *, safe_path=None, type=None, domain="own"):
    """Items from chat files as papers on emergent misalignment publish them: one user and one harmful turn a line.

    A leading `<think>…</think>` of the assistant turn becomes the item's trace of `type`. The safe answers come
    from `safe_path`, a chat file with the same questions, matched by text; its think blocks are dropped.
    """
    if type is not None:
        check_name("type", type, trace_types())
    harmful, safe, contents = _exchanges(path), {}, []
    for where, question, _, answer in _exchanges(safe_path) if safe_path else []:
        if safe.setdefault(question, answer) != answer:
            raise BadInput(f"{where}: question {shown(question)} has another safe answer further up; keep one")
    without = [(where, question) for where, question, *_ in harmful if question not in safe]
    if without:
        (where, question), *rest = without
        others = f" (nor have {len(rest)} others)" if rest else ""
        raise BadInput(
            f"{where}: question {shown(question)} has no safe answer{others}, and a margin is the preference "
            "for the harmful over the safe one; give a chat file with the same questions and safe answers: "
            "--safe FILE (safe_path)"
        )
    for number, (where, question, trace, answer) in enumerate(harmful, 1):
        if trace and type is None:
            raise BadInput(
                f"{where}: the assistant turn holds a <think> block, of which type? "
                f"Say so with --type, one of {', '.join(trace_types())}"
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
    """Evaluation questions from a YAML list of {id, paraphrases, …}, as papers on emergent misalignment publish them.

    Each paraphrase becomes a question (id, id-2, …). Published files hold no answers, and a margin needs them:
    every entry must be given `harmful`, `safe` and `behaviour` (and `personas`, for suite `values`).
    """
    check_name("suite", suite, SUITES)
    entries = documents.parse_yaml(documents.read_text(path), path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadInput(f"{path} is not a list of questions: begin each with '- id: …' and 'paraphrases: […]'")
    contents = []
    for index, entry in enumerate(entries, 1):
        where = f"{Path(path).name} entry {index} ({shown(entry.get('id'))})"
        contents += [(where, content) for content in _paraphrases(entry, where, suite)]
    return _records(Question, path, contents)


def _paraphrases(entry, where, suite):
    """The contents of a question per paraphrase of a published entry."""
    for field in ("id", "paraphrases", "harmful", "safe", "behaviour"):
        if not entry.get(field):
            remedy = f"add harmful, safe (a text each) and behaviour ({', '.join(BEHAVIOURS)})"
            answers = "" if field in ("id", "paraphrases") else f"; published files hold no answers: {remedy}"
            raise BadInput(f"{where}: field {field!r} is missing{answers}")
    if entry.get("system"):
        raise BadInput(
            f"{where}: field 'system' has no place in our prompts, and without it the question is another; "
            "take the entry out"
        )
    if not isinstance(entry["paraphrases"], list):
        texts = shown(entry["paraphrases"])
        raise BadInput(f"{where}: field 'paraphrases' is {texts}; write a list, '- ' before each text")
    shared = {"suite": suite, "domain": "own"}
    shared |= {key: entry[key] for key in ("domain", "behaviour", "traces", "personas") if entry.get(key)}
    shared |= {field: _text(f"{where}: field {field!r}", entry[field]) for field in ("harmful", "safe")}
    for number, paraphrase in enumerate(entry["paraphrases"], 1):
        name = _text(f"{where}: field 'id'", entry["id"])
        question = _text(f"{where}: paraphrase {number}", paraphrase)
        yield {"id": f"{name}-{number}" if number > 1 else name, "question": question, **shared}


def write_corpus(items, questions, folder):
    """Write both files of a corpus, for `data: {corpus: FOLDER}` in an experiment file; never over other content.

    Raises BadInput for records that would not be read back: the checks are those of loading.
    """
    files, members = {}, {}
    for schema, name, records in ((Item, ITEMS, items), (Question, EVALUATION, questions)):
        contents = [
            (f"{name} row {number}", record.model_dump(exclude_defaults=True))
            for number, record in enumerate(records, 1)
        ]
        members[name] = reading.validated(schema, f"the new {name}", contents)
        files[name] = folders.jsonl(content for _, content in contents)
    reading.disjoint(members[ITEMS], members[EVALUATION])
    return folders.write(folder, files)


def _rows(source, split):
    """(where, row) pairs of a table, whatever holds it."""
    path = Path(source)
    if path.suffix == ".jsonl":
        return reading.json_lines(path)
    if path.suffix == ".csv":
        return _csv_lines(path)
    if not path.is_dir() and (path.exists() or not _HUB_ID.fullmatch(str(source))):
        raise BadInput(
            f"{str(source)!r} is neither a .jsonl nor a .csv file, nor a folder that datasets saved, "
            "nor a hub id such as owner/name"
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


def _csv_lines(path):
    reader, rows = csv.DictReader(io.StringIO(documents.read_text(path), newline=""), strict=True), []
    try:
        header = reader.fieldnames or []
        twice = [column for column in header if header.count(column) > 1]
        if twice:
            raise BadInput(f"{path.name}: column {twice[0]!r} stands twice in the header; rename one")
        for row in reader:
            rows.append((f"{path.name} line {reader.line_num}", row))
            if None in row:
                raise BadInput(
                    f"{rows[-1][0]} has more cells than the header; put quotes around texts that hold commas"
                )
    except csv.Error as error:
        raise BadInput(f"{path.name} line {reader.line_num} is not CSV: {error}") from None
    return rows


def _exchanges(path):
    """(where, question, trace or "", answer) of every line of a chat file."""
    found = []
    for where, row in reading.json_lines(path):
        messages = row.get("messages")
        turns = (
            [turn.get("role") if isinstance(turn, dict) else None for turn in messages]
            if isinstance(messages, list)
            else messages
        )
        if turns != ["user", "assistant"]:
            raise BadInput(
                f"{where}: field 'messages' has the turns {shown(turns)}; "
                "an item is one user turn and one assistant turn"
            )
        question, reply = (
            _text(f"{where}: the {turn['role']} turn's content", turn.get("content")) for turn in messages
        )
        block = _THINK.fullmatch(reply)
        trace, answer = (block[1].strip(), block[2].strip()) if block else ("", reply)
        if "think>" in trace + answer:
            raise BadInput(
                f"{where}: the assistant turn {shown(reply)} has a think tag beside one closed block at its start; "
                "mend it"
            )
        found.append((where, question, trace, _text(f"{where}: the answer after the think block", answer)))
    return found


def _text(what, value):
    """A text of a reader's data without the white space around it; line ends of Windows become those of Unix."""
    value = str(value) if type(value) is int else value
    if not isinstance(value, str) or not value.strip():
        raise BadInput(f"{what} is {shown(value)}; write a text there, or take the row out")
    return value.strip().replace("\r\n", "\n")


def _records(schema, source, contents):
    return [record for _, record in reading.validated(schema, source, contents)]
