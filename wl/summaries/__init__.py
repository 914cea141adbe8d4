"""A map -> a few numbers.

Comes in: a `MapSet`, a `Split` and `NetworkOptions`. Goes out: predictions.h5, the summary of every
map that is not trained on. A new network goes into `architectures`, its options into
`options.MODELS`, a new loss into `network.Loss`, a new statistic of a map into `handmade.Features`.
`training` trains a `network` on maps, `dense` trains networks on hand-made statistics, `predict`
runs the stage and makes many predictions one, `likeness` judges maps, `apply` takes new ones.
In Python:

    from wl.summaries import handmade
    spectrum = handmade.Spectrum((1424, 176), n_observed=132019)
    print(spectrum.edges)                                     # bins of ell
"""
