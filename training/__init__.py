"""Offline training: dataset -> learner -> evaluation -> export."""
