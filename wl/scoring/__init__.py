"""Posterior -> score."""
