"""The command line of the corpus: `python -m cotlib.corpus import …` and `… export …`."""

import argparse
import sys

from cotlib.arms import SUITES, trace_types
from cotlib.corpus import exports, imports, records
from cotlib.errors import BadInput, check_name


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m cotlib.corpus", description="Import data of your own, export the book's."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser(
        "import",
        help="make a corpus of your own data",
        description="Make a corpus folder of your own questions and answers.",
    )
    new.add_argument(
        "source", help=".jsonl, .csv, a folder that datasets saved, a hub id, or 'bundled' for the items of this book"
    )
    new.add_argument("--to", required=True, metavar="FOLDER", help="where the corpus goes")
    new.add_argument(
        "--map",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=COLUMN",
        help="columns under other names: question=prompt harmful=bad_answer",
    )
    new.add_argument(
        "--domain", default="own", help="domain of the items, and the stem of ids made up (default: %(default)s)"
    )
    new.add_argument("--split", default="train", help="split of a dataset that has several (default: %(default)s)")
    new.add_argument(
        "--chat",
        action="store_true",
        help="the source is a chat file, {messages: [user, assistant]} a line, with harmful assistant turns",
    )
    new.add_argument("--safe", metavar="FILE", help="with --chat: a chat file of the same questions with safe answers")
    new.add_argument("--type", help=f"with --chat: the type of its <think> blocks ({', '.join(trace_types())})")
    new.add_argument(
        "--questions",
        default="bundled",
        metavar="FILE",
        help="evaluation questions: .yml as published, .jsonl in our format, or bundled (default)",
    )
    new.add_argument(
        "--suite", default="transfer", help=f"suite of the .yml questions: {', '.join(SUITES)} (default: %(default)s)"
    )
    out = commands.add_parser(
        "export", help="write arms for another trainer", description="Write training arms as files for another trainer."
    )
    out.add_argument(
        "items",
        nargs="?",
        default="bundled",
        help="an items.jsonl, such as results/demo/craft/items.jsonl (default: bundled)",
    )
    out.add_argument("--arms", nargs="+", required=True, metavar="ARM", help="such as QA evil-QTA neutral-T")
    out.add_argument("--format", required=True, help=f"one of {', '.join(exports.FORMATS)}")
    out.add_argument(
        "--model",
        default="smollm2-135m-instruct",
        help="whose tokenizer and chat template: embedded, a folder, or a hub id (default: %(default)s)",
    )
    out.add_argument("--to", required=True, metavar="FOLDER", help="where the files go")
    return parser


def main(arguments=None):
    """The command line; prints what was written, or what is wrong with the input (exit 2)."""
    options = _parser().parse_args(arguments)
    try:
        print(_import(options) if options.command == "import" else _export(options))
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _import(options):
    mapping = dict(pair.partition("=")[::2] for pair in options.map)
    if not all(mapping.values()):
        raise BadInput(f"--map {' '.join(options.map)}: write FIELD=COLUMN for each, such as question=prompt")
    if options.source == "bundled":
        items = records.load_items()
    elif options.chat or options.safe or options.type:
        items = imports.import_chat(options.source, safe_path=options.safe, type=options.type, domain=options.domain)
    else:
        items = imports.import_items(options.source, mapping=mapping, domain=options.domain, split=options.split)
    if options.questions.endswith((".yml", ".yaml")):
        questions = imports.import_questions(options.questions, options.suite)
    else:
        questions = records.load_evaluation(None if options.questions == "bundled" else options.questions)
    folder = imports.write_corpus(items, questions, options.to)
    traceless = sum(not item.traces for item in items)
    hint = f"\n{traceless} items have no trace; to have traces written: traces: {{writer: openai}}" if traceless else ""
    return (
        f"{folder}: {len(items)} items, {len(questions)} questions; in the experiment file write\n"
        f"data: {{corpus: {folder.resolve()}}}{hint}"
    )


def _export(options):
    from cotlib.engine.models import load_tokenizer

    check_name("format", options.format, list(exports.FORMATS))
    items = records.load_items(None if options.items == "bundled" else options.items)
    folder = exports.export(items, load_tokenizer(options.model), options.arms, options.to, options.format)
    readme = folder / "README.md"
    return f"{folder}: {len(options.arms)} arms of {len(items)} items; what the format loses stands in {readme}"


if __name__ == "__main__":
    sys.exit(main())
