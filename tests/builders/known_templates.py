"""Our own models, whose chat templates are known to end: taken in without a process for them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tasks.models import template_binding
from tasks.models.template_rendering import render


@contextmanager
def rendered_here() -> Iterator[None]:
    """Let chat templates be rendered in this process while the block lasts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template_binding, "render_bounded", render)
        yield
