"""A data set."""
