"""The schema side of the PostgreSQL connector: from pg_dump's archive to what is run at the sink.

`tools` and `dump` make the archive, `archive` and `graph` read it, `select` chooses, `plan` says what to run before
and after the load, `apply` runs it. `catalog`, `server`, `sequences` and `facts` ask servers what planning has to know.
"""

from dsync_postgres.schema.apply import rehearse, run_statements, run_step
from dsync_postgres.schema.archive import Archive, Section, TocEntry, read_archive
from dsync_postgres.schema.catalog import ColumnFacts, IndexFacts, TableFacts, TypeFacts, read_tables, read_types
from dsync_postgres.schema.checks import source_findings
from dsync_postgres.schema.dump import DumpRequest, dump_schema
from dsync_postgres.schema.facts import SinkFacts, SourceFacts, read_existing, read_sink
from dsync_postgres.schema.graph import Graph, build_graph
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.plan import SETTINGS, PlanOptions, SchemaPlan, build_plan
from dsync_postgres.schema.select import SchemaSelection, select_all, select_tables
from dsync_postgres.schema.sequences import (
    SequenceFacts,
    SequencePosition,
    read_positions,
    read_sequences,
    set_position,
)
from dsync_postgres.schema.server import (
    ExtensionFacts,
    RoleFacts,
    ServerFacts,
    read_extensions,
    read_roles,
    read_server,
)
from dsync_postgres.schema.steps import BuildStep, SequenceTarget, Statement
from dsync_postgres.schema.tools import PgDump, PgDumpChoice, choose_pg_dump

__all__ = [
    "SETTINGS",
    "Archive",
    "BuildStep",
    "ColumnFacts",
    "DumpRequest",
    "ExtensionFacts",
    "Graph",
    "IndexFacts",
    "PgDump",
    "PgDumpChoice",
    "PlanOptions",
    "RoleFacts",
    "SchemaPlan",
    "SchemaSelection",
    "Section",
    "SequenceFacts",
    "SequencePosition",
    "SequenceTarget",
    "ServerFacts",
    "SinkFacts",
    "SourceFacts",
    "Statement",
    "TableFacts",
    "TableName",
    "TocEntry",
    "TypeFacts",
    "build_graph",
    "build_plan",
    "choose_pg_dump",
    "dump_schema",
    "read_archive",
    "read_existing",
    "read_extensions",
    "read_positions",
    "read_roles",
    "read_sequences",
    "read_server",
    "read_sink",
    "read_tables",
    "read_types",
    "rehearse",
    "run_statements",
    "run_step",
    "select_all",
    "select_tables",
    "set_position",
    "source_findings",
]
