"""Derivatives of the usual layers in closed form."""
