"""One immutable configuration value: made in one place, checked once, written to the run folder.

Layers, the later one wins: defaults in code < YAML < command-line flags < `--set a.b=c`.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from hfseg.errors import ConfigError

C = TypeVar("C", bound="Config")

KIND = "kind"
"""The key that picks a member of a union, wherever there is one."""


class Config(BaseModel):
    """Base of every configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    @classmethod
    def load(
        cls: type[C],
        *,
        yaml_path: Path | None = None,
        flags: Mapping[str, Any] | None = None,
        sets: Sequence[str] = (),
        flag_names: Mapping[str, str] | None = None,
    ) -> C:
        """Lay the sources over each other and check the result.

        `flags` maps dotted keys to values, `sets` are texts such as `optim.lr=1e-4`. `flag_names` says by dotted key
        which flags are not called as the last part of it.

        Raises:
            ConfigError: says every problem that was found, where each value came from, and the closest known key.
        """
        layers = [] if yaml_path is None else [_from_yaml(yaml_path)]
        names = flag_names or {}
        layers.append({key: (value, names.get(key, f"--{_flag_of(key)}")) for key, value in (flags or {}).items()})
        layers.append(dict(_parse_set(text) for text in sets))
        tree: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for layer in layers:
            for key, (value, origin) in layer.items():
                put(tree, key, value)
                origins[key] = origin
        _fill_kinds(cls, tree)
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise _explain(cls, tree, origins, error) from None

    def to_yaml(self) -> str:
        """Write every value, defaults included, as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def differences(one: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """Name every dotted key at which two configurations differ, with both values."""
    left, right = (dict(leaves(config.model_dump(mode="json"))) for config in (one, other))
    keys = [*left, *(key for key in right if key not in left)]
    return {key: (left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)}


def _from_yaml(path: Path) -> dict[str, tuple[Any, str]]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"config `{path}` cannot be read: {error.strerror or error}", hint="give the path of a YAML file"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config `{path}` is not YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"config `{path}` must hold keys and values: got {type(tree).__name__}")
    return {str(key): (value, str(path)) for key, value in tree.items()}


def _parse_set(text: str) -> tuple[str, tuple[Any, str]]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"`--set {text}` is not of the form key=value", hint="for instance --set optim.lr=1e-4")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"`--set {text}`: the value is not YAML", hint="put quotes around it") from None
    return key.strip(), (parsed, "--set")


def _flag_of(key: str) -> str:
    return key.rsplit(".", 1)[-1].replace("_", "-")


def put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a dotted key; mappings are merged, but a mapping of another `kind` replaces the one below it."""
    *parents, last = dotted.split(".")
    for parent in parents:
        below = tree.get(parent)
        tree = tree.setdefault(parent, {}) if isinstance(below, dict) or below is None else _replace(tree, parent)
    if last == KIND and tree.get(KIND, value) != value:
        tree.clear()
    below = tree.get(last)
    if isinstance(value, dict) and isinstance(below, dict) and value.get(KIND, below.get(KIND)) == below.get(KIND):
        for key, inner in value.items():
            put(below, str(key), inner)
    else:
        tree[last] = value.copy() if isinstance(value, dict) else value


def _replace(tree: dict[str, Any], key: str) -> dict[str, Any]:
    tree[key] = fresh = dict[str, Any]()
    return fresh


def _fill_kinds(cls: type[BaseModel], tree: dict[str, Any]) -> None:
    """Where a union's mapping does not say its kind, take the kind of the default."""
    for name, field in cls.model_fields.items():
        value = tree.get(name)
        if not isinstance(value, dict):
            continue
        members = models_in(field.annotation)
        default = field.get_default(call_default_factory=True)
        if len(members) > 1 and KIND not in value and isinstance(default, BaseModel):
            value[KIND] = getattr(default, KIND)
        for member in members:
            if len(members) == 1 or kind_of(member) == value.get(KIND):
                _fill_kinds(member, value)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation allows, whichever way they are wrapped."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return models_in(get_args(annotation)[0])
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        return [model for part in get_args(annotation) for model in models_in(part)]
    return []


def kind_of(member: type[BaseModel]) -> Any:
    """The word that picks a member of a union, None where it has none."""
    return member.model_fields[KIND].default if KIND in member.model_fields else None


def _explain(
    cls: type[BaseModel], tree: dict[str, Any], origins: Mapping[str, str], error: ValidationError
) -> ConfigError:
    lines, hints, told = [], [], set[str]()
    for problem in error.errors(include_url=False):
        path, model = _locate(cls, tree, problem["loc"])
        dotted = ".".join(str(part) for part in path)
        if dotted and dotted in told:  # what the next member of a union would have taken
            continue
        told.add(dotted)
        where = _origin(f"{dotted}.{KIND}" if problem["type"] == "union_tag_invalid" else dotted, origins)
        line, hint = _describe(problem, dotted, where, model)
        lines.append(line)
        if hint and hint not in hints:
            hints.append(hint)
    message = lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} problems in the configuration", *lines])
    return ConfigError(message, hint="; ".join(hints) or None)


def _describe(problem: Any, dotted: str, where: str, model: type[BaseModel] | None) -> tuple[str, str | None]:
    kind, value = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(dotted.rsplit(".", 1)[-1], list(model.model_fields) if model else [], n=1)
        prefix = dotted.rpartition(".")[0]
        hint = f"did you mean `{prefix}{'.' if prefix else ''}{close[0]}`?" if close else _known(model, prefix)
        return f"`{dotted}` is not a known key{where}: got {value!r}", hint
    if kind == "missing":
        return f"`{dotted}` is needed and was not given", None
    if kind == "union_tag_not_found":
        return f"`{dotted}.{KIND}` is needed and was not given{where}: got {value!r}", None
    if kind == "union_tag_invalid":
        kinds = [kind.strip(" '") for kind in problem["ctx"]["expected_tags"].split(",")]
        got = problem["ctx"]["tag"]
        close = difflib.get_close_matches(str(got), kinds, n=1)
        known = f"`{dotted}.{KIND}` can be {', '.join(kinds)}"
        return f"`{dotted}.{KIND}` has no such kind{where}: got {got!r}", (
            f"did you mean `{close[0]}`? {known}" if close else known
        )
    if kind == "value_error":  # our own validators write the whole sentence
        text = str(problem["ctx"]["error"])
        sentence, _, hint = text.partition("\n\nhint: ")
        return f"{f'`{dotted}`{where}: ' if dotted else ''}{sentence}", hint or None
    expected = problem["msg"].replace("Input should be", "expected")
    return f"`{dotted}`{where}: {expected[0].lower()}{expected[1:]}: got {value!r}", None


def _known(model: type[BaseModel] | None, prefix: str) -> str | None:
    return (
        None if model is None else f"known keys{f' of `{prefix}`' if prefix else ''}: {', '.join(model.model_fields)}"
    )


def _origin(dotted: str, origins: Mapping[str, str]) -> str:
    """Where the value of a key came from, ` (configs/demo.yaml)`, or nothing where it is a default."""
    found = [key for key in origins if dotted == key or dotted.startswith(f"{key}.") or key.startswith(f"{dotted}.")]
    return f" ({origins[max(found, key=len)]})" if found else ""


def _locate(
    cls: type[BaseModel], tree: Any, loc: tuple[int | str, ...]
) -> tuple[list[int | str], type[BaseModel] | None]:
    """Turn pydantic's location into a dotted path without union tags, and find the model that holds its last part."""
    path: list[int | str] = []
    model: type[BaseModel] | None = cls
    tagged = False
    for part in loc:
        tagged = not tagged and isinstance(tree, dict) and part == tree.get(KIND)
        if tagged or (isinstance(part, str) and not isinstance(tree, dict)):
            continue
        if path:
            model = _inner(model, path[-1], tree)
        path.append(part)
        items = dict(enumerate(tree)) if isinstance(tree, list) else tree
        tree = items.get(part) if isinstance(items, dict) else None
    return path, model


def _inner(model: type[BaseModel] | None, name: int | str, tree: Any) -> type[BaseModel] | None:
    field = model.model_fields.get(str(name)) if model else None
    members = models_in(field.annotation) if field else []
    if len(members) == 1:
        return members[0]
    kind = tree.get(KIND) if isinstance(tree, dict) else None
    return next((member for member in members if kind_of(member) == kind), None)


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give every value below a tree of mappings with its dotted key."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree
