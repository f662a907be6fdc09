"""HTTP service: routes -> admission -> scheduler -> engine -> reply."""
