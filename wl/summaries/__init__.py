"""A map -> a few numbers.

Comes in: a `MapSet`, a `Split` and `NetworkOptions`. Goes out: predictions.h5, the summary of every
map that is not trained on. A new network goes into `architectures`, its blocks and losses into
`layers`; a new statistic of a map goes into `handmade`; `options` lists what can be chosen.
`training` trains a `network` on maps, `dense` those on hand-made statistics, `predict` runs all.

In Python:

    from wl.summaries import handmade
    spectrum = handmade.Spectrum((1424, 176), n_observed=132019)
    print(spectrum.edges)                                     # bins of ell
"""
