"""From an entry of a batch to what conditions the denoiser.

- ``Conditioner``: Encodes one batch entry; ``forward(value)`` gives the tensor for its ``route``.
- ``frozen``: The given conditioner, which from now on does not learn; checkpoints hold its
  weights.
- ``ClassLabel``: Class ids (B,) as sequences of one token (B, 1, dim), or unchanged for the route
  adm.
- ``TextTransformer``: Token ids (B, L) as a sequence of embeddings (B, L, dim) for cross-
  attention.
- ``CLIPText``: Token ids (B, L) as a sequence of CLIP embeddings (B, L, D) for cross-attention.
- ``OpenCLIPText``: Token ids (B, L) as OpenCLIP embeddings (B, L, D) for cross-attention; pooled
  (B, 1, D).
- ``OpenCLIPImage``: Images (B, 3, H, W) in [-1, 1] as normalised OpenCLIP embeddings (B, 1, D).
- ``LayoutTransformer``: Box tokens (B, L) as a sequence of embeddings (B, L, dim) for cross-
  attention.
- ``SpatialRescaler``: A map shrunk in ``stages`` steps to the size of the latent, then a learned
  1x1 convolution.
- ``ConcatImage``: An image that has the size of the latent already, e.g. the one to be super-
  resolved.
- ``LatentImage``: An image encoded by the first stage of the diffusion model, e.g. a masked one.
- ``ResizedMask``: A mask, 1 = to be filled in, shrunk to the latent by the nearest pixel and put
  in {-1, 1}.
- ``Embeddings``: Vectors (B, k, dim) as they are, for cross-attention; null is zero.
- ``ContrastiveCLIP``: Both halves of a CLIP, and the loss that teaches them to agree.
- ``PretrainedModule``: A network that is built empty and filled when it is first needed.
- ``Tokenizer``: Makes token ids of texts.
- ``BertTokenizer``: Lower-cased word pieces between [CLS] and [SEP], padded with [PAD] or cut to
  ``length``.
- ``ClipTokenizer``: Lower-cased byte pairs between a start and an end token, padded or cut to
  ``length``.
"""

from ldm.conditioners.base import Conditioner, frozen
from ldm.conditioners.class_label import ClassLabel
from ldm.conditioners.clip import CLIPText
from ldm.conditioners.contrastive import ContrastiveCLIP
from ldm.conditioners.embeddings import Embeddings
from ldm.conditioners.layout import LayoutTransformer
from ldm.conditioners.open_clip import OpenCLIPImage, OpenCLIPText
from ldm.conditioners.pretrained import PretrainedModule
from ldm.conditioners.spatial import ConcatImage, LatentImage, ResizedMask, SpatialRescaler
from ldm.conditioners.text import TextTransformer
from ldm.conditioners.tokenizers import BertTokenizer, ClipTokenizer, Tokenizer

__all__ = [
    "BertTokenizer",
    "CLIPText",
    "ClassLabel",
    "ClipTokenizer",
    "ConcatImage",
    "Conditioner",
    "ContrastiveCLIP",
    "Embeddings",
    "LatentImage",
    "LayoutTransformer",
    "OpenCLIPImage",
    "OpenCLIPText",
    "PretrainedModule",
    "ResizedMask",
    "SpatialRescaler",
    "TextTransformer",
    "Tokenizer",
    "frozen",
]
