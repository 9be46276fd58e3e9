"""Client of the cloud for application developers."""
