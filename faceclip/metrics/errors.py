"""How a metric fails: what cannot be measured, and what is not installed."""

from __future__ import annotations

from importlib.util import find_spec

INSTALL_COMMAND = "pip install 'faceclip[metrics]'"


class MetricError(ValueError):
    """Something that cannot be measured as asked. The message says what was found and what to do."""


class MetricUnavailableError(RuntimeError):
    """A package or the weights of a network are missing. The message names the command, or the file to get."""


def require(module: str, package: str, purpose: str) -> None:
    """Raise MetricUnavailableError, with the command that helps, unless `module` can be imported."""
    if find_spec(module) is None:
        raise MetricUnavailableError(
            f"{purpose} needs {package}, which is not installed. Run `pip install {package}`, or `{INSTALL_COMMAND}` for every "
            "metric."
        )
