"""Metrics, tables, figures and pages."""
