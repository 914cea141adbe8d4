"""What every room (subpackage) needs; no physics.

Comes in: options, arrays, paths. Goes out: checked values, random generators, HDF5 files, progress,
one-line errors. `checks` refuses wrong input, `seeds` lists all random streams, `files` writes a
file whole or not at all, `hdf5` knows the layout of results and what is done, scripts share `cli`.
In Python:

    from wl.core import hdf5
    file = hdf5.read("data/runs/main/posterior.h5", "posterior")
    print(file.groups["summary"]["posterior_mean"].shape, file.settings["sampler"])
"""
