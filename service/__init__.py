"""The server: bytes -> schemas -> admission -> scheduler -> engine -> reply."""
