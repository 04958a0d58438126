"""Input that cannot be used, said in one message: the field, the value, and what to type instead."""

import difflib
import re
import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlevel = 3


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


def explain(schema, error, noun="field"):
    """One line for one of pydantic's errors: the field, its value, what is valid there, the nearest valid name.

    Args:
        schema: the pydantic model that refused the input.
        error: an entry of `ValidationError.errors()`.
        noun: what a field is called where the reader writes it; `key` in a YAML file.
    """
    place, kind, value, context = error["loc"], error["type"], error.get("input"), error.get("ctx", {})
    field = ".".join(str(part) for part in place)
    if kind == "missing":
        return f"{noun} {field!r} is missing; add it"
    if kind == "extra_forbidden":
        valid = _fields(schema, place[:-1])
        return f"unknown {noun} {field!r}{suggestion(place[-1], valid)} (valid here: {', '.join(valid)})"
    if kind == "value_error":
        fault = context["error"]
        # A BadInput names its field itself.
        return str(fault) if isinstance(fault, BadInput) or not field else f"{field}: {fault}"
    if kind == "literal_error":
        valid = re.findall(r"'([^']*)'", context["expected"])
        # The loc of a mapping's key ends in the key itself and "[key]"; the field is what comes before.
        field = ".".join(str(part) for part in place[:-2]) if place[-1] == "[key]" else field
        return f"{field}: {shown(value)} is not one of {', '.join(valid)}{suggestion(value, valid)}"
    if kind == "invalid_key" or (place and place[-1] == "[key]"):
        return f"{field.removesuffix('.[key]')}: the key {shown(value)} is not a name; write it as text"
    if not place:
        return f"{shown(value)} is not an object with fields {', '.join(schema.model_fields)}"
    return f"{field}: {shown(value)} {_demand(kind, value, error['msg'])}"


def _demand(kind, value, message):
    """What a value has to be, in the words that follow it."""
    if kind == "too_short":
        return "is empty; write at least one"
    if kind == "string_pattern_mismatch":
        return "may hold only lower-case letters, digits and dashes; write one such as 'my-run'"
    if kind == "string_unicode":
        return "holds half a character (a lone surrogate), which no file can store; write the whole character"
    demand = "should " + re.sub(r" or instance of \w+", "", message.partition(" should ")[2] or message)
    if kind == "float_type" and isinstance(value, str) and re.fullmatch(r"[\d.]+[eE][-+]?\d+", value):
        exact = repr(float(value))
        demand += f" (YAML reads {value} as text: write {exact if '.' in exact else exact.replace('e', '.0e')})"
    return demand


def _fields(schema, place):
    """Names of the fields that a model, or the model in its field at `place`, knows."""
    for part in place:
        field = getattr(schema, "model_fields", {}).get(part)
        schema = field and field.annotation
    return list(getattr(schema, "model_fields", {}))
