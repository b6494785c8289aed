"""How many cases each property is tried on: 25 in `make test`, always the same; 10,000 with HYPOTHESIS_PROFILE=long.

Those are others each time, unless --hypothesis-seed says which; --hypothesis-show-statistics counts them.
"""

import os
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, configuration, settings

configuration.set_hypothesis_home_dir(Path(__file__).parents[2] / ".pytest_cache" / "hypothesis")
settings.register_profile(
    "short",
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=timedelta(seconds=20),  # no input of a few kB may keep anybody longer
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("long", settings.get_profile("short"), max_examples=10_000, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))
