"""Input that cannot be used, said in one message: the field, the value, and what to type instead."""

import difflib


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
