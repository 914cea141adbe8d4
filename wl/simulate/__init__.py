"""(cosmology, nuisances, seed) -> maps.

Comes in: options of `python -m wl.simulate`, or a mask and labels. Goes out: a data set in the
public layout. New physics of the spectrum goes into `theory`, of halos into `halos`, a new kind of
sky into `fields` or `halo_sky`, a new option into `plan`; `simulate` makes and finds sets.
In Python:

    from wl.simulate.simulate import simulate
    simulate("data/tiny", cosmologies=5, realisations=2, test=0, quiet=True)
"""
