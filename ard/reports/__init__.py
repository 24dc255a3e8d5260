"""Stage 10: result files of a run -> tables (JSON, Markdown, LaTeX, terminal, logger) and the HTML concept report.

Reads only files, so a report can be made long after the run, on a machine without the model.
"""

from ard.reports.concepts import Order, concept_names, find_concepts, find_feature, render_concepts
from ard.reports.html import write_report
from ard.reports.run import Run
from ard.reports.table import Table, render_table
from ard.reports.tables import build_tables, write_tables

__all__ = [
    "Order",
    "Run",
    "Table",
    "build_tables",
    "concept_names",
    "find_concepts",
    "find_feature",
    "render_concepts",
    "render_table",
    "write_report",
    "write_tables",
]
