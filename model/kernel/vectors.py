"""Vectors of float32 for compiled code, and numbers at addresses.

A vector of 8 or 16 lanes is one value that lives in registers, whatever their width on the machine at hand: LLVM splits
it where they are narrower. So the speed of a loop over lanes does not hang on what the compiler can prove about it.
Every operation rounds each lane as the scalar operation would: nothing is fused and nothing reordered.

Memory is read and written by address, not through arrays: Numba counts references to an array on every call that takes
one, in atomic steps.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing.templates import ConcreteTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

from flexihash.model.compiled import inlined

_FLOAT = ir.FloatType()
_INDEX = ir.IntType(32)


class Vector(types.Type):
    """The Numba type of a vector of `n_lanes` float32."""

    def __init__(self, n_lanes: int) -> None:
        super().__init__(name=f"float32x{n_lanes}")
        self.n_lanes = n_lanes


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, ir.VectorType(_FLOAT, vector.n_lanes))  # type: ignore[no-untyped-call]


VECTORS = {n_lanes: Vector(n_lanes) for n_lanes in (8, 16)}
_SAME = [vector(vector, vector) for vector in VECTORS.values()]  # signatures: (x, x) -> x


def _define_operator(symbol: Any, instruction: str) -> None:
    class Template(ConcreteTemplate):
        key = symbol
        cases = _SAME

    infer_global(symbol)(Template)  # type: ignore[no-untyped-call]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return getattr(builder, instruction)(*arguments)

    for vector in VECTORS.values():
        lower_builtin(symbol, vector, vector)(generate)  # type: ignore[no-untyped-call]


_define_operator(operator.add, "fadd")
_define_operator(operator.sub, "fsub")
_define_operator(operator.mul, "fmul")


def _smaller(typing_context: Any, x: Any, y: Any) -> Any:
    """The smaller of both, lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b = arguments
        return builder.select(builder.fcmp_ordered("<", a, b), a, b)

    return x(x, y), generate


smaller: Any = intrinsic(_smaller)


def loader(loaded: Any, extended: Any = None) -> Any:
    """A function that loads what is of the type `loaded` from any address; an integer as the wider type `extended`."""

    def load(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = builder.inttoptr(arguments[0], context.get_value_type(loaded).as_pointer())
            value = builder.load(pointer, align=1)
            return value if extended is None else builder.zext(value, context.get_value_type(extended))

        return (extended or loaded)(types.int64), generate

    return intrinsic(load)


load_float, load8, load16 = loader(types.float32), loader(VECTORS[8]), loader(VECTORS[16])


def _store(typing_context: Any, address: Any, value: Any) -> Any:
    """Writes a vector, or a number, to any address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], arguments[1].type.as_pointer())
        builder.store(arguments[1], pointer, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, value), generate


store: Any = intrinsic(_store)


def _prefetch(typing_context: Any, address: Any) -> Any:
    """Has the line of the cache at an address fetched, and waits for nothing; changes nothing but the time."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        of = ir.FunctionType(ir.VoidType(), [pointer.type, _INDEX, _INDEX, _INDEX])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], of)
        to_write, to_keep, data = (ir.Constant(_INDEX, number) for number in (1, 3, 1))
        builder.call(function, [pointer, to_write, to_keep, data])
        return context.get_dummy_value()

    return types.void(types.int64), generate


prefetch: Any = intrinsic(_prefetch)


def _pointer(number: Any) -> Any:
    def cast(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(number).as_pointer())

        return types.CPointer(number)(types.int64), generate  # type: ignore[no-untyped-call]

    return intrinsic(cast)


# What begins at an address, to be indexed like an array; no index is checked, and none may be negative.
int64s, int32s, float32s, float64s, uint8s = map(
    _pointer, (types.int64, types.int32, types.float32, types.float64, types.uint8)
)


def _splat(n_lanes: int) -> Any:
    vector = VECTORS[n_lanes]

    def splat(typing_context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            undefined = ir.Constant(context.get_value_type(vector), ir.Undefined)
            one = builder.insert_element(undefined, arguments[0], ir.Constant(_INDEX, 0))
            lanes = ir.Constant(ir.VectorType(_INDEX, n_lanes), [0] * n_lanes)
            return builder.shuffle_vector(one, undefined, lanes)

        return vector(types.float32), generate

    return intrinsic(splat)


splat8: Any = _splat(8)
splat16: Any = _splat(16)


def shuffled(lanes: Sequence[int], n_from: int) -> Any:
    """A function that picks lanes of a vector x of `n_from` lanes and, from lane `n_from` on, of a second one y."""
    vector, source = VECTORS[len(lanes)], VECTORS[n_from]

    def shuffle(typing_context: Any, x: Any, y: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            mask = ir.Constant(ir.VectorType(_INDEX, len(lanes)), list(lanes))
            return builder.shuffle_vector(*arguments, mask)

        return vector(source, source), generate

    return intrinsic(shuffle)


def lane(number: int) -> Any:
    """A function that takes one lane out of a vector."""

    def take(typing_context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.extract_element(arguments[0], ir.Constant(_INDEX, number))

        return types.float32(x), generate

    return intrinsic(take)


_swap_halves, _swap_pairs, _swap_neighbours = (shuffled([k ^ step for k in range(8)], 8) for step in (4, 2, 1))
_first = lane(0)


@inlined
def add_up8(x):  # type: ignore[no-untyped-def]
    """The sum of a vector's 8 lanes, always added in the same order."""
    x = x + _swap_halves(x, x)
    x = x + _swap_pairs(x, x)
    return _first(x + _swap_neighbours(x, x))
