"""Figures and the self-contained HTML report.

`build.build_report` writes the report; a module per section turns tables of earlier stages into a sentence, a
figure and a table. Nothing is computed here that a stage should have computed.
"""
