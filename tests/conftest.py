"""What holds for every test: examples are judged by what they show, not by how long they took."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Tests run in parallel on few cores, beside processes of their own: time says nothing here.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
