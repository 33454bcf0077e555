"""What all tests share: how Hypothesis runs."""

import os

from hypothesis import settings

# Machines are noisy, so no example has a deadline. In CI the examples are always the same ones:
# a submission is judged by what it changed. Everywhere else each run looks in new places.
settings.register_profile("here", deadline=None, print_blob=True)
settings.register_profile("ci", parent=settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
