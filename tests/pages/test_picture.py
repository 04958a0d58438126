"""What a figure becomes on a page: SVG that collides with nothing, shown once, by a notebook and by a glued page."""

import re
import shutil
import subprocess
import sys
import textwrap
from xml.etree import ElementTree

import matplotlib
import matplotlib.pyplot
import nbformat
import pandas as pd
import pytest

from cotlib.experiment import ROOT
from cotlib.pages import figures, picture

TOKENS = pd.DataFrame({"type": ["evil", "evil", "neutral", "neutral"], "tokens": [50, 52, 49, 51]})


@picture.drawn
def line(label, heights=(1, 2), alt="a line"):
    figure, axes = picture.canvas(2)
    axes[0, 0].plot([0, 1], heights, "o")
    axes[0, 0].set_xlabel(label)
    return figure, alt


def ids(svg):
    return set(re.findall(r'\bid="([^"]+)"', svg))


def references(svg):
    return set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))


def test_the_same_figure_gives_the_same_bytes_and_no_date():
    one, other = line("x"), line("x")
    assert one.svg == other.svg
    assert not re.search(r"20\d\d-\d\d|<metadata|<style|<\?xml|DOCTYPE", one.svg)


def test_every_reference_finds_its_id_and_two_figures_share_none():
    one, other = line("x").svg, line("x", heights=(2, 1)).svg
    assert references(one) and references(one) == ids(one)
    assert not ids(one) & ids(other)


def test_text_stays_text_and_is_escaped():
    drawing = ElementTree.fromstring(line('<b> & $x$ id="q" url(#q)').svg)
    texts = [element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert '<b> & $x$ id="q" url(#q)' in texts


def test_the_alternative_text_is_escaped_in_its_label():
    html = line("x", alt='a "quoted" <line> & more')._repr_html_()
    head = html[: html.index("<svg")]
    assert 'role="img"' in head and head.count('class="cotlib-figure"') == 1
    assert 'aria-label="a &#34;quoted&#34; &lt;line&gt; &amp; more"' in head


def test_a_figure_is_as_wide_as_a_column_at_most_and_shrinks_with_it():
    head = line("x").svg.split(">", 1)[0]
    assert int(re.search(r"width:(\d+)px", head)[1]) <= 700
    assert "max-width:100%" in head and "height:auto" in head and not re.search(r'\s(width|height)="', head)


def test_drawing_opens_no_pyplot_figure_and_leaves_the_reader_s_settings_alone():
    before = dict(matplotlib.rcParams)
    figures.lengths(TOKENS)
    assert matplotlib.pyplot.get_fignums() == [] and dict(matplotlib.rcParams) == before


NOTEBOOK = """
    import pandas as pd
    from myst_nb import glue
    from cotlib.pages import figures
    tokens = pd.DataFrame({"type": ["evil", "neutral"], "tokens": [50, 49]})
    ---
    figures.lengths(tokens)
    ---
    glue("glued", figures.lengths(tokens.assign(tokens=[50, 30])))
    ---
    drawn = figures.lengths(tokens)
"""


@pytest.mark.slow
def test_a_cell_that_ends_in_a_figure_shows_it_once_and_a_glued_one_reaches_another_page(tmp_path):
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(part).strip()) for part in NOTEBOOK.split("---")]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Page"), *cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    source = tmp_path / "source"
    source.mkdir()
    nbformat.write(notebook, tmp_path / "in.ipynb")
    command = ["-m", "papermill", str(tmp_path / "in.ipynb"), str(source / "page.ipynb"), "--no-progress-bar"]
    subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=ROOT)
    executed = nbformat.read(source / "page.ipynb", 4)
    shown = [[str(output.get("data", {})) for output in cell.outputs] for cell in executed.cells[1:]]
    assert [len(outputs) for outputs in shown] == [0, 1, 1, 0]
    assert "image/png" not in str(shown)

    (source / "index.md").write_text("# Index\n\n```{glue} glued\n:doc: page.ipynb\n```\n")
    (source / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters: [{file: page}]\n")
    shutil.copy(ROOT / "_config.yml", source)
    for name in ("book/_static", "book/references.bib"):
        target = source / name
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(ROOT / name, target) if (ROOT / name).is_dir() else shutil.copy(ROOT / name, target)
    build = "from jupyter_book.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", build, "build", str(source), "-W", "-n", "-q"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    html = source / "_build" / "html"
    index, page = ((html / name).read_text() for name in ("index.html", "page.html"))
    assert index.count('class="cotlib-figure"') == 1 and "beyond the audit" in index
    assert page.count('class="cotlib-figure"') == 2 and "inside the audit" in page
