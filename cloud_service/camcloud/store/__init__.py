"""Durable state of the cloud: database, migrations and the stores over them."""
