"""What numbers look like: statistics of few seeds, pictures, and pages of both.

They know tables of episodes and metrics, and nothing of the runs that these come from.
"""
