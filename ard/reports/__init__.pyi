from .concepts import (
    Order,
    concept_names,
    find_concepts,
    find_feature,
    read_timelines,
    render_concepts,
    shown_names,
)
from .exports import Export, write_export
from .headline import headline, read_fvu
from .html import write_report
from .summary import summary
from .table import Table, render_table
from .tables import build_tables, write_tables

__all__ = [
    "Export",
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
    "shown_names",
    "summary",
    "write_export",
    "write_report",
    "write_tables",
]
