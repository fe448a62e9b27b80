"""Names that files can have on every system."""

from __future__ import annotations

import re

LONGEST = 255  # bytes of one name, on nearly every file system
# Windows takes these for devices, whatever comes behind the first dot; the raised digits count as well.
_DEVICE = r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(\..*)?"


def is_portable(name: str) -> bool:
    """Whether a file can be called so on Linux, macOS and Windows: no path,
    no device, no sign that one of them refuses."""
    return (
        0 < len(name.encode("utf-8", "surrogatepass")) <= LONGEST
        and re.search(r'[\x00-\x1f<>:"/\\|?*\ud800-\udfff]', name) is None
        and name[-1] not in ". "
        and re.fullmatch(_DEVICE, name, re.IGNORECASE) is None
    )
