"""What holds for every test: programs that it starts run as they do at a user's."""

import os

# Where it is set, bytecode that falls into a folder with a manifest would go unseen.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
