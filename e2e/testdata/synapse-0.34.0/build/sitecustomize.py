"""Lets setuptools build Synapse 0.34.0, when this directory is on PYTHONPATH.

Its setup.py gives dependency_links as a dictionary's view. setuptools, since it became strict, takes a list alone.
"""
import importlib.util

if importlib.util.find_spec("setuptools"):
    from setuptools import dist

    strict = dist.assert_string_list

    def lenient(distribution, attribute, value):
        strict(distribution, attribute, [*value])

    dist.assert_string_list = lenient
