"""`sorl-bench serve`: our server and its peers over HTTP, one module a section."""
