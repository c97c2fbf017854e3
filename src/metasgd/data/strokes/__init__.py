"""Drawings taken apart into the strokes of a pen, and drawn again."""
