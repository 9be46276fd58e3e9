"""camctl, the command line."""
