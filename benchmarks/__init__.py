"""How fast all of it is, beside its peers and the limits of the machine.

`python -m benchmarks`, in a clone of the repository, runs every part of `parts`, each
in a process of its own; README.md says more.
"""
