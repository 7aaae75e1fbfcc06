"""Slow, plain NumPy versions of every rule, written from the definitions.

They take the arrays a user would pass, renormalise them in extended precision and
keep it throughout, so that an error of 1e-5 against them is the tested code's own.
"""
