"""Supervised training: one network on one data set, by a learned optimizer or a given one."""
