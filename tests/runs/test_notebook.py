"""`python -m cotlib.runs.notebook` with a real kernel: what is shown, what is kept, and how it ends."""

import os
import subprocess
import sys
import time

import nbformat
import pytest

pytestmark = pytest.mark.slow  # each test starts a kernel


def notebook(path, *cells):
    """A notebook whose first code cell holds the parameter `word`."""
    parameters = nbformat.v4.new_code_cell('word = "default"', metadata={"tags": ["parameters"]})
    content = nbformat.v4.new_notebook(cells=[parameters, *map(nbformat.v4.new_code_cell, cells)])
    content.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(content, path)
    return path


def command(path, output, *options):
    return [sys.executable, "-m", "cotlib.runs.notebook", str(path), str(output), *options]


def run(path, output, *options):
    return subprocess.run(command(path, output, *options), capture_output=True, text=True, timeout=300, env=os.environ)


def said(finished):
    """What stands on stderr, without what the kernel itself writes there when it starts or is stopped late."""
    return [line for line in finished.stderr.splitlines() if not line.startswith("[IPKernelApp] ")]


def test_output_is_shown_and_kept_and_parameters_are_papermills(tmp_path):
    path = notebook(tmp_path / "a.ipynb", "print('the word is', word)", "1 + 1")
    output = tmp_path / "deep" / "folder" / "out.ipynb"
    finished = run(path, output, "-p", "word", "given", "--cwd", str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    assert "the word is given" in finished.stdout and "Traceback" not in finished.stdout + finished.stderr
    log = output.with_name("out.ipynb.log").read_text()
    assert "the word is given" in log
    executed = nbformat.read(output, as_version=4)
    assert any("the word is given" in str(cell.get("outputs")) for cell in executed.cells)


def test_output_is_shown_as_it_comes(tmp_path):
    path = notebook(tmp_path / "a.ipynb", "print('first', flush=True)", "import time; time.sleep(8); print('second')")
    process = subprocess.Popen(command(path, tmp_path / "out.ipynb"), stdout=subprocess.PIPE, text=True)
    lines = iter(process.stdout.readline, "")
    next(line for line in lines if "first" in line)
    seen = time.time()
    assert "first" in (tmp_path / "out.ipynb.log").read_text()
    next(line for line in lines if "second" in line)
    assert time.time() - seen > 4
    process.communicate(timeout=120)
    assert process.returncode == 0


def test_bad_input_shows_its_message_alone_and_keeps_it(tmp_path):
    code = "from cotlib.errors import BadInput\nraise BadInput('field x: 3 is too large; write 2')"
    finished = run(notebook(tmp_path / "a.ipynb", "print('before')", code), tmp_path / "out.ipynb")
    assert finished.returncode == 2
    assert said(finished) == ["field x: 3 is too large; write 2"]
    assert "before" in finished.stdout and "BadInput" not in finished.stdout
    assert "field x: 3 is too large; write 2\n" in (tmp_path / "out.ipynb.log").read_text()


def test_another_error_shows_its_traceback_and_keeps_it(tmp_path):
    code = "def divide(a, b):\n    return a / b\n\ndivide(1, 0)"
    finished = run(notebook(tmp_path / "a.ipynb", code), tmp_path / "out.ipynb")
    assert finished.returncode == 1
    log = (tmp_path / "out.ipynb.log").read_text()
    for text in (finished.stderr, log):
        assert "a.ipynb stopped: ZeroDivisionError: division by zero" in text
        assert "divide" in text and "Traceback" in text


def test_an_unwritable_folder_gives_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    finished = run(notebook(tmp_path / "a.ipynb", "1"), tmp_path / "file" / "out.ipynb")
    assert finished.returncode == 2 and finished.stdout == ""
    (line,) = finished.stderr.splitlines()
    assert line.startswith(f"{tmp_path}/file cannot be written (") and line.endswith("; choose another folder")


def test_a_notebook_that_is_not_there_gives_one_sentence(tmp_path):
    finished = run(tmp_path / "none.ipynb", tmp_path / "out.ipynb")
    assert finished.returncode == 1 and "none.ipynb" in finished.stderr
    assert "Traceback" not in finished.stderr and len(said(finished)) == 1


@pytest.mark.parametrize("arguments", [[], ["only.ipynb"], ["a.ipynb", "out.ipynb", "--no-such-option"]])
def test_wrong_arguments_give_a_line_and_no_traceback(tmp_path, arguments):
    finished = subprocess.run(
        [sys.executable, "-m", "cotlib.runs.notebook", *arguments],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, env=os.environ,
    )  # fmt: skip
    assert finished.returncode == 2 and "Traceback" not in finished.stderr and finished.stderr.strip()
