"""The Grafana dashboard: `panels` lists its panels, `promql` builds their queries, `dashboard` writes its JSON."""
