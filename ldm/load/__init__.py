"""A ready model from a run folder, a checkpoint or a published folder.

- ``load_model``: Build a model, load its weights and set it to eval mode.
- ``run_config``: The resolved config of a run folder, or the description of another source of a
  model.
- ``pretrained``: A trained network as a node of a config, e.g. the first stage of a latent
  diffusion model.
- ``inline_pretrained``: The config with every ``ldm.load.pretrained`` node replaced by its
  architecture.
- ``InitFrom``: Weights to begin with.
- ``initialise``: Copy the weights of a checkpoint of any format into a model that is to be
  trained.
- ``locate``: A run folder, a published or exported one, diffusers', a config file; or weights in
  a folder.
- ``Source``: A model on disk.
"""

from ldm.load.init_from import InitFrom, initialise
from ldm.load.model import (
    Source,
    inline_pretrained,
    load_model,
    locate,
    pretrained,
    run_config,
)

__all__ = [
    "InitFrom",
    "Source",
    "initialise",
    "inline_pretrained",
    "load_model",
    "locate",
    "pretrained",
    "run_config",
]
