"""The decoder of language models, and its low-rank adapters."""
