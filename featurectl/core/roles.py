"""Three roles for a repository's database, as SQL for whoever administers it: one owns, one writes, one reads."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from featurectl.core.config import Config
from featurectl.core.repository import resource
from featurectl.core.schema import MAX_IDENTIFIER_BYTES
from featurectl.errors import UsageError

# The words that PostgreSQL takes for no role, and the beginning of the names of its own.
_RESERVED = ("public", "none", "current_role", "current_user", "session_user")
_SYSTEM = "pg_"

_READ = "SELECT"
_WRITE = "SELECT, INSERT, UPDATE, DELETE"
# A schema that is everybody's.
_PUBLIC = "public"
# What Feast's SQL registry consists of.
_REGISTRY_TABLES = (
    "data_sources",
    "entities",
    "feast_metadata",
    "feature_services",
    "feature_view_version_history",
    "feature_views",
    "label_views",
    "managed_infra",
    "on_demand_feature_views",
    "permissions",
    "projects",
    "saved_datasets",
    "stream_feature_views",
    "validation_references",
)


@dataclass(frozen=True, slots=True)
class Roles:
    """The names of a repository's roles."""

    owner: str
    writer: str
    reader: str

    @classmethod
    def of(
        cls, project: str, *, owner: str | None = None, writer: str | None = None, reader: str | None = None
    ) -> Roles:
        """Return the roles of these names, by default after the project.

        Raises:
            UsageError: a name is none that PostgreSQL takes, or two are the same.
        """
        given = {"owner": owner, "writer": writer, "reader": reader}
        names = {role: f"{project}_{role}" if name is None else name for role, name in given.items()}
        for role, name in names.items():
            _check(role, name)
            same = next((other for other in names if other != role and names[other] == name), None)
            if same:
                raise UsageError(f"role '{name}' can't be {role} and {same}; give --{same} another name")
        return cls(**names)


def _check(role: str, name: str) -> None:
    step = f"name another with --{role} NAME"
    if not name.isprintable() or not name.strip():
        raise UsageError(f"role {name!r} is not a name; {step}")
    if len(name.encode(errors="surrogateescape")) > MAX_IDENTIFIER_BYTES:
        raise UsageError(f"role '{name}' is longer than {MAX_IDENTIFIER_BYTES} bytes, which PostgreSQL cuts; {step}")
    if name.lower() in _RESERVED or name.startswith(_SYSTEM):
        raise UsageError(f"role '{name}' is a name that PostgreSQL keeps to itself; {step}")


@dataclass(frozen=True, slots=True)
class _Schema:
    """A schema and what the writer may do in it; ``tables`` are the names of ours where it is shared with others."""

    name: str
    privileges: str
    tables: tuple[str, ...] = ()

    @property
    def is_shared(self) -> bool:
        return self.name == _PUBLIC


def roles_sql(config: Config, roles: Roles) -> str:
    """Return a script that makes the roles, and gives each what it needs in the repository's database; no secret."""
    import jinja2  # 0.15 s, and only this and init need it

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters |= {
        "identifier": _identifier,
        "identifiers": lambda schemas: ", ".join(_identifier(schema.name) for schema in schemas),
        "literal": _literal,
        "array": lambda names: f"ARRAY[{', '.join(map(_literal, names))}]::text[]",
    }
    schemas = _schemas(config)
    own = [schema for schema in schemas if not schema.is_shared]
    template = (resource("templates") / "sql" / "roles.sql.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        project=config.project,
        owner=roles.owner,
        writer=roles.writer,
        reader=roles.reader,
        schemas=schemas,
        own=own,
        written=[schema for schema in own if schema.privileges == _WRITE],
        # Where what may be written to stands in one schema with it.
        registry=next((schema for schema in schemas if schema.tables and schema.privileges == _WRITE), None),
    )


def _identifier(name: str) -> str:
    return sql.Identifier(name).as_string()


def _literal(text: str) -> str:
    return sql.Literal(text).as_string()


def _schemas(config: Config) -> list[_Schema]:
    """Return the schemas of a repository, each once, whatever it is used for."""
    written = ["featurectl", "market", "features", *([config.online_schema] if config.online_store_is_ours else [])]
    schemas = {name: _Schema(name, _WRITE) for name in written}
    if name := config.registry_schema:
        schemas[name] = _Schema(name, _WRITE if name in schemas else _READ, _REGISTRY_TABLES)
    return list(schemas.values())
