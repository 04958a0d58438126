"""Text from templates: whatever is filled in is escaped, so what a model wrote is shown and never rendered."""

import functools
import unicodedata

from IPython.display import HTML
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape


def visible(text):
    """Text as HTML whose invisible control characters are written out, such as ⟨U+202E⟩; line breaks stay.

    Marks of direction would turn the text around them as well, and a page cannot hold the other ones.
    """

    def shown(character):
        hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs") and character not in "\n\t\u200c\u200d\u00ad"
        return f"⟨U+{ord(character):04X}⟩" if hidden else character

    return escape("".join(map(shown, str(text))))


def number(value, digits=3):
    """A number with its sign, or a dash where there is none."""
    return "–" if value is None or value != value else f"{value:+.{digits}f}"


@functools.cache
def _templates():
    templates = Environment(
        loader=PackageLoader("cotlib.pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=lambda value: value if isinstance(value, Markup) else visible(value),
    )  # fmt: skip
    templates.filters["number"] = number
    return templates


def fill(name, **values):
    """Template `name` of `cotlib/pages/templates` filled with values, as HTML that a notebook shows."""
    return HTML(_templates().get_template(f"{name}.html").render(**values).strip())


def as_is(text):
    """HTML of our own that a template takes as it is."""
    return Markup(text)
