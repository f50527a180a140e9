"""Coarse-graining and backmapping with weights: from a few beads to all-atom averages.

Source: the framework of Chennakesavalu, Toomer and Rotskoff, arXiv 2210.07882, with exact weights in the place of
its energy threshold.
"""
