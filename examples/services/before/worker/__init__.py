"""Asks the web service."""
