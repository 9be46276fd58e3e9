"""The camera agent: source, gate, detect, track, zones, features, outbox, upload."""
