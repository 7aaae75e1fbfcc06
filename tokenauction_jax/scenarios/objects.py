"""A user's own objects: found by ``FILE.py:NAME``, and told apart by their contents.

A file is run once for each of its contents, so that all that refers to it gets the same
classes.
"""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import pathlib
import re
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax.outside import OutsideError

_PREFIX = "tokenauction_jax_file_"
_ARRAYS = bool | int | float | np.generic | np.ndarray | jax.Array


class ObjectError(OutsideError):
    """A name that leads to no usable object, with what to change in one line."""


def is_reference(name: Any) -> bool:
    """Whether a name is ``FILE.py:NAME`` or ``MODULE:NAME``."""
    return isinstance(name, str) and ":" in name


def resolved(name: str, base: pathlib.Path) -> str:
    """A reference with the path of its file from here; it was relative to `base`."""
    where, colon, attribute = name.rpartition(":")
    if not where.endswith(".py"):
        return name
    return f"{base / os.path.expanduser(where)}{colon}{attribute}"


def load(name: str) -> Any:
    """The object that ``FILE.py:NAME`` or ``MODULE:NAME`` refers to.

    Raises:
      ObjectError: If there is none, with whatever the file raised.
    """
    where, _, attribute = name.rpartition(":")
    try:
        if where.endswith(".py"):
            path = pathlib.Path(where).resolve()
            module = _run(path, hashlib.sha256(path.read_bytes()).hexdigest())
        else:
            module = importlib.import_module(where)
        return getattr(module, attribute)
    except Exception as error:  # Whatever the user's file raises.
        raise ObjectError(f"{name}: {type(error).__name__}: {error}") from None


def expect(name: str, found: Any, *kinds: type) -> Any:
    """The object, called if it is a class, if it has all members of a protocol.

    Raises:
      ObjectError: If it has those of none; the message lists them.
    """
    if isinstance(found, type):
        try:
            found = found()
        except TypeError as error:
            raise ObjectError(f"{name} needs arguments: {error}") from None
    if not isinstance(found, kinds):
        raise ObjectError(f"{name} is not {' nor '.join(map(_kind, kinds))}")
    return found


def _kind(kind: type) -> str:
    """A protocol by its name and members, in words."""
    members = {*kind.__annotations__, *vars(kind)}
    public = ", ".join(sorted(x for x in members if not x.startswith("_")))
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    return f"{article} {kind.__name__} ({public})"


def fingerprint(found: Any) -> dict[str, str]:
    """What an object is: its class or name, its numbers, and the file it is from.

    Two objects that compute the same have the same fingerprint, in this process and in
    another one, unless their code was moved or edited.
    """
    is_function = isinstance(found, types.FunctionType)
    code = found if is_function else type(found)
    told = {"object": f"{code.__module__}.{code.__qualname__}"}
    if told["object"].startswith(_PREFIX):
        # A file that was run: named by its digest, which stands below.
        told["object"] = code.__qualname__
    source = _source(code)
    if source is not None:
        told["source"] = source
    if isinstance(found, np.ndarray | jax.Array) or not is_function:
        told["numbers"] = numbers_of(found)
    return told


@functools.cache
def _run(path: pathlib.Path, digest: str) -> types.ModuleType:
    """Runs a file as a module of its own."""
    name = f"{_PREFIX}{digest[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by its name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def fingerprint_of(name: str) -> dict[str, str]:
    """The fingerprint of what a reference leads to, and the digest of its file.

    Raises:
      ObjectError: If it leads to nothing.
    """
    found, (where, _, _) = load(name), name.rpartition(":")
    file = where if where.endswith(".py") else sys.modules[where].__file__
    data = b"" if file is None else pathlib.Path(file).read_bytes()
    return {"file": hashlib.sha256(data).hexdigest(), **fingerprint(found)}


def _source(code: type | Callable[..., Any]) -> str | None:
    """SHA-256 of the file that defines a class or function, None if it has none."""
    try:
        file = inspect.getsourcefile(code)
        data = pathlib.Path(file or "").read_bytes()
    except (OSError, TypeError):
        return None
    return hashlib.sha256(data).hexdigest()


def numbers_of(tree: Any) -> str:
    """SHA-256 of a pytree: its static fields, and the values of its leaves."""
    structure = re.sub("0x[0-9a-f]+", "", str(jax.tree.structure(tree)))
    digest = hashlib.sha256(structure.encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        place = jax.tree_util.keystr(path)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(
            leaf.dtype, jax.dtypes.prng_key
        ):
            leaf = jax.random.key_data(leaf)
        if not isinstance(leaf, _ARRAYS):
            # Of an opaque object no more is known than its class.
            shown = leaf if isinstance(leaf, str | bytes) else type(leaf).__qualname__
            digest.update(f"{place} {shown!r}\n".encode())
            continue
        array = np.ascontiguousarray(leaf)
        digest.update(f"{place} {array.dtype} {array.shape}\n".encode())
        digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.hexdigest()
