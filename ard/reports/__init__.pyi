from .concepts import Order, concept_names, find_concepts, find_feature, render_concepts
from .headline import headline
from .html import write_report
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
    "render_concepts",
    "render_table",
    "write_report",
    "write_tables",
]
