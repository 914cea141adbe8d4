"""(cosmology, nuisances, seed) -> maps.

Comes in: options of `python -m wl.simulate`, or a mask and labels. Goes out: a data set in the
public layout. `theory` makes the angular power spectrum, `fields` a map of it, `halos` and
`halo_sky` one with halos, `survey` mask and design. `plan` decides what a set consists of,
`simulate` draws it on all cores, `sets` finds sets and completes them. New physics of the spectrum
goes into `theory`, a new kind of sky into `fields`, a new option into `plan.SimulationOptions`.

In Python:

    from wl.simulate.simulate import simulate
    simulate("data/tiny", cosmologies=5, realisations=2, test=0, quiet=True)
    simulate("data/tiny", cosmologies=5, realisations=2, test=0, quiet=True)  # complete already
"""
