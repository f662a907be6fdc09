"""Deployment: Ray Serve application (`ray`), dashboard (`grafana`), Prometheus, Kubernetes, and shipped policies."""
