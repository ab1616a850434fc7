"""Data sets and recipes of items; none of them sees a model.

- ``ImageFolder``: Images of a folder and its sub-folders (jpg, jpeg, png, webp), resized and
  cropped.
- ``FileList``: A source (``ldm.data.ImageSource``) of listed files below a folder.
- ``ArrayFolder``: Arrays (.npy) of a folder and its sub-folders: satellite bands, CT slices,
  spectra.
- ``PairedFolder``: Images and their partners, cut alike.
- ``Picture``: Another image: float (3, H / factor, W / factor) in [-1, 1].
- ``LabelMap``: Class ids: long (H, W), -1 where there is no class; resized without mixing ids.
- ``Mask``: A mask: float (1, H, W), 1 = hole, 0 = known.
- ``Framing``: Resize an image so that it covers the crop, cut the crop out, perhaps mirror it.
- ``make_framing``: A ``Framing`` for ``size``, the side of a square or (height, width), in
  pixels.
- ``RandomData``: Items of random entries, drawn on the fly; nothing can be learned from them.
- ``ImageSource``: Where images come from: a folder, a list of files, an archive, a database.
- ``FramedImages``: Images of a source, resized, cropped and perhaps mirrored.
- ``Reading``: How image files are read, where it is not the file that says it.
- ``Cifar10``: A source (``ldm.data.ImageSource``) of 32 x 32 images with ``class_label``.
- ``ImageNet``: A source (``ldm.data.ImageSource``) of images with ``class_label``.
- ``Lsun``: A source (``ldm.data.ImageSource``) of centre squares.
- ``Faces``: A source (``ldm.data.ImageSource``) of listed faces.
- ``CocoCaptions``: A source (``ldm.data.ImageSource``) of images with ``caption``, one of five
  by a draw.
- ``CocoBoxes``: A source (for ``ldm.data.LayoutImages``) of images with boxes of things and
  perhaps stuff.
- ``OpenImagesBoxes``: A source (for ``ldm.data.LayoutImages``) of images with boxes and their four
  flags.
- ``Shards``: Images with captions or classes from tar files, in a stream.
- ``ShardItems``: The samples of local, uncompressed shards, in the order in which they are
  stored.
- ``Box``: An object of an image.
- ``BoxFilter``: Which objects and images are kept.
- ``BoxTokenizer``: Makes tokens of boxes as layout-to-image models read them (LDM, Table 17; 92
  tokens).
- ``LayoutImages``: Images and box tokens, as VQGAN+T and LDM train on them.
- ``JsonBoxes``: A source (for ``ldm.data.LayoutImages``) of images with boxes; see
  ``ldm.data.layouts.reading``.
- ``Inpainting``: Any data set of images with a random mask for each.
- ``MaskFiles``: A mask generator (``ldm.data.inpainting.masks``) that draws one of the masks of a
  folder.
- ``Strokes``: Strokes of a brush, each of 1 to 5 straight segments with round ends.
- ``Boxes``: Upright rectangles, anywhere in the image.
- ``Mixture``: One of several kinds of mask, drawn anew until it is neither empty nor too large.
- ``lama_masks``: One of ``SETS``, for images of any size.
- ``SuperResolution``: Any data set of images with the small one from which each is to be
  recovered.
- ``Bicubic``: Bicubic interpolation with anti-aliasing: the degradation of SR3 and of the paper's
  Table 5.
- ``bsr``: The degradation of BSRGAN, without camera noise.
- ``bsr_light``: The light variant, with which the released ``bsr_sr`` was trained.
- ``BlindDegradation``: A random chain of steps that shrinks an image ``factor`` times.
- ``WithNeighbours``: A data set of image files with the k nearest neighbours of each, by CLIP
  embedding.
- ``CachedLatents``: Latents and conditions of a data set, memory-mapped;
  ``scripts/cache_latents.py`` makes them.
- ``SceneDataset``: Scenes drawn on the fly: nothing is stored and nothing is downloaded.
- ``PointCloud``: Points drawn uniformly inside silhouettes; every item is one point, a sample of
  its own.
"""

from ldm.data.arrays import ArrayFolder
from ldm.data.datasets.base import FramedImages, ImageSource
from ldm.data.datasets.cifar10 import Cifar10
from ldm.data.datasets.coco import CocoBoxes, CocoCaptions
from ldm.data.datasets.faces import Faces
from ldm.data.datasets.imagenet import ImageNet
from ldm.data.datasets.lists import FileList
from ldm.data.datasets.lsun import Lsun
from ldm.data.datasets.open_images import OpenImagesBoxes
from ldm.data.folder import ImageFolder
from ldm.data.framing import Framing, make_framing
from ldm.data.image_io import Reading
from ldm.data.inpainting.dataset import Inpainting
from ldm.data.inpainting.masks import Boxes, MaskFiles, Mixture, Strokes, lama_masks
from ldm.data.latents.dataset import CachedLatents
from ldm.data.layouts.boxes import Box, BoxFilter, BoxTokenizer
from ldm.data.layouts.dataset import LayoutImages
from ldm.data.layouts.reading import JsonBoxes
from ldm.data.paired import LabelMap, Mask, PairedFolder, Picture
from ldm.data.random_data import RandomData
from ldm.data.retrieval.dataset import WithNeighbours
from ldm.data.scenes.dataset import SceneDataset
from ldm.data.scenes.points import PointCloud
from ldm.data.shards.dataset import Shards
from ldm.data.shards.indexed import ShardItems
from ldm.data.super_resolution.bicubic import Bicubic
from ldm.data.super_resolution.bsrgan import BlindDegradation, bsr, bsr_light
from ldm.data.super_resolution.dataset import SuperResolution

__all__ = [
    "ArrayFolder",
    "Bicubic",
    "BlindDegradation",
    "Box",
    "BoxFilter",
    "BoxTokenizer",
    "Boxes",
    "CachedLatents",
    "Cifar10",
    "CocoBoxes",
    "CocoCaptions",
    "Faces",
    "FileList",
    "FramedImages",
    "Framing",
    "ImageFolder",
    "ImageNet",
    "ImageSource",
    "Inpainting",
    "JsonBoxes",
    "LabelMap",
    "LayoutImages",
    "Lsun",
    "Mask",
    "MaskFiles",
    "Mixture",
    "OpenImagesBoxes",
    "PairedFolder",
    "Picture",
    "PointCloud",
    "RandomData",
    "Reading",
    "SceneDataset",
    "ShardItems",
    "Shards",
    "Strokes",
    "SuperResolution",
    "WithNeighbours",
    "bsr",
    "bsr_light",
    "lama_masks",
    "make_framing",
]
