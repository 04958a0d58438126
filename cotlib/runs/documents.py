"""Text files and what stands in them as JSON or YAML: data, or one sentence that says what is wrong and where.

Knows nothing about what the data mean. A byte-order mark is accepted. A key that stands twice is refused, because
the later one would silently win; so is nesting too deep to be read, and YAML whose aliases expand without end.
"""

import gzip
import json
import zlib
from pathlib import Path

import yaml

from cotlib.errors import BadInput, shown

MOST_NODES = 100_000  # of a YAML document, its aliases expanded: far beyond any file that a person writes


def read_text(path, wanted="a file that is there"):
    """The text of a UTF-8 file, without a byte-order mark; unpacked where its name ends in `.gz`.

    Raises BadInput if it cannot be read, with `wanted` as what to give instead.
    """
    try:
        content = Path(path).read_bytes()
        return (gzip.decompress(content) if Path(path).suffix == ".gz" else content).decode("utf-8-sig")
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise BadInput(f"{path} is damaged: it is no whole gzip file; make it again") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); give {wanted}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def json_lines(path, wanted="a JSONL file"):
    """Pairs (where, value) for every line of a JSON Lines file that is not blank; `where` names file and line.

    Raises BadInput as `read_text` and `parse_json` do.
    """
    # Not splitlines: U+2028 and its like may stand in a text.
    lines = enumerate(read_text(path, wanted).split("\n"), 1)
    places = [(f"{Path(path).name} line {number}", line) for number, line in lines if line.strip()]
    return [(where, parse_json(line, where)) for where, line in places]


def parse_json(text, where):
    """The value of a JSON text. Raises BadInput, with `where` it stands, for anything else.

    Control characters inside a text pass: whoever knows the fields can say in which one they stand.
    """
    try:
        return json.loads(text, strict=False, object_pairs_hook=lambda pairs: _unique(pairs, where))
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise BadInput(f"{where} is not JSON: {error.msg} at {place}") from None
    except BadInput:
        raise
    except RecursionError:
        raise BadInput(f"{where} is nested too deeply to be read; take the inner brackets out") from None
    except ValueError:  # a whole number of thousands of digits
        raise BadInput(f"{where} holds a number that is too long to be read; shorten it") from None


def _unique(pairs, where):
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadInput(f"{where}: field {twice!r} stands twice in one object; keep one")
    return found


def parse_yaml(text, where):
    """The value of a YAML text, None for an empty one. Raises BadInput as `parse_json` does."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded(node, {}, where) > MOST_NODES:
            raise BadInput(f"{where}: its aliases (*name) expand to more than {MOST_NODES} values; write them out")
        return loader.construct_document(node)
    except BadInput:
        raise
    except RecursionError:
        raise BadInput(f"{where} is nested too deeply to be read; take the inner brackets out") from None
    # What PyYAML raises for `!!bool x` or a date that cannot be is anything but its own error.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        said = " ".join(str(error).split())
        said = said if len(said) <= 200 else f"{said[:100]} … {said[-100:]}"
        raise BadInput(f"{where} is not valid YAML: {said}; mend it there") from None


def _expanded(node, sizes, where):
    """How many values a YAML node stands for once its aliases are written out; refuses a key that stands twice."""
    if id(node) in sizes:
        if sizes[id(node)] is None:
            raise BadInput(f"{where} line {node.start_mark.line + 1}: an alias (*name) holds itself; write it out")
        return sizes[id(node)]
    sizes[id(node)] = None  # on the way down: whoever meets it again stands inside it
    members = []
    if isinstance(node, yaml.MappingNode):
        seen = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise BadInput(f"{where} line {line}: a key is a list or a mapping; write a name")
            name = (key.tag, key.value)
            if name in seen:
                lines = f"line {line}" if seen[name] == line else f"lines {seen[name]} and {line}"
                raise BadInput(f"{where}: key {shown(key.value)} stands twice, on {lines}; keep one")
            seen[name] = line
            members += [key, value]
    elif isinstance(node, yaml.SequenceNode):
        members = node.value
    sizes[id(node)] = 1 + sum(_expanded(member, sizes, where) for member in members)
    return sizes[id(node)]
