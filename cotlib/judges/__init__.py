"""Who scores what a model said."""
