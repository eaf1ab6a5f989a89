"""Diagnosis of a machine: what it has, what runs on it, and the commands that bring what is missing."""
