"""What `p2pkit check` measures: do geometry and image agree, and if not, what is wrong?

Scores of edges, shifts in space and time, agreement of posed depths, and the verdicts drawn from
them.
"""
