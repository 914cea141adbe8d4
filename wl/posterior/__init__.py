"""Summaries of maps -> posteriors of Omega_m and S_8.

In come the summaries of maps at known cosmologies, and those of the maps to infer: arrays, or
predictions.h5. Out goes the posterior of each map in numbers (posterior.Chains), or posterior.h5.
On the way: covariance.py makes mean and covariance per cosmology, emulator.py interpolates them and
the prior between cosmologies, metropolis.py walks chains or quadrature.py integrates exactly,
posterior.py fits error bars to maps whose truth is known. The room knows neither maps nor networks.
Of all truths it knows the cosmologies of the emulator split alone. In Python:

    from wl.posterior import emulator, quadrature; import numpy as np; r = np.random.default_rng(1)
    theta, covariance = r.uniform([0.1, 0.7], [0.5, 0.9], (40, 2)), np.diag([4e-4, 1e-4])
    print(quadrature.exact(emulator.build(theta, theta, [covariance] * 40), [[0.3, 0.8]]).mean)

In this example summaries are unbiased estimates of the cosmology: the mean equals the design.
"""
