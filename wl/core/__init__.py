"""What every room (subpackage) needs; no physics.

Comes in: options, arrays, paths. Goes out: checked values, random generators, HDF5 files, progress,
one-line errors. `checks` refuses wrong input, `seeds` lists all random streams, `files` writes a
file whole or not at all, `hdf5` alone knows the layout of the results and which stages of a run
are done, `cli` is what the scripts share.

In Python:

    from wl.core import hdf5
    file = hdf5.read("data/runs/main/posterior.h5", "posterior")
    print(file.groups["summary"]["posterior_mean"].shape, file.settings["sampler"])
"""
