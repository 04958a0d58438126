"""The craft stage: the items and questions of a run, with a trace for every arm."""

from cotlib.corpus.traces import check, craft, load

__all__ = ["check", "craft", "load"]
