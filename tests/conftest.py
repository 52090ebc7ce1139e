"""Hypothesis for all tests: how long an example takes says only how busy the machine is, and so fails none."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("any-machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")
