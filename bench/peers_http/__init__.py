"""The same policy served by other frameworks, each as its users would write it. They share `sampler`."""
