"""What the processes of the run do: each function prepares, and gives back the action to measure.

Nothing here is imported by another module of the program, and nothing here imports more than a contestant
needs: what is in the process counts.
"""
