"""Tests in a browser, and what they share. A package, so that its conftest.py is not mistaken for that above it."""
