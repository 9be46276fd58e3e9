"""What a compression did, for people (one HTML page) and for programs (JSON)."""
