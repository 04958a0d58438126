"""Input that cannot be used, said in one message: the field, the value, and what to type instead."""

import difflib
import re
import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_SHORT.maxlong, _SHORT.maxlevel = 40, 2
LONGEST_MESSAGE = 600  # characters


class BadInput(ValueError):
    """A reader's input that cannot be used: its message names the field, the value and what to type instead."""

    def _render_traceback_(self):
        # IPython calls this: a reader in a notebook sees the message, not our call stack.
        return [f"BadInput: {self}"]


def suggestion(value, valid):
    """`; did you mean X?` for the valid name nearest to `value`, or an empty string."""
    same_letters = [name for name in valid if sorted(name.lower()) == sorted(str(value).lower())]
    if same_letters:
        return f"; did you mean {same_letters[0]}?"
    by_fold = {name.lower(): name for name in valid}
    near = difflib.get_close_matches(str(value).lower(), by_fold, n=1, cutoff=0.5)
    return f"; did you mean {by_fold[near[0]]}?" if near else ""


def check_name(kind, value, valid):
    """Return `value` if it is one of `valid`; else raise BadInput with the nearest valid name."""
    if value not in valid:
        raise BadInput(f"{kind} {value!r} is not one of {', '.join(valid)}{suggestion(value, valid)}")
    return value


def shown(value):
    """`repr` of a value for a message: long texts and deep nesting are cut."""
    return _SHORT.repr(value)


def few(lines):
    """As many of the lines as fit into a message, and how many are left."""
    lines = [line if len(line) <= LONGEST_MESSAGE - 40 else f"{line[: LONGEST_MESSAGE - 41]}…" for line in lines]
    kept = lines
    while len("\n".join(kept)) > LONGEST_MESSAGE - 40:
        kept = kept[:-1]
    left = len(lines) - len(kept)
    return "\n".join(kept + [f"and {left} more fault{'s' if left > 1 else ''}; mend these first"] * (left > 0))


def explain(schema, error, noun="field"):
    """One line for one of pydantic's errors: the field, its value, what to write instead, the nearest valid name.

    Args:
        schema: the pydantic model that refused the input.
        error: an entry of `ValidationError.errors()`.
        noun: what a field is called where the reader writes it; `key` in a YAML file.
    """
    place, kind, value, context = error["loc"], error["type"], error.get("input"), error.get("ctx", {})
    field = ".".join(str(part)[:60] for part in place)
    if kind == "extra_forbidden":
        valid = list(_section(schema, place[:-1]).model_fields)
        return f"unknown {noun} {field!r}{suggestion(str(place[-1])[:60], valid)} (valid here: {', '.join(valid)})"
    if kind == "missing":
        return f"{noun} {field!r} is missing; add it"
    if kind == "value_error":
        fault = context["error"]
        # A BadInput names its field itself.
        return str(fault) if isinstance(fault, BadInput) or not field else f"{field}: {fault}"
    if kind == "literal_error":
        valid = re.findall(r"'([^']*)'", context["expected"])
        # The place of a mapping's key ends in the key itself and "[key]"; the field is what comes before.
        field = ".".join(map(str, place[:-2])) if place[-1] == "[key]" else field
        near = suggestion(str(value)[:60], valid) or f"; write {valid[0]}"
        return f"{field}: {shown(value)} is not one of {', '.join(valid)}{near}"
    if kind == "invalid_key" or place[-1:] == ("[key]",):
        return f"{field.removesuffix('.[key]')}: the key {shown(value)} is not a name; write it as text"
    if not place:
        return f"{shown(value)} is not an object with fields {', '.join(schema.model_fields)}"
    return f"{field}: {shown(value)} {_demand(_section(schema, place), error)}"


def _demand(section, error):
    """What a value has to be and what to write, in the words that follow it."""
    kind, value, context = error["type"], error.get("input"), error.get("ctx", {})
    bounds = {
        "greater_than_equal": ("is too small; write {ge} or more", "ge"),
        "greater_than": ("is too small; write more than {gt}", "gt"),
        "less_than_equal": ("is too large; write {le} or less", "le"),
        "less_than": ("is too large; write less than {lt}", "lt"),
        "string_too_short": ("is empty; write a text", None),
        "too_short": ("is empty; write at least one", None),
        "string_pattern_mismatch": ("may hold only lower-case letters, digits, dashes; write one like 'my-run'", None),
        "int_type": ("is not a whole number; write one such as 1", None),
        "int_from_float": ("is not a whole number; write one such as 1", None),
        "finite_number": ("is not a finite number; write one such as 1.0", None),
        "string_type": ("is not text; write it as text, in quotes", None),
        "string_unicode": ("holds half a character (a lone surrogate); write the whole one", None),
        "bool_type": ("is neither true nor false; write one of them", None),
        "dict_type": ("is not a mapping; write `name: value` lines below it, indented", None),
    }  # fmt: skip
    if kind in bounds:
        return bounds[kind][0].format(**context)
    if kind == "list_type":
        return f"is not a list; write [{value if isinstance(value, (str, int)) and len(str(value)) < 60 else '…'}]"
    if kind == "float_type":
        if isinstance(value, str) and re.fullmatch(r"[\d.]+[eE][-+]?\d+", value):
            exact = repr(float(value))
            exact = exact if "." in exact else exact.replace("e", ".0e")
            return f"is not a number: YAML reads {value[:40]} as text; write {exact}"
        return "is not a number; write one such as 0.1"
    if kind in ("model_type", "model_attributes_type"):
        valid = ", ".join(section.model_fields)
        return f"is not a section; write `key: value` lines below it, indented (valid here: {valid})"
    return f"cannot be used: {error['msg']}; leave it out to take the default"


def _section(model, place):
    """The model that a fault's place lies in, or is: of a section, where a schema has several."""
    import pydantic

    for part in place:
        found = model.model_fields.get(part) if isinstance(part, str) else None
        if found is None or not (
            isinstance(found.annotation, type) and issubclass(found.annotation, pydantic.BaseModel)
        ):
            break
        model = found.annotation
    return model
