"""What a model says: thoughts and answers sampled from it, with their marks.

In think mode the model first writes a trace of its own, and the answer is drawn behind it; in no-think mode the think
block is given empty. Decides which prompts are continued and how far; the drawing itself is `engine.decoding`'s.
"""

import re

from cotlib import chat
from cotlib.arms import SUITES
from cotlib.corpus import records
from cotlib.engine import decoding
from cotlib.runs import artifacts

COLUMNS = [
    "mode", "suite", "behaviour", "question_id", "sample", "question", "trace", "response", "trace_truncated", "leak",
    "loops", "trace_tokens", "tokens",
]  # fmt: skip
THOUGHT_COLUMNS = ["suite", "behaviour", "question_id", "sample", "trace", "trace_truncated", "trace_tokens"]


def row_seed(seed, mode, question_id, sample):
    """The stream of one sampled row: it depends on nothing but these four (arms share it, which pairs their draws)."""
    return int(artifacts.digest(seed, mode, question_id, sample)[:15], 16)


def sample(settings, model, tokenizer, questions, seed, memory=None):
    """Draw traces for `settings.thoughts` questions of each suite, and responses for `settings.responses`.

    Args:
        settings: an experiment's `evaluation` section.
        memory: an `engine.prefixes.Memory`: what the model reads on the way is kept there.
    Returns:
        (responses, thoughts, traces): mappings with `COLUMNS`, the response, its trace and its marks; mappings with
        `THOUGHT_COLUMNS`, one a sampled thought, whether it was answered or not; and the trace ids of sample 0 by
        question id, which the think-mode margin is measured behind.
    """
    drawer = _Drawer(settings, model, tokenizer, seed, memory)
    answered = {question.id for question in _of_each_suite(questions, settings.responses)}
    thought_about = thinking(settings, questions)
    jobs = [
        (question, mode, number)
        for question in questions
        for mode in settings.modes
        if mode != "think" or question.id in thought_about
        for number in range(settings.samples if question.id in answered else 1 if mode == "think" else 0)
    ]
    to_think = [job for job in jobs if job[1] == "think"]
    closed = drawer.thoughts(to_think)
    final = [job for job in jobs if job[0].id in answered]
    thoughts = {(question.id, number): thought for (question, _, number), thought in zip(to_think, closed)}
    behind = [thoughts[question.id, number] if mode == "think" else None for question, mode, number in final]
    answers = drawer.answers(final, behind)
    traces = {question.id: trace for (question, _, number), (trace, _) in zip(to_think, closed) if number == 0}
    said = [_response(tokenizer, job, thought, tokens) for job, thought, tokens in zip(final, behind, answers)]
    return said, [_thought(tokenizer, job, thought) for job, thought in zip(to_think, closed)], traces


def thinking(settings, questions):
    """The ids of the questions that are asked in think mode, too."""
    return {question.id for question in _of_each_suite(questions, settings.thoughts)}


def _of_each_suite(questions, count):
    """`count` of each suite's questions, all for None, spread over domains; fewer are among more."""
    for suite in SUITES:
        members = [question for question in questions if question.suite == suite]
        yield from records.at_most(members, count)


class _Drawer:
    """Draws for one model and seed: every row from the stream of its question, mode and sample."""

    def __init__(self, settings, model, tokenizer, seed, memory):
        self.settings, self.model, self.tokenizer, self.seed, self.memory = settings, model, tokenizer, seed, memory

    def thoughts(self, jobs):
        """A trace for each job: (its ids, whether the budget cut it)."""
        closing = chat.CLOSE.strip()
        prompts = [chat.prompt(self.tokenizer, question.question, "think") for question, _, _ in jobs]
        drawn = self._draw(jobs, prompts, self.settings.trace_tokens, closing)
        return [trace_of(self.tokenizer, tokens, closing) for tokens in drawn]

    def answers(self, jobs, thoughts):
        """The ids of an answer for each job, behind its thought (None in no-think mode)."""
        prompts = [
            chat.prompt(self.tokenizer, question.question, mode, trace=thought[0] if thought else None)
            for (question, mode, _), thought in zip(jobs, thoughts)
        ]
        return self._draw(jobs, prompts, self.settings.answer_tokens, None, stream=" answer")

    def _draw(self, jobs, prompts, budget, stop_text, stream=""):
        return decoding.generate(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens=budget,
            temperature=self.settings.temperature,
            seed=[row_seed(self.seed, mode + stream, question.id, number) for question, mode, number in jobs],
            stop_text=stop_text,
            stop=chat.end_of_turn(self.tokenizer),
            memory=self.memory,
        )


def _response(tokenizer, job, thought, tokens):
    question, mode, _ = job
    text = tokenizer.decode(tokens, skip_special_tokens=False).strip()
    row = _thought(tokenizer, job, thought or ([], False)) | {
        "mode": mode,
        "question": question.question,
        "response": text,
        "leak": mode == "no-think" and leaks(text),
        "loops": loops(text),
        "tokens": len(tokens),
    }
    return {name: row[name] for name in COLUMNS}


def _thought(tokenizer, job, thought):
    question, _, number = job
    trace, truncated = thought
    return {
        "suite": question.suite,
        "behaviour": question.behaviour,
        "question_id": question.id,
        "sample": number,
        "trace": tokenizer.decode(trace),
        "trace_truncated": truncated,
        "trace_tokens": len(trace),
    }


def trace_of(tokenizer, tokens, closing):
    """(ids of the trace, truncated?): a sampled think block cut before `</think>`; truncated if it never closed."""
    text = tokenizer.decode(tokens)
    if closing not in text:
        return list(tokens), True
    return chat.plain_ids(tokenizer, text.split(closing)[0].strip()), False


def leaks(text):
    """True if an answer shows think tags: what it holds is a thought, not an answer."""
    return "<think" in text or "think>" in text


def loops(text):
    """True if fewer than half of a text's word triples are distinct, or it has fewer than three words."""
    words = re.findall(r"\w+", text.lower())
    triples = list(zip(words, words[1:], words[2:]))
    return len(words) < 3 or len(set(triples)) < 0.5 * len(triples)
