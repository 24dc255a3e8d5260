from .concepts import Order, concept_names, find_concepts, find_feature, read_timelines, render_concepts
from .headline import headline, read_fvu
from .html import write_report
from .summary import summary
from .table import Table, render_table
from .tables import build_tables, write_tables

__all__ = [
    "Order",
    "Table",
    "build_tables",
    "concept_names",
    "find_concepts",
    "find_feature",
    "headline",
    "read_fvu",
    "read_timelines",
    "render_concepts",
    "render_table",
    "summary",
    "write_report",
    "write_tables",
]
