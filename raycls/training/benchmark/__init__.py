"""How fast and how well raycls trains, part by part, against a peer or a bound in the same call.

`parts` measures, `bare` is the loop without Ray, `page` turns the results of all parts into one page.
benchmarks/training.py is the command.
"""
