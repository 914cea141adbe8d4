"""A data set: opened, checked, split by realisation, and cut into batches.

Comes in: a folder in the public layout (`dataset` names the files). Goes out: a `MapSet` of
memory-mapped maps with labels and mask, a `Split` of its realisations, and `Batches` of noisy maps
on a `Frame`. A new layout of files goes into `dataset`, a new way to split into `splits`.
In Python:

    from wl.maps.dataset import open_set
    maps = open_set("data/simulated")
    print(maps.kappa.shape, maps.theta[0], maps.n_gal)
"""
