"""YAML that anybody may have written: plain values, no key twice, no merges."""

from __future__ import annotations

from typing import Any


def loader() -> type:
    """YAML's safe loader, but a key that stands twice is an error: YAML forbids it, and the first would be lost."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
                merged = (
                    "<< merges mappings, and no setting needs that"  # a few lines of it can mean any size
                )
                raise yaml.constructor.ConstructorError(problem=merged, problem_mark=node.start_mark)
            seen: set[str] = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if key.value in seen:
                    twice = f"{key.value} is set twice"
                    raise yaml.constructor.ConstructorError(problem=twice, problem_mark=key.start_mark)
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    return Loader
