"""What is to be run: files, their validation, rules by name, populations."""
