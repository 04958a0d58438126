"""One arm's measures: margins, persona margins, signature, and sampled responses with their marks.

Decides which prompts meet which texts; the arithmetic is in `margins`, the sampling in `generation`.
A unit (model, arm, seed) is measured whole or not at all, so a killed run resumes at the next unit.
"""

import re
import time

import pandas as pd

from cotlib import chat
from cotlib.corpus import records, traces
from cotlib.engine import decoding, models, prefixes, scoring
from cotlib.experiment import BASE, SUITES, Arm, slug
from cotlib.runs import artifacts, sources

MEASURES = "measures.parquet"
RESPONSES = "responses.jsonl"
MARGIN, PERSONA, SIGNATURE = "margin", "persona", "signature"
COLUMNS = ["arm", "seed", "mode", "suite", "behaviour", "question_id", "measure", "judge", "value", "model"]
NO_JUDGE = "none"


def evaluate(experiment, paths, jobs, questions, report=print):
    """Measure the given (model, arm, seed) triples and write each unit's folder.

    Args:
        jobs: triples as `Experiment.select` gives them. `base` is measured once per seed, since draws differ.
        report: called with one line per unit.
    Returns:
        (measures, responses): a data frame with `COLUMNS`, and one with a row per response.
    Raises:
        BadInput: an adapter is missing, before any work.
    """
    plan = []
    for model_id, arm, seed in jobs:
        adapter = paths.unit("train", model_id, arm, seed)
        if arm.trained:
            paths.require(adapter / artifacts.MANIFEST, "train")
        key = unit_key(experiment, model_id, arm, seed, questions, adapter)
        plan.append((model_id, arm, seed, adapter, key))
    todo = sum(not artifacts.is_current(paths.unit("evaluate", *job[:3]), job[4]) for job in plan)
    began, done, loaded = time.time(), 0, None
    for number, (model_id, arm, seed, adapter, key) in enumerate(plan, 1):
        folder = paths.unit("evaluate", model_id, arm, seed)
        name = f"evaluate {number:2d}/{len(plan)} {slug(model_id)} {arm} seed {seed}"
        with artifacts.lock(folder):
            if artifacts.is_current(folder, key):
                report(f"{name}: already measured")
                continue
            started = time.time()
            if loaded is None or loaded[0] != model_id:
                loaded = (model_id, *models.load(model_id))
            _, model, tokenizer = loaded
            with models.adapted(model, adapter if arm.trained else None) as adapted:
                rows, responses, tokens = measure(experiment, adapted, tokenizer, questions, seed)
            artifacts.release_memory()
            seconds = time.time() - started
            with artifacts.atomic_folder(folder) as temporary:
                frame = pd.DataFrame(rows).assign(arm=str(arm), seed=seed, judge=NO_JUDGE, model=model_id)[COLUMNS]
                artifacts.write_table(temporary / MEASURES, frame)
                artifacts.write_jsonl(
                    temporary / RESPONSES,
                    [{"model": model_id, "arm": str(arm), "seed": seed, **response} for response in responses],
                )
                artifacts.write_manifest(
                    temporary, started=started, key=key, model=model_id, arm=str(arm), seed=seed, **tokens
                )
        done += 1
        left = (todo - done) * (time.time() - began) / done
        report(
            f"{name}: {len(questions)} questions, {len(responses)} responses, {tokens['sampled_tokens']} tokens sampled at "
            f"{tokens['sampled_tokens'] / max(tokens['sampling_seconds'], 1e-9):.0f} tok/s, {seconds:.0f} s, {left / 60:.0f} min left"
        )
    return load(paths, jobs)


def load(paths, jobs):
    """The measures and responses of finished units, as two data frames."""
    folders = [paths.unit("evaluate", *job) for job in jobs]
    measures = pd.concat([pd.read_parquet(folder / MEASURES) for folder in folders], ignore_index=True)
    responses = pd.DataFrame([row for folder in folders for row in artifacts.read_jsonl(folder / RESPONSES)])
    return measures, responses


def unit_key(experiment, model_id, arm, seed, questions, adapter):
    """Digest of all that decides a unit's measures: the adapter, the questions, the settings, the code."""
    trained = artifacts.read_json(adapter / artifacts.MANIFEST)["key"] if arm.trained else None
    code = sources.code_digest(__name__)
    versions = {
        name: version for name, version in artifacts.versions().items() if name in ("torch", "transformers", "peft")
    }
    questions = [question.model_dump() for question in questions]
    return artifacts.digest(
        model_id, str(arm), seed, trained, questions, experiment.evaluation.model_dump(), code, versions
    )


def measure(experiment, model, tokenizer, questions, seed):
    """All measures of one model in memory.

    Returns:
        (rows, responses, counts): rows of the tidy table without arm and judge; one mapping per sampled
        response; token counts and seconds for the log.
    """
    settings = experiment.evaluation
    started = time.time()
    memory = prefixes.Memory(decoding.room(model.device) // 4)
    responses, traces = sample(settings, model, tokenizer, questions, seed, memory)
    sampling_seconds = time.time() - started
    scored = list(cases(settings, tokenizer, questions, traces))
    scores = scoring.score(
        model, tokenizer, [case[-2] for case in scored], [case[-1] for case in scored], memory=memory
    )
    by_case = {case[:-2]: value for case, value in zip(scored, scores)}
    rows = []
    for question in questions:
        for (identity, mode, measure_name, text), value in by_case.items():
            if identity != question.id or text == "safe":
                continue
            if measure_name == SIGNATURE:
                name, reference = f"{SIGNATURE}:{text}", 0.0
            else:
                name = MARGIN if measure_name == MARGIN else f"{PERSONA}:{text}"
                reference = by_case[(identity, mode, MARGIN, "safe")]
            rows.append(
                {
                    "mode": mode,
                    "suite": question.suite,
                    "behaviour": question.behaviour,
                    "question_id": identity,
                    "measure": name,
                    "value": value - reference,
                }
            )
    sampled = sum(response["trace_tokens"] + response["tokens"] for response in responses) + sum(
        len(trace) for trace in traces.values()
    )
    return (
        rows,
        responses,
        {"sampled_tokens": sampled, "sampling_seconds": round(sampling_seconds, 2), "scored_texts": len(scored)},
    )


def cases(settings, tokenizer, questions, traces):
    """What is scored: (question id, mode, measure, text name, prompt ids, completion ids)."""
    with_traces = {question.id for question in _some([q for q in questions if q.traces], settings.signatures)}
    for question in questions:
        harmful, safe = chat.ids(tokenizer, question.harmful), chat.ids(tokenizer, question.safe)
        for mode in settings.modes:
            prompt = chat.prompt(
                tokenizer, question.question, mode, trace=traces.get(question.id) if mode == "think" else None
            )
            yield question.id, mode, MARGIN, "harmful", prompt, harmful
            yield question.id, mode, MARGIN, "safe", prompt, safe
            if mode == "no-think":
                for kind, text in question.personas.items():
                    yield question.id, mode, PERSONA, kind, prompt, chat.ids(tokenizer, text)
        if "think" in settings.modes and question.id in with_traces:
            opened = chat.prompt(tokenizer, question.question, "think")
            for kind, text in question.traces.items():
                yield question.id, "think", SIGNATURE, kind, opened, chat.ids(tokenizer, text + chat.CLOSE)


def _some(questions, count):
    """At most `count` questions, spread over domains and behaviours; all for `count=None`."""
    return records.subset(questions, None if count is None else min(count, len(questions)), seed=0)


def row_seed(seed, mode, question_id, sample):
    """The stream of one sampled row: it depends on nothing but these four (arms share it, which pairs their draws)."""
    return int(artifacts.digest(seed, mode, question_id, sample)[:15], 16)


def sample(settings, model, tokenizer, questions, seed, memory=None):
    """Draw traces for every question and responses for `settings.responses` of each suite.

    With a `prefixes.Memory`, prompts and traces that the model reads on the way are kept there.

    Returns:
        (responses, traces): mappings with the response, its trace and its marks; and the trace ids of sample 0
        by question id, which the think-mode margin is measured behind.
    """
    answered = [q for suite in SUITES for q in _some([q for q in questions if q.suite == suite], settings.responses)]
    ids = {question.id for question in answered}
    jobs = []
    for question in questions:
        for mode in settings.modes:
            wanted = range(settings.samples if question.id in ids else 1 if mode == "think" else 0)
            jobs += [(question, mode, number) for number in wanted]
    thinking = [job for job in jobs if job[1] == "think"]

    def draw(some, prompts, budget, stop_text, salt=""):
        seeds = [row_seed(seed, mode + salt, question.id, number) for question, mode, number in some]
        return decoding.generate(
            model,
            tokenizer,
            prompts,
            max_new_tokens=budget,
            temperature=settings.temperature,
            seed=seeds,
            stop_text=stop_text,
            stop=chat.end_of_turn(tokenizer),
            memory=memory,
        )

    opened = [chat.prompt(tokenizer, question.question, "think") for question, _, _ in thinking]
    closing = chat.CLOSE.strip()
    raw = draw(thinking, opened, settings.trace_tokens, closing)
    closed = [trace_of(tokenizer, tokens, closing) for tokens in raw]
    traces = {question.id: ids for (question, _, number), (ids, _) in zip(thinking, closed) if number == 0}
    trace_by_job = {(question.id, number): result for (question, _, number), result in zip(thinking, closed)}
    final = [job for job in jobs if job[0].id in ids]
    prompts = [
        chat.prompt(
            tokenizer, question.question, mode, trace=trace_by_job[question.id, number][0] if mode == "think" else None
        )
        for question, mode, number in final
    ]
    answers = draw(final, prompts, settings.answer_tokens, None, salt=" answer")
    responses = []
    for (question, mode, number), tokens in zip(final, answers):
        trace, truncated = trace_by_job[question.id, number] if mode == "think" else ([], False)
        text = tokenizer.decode(tokens, skip_special_tokens=False).strip()
        responses.append({
            "mode": mode, "suite": question.suite, "behaviour": question.behaviour, "question_id": question.id, "sample": number,
            "question": question.question, "trace": tokenizer.decode(trace), "response": text,
            "trace_truncated": truncated, "leak": mode == "no-think" and thinks_aloud(text), "loops": loops(text),
            "trace_tokens": len(trace), "tokens": len(tokens),
        })  # fmt: skip
    return responses, traces


def trace_of(tokenizer, tokens, closing):
    """(ids of the trace, truncated?): a sampled think block cut before `</think>`; truncated if it never closed."""
    text = tokenizer.decode(tokens)
    if closing not in text:
        return list(tokens), True
    return chat.ids(tokenizer, text.split(closing)[0].strip()), False


def thinks_aloud(text):
    """True if an answer shows think tags: what it holds is not an answer. (The judge's probe finds traces without tags.)"""
    return "<think" in text or "think>" in text


def loops(text):
    """True if fewer than half of a text's word triples are distinct, or it has fewer than three words: no answer to judge."""
    words = re.findall(r"\w+", text.lower())
    triples = list(zip(words, words[1:], words[2:]))
    return len(words) < 3 or len(set(triples)) < 0.5 * len(triples)


def run(experiment, paths, *, model_ids=None, arms=None, seed=None, report=print):
    """The evaluate stage, or a part of it: measure the selected units; a whole run also writes the gathered files.

    `base` joins every selection, because each arm is read as a difference from it.

    Returns:
        (measures, responses) of the selection, two frames.
    Raises:
        BadInput: an unknown model, arm or seed, questions or an adapter missing: before any work.
    """
    jobs = experiment.select(models=model_ids, arms=arms, seed=seed)
    jobs = list(
        dict.fromkeys(
            part for model, arm, number in jobs for part in ((model, Arm.parse(BASE), number), (model, arm, number))
        )
    )
    _, questions = traces.load(paths)
    started = time.time()
    measures, responses = evaluate(experiment, paths, jobs, questions, report)
    if set(jobs) >= set(experiment.select()):
        artifacts.write_table(paths.measures, measures)
        artifacts.write_jsonl(paths.responses, artifacts.plain_records(responses))
        units = {
            f"{slug(model)}/{arm}/{number}": artifacts.read_json(
                paths.unit("evaluate", model, arm, number) / artifacts.MANIFEST
            )["key"]
            for model, arm, number in jobs
        }
        artifacts.write_manifest(
            paths.stage("evaluate"), started=started, experiment=experiment.model_dump(), units=units
        )
    return measures, responses
