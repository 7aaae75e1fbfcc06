"""Scenarios, their statistics and their files."""
