"""Runs the command."""

from benchmarks.command import main

# Processes of its own import this file again.
if __name__ == "__main__":
    main()
