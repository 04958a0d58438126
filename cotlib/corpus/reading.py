"""Corpus files as records, or one sentence that names file, line and field.

Every reader of JSON lines and every check of a record against its schema goes through here, for a corpus that is
loaded and for data that are imported alike. Knows no schema of its own: `records.py` brings them.
"""

import pydantic

from cotlib.errors import BadInput, explain, shown
from cotlib.runs import documents


def json_lines(path):
    """(where, object) for every line of a JSONL file that is not blank; `where` names file and line."""
    rows = documents.json_lines(path)
    for where, row in rows:
        if not isinstance(row, dict):
            raise BadInput(f'{where}: {shown(row)} is not an object; write a line such as {{"question": "…"}}')
    return rows


def validated(schema, source, rows):
    """(where, record) for (where, content) pairs. `source` names the whole in a message.

    Raises BadInput for content that is not a record of `schema`, for an id or a question that comes twice
    (questions: but for case, punctuation and white space), and for no rows at all.
    """
    found, ids, questions = [], {}, {}
    for where, content in rows:
        try:
            record = schema.model_validate(content)
        except pydantic.ValidationError as errors:
            raise BadInput(f"{where}: {explain(schema, errors.errors()[0])}") from None
        if record.id in ids:
            raise BadInput(f"{where}: id {record.id!r} stands at {ids[record.id]} already; give each its own")
        ids[record.id] = where
        for wording in record.wordings:
            if wording in questions:
                raise BadInput(
                    f"{where}: question {shown(record.question)} is asked at {questions[wording]} already; "
                    "ask another, or remove the line"
                )
            questions[wording] = where
        found.append((where, record))
    if not found:
        raise BadInput(f"{source} holds no {schema.__name__.lower()}; give at least one")
    return found


def load(path, schema):
    """(where, record) for every line of a corpus file. Raises BadInput with file, line and field."""
    return validated(schema, path, json_lines(path))


def disjoint(items, questions):
    """Refuse an evaluation question that is a training item's, too. Both are lists of (where, record)."""
    trained = {wording: (where, item) for where, item in items for wording in item.wordings}
    for where, asked in questions:
        for wording in filter(trained.get, asked.wordings):
            place, item = trained[wording]
            raise BadInput(
                f"{where}: question {shown(asked.question)} is that of training item {item.id!r} ({place}); "
                "a model would be evaluated on what it was trained on: remove one of them"
            )
