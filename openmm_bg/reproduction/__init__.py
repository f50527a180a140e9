"""Reproductions of the published figures that this package builds on, with numbers that can be checked."""
