"""Contexts in fixtures: see `runnerd.testing.hosted`."""

from runnerd.testing import hosted

__all__ = ["hosted"]
