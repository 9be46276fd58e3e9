"""The camera-cloud protocol: generated code beside its .proto files."""
