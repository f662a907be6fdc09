"""Everything between the service and the machines it runs on."""
