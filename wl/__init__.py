"""wl: weak-lensing convergence maps to Omega_m and S_8 with error bars that can be trusted."""
__version__ = "0.1.0"
