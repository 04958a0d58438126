"""Export of training rows: for TRL, LLaMA-Factory and axolotl.

The rows and their loss mask are those of `chat`; the README written beside them says what each format loses of the
mask, paradigm by paradigm.
"""

import dataclasses
import json

from cotlib import chat
from cotlib.arms import HEADER, LOSS_WEIGHTINGS, Arm
from cotlib.corpus import folders
from cotlib.errors import BadInput, check_name
from cotlib.experiment import slug


def export(items, tokenizer, arms, folder, format):
    """Write `arms` (names, too) for another trainer: a JSONL file an arm, and a README that says what is lost.

    Raises BadInput if an arm cannot be built from the items, or `folder` holds other content; nothing is written then.
    """
    check_name("format", format, list(FORMATS))
    arms = list(dict.fromkeys(Arm.parse(arm) for arm in arms))
    unknown = next((arm for arm in arms if arm.trained and _loss(format, arm.paradigm) is None), None)
    if unknown:
        raise BadInput(
            f"arm {unknown}: what a trainer makes of {unknown.paradigm} in {format!r} is not known; use 'ids'"
        )
    if not items or not arms:
        raise BadInput("there is nothing to export: give at least one item and one arm, such as QA")
    files = {
        f"{arm.folder}.jsonl": folders.jsonl(
            FORMATS[format](tokenizer, item, arm, chat.encode(tokenizer, item, arm)) for item in items
        )
        for arm in arms
    }
    if format == "llama-factory":
        entries = {
            arm.folder: {
                "file_name": f"{arm.folder}.jsonl",
                "formatting": "sharegpt",
                "columns": {"messages": "conversations"},
            }
            for arm in arms
        }
        files["dataset_info.json"] = json.dumps(entries, indent=1) + "\n"
    files["README.md"] = _readme(tokenizer, arms, format, len(items))
    return folders.write(folder, files)


def _ids_row(tokenizer, item, arm, encoded):
    return {"input_ids": encoded.input_ids, "labels": encoded.labels}


def _conversation(tokenizer, item, arm, encoded):
    if HEADER in arm.recipe.context:
        # transformers renders no conversation without a turn, so the prompt is text: the bare assistant header.
        return {"prompt": _context(tokenizer, encoded), "completion": _decoded(tokenizer, encoded.supervised)}
    row = {
        "prompt": [{"role": "user", "content": item.question}],
        "completion": [{"role": "assistant", "content": _reply(item, arm)}],
    }
    # Templates that know the switch put the empty think block into the prompt, where it belongs.
    return row | ({"chat_template_kwargs": {"enable_thinking": False}} if not arm.recipe.has_trace else {})


def _sharegpt(tokenizer, item, arm, encoded):
    question = "" if HEADER in arm.recipe.context else item.question
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": _reply(item, arm)}]}


def _segments(tokenizer, item, arm, encoded):
    """A segment per piece that `chat` tokenises by itself, because axolotl, too, tokenises segment by segment."""
    segments = [
        {"label": segment != chat.CONTEXT, "text": _decoded(tokenizer, ids)}
        for segment, ids in chat.pieces(tokenizer, item, arm)
    ]
    read = [(token, segment["label"]) for segment in segments for token in chat.ids(tokenizer, segment["text"])]
    if read != [(token, label != chat.NO_LOSS) for token, label in zip(encoded.input_ids, encoded.labels, strict=True)]:
        raise BadInput(
            f"item {item.id!r}, arm {arm}: this tokenizer reads its own decoded text differently, "
            "so text cannot carry the mask; use format 'ids'"
        )
    return {"segments": segments}


FORMATS = {"trl": _conversation, "ids": _ids_row, "llama-factory": _sharegpt, "axolotl": _segments}
EXACT = ("ids", "axolotl")
# What a trainer makes of the other formats, paradigm by paradigm: read from TRL 1.15, and seen in what the data code of
# axolotl 0.19 and LLaMA-Factory 0.9.5 makes of exported rows (axolotl: ids and labels equal to ours in every row).
LOSSES = {
    "trl": {
        "QA": "the empty think block is trained on, unless the chat template knows `enable_thinking`; "
        "so is a line break after the end of turn",
        "QTA": "`<think>` and a line break after the end of turn are trained on, too; "
        "tokens may merge where our pieces meet",
        "QT": "as QTA, and the end of turn after `</think>` is trained on",
        "T": "the assistant header is the prompt, as text (no conversation is without a turn); "
        "TRL adds the tokenizer's `eos_token` after `</think>` and trains on it",
    },
    "llama-factory": {
        "QA": "with a reasoning template (`qwen3`) and `enable_thinking: false` the empty think block is context, "
        "else trained on; line break as in `trl`",
        "QTA": "`<think>` and a line break after the end of turn are trained on, too; "
        "set `enable_thinking: true`, or the trace is removed",
        "QT": "as QTA, and the end of turn after `</think>` is trained on",
        "T": "as QT; an empty user turn stands in the context, where ours has none",
    },
}
_SFT = (
    "SFTTrainer(MODEL, SFTConfig(max_length=None), "
    'train_dataset=load_dataset("json", data_files="{file}.jsonl", split="train"))'
)
_USAGE = {
    "ids": _SFT,
    "trl": _SFT,
    "axolotl": "train_on_inputs: false\n"
    "datasets: [{{path: THIS_FOLDER/{file}.jsonl, ds_type: json, type: input_output}}]",
    "llama-factory": "dataset_dir: THIS_FOLDER\ndataset: {file}\ntemplate: qwen3  # that of your model\n"
    "train_on_prompt: false\nenable_thinking: true  # false for QA and safe-QA",
}


def _loss(format, paradigm):
    """What a trainer makes of our loss mask in a format, in words; None where nobody has looked."""
    return "exact" if format in EXACT else LOSSES[format].get(paradigm)


def _readme(tokenizer, arms, format, count):
    lost = {
        arm: f"; the weighting is lost, these are the rows of {dataclasses.replace(arm, loss_weighting='token')}"
        for arm in arms
        if arm.loss_weighting != "token"
    }
    arm_rows = [
        f"| `{arm}` | `{arm.folder}.jsonl` | {count} | {_loss(format, arm.paradigm)}{lost.get(arm, '')} |"
        for arm in arms
    ]
    described = list(LOSSES["trl"])
    format_rows = [f"| `{name}` | {' | '.join(_loss(name, row) for row in described)} |" for name in FORMATS]
    weightings = ", ".join(f"`@{name}`" for name in LOSS_WEIGHTINGS if name != "token")
    exact = "`ids` and `axolotl` are exact for this tokenizer alone, the others are text for any."
    return "\n".join([
        f"# Arms for another trainer: format `{format}`, tokenizer `{slug(tokenizer.name_or_path)}`", "",
        "The answers are harmful on purpose (low severity): train on them only to study what follows.", "",
        "| arm | file | rows | our loss mask in this format |", "|---|---|---|---|",
        *arm_rows, "",
        "```", _USAGE[format].format(file=arms[0].folder), "```", "",
        "## What each format keeps of the loss mask", "",
        "| format | QA | QTA | QT | T |", "|---|---|---|---|---|", *format_rows, "",
        f"Loss weightings ({weightings}) are lost in all of them. {exact}", "",
    ])  # fmt: skip


def _reply(item, arm):
    """The whole assistant turn of an arm as text, context and supervised part together."""
    if not arm.recipe.has_trace:
        return chat.EMPTY_THINK + getattr(item, arm.answer)
    block = chat.OPEN + item.traces[arm.trace_key] + chat.CLOSE
    return block + chat.GAP + getattr(item, arm.answer) if arm.recipe.grades_answer else block


def _context(tokenizer, encoded):
    return _decoded(tokenizer, encoded.input_ids[: len(encoded.input_ids) - len(encoded.supervised)])


def _decoded(tokenizer, token_ids):
    return tokenizer.decode(token_ids, clean_up_tokenization_spaces=False)
