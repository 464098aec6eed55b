"""Executors: what makes sandboxes."""
