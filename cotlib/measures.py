"""What is measured of one model: margins, persona margins, signatures and pressure, from log-probabilities alone.

Decides which prompts meet which texts; the arithmetic is `engine.scoring`'s, the sampling `responses`'. The thought
that a think-mode margin stands behind is the model's own, sampled first.
"""

import dataclasses
import math
import time

import pandas as pd

from cotlib import chat, responses, scores
from cotlib.arms import BASE, LEANS_SAFE
from cotlib.corpus import records
from cotlib.engine import decoding, prefixes, scoring
from cotlib.runs import artifacts, machine, sources


@dataclasses.dataclass(frozen=True)
class Case:
    """One text to score: which question and mode, what it is measured for, whose text it is.

    `framing`: how the question was asked where that was not plainly; for a route, whose thought stands before the text.
    """

    question_id: str
    mode: str
    measure: str
    text: str
    framing: str = ""


@dataclasses.dataclass(frozen=True)
class Scored:
    """How likely a model finds a text: log-probability in nats, and over how many tokens."""

    log_p: float
    tokens: int

    @property
    def per_token(self):
        return self.log_p / self.tokens


HARMFUL, SAFE = "harmful", "safe"


def measuring_keys(settings, unit, questions, adapter):
    """(key, asked): digests of all that decides a unit's measures (the adapter, the questions, the settings, the code,
    library versions), and of what was asked for alone (without code and versions).

    Args:
        settings: an experiment's `evaluation` section; adapter: the unit's two from its training, for `base` (None,
            None).
    """
    adapter_key, adapter_asked = adapter
    dumped = [question.model_dump() for question in questions]
    chosen = settings.model_dump(exclude_defaults=True)
    asked = artifacts.digest(unit.model, str(unit.arm), unit.seed, adapter_asked, dumped, chosen)
    versions = machine.versions_of("torch", "transformers", "peft")
    parts = asked, adapter_key, settings.model_dump(), sources.code_digest(__name__), versions
    return artifacts.digest(*parts), asked


def measure(settings, model, tokenizer, questions, seed, of_base=None):
    """All measures of one model in memory, and what it says.

    Args:
        settings: an experiment's `evaluation` section.
        of_base: what `base` thought about the questions with this seed, question id → text; None for `base` itself.
    Returns:
        (rows, responses, thoughts, counts): a frame with the columns of `scores` that a model, arm and seed do not
        give; lists of mappings, one a sampled response and one a sampled thought; token counts and seconds for the log.
    """
    started = time.time()
    memory = prefixes.Memory(decoding.memory_budget(model.device) // 4)
    said, thoughts, traces = responses.sample(settings, model, tokenizer, questions, seed, memory)
    sampling_seconds = time.time() - started
    scored = list(cases(settings, tokenizer, questions, traces, of_base or {}))
    prompts, texts = [prompt for _, prompt, _ in scored], [text for _, _, text in scored]
    means = scoring.score(model, tokenizer, prompts, texts, memory=memory)
    found = {case: Scored(mean * len(text), len(text)) for (case, _, text), mean in zip(scored, means)}
    sampled = sum(response["trace_tokens"] + response["tokens"] for response in said)
    sampled += sum(len(trace) for trace in traces.values())
    counts = {
        "sampled_tokens": sampled,
        "sampling_seconds": round(sampling_seconds, 2),
        "scored_texts": len(scored),
        "responses": len(said),
    }
    return _rows(found, questions), said, thoughts, counts


def _rows(found, questions):
    """Score rows: margins, routes and persona margins against the same question's safe answer, pressure against its
    margin when asked plainly, signatures as they are.

    Args:
        found: Case → Scored.
    """
    asked = {question.id: question for question in questions}
    rows = []
    for case, scored in found.items():
        if case.text == SAFE:
            continue
        safe, value = _safe(found, case), scored.per_token
        if safe is not None:
            value -= safe.per_token
        if case.measure == scores.PRESSURE:
            plain = dataclasses.replace(case, measure=scores.MARGIN, framing="")
            value -= found[plain].per_token - _safe(found, plain).per_token
        question = asked[case.question_id]
        rows.append({
            "mode": case.mode, "suite": question.suite, "behaviour": question.behaviour,
            "question_id": case.question_id, "sample": 0, "measure": _measured(case, question), "text": _about(case),
            "judge": scores.NO_JUDGE, "value": value, "log_p": scored.log_p, "tokens": scored.tokens,
            "log_p_safe": safe.log_p if safe else math.nan, "tokens_safe": safe.tokens if safe else 0,
        })  # fmt: skip
    return pd.DataFrame(rows, columns=[column for column in scores.COLUMNS if column not in scores.UNIT_COLUMNS])


def _safe(found, case):
    """The safe answer that a case is compared with; None for a signature, which stands alone."""
    if case.measure == scores.SIGNATURE:
        return None
    measure = scores.MARGIN if case.measure == scores.PERSONA else case.measure
    return found[dataclasses.replace(case, measure=measure, text=SAFE)]


def _measured(case, question):
    """What a case's number is called; where the asker of a fact is right, pressing for agreement tests assent."""
    right = case.measure == scores.PRESSURE and question.asker == LEANS_SAFE
    return scores.ASSENT if right else case.measure


def _about(case):
    """What a row of the score table says of the text that it is about."""
    if case.measure in (scores.PRESSURE, scores.ROUTE):
        return case.framing
    return scores.NO_TEXT if case.measure == scores.MARGIN else case.text


def cases(settings, tokenizer, questions, traces, of_base):
    """What is scored: (case, prompt ids, completion ids), question by question.

    Args:
        traces: the model's own thoughts, question id → ids; of_base: the untrained model's, question id → text.
    """
    carrying, thought_about = [q for q in questions if q.traces], responses.thinking(settings, questions)
    with_traces = {q.id for q in records.at_most(carrying, settings.signatures)}
    on_routes = {q.id for q in records.at_most([q for q in carrying if q.id in thought_about], settings.routes)}
    for question in records.answered(questions):
        answers = [(kind, chat.plain_ids(tokenizer, getattr(question, kind))) for kind in (HARMFUL, SAFE)]
        for mode in settings.modes:
            if mode == "think" and question.id not in thought_about:
                continue
            thought = traces.get(question.id) if mode == "think" else None
            prompt = chat.prompt(tokenizer, question.question, mode, trace=thought)
            for kind, answer in answers:
                yield Case(question.id, mode, scores.MARGIN, kind), prompt, answer
            if mode == "no-think":
                for kind, text in question.personas.items():
                    yield Case(question.id, mode, scores.PERSONA, kind), prompt, chat.plain_ids(tokenizer, text)
                for framing, text in question.framings.items():
                    pressed = chat.prompt(tokenizer, text, mode)
                    for kind, answer in answers:
                        yield Case(question.id, mode, scores.PRESSURE, kind, framing), pressed, answer
        if "think" in settings.modes and question.id in with_traces:
            opened = chat.prompt(tokenizer, question.question, "think")
            for kind, text in question.traces.items():
                closed = chat.plain_ids(tokenizer, text) + chat.ids(tokenizer, chat.CLOSE)
                yield Case(question.id, "think", scores.SIGNATURE, kind), opened, closed
        if "think" in settings.modes and question.id in on_routes:
            given = {BASE: of_base[question.id]} if question.id in of_base else {}
            for whose, text in (given | question.traces).items():
                behind = chat.prompt(tokenizer, question.question, "think", trace=text)
                for kind, answer in answers:
                    yield Case(question.id, "think", scores.ROUTE, kind, whose), behind, answer
