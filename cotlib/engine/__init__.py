"""How a model is loaded, trained, sampled from and scored, fast.

Skip it on a first reading: it works on token ids and tensors, and knows nothing of arms, corpus or chat templates.
"""
