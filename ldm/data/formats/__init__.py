"""What image files are made of: pixels for a decoder, and what else is needed to read them right.

Decoders fail at metadata that nobody asked for, and older ones fail at more. So a JPEG, PNG or
TIFF file is taken apart here and reaches the decoder without them (``jpeg``, ``png``, ``tiff``).
Which way is up (``encoded``), what black and white are (``values``) and what colours mean
(``colours``) is decided here, alike for all formats and releases of Pillow.
"""
