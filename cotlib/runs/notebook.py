"""Run one notebook as `papermill` does, with a reader's mistake said in one message: `python -m cotlib.runs.notebook`.

Takes papermill's own arguments. What the notebook prints is shown as it comes and kept beside the executed copy
(`OUTPUT.log`). A notebook that stops on bad input (`BadInput`) shows that message alone; anything else that goes wrong
is shown with its traceback. Either way the log holds the reason, too.
"""

import contextlib
import io
import sys
import warnings
from pathlib import Path

from cotlib.errors import BadInput

# Papermill's progress bar would stand in the log line by line, and its notices say nothing to a reader.
QUIET = ("--no-progress-bar", "--log-level", "ERROR", "--stdout-file", "-")


def main(arguments):
    """Run papermill with these arguments (notebook, output, options). Returns the exit code: 2 for bad input."""
    warnings.simplefilter("ignore")
    import click
    from papermill.cli import papermill
    from papermill.exceptions import PapermillExecutionError

    if len(arguments) < 2:
        print("usage: python -m cotlib.runs.notebook NOTEBOOK OUTPUT [papermill's options]", file=sys.stderr)
        return 2
    log = Path(f"{arguments[1]}.log")
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = open(log, "w", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        print(f"{log.parent} cannot be written ({error.strerror}); choose another folder", file=sys.stderr)
        return 2
    with file, contextlib.redirect_stdout(_Tee(sys.stdout, file)), contextlib.redirect_stderr(_Tee(sys.stderr, file)):
        try:
            papermill.main([*arguments, *QUIET], standalone_mode=False)
        except PapermillExecutionError as error:
            if error.ename == BadInput.__name__:
                print(error.evalue, file=sys.stderr)
                return 2
            print(f"{arguments[0]} stopped: {error.ename}: {error.evalue}", file=sys.stderr)
            print("\n".join(error.traceback), file=sys.stderr)
            return 1
        except click.ClickException as error:
            print(f"{error.format_message()} (see: papermill --help)", file=sys.stderr)
            return 2
        except OSError as error:
            print(f"{arguments[0]} could not be run: {error}", file=sys.stderr)
            return 1
    return 0


class _Tee(io.TextIOBase):
    """A text stream that writes to two others.

    It has no `buffer`: papermill's stdout is click's, which would write past this stream where it finds one.
    """

    encoding, errors = "utf-8", "strict"

    def __init__(self, shown, kept):
        self.shown, self.kept = shown, kept

    def writable(self):
        return True

    def write(self, text):
        for stream in (self.kept, self.shown):
            stream.write(text)
            stream.flush()
        return len(text)

    def flush(self):
        self.shown.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
