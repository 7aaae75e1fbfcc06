"""The decoder of language models, and adapters of it."""
