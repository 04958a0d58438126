"""How a model is loaded, trained on, sampled from and scored, fast. Skip it on a first reading: it knows ids and tensors only."""
