"""What a pickle would build, found out without building it.

A pickle is a program for a small stack machine. Reading one that somebody made up can take any
amount of memory and time (a memo of 2**28 places in five bytes, references that double, a storage
of a terabyte) or crash the interpreter (the hash of tuples nested a million deep), whatever is
allowed to be imported. ``PickleScan`` runs the program on stand-ins: numbers and short texts are
themselves, of containers there are depth and size, of tensors their storages. It takes time in
proportion to the file, and refuses what no checkpoint needs.

- ``values``: stand-ins, and the limits.
- ``calls``: what names, calls and storages come to.
- ``machine``: the stack machine.
- ``files``: the files of PyTorch that hold pickles.
"""
