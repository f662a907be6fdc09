"""The same policy behind other servers, each written as a user of that framework would. They share `sampler.py`."""
