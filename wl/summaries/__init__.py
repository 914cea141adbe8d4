"""A map -> a few numbers."""
