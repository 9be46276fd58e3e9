"""The deployable file: manifest, bundle, signature, encryption, and what they mean."""
