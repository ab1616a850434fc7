"""Train latent diffusion models (Rombach et al., arXiv 2112.10752), sample and evaluate them.

``ldm.load_model`` opens a trained or published model. It is imported when it is first asked for, so
that ``import ldm`` needs nothing but the standard library; programs parse their options with that.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm.load import load_model

__all__ = ["__version__", "load_model"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name != "load_model":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ldm.load import load_model

    return load_model
