"""A figure for a page: SVG that stands in the HTML itself, with its alternative text."""

import functools
import hashlib
import io
import re
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from cotlib.pages import theme
from cotlib.pages.templating import as_is, fill

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
REFERENCE = re.compile(r"(?:^|url\()#([^)]+)")  # to an id, as matplotlib writes it
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)


class Picture:
    """What a figure function returns. A notebook shows it when a cell ends in it, and `myst_nb.glue` keeps it.

    Attributes:
        alt: the alternative text, for readers who do not see the figure.
        svg: the drawing, with ids that no other figure of a page has.
    """

    def __init__(self, figure, alt):
        self.alt, self.svg = alt, inline(figure)

    def __repr__(self):
        return f"Picture({self.alt!r})"

    def _repr_html_(self):
        return fill("figure", alt=self.alt, svg=as_is(self.svg)).data


def drawn(plot):
    """Make of a function that returns (figure, alternative text) one that returns a `Picture` in the book's theme.

    The theme holds within the function only: it does not change what a reader draws in the same notebook.
    """

    @functools.wraps(plot)
    def draw(*arguments, **options):
        with matplotlib.rc_context(theme.THEME):
            return Picture(*plot(*arguments, **options))

    return draw


def canvas(height, rows=1, columns=1, **options):
    """(figure, array of axes) as wide as a page's column; height in inches.

    The figure is unknown to pyplot, so nothing has to be closed and papermill cannot show it a second time.
    """
    figure = Figure(figsize=(theme.WIDTH, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def inline(figure):
    """A matplotlib figure as an SVG element for an HTML page: no date, and no wider than its column.

    Ids that nothing refers to go; the others begin with a digest of the drawing, since an id must be the only one of
    its page. What matplotlib writes as a style sheet would hold for the whole page: it becomes the element's own style.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    drawing = ElementTree.fromstring(buffer.getvalue())
    width = float(drawing.get("width").removesuffix("pt")) * 96 / 72
    for name in ("metadata", "defs"):  # at the top, `defs` holds nothing but the style sheet
        for part in drawing.findall(f"{{{SVG}}}{name}"):
            if name == "metadata" or part.find(f"{{{SVG}}}style") is not None:
                drawing.remove(part)
    for name in ("width", "height", "version"):
        drawing.attrib.pop(name, None)
    fonts = ", ".join(theme.FONTS)
    drawing.set("style", f"width:{width:.0f}px;max-width:100%;height:auto;font-family:{fonts};stroke-linejoin:round")
    _own_ids(drawing, f"f{hashlib.sha256(buffer.getvalue().encode()).hexdigest()[:10]}-")
    return ElementTree.tostring(drawing, encoding="unicode")


def _own_ids(drawing, prefix):
    """Begin every id that is referred to with `prefix`, drop the others, and leave the font to the whole drawing."""
    elements = list(drawing.iter())
    used = {name for element in elements for value in element.attrib.values() for name in REFERENCE.findall(value)}
    for element in elements:
        name = element.attrib.pop("id", None)
        for key, value in element.attrib.items():
            element.set(key, REFERENCE.sub(lambda found: found[0].replace("#", f"#{prefix}"), value))
        if name in used:
            element.set("id", prefix + name)
        if element.tag == f"{{{SVG}}}text":
            element.set("style", re.sub(r"font-family:[^;]*;?\s*", "", element.get("style")))
