"""What every test of the project starts from."""

from hypothesis import HealthCheck, settings

# a busy machine is slow, not wrong; the same examples every time, so that a red run can be repeated
settings.register_profile(
    "natgym", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("natgym")
