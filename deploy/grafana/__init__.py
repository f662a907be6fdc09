"""The dashboard, from one list of panels."""
