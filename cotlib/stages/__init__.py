"""The five steps of a run, each a function of one shape: (experiment, paths, units) in, what a notebook shows out.

A stage says which unit needs what and gathers the results; how one unit is done stands in the root (`training`,
`measures`), in `corpus` and in `judges`. The loop over units is `runs.units`, the same for all.
"""
