"""(cosmology, nuisances, seed) -> maps."""
