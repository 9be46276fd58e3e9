"""The cloud's gRPC surface: who calls, what is allowed, how errors travel, and the servicers."""
