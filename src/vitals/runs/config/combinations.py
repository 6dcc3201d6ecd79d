"""Which values of a command line come together: all with all, but those one by one that `zip=` names."""

from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from vitals.errors import UserError, did_you_mean

Axis = list[tuple[str, ...]]
"""One way to go through a sweep: the words that are given together, step by step."""


def axes(overrides: Sequence[Override], listed: Callable[[Override], list[str]], zipped: Any) -> list[Axis]:
    """The axes of which a sweep tries all combinations, in the order of the command line.

    `listed` says the words that an override stands for, one for each of its values; `zipped` is the
    configuration's `zip`: null, keys whose values go together, or several lists of such keys. `UserError` if
    the keys of one have no values, or not as many of each.
    """
    given = {override.key_or_group: override for override in overrides}
    groups = _groups(zipped, given)
    found: list[Axis] = []
    for override in overrides:
        key = override.key_or_group
        group = next((group for group in groups if key in group), [key])
        if group == [key]:
            found.append([(word,) for word in listed(override)])
        elif key == group[0]:
            words = {member: listed(given[member]) for member in group}
            if len(set(map(len, words.values()))) > 1:
                counts = ", ".join(f"{member} has {len(words[member])}" for member in group)
                raise UserError(
                    f"zip={_shown(group)} takes the values of its keys one by one, so that there must be as "
                    f"many of each: {counts}."
                )
            found.append(list(zip(*words.values(), strict=True)))
    return found


def _groups(zipped: Any, given: dict[str, Override]) -> list[list[str]]:
    """The lists of keys in `zip`, with the keys as `given` has them."""
    if not OmegaConf.is_list(zipped):  # null, or what the schema is going to refuse
        return []
    zipped = OmegaConf.to_object(zipped)
    nested = [part for part in zipped if isinstance(part, list)] or [zipped]
    groups = [[str(key) if key in given else str(key).replace(".", "/") for key in part] for part in nested]
    keys = [key for group in groups for key in group]
    for group, part in zip(groups, nested, strict=True):
        if len(group) < 2:
            raise UserError(f"zip={_shown(part)} names fewer than two keys: write zip=[<key>,<another key>].")
        for key, name in zip(group, map(str, part), strict=True):
            if key not in given:
                listed = [known for known, override in given.items() if override.is_sweep_override()]
                raise UserError(
                    f"zip={_shown(part)}: no values are given for {name}; {did_you_mean(name, listed)}"
                )
            if given[key].is_interval_sweep():
                raise UserError(
                    f"zip={_shown(part)} takes listed values, and {given[key].input_line} is a range."
                )
            if keys.count(key) > 1:
                raise UserError(f"zip: {name} stands there twice, and its values can go one way only.")
    return groups


def _shown(keys: Sequence[object]) -> str:
    return f"[{','.join(map(str, keys))}]"
