"""Arrays and tables as the content of a file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np


def arrays_bytes(arrays: dict[str, Any]) -> bytes:
    """Return arrays as the content of an ``.npz`` file, so that it can be written atomically."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def csv_text(table: list[dict[str, Any]]) -> str:
    """Return rows with the same keys as a table."""
    lines = [",".join(table[0])]
    lines += [
        ",".join(f"{value:.6g}" if isinstance(value, float) else str(value) for value in row.values())
        for row in table
    ]
    return "\n".join(lines) + "\n"
