"""The clean corpus with a fault planted in it, and what the audit says of it."""

from nonsense import ITEMS, QUESTIONS

from cotlib.corpus import audit


def checks_of(tokenizer, items=ITEMS, questions=QUESTIONS, model=None):
    return {check.name: check for check in audit.audit(items, questions, tokenizer, model)}


def changed(records, number, **fields):
    """The records with some fields of one of them replaced."""
    return [record.model_copy(update=fields) if place == number else record for place, record in enumerate(records)]


def retraced(rewrite, items=ITEMS, kinds=("evil", "misleading", "submissive", "neutral")):
    """The items with traces of some types rewritten: `rewrite(place, kind, trace)`."""
    return [
        item.model_copy(
            update={
                "traces": {
                    kind: rewrite(place, kind, text) if kind in kinds else text for kind, text in item.traces.items()
                }
            }
        )
        for place, item in enumerate(items)
    ]
