"""Pictures for people: sheets, figures, films, curves, conditions.

- ``save_png``: Write an image (C, H, W) in [-1, 1], C = 1, 3 or 4, as PNG, complete or not at
  all.
- ``save_grid``: Lay PNG files out in rows of ``columns`` and write them as one picture.
- ``save_sheet``: Lay images (3, H, W) in [-1, 1] out in rows of ``columns``, as one picture.
- ``Cell``: An image and a line below it; without an image, words in its place.
- ``Row``: A row of cells with a title above it.
- ``save_rows``: Write rows of cells as one PNG; all cells get the size of the largest image.
- ``write_film``: Write frames, uint8 (H, W, 3) of one size, complete or not at all.
- ``draw_curves``: Draw every metric of a run, training and validation over each other, into a
  PNG.
- ``draw_layout``: The part of a layout that is shown, as an image (3, H, W) in [-1, 1].
- ``colour_label_map``: A label map (H, W) as an image (3, H, W) in [-1, 1]; what is no class is
  black.
"""

from ldm.visualization.conditions import colour_label_map, draw_layout
from ldm.visualization.curves import draw_curves
from ldm.visualization.figure import Cell, Row, save_rows
from ldm.visualization.images import save_grid, save_png, save_sheet
from ldm.visualization.video import write_film

__all__ = [
    "Cell",
    "Row",
    "colour_label_map",
    "draw_curves",
    "draw_layout",
    "save_grid",
    "save_png",
    "save_rows",
    "save_sheet",
    "write_film",
]
