"""Printed letters."""
