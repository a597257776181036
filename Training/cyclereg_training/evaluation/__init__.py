"""Tables as the papers have them: methods side by side on test pairs, and the statistics between them.

``test_list`` and ``specs`` read what is compared, ``run`` registers and measures, ``scores`` holds the numbers,
``wilcoxon`` compares two methods, ``tables`` writes CSV, Markdown, JSON and box plots.
"""
