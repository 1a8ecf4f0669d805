"""Tables for pandas, which is imported here only, and when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actorcritic.core.errors import UserError


def data_frame(columns: Mapping[str, Any]) -> Any:
    """A `pandas.DataFrame` with these columns. UserError where pandas is not installed."""
    try:
        import pandas
    except ImportError as error:
        raise UserError(
            'pandas is not installed. Install it: pip install "actorcritic[pandas]"'
        ) from error
    return pandas.DataFrame(dict(columns))
