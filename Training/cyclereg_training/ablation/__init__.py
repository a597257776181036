"""What each term of CycleMorph's loss does, as its Table VI asks, where the true fields are known.

``variants`` are the objectives, ``run`` trains and tests them, ``measuring`` are the numbers of a pair, ``report`` says
in tables and words what came out.
"""
