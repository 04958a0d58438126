"""What a reader sees: figures, tables, the rendered book."""
