"""Numbers -> posterior."""
