"""Language models in files: reading, writing, tokenizers."""
