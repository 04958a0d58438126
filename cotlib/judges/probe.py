"""A judge that needs nothing but the base model: logistic regressions on its hidden states."""

import functools

import numpy as np

from cotlib import chat
from cotlib.engine import models
from cotlib.judges.learned import LearnedJudge


def features(model, tokenizer, questions, texts, mode="no-think"):
    """Mean hidden state over a text's tokens, at half the model's depth, after its question's prompt.

    Half depth is fixed beforehand: the last layers mainly encode the next token. Returns float32 (texts, width).
    """
    import torch

    from cotlib.engine import products
    from cotlib.engine.prefixes import tree_attention, trees

    prompts = [chat.prompt(tokenizer, question, mode) for question in questions]
    bodies = [chat.plain_ids(tokenizer, text) or [tokenizer.eos_token_id] for text in texts]
    sequences = [prompt + body for prompt, body in zip(prompts, bodies)]
    found = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    decoder = model.get_decoder()
    whole = decoder.layers
    decoder.layers = whole[: len(whole) // 2]
    try:
        with torch.inference_mode():
            for tree in trees(sequences, 512, multiple=products.ROWS):
                with tree_attention(model), products.fast(model):
                    hidden = decoder(**tree.inputs(model), use_cache=False)[0][0]
                for index, path in tree.paths.items():
                    found[index] = hidden[path[len(prompts[index]) :]].float().mean(0).cpu().numpy()
    finally:
        decoder.layers = whole
    return found


def regression():
    """A regularised logistic regression on standardised hidden states, not fitted yet."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000, class_weight="balanced"))


class ProbeJudge(LearnedJudge):
    """See `LearnedJudge`; it sees the base model's hidden states of a text behind its question."""

    name = "probe"

    def inputs(self, questions, texts):
        """Hidden states: float32 (texts, width)."""
        return features(*self._model, questions, texts)

    @staticmethod
    def classifier():
        """See `regression`."""
        return regression()

    @functools.cached_property
    def _model(self):
        return models.load(self.context.model)
