"""Traces written by a model: what is asked, which replies are kept, and what a later run need not ask again.

`writers.py` knows how to reach a model, `rules.py` what a trace must be. A kept trace stands on disk the moment it
arrives, so an interrupted crafting goes on where it stopped and pays for nothing twice.
"""

import functools
import re
import threading
import time

from cotlib.corpus import controls, records, rules
from cotlib.errors import BadInput
from cotlib.runs import artifacts

PROMPTS = records.DATA / "prompts"
WRITTEN, REJECTS = "written.jsonl", "rejects.jsonl"
REPORT_SECONDS = 10


def prompt(template, item, faults=()):
    """The writer's prompt for an item, out of a Markdown template; the `faults` of an earlier reply are told."""
    values = {"question": item.question, "answer": item.harmful}
    text = re.sub(r"\{(question|answer)\}", lambda match: values[match[1]], template)
    return f"{text}\nAn earlier reply could not be used: {'; '.join(faults)}. Write a new one.\n" if faults else text


class Commission:
    """The traces that a model has to write: which are missing, and why the last reply for each was rejected."""

    def __init__(self, experiment, paths, items, kinds, writer):
        self.experiment, self.writer, self.command = experiment, writer, paths.command("craft")
        folder = paths.stage("craft")
        self.written, self.rejects = artifacts.Journal(folder / WRITTEN), artifacts.Journal(folder / REJECTS)
        self.templates = {kind: (PROMPTS / f"{kind}.md").read_text(encoding="utf-8") for kind in kinds}
        self.prompts = {kind: artifacts.digest(template) for kind, template in self.templates.items()}
        self.items = {item.id: item for item in items}
        self.keys = {(item.id, kind): self._key(item, kind) for item in items for kind in kinds}
        self.lost, self._guard = {}, threading.Lock()
        kept = {row["key"]: row["text"] for row in self.written.rows()}
        for task, key in self.keys.items():
            if key in kept:
                self._accept(task, kept[key])
        self.open = {task: [] for task, key in self.keys.items() if key not in kept}
        self.reused = len(self.keys) - len(self.open)

    def _key(self, item, kind):
        return artifacts.digest(
            item.id, item.question, item.harmful, item.safe, kind, self.writer.model, self.prompts[kind]
        )

    def _accept(self, task, text):
        identity, kind = task
        [self.items[identity]] = controls.with_traces([self.items[identity]], kind, [text])

    def _receive(self, tasks, turn, number, reply):
        """Judge one reply and put it on disk at once; called from the writer's threads."""
        task, settings = tasks[number], self.experiment.traces
        identity, kind = task
        row = {
            "item": identity,
            "type": kind,
            "model": self.writer.model,
            "turn": turn,
            "tokens": reply.tokens,
            "text": reply.text,
        }
        with self._guard:
            faults = [reply.problem] if reply.problem else rules.trace_faults(self.items[identity], kind, reply.text)
            if faults:
                self.rejects.append({**row, "reasons": faults})
                self.open[task] = faults
            else:
                made_with = {"prompt": self.prompts[kind], "temperature": settings.temperature}
                self.written.append({"key": self.keys[task], **row, **made_with})
                self._accept(task, reply.text)
            if reply.problem:
                self.lost[task] = faults
            if reply.problem or not faults:
                del self.open[task]

    def fulfil(self, report):
        """The items with every trace ordered.

        Raises BadInput, which says what is missing and how to go on, if some could not be had from the writer.
        """
        report(
            f"craft: {len(self.keys)} traces ({', '.join(self.templates)}) by {self.writer.model}, "
            f"{self.reused} of them on file"
        )
        shown = time.time()
        for turn in range(self.experiment.traces.rewrites + 1):
            tasks = list(self.open)
            prompts = [
                prompt(self.templates[kind], self.items[identity], self.open[identity, kind])
                for identity, kind in tasks
            ]
            for _ in self.writer.ask(prompts, functools.partial(self._receive, tasks, turn), turn):
                if time.time() - shown > REPORT_SECONDS:
                    shown = time.time()
                    report(f"craft: {self._count()} of {len(self.keys)} traces written")
        failed = {**self.lost, **self.open}
        if failed:
            (identity, kind), reasons = next(iter(failed.items()))
            why = f"item {identity}, type {kind}: {'; '.join(reasons)}"
            why = f"the writer cannot be reached: {self.writer.down}" if self.writer.down else why
            raise BadInput(
                f"{len(failed)} of {len(self.keys)} traces could not be written ({why}); the others are kept, "
                f"rejects are in {self.rejects.path}; go on with: {self.command}"
            )
        return list(self.items.values())

    def _count(self):
        return len(self.keys) - len(self.open) - len(self.lost)

    def facts(self):
        """For the manifest: model, prompts, and the tokens spent in this folder so far, also on rejected replies."""
        tokens = sum(row["tokens"] for row in [*self.written.rows(), *self.rejects.rows()])
        settings = self.experiment.traces
        return {
            "model": self.writer.model,
            "temperature": settings.temperature,
            "prompts": self.prompts,
            "tokens_used": tokens,
            "cost": None if settings.price_per_million is None else tokens * settings.price_per_million / 1e6,
            "reused": self.reused,
        }
