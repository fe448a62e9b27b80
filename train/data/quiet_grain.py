"""grain, without the warning of JAX's absence that it begins with: nothing here is made for JAX."""

from __future__ import annotations

import logging

_before = logging.root.manager.disable
logging.disable(logging.WARNING)
try:
    import grain
finally:
    logging.disable(_before)

__all__ = ["grain"]
