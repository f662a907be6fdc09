"""Client of SORL Serve."""
