"""Runs Synapse 0.34.0 on today's Python, with createUser.

    python createuser.py --config-path homeserver.yaml

That release was written for Python 2.7 to 3.7 and leaves createUser out on Python 3. What is answered is its own
code; this only gives back what Python and PyYAML have dropped since, and adds the endpoint.
"""
import collections
import collections.abc
import inspect
import sys
import warnings

import yaml

warnings.filterwarnings("ignore")  # of eight years of deprecations

# Python 3.10 moved the abstract classes for good; frozendict, jsonschema and prometheus_client look for them here.
vars(collections).update((name, getattr(collections.abc, name)) for name in collections.abc.__all__)

# Python 3.11 dropped getargspec; synapse.util.caches reads no more than the first fields of its successor.
inspect.getargspec = inspect.getfullargspec

# PyYAML 6 wants to be told a loader; Synapse's files need none but the safe one.
yaml.load.__defaults__ = (yaml.SafeLoader,)

from synapse.app import homeserver
from synapse.handlers.register import RegistrationHandler
from synapse.rest.client.v1_only.register import register_servlets


class ClientResource(homeserver.ClientRestResource):
    """The client API as it was on Python 2: with the servlets that synapse.rest skips on Python 3."""

    def __init__(self, hs):
        super().__init__(hs)
        register_servlets(hs, self)


def text(value):
    return value.decode("utf-8") if isinstance(value, bytes) else value


def get_or_create_user(self, requester, localpart, displayname, password_hash=None):
    """The servlet hands its arguments over as bytes, which were text on Python 2."""
    return original(self, requester, text(localpart), text(displayname), text(password_hash))


homeserver.ClientRestResource = ClientResource
original, RegistrationHandler.get_or_create_user = RegistrationHandler.get_or_create_user, get_or_create_user

if __name__ == "__main__":
    sys.exit(homeserver.main())
