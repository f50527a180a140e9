"""Arrays as the content of a file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np


def arrays_bytes(arrays: dict[str, Any]) -> bytes:
    """Return arrays as the content of an ``.npz`` file, so that it can be written atomically."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()
