"""Runs a jaxpr on intervals: control flow, checks and the record of what was proved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core

from ibert_jax.frozen import network
from ibert_jax.frozen.jaxprs import scan_counts
from ibert_jax.proof.interval import (
    RANGED_TYPES,
    Interval,
    between,
    exactly,
    join,
    type_range,
)
from ibert_jax.proof.overflow import Clip, Contract, OverflowProof, Problem, Step, Tensor
from ibert_jax.proof.rules import apply
from ibert_jax.proof.rules_elementwise import Unprovable
from ibert_jax.proof.rules_shape import each
from ibert_jax.proof.walk_jaxpr import element_type, inner_jaxprs, place_of

_MOST_TURNS = 4096  # of a loop, run one by one
_FIXED_POINT_TURNS = 64  # until a loop's ranges must have stopped growing

_CALLS = frozenset(
    ["checkpoint", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call",
     "custom_vjp_call_jaxpr", "jit", "pjit", "remat2"]
)  # fmt: skip

Site = tuple[int, ...]


class Analysis:
    """One run. A step's identity is its equation and the calls that led to it.

    A step met several times, in the turns of a loop, is recorded once with its ranges joined.
    """

    def __init__(self, contracts: dict[str, Contract]) -> None:
        self._contracts = contracts
        self._problems: dict[tuple[Site, str], Problem] = {}
        self._steps: dict[Site, Step] = {}
        self._clips: dict[Site, Clip] = {}
        self._tensors: dict[str, Tensor] = {}
        self._turns: list[int] = []  # of the scans that are being run
        self._kept: dict[Site, str] = {}  # calls that rest on a contract
        self._calls: list[tuple[int, str]] = []
        self._alive: list[Any] = []  # jaxprs whose equations identify steps must not be freed

    def proof(self, results: Sequence[Interval]) -> OverflowProof:
        """What has been recorded."""
        names = list(self._kept.values())
        return OverflowProof(
            problems=tuple(self._problems.values()),
            steps=tuple(self._steps.values()),
            tensors=tuple(self._tensors.values()),
            clips=tuple(self._clips.values()),
            contracts={name: names.count(name) for name in sorted(set(names))},
            results=tuple(results),
        )

    def run(
        self, jaxpr: Any, consts: Sequence[Any], operands: Sequence[Interval]
    ) -> list[Interval]:
        """Ranges of the results of an open jaxpr."""
        self._alive.append(jaxpr)
        ranges: dict[Any, Interval] = {}
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            ranges[var] = const if isinstance(const, Interval) else exactly(const)
        ranges.update(zip(jaxpr.invars, operands, strict=True))

        def read(var: Any) -> Interval:
            return exactly(var.val) if isinstance(var, core.Literal) else ranges[var]

        for eqn in jaxpr.eqns:
            try:
                results = self._equation(eqn, [read(var) for var in eqn.invars])
            except Unprovable as error:
                self._object(eqn, str(error))
                results = [_anything(var.aval) for var in eqn.outvars]
            ranges.update(zip(eqn.outvars, results, strict=True))
        return [read(var) for var in jaxpr.outvars]

    def _equation(self, eqn: Any, operands: list[Interval]) -> list[Interval]:
        name = eqn.primitive.name
        label = eqn.params.get("name")
        if name in _CALLS:
            contract = self._contracts.get(str(label))
            if contract is not None and contract.speaks_of(eqn.params["jaxpr"].jaxpr):
                return self._promise(eqn, contract, operands)
            if label == "clip" and len(operands) == 3:
                self._saturation(eqn, operands[0], operands[1], operands[2])
            results = self._call(eqn, operands)
            if _is_leaf(eqn):
                self._name_tensors(str(label), eqn, results)
            return results
        if name == "scan":
            return self._inside(eqn, lambda: self._scan(eqn, operands))
        if name == "while":
            return self._inside(eqn, lambda: self._while(eqn, operands))
        if name == "cond":
            return self._inside(eqn, lambda: self._cond(eqn, operands))
        if name == "clamp" and not _idle(*operands):
            self._saturation(eqn, operands[1], operands[0], operands[2])
        return [
            self._fit(eqn, index, result) for index, result in enumerate(apply(eqn, operands))
        ]  # fmt: skip

    def _fit(self, eqn: Any, index: int, result: Interval) -> Interval:
        """Records a result and returns what of it its type can hold."""
        aval = eqn.outvars[index].aval
        if result.lo.ndim != len(aval.shape):  # scalars that JAX left unbroadcast
            ones = (1,) * len(aval.shape)
            result = Interval(*between(*(b.reshape(ones) for b in (result.lo, result.hi))).wide())
        if result.lo.size == 0 or np.dtype(aval.dtype) == bool:
            return result
        if not bool(np.all(result.lo <= result.hi)):
            raise Unprovable("no range: its lower end lies above its upper one")
        least, most = type_range(aval.dtype)
        self._record(eqn, index, Step(
            eqn.primitive.name, self._where(eqn), str(aval.dtype), result.least, result.most
        ))  # fmt: skip
        if least <= result.least and result.most <= most:
            return result
        self._object(eqn, f"result in [{result.least}, {result.most}] leaves {aval.dtype}")
        lo, hi = result.lo.astype(object), result.hi.astype(object)
        outside = (lo < least) | (hi > most)  # wraps, to anything
        return Interval(*between(np.where(outside, least, lo), np.where(outside, most, hi)).wide())

    def _record(self, eqn: Any, index: int, step: Step) -> None:
        site = (*self._site(eqn), index)
        old = self._steps.get(site)
        if old is not None:
            step = Step(step.operation, step.where, step.dtype,
                        min(step.lo, old.lo), max(step.hi, old.hi))  # fmt: skip
        self._steps[site] = step

    def _name_tensors(self, path: str, eqn: Any, results: list[Interval]) -> None:
        if self._turns:
            path = path.replace(".stacked.", f".layer.{self._turns[-1]}.")
        for index, (var, x) in enumerate(zip(eqn.outvars, results, strict=True)):
            name = path if len(results) == 1 else f"{path}[{index}]"
            self._tensors[name] = Tensor(name, str(var.aval.dtype), x.least, x.most)

    def _saturation(self, eqn: Any, x: Interval, low: Interval, high: Interval) -> None:
        site, reached, limits = self._site(eqn), (x.least, x.most), (low.most, high.least)
        if site in self._clips:
            old = self._clips[site]
            reached = min(reached[0], old.reached[0]), max(reached[1], old.reached[1])
            limits = max(limits[0], old.limits[0]), min(limits[1], old.limits[1])
        asserting = any(name == "jit[_bounded]" for _, name in self._calls)
        self._clips[site] = Clip(self._where(eqn), reached, limits, asserting)

    def _promise(self, eqn: Any, contract: Contract, operands: list[Interval]) -> list[Interval]:
        """The results of a kernel that is taken at its word inside its domain."""
        if len(operands) != len(contract.domain):
            raise Unprovable(
                f"contract {contract.name} speaks of {len(contract.domain)} operands,"
                f" got {len(operands)}"
            )
        shapes = [var.aval.shape for var in eqn.invars]
        for number, (x, domain) in enumerate(zip(operands, contract.domain, strict=True)):
            domain = domain(shapes) if callable(domain) else domain
            if domain is not None and not (domain[0] <= x.least and x.most <= domain[1]):
                raise Unprovable(
                    f"operand {number} in [{x.least}, {x.most}] leaves the domain"
                    f" [{domain[0]}, {domain[1]}] of contract {contract.name}"
                )
        self._kept[self._site(eqn)] = contract.name
        results = contract.result(*operands)
        if len(results) != len(eqn.outvars):
            raise Unprovable(f"contract {contract.name} gives {len(results)} results")
        return [self._fit(eqn, index, result) for index, result in enumerate(results)]

    def _call(self, eqn: Any, operands: list[Interval]) -> list[Interval]:
        for value in eqn.params.values():
            if isinstance(value, core.ClosedJaxpr):
                return self._inside(eqn, lambda v=value: self.run(v.jaxpr, v.consts, operands))
            for inner in inner_jaxprs(value) if isinstance(value, core.Jaxpr) else ():
                return self._inside(eqn, lambda v=inner: self.run(v, (), operands))
        raise Unprovable("a call without a jaxpr")

    def _cond(self, eqn: Any, operands: list[Interval]) -> list[Interval]:
        index, arguments = operands[0], operands[1:]
        branches = eqn.params["branches"]
        first = min(max(index.least, 0), len(branches) - 1)
        last = min(max(index.most, 0), len(branches) - 1)
        results = [
            self.run(branch.jaxpr, branch.consts, arguments)
            for branch in branches[first : last + 1]
        ]
        return [join(*parts) for parts in zip(*results, strict=True)]

    def _while(self, eqn: Any, operands: list[Interval]) -> list[Interval]:
        p = eqn.params
        test, body = p["cond_jaxpr"], p["body_jaxpr"]
        n, m = p["cond_nconsts"], p["body_nconsts"]
        test_consts, body_consts = operands[:n], operands[n : n + m]
        carry = _bare(operands[n + m :])

        def goes_on(state: list[Interval]) -> Interval:
            return self.run(test.jaxpr, test.consts, [*test_consts, *state])[0]

        def turn(state: list[Interval]) -> list[Interval]:
            return _bare(self.run(body.jaxpr, body.consts, [*body_consts, *state]))

        def whole_turn(state: list[Interval]) -> list[Interval]:
            goes_on(state)  # what it computes must hold for all that the state may become
            return turn(state)

        for _ in range(_MOST_TURNS):
            again = goes_on(carry)
            if again.most == 0:
                return carry
            if again.least == 0:  # may stop, may go on: ranges that hold for any number of turns
                return self._fixed_point(whole_turn, carry)
            carry = turn(carry)
        raise Unprovable(f"a loop of more than {_MOST_TURNS} turns")

    def _fixed_point(self, turn: Any, carry: list[Interval]) -> list[Interval]:
        for _ in range(_FIXED_POINT_TURNS):
            grown = [join(a, b) for a, b in zip(carry, turn(carry), strict=True)]
            if all(_within(new, old) for new, old in zip(grown, carry, strict=True)):
                return carry
            carry = grown
        raise Unprovable(
            f"a loop of unknown length whose ranges still grow after {_FIXED_POINT_TURNS} turns"
        )

    def _scan(self, eqn: Any, operands: list[Interval]) -> list[Interval]:
        p = eqn.params
        length, (consts, carried) = p["length"], scan_counts(p)
        body = p["jaxpr"]
        fixed = operands[:consts]
        carry, rows = _bare(operands[consts : consts + carried]), operands[consts + carried :]
        if length > _MOST_TURNS:
            raise Unprovable(f"a loop of more than {_MOST_TURNS} turns")
        gathered: list[Interval] | None = None
        turns = range(length - 1, -1, -1) if p["reverse"] else range(length)
        for index in turns:
            now = [_row(x, index) for x in rows]
            self._turns.append(index)
            results = _bare(self.run(body.jaxpr, body.consts, [*fixed, *carry, *now]))
            self._turns.pop()
            made = [each(x, lambda b: b[None]) for x in results[carried:]]
            gathered = made if gathered is None else [
                join(a, b) for a, b in zip(gathered, made, strict=True)
            ]  # fmt: skip
            stable = all(_within(a, b) for a, b in zip(results[:carried], carry, strict=True))
            carry = results[:carried]
            if stable and all(x.lo.shape[0] == 1 for x in rows):
                break  # every further turn gives the same ranges, or narrower ones
        if gathered is None:
            gathered = [_anything(var.aval) for var in eqn.outvars[carried:]]
        return [*carry, *gathered]

    def _inside(self, eqn: Any, work: Any) -> list[Interval]:
        label = eqn.params.get("name")
        name = eqn.primitive.name
        self._calls.append((id(eqn), f"{name}[{label}]" if isinstance(label, str) else name))
        try:
            return work()
        finally:
            self._calls.pop()

    def _object(self, eqn: Any, reason: str) -> None:
        key = self._site(eqn), reason.split(" in [")[0]
        if key not in self._problems:
            self._problems[key] = Problem(eqn.primitive.name, self._where(eqn), reason)

    def _site(self, eqn: Any) -> Site:
        return (*(site for site, _ in self._calls), id(eqn))

    def _where(self, eqn: Any) -> str:
        return place_of(eqn, "/".join(name for _, name in self._calls))


def _is_leaf(eqn: Any) -> bool:
    """Whether a call is that of an integer leaf, which bears its path (``NamedLeaf``)."""
    jaxpr = eqn.params.get("jaxpr")
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)  # closed or, of `checkpoint`, open
    source = "" if jaxpr is None else str(jaxpr.debug_info.func_src_info)
    return f" at {network.__file__}:" in source


def _anything(aval: Any) -> Interval:
    """All that a type can hold; of floats nothing is known, nor used."""
    shape = (1,) * len(getattr(aval, "shape", ()))
    known = element_type(aval) in RANGED_TYPES
    lo, hi = type_range(aval.dtype) if known else (0, 1)
    return between(np.full(shape, lo), np.full(shape, hi))


def _idle(low: Interval, x: Interval, high: Interval) -> bool:
    """Whether a clamp is of one known number within its limits: the index of a switch."""
    return x.least == x.most and low.most <= x.least and x.most <= high.least


def _bare(state: Sequence[Interval]) -> list[Interval]:
    """Without `recast`: what a loop carries is compared, and joined, by its bounds alone."""
    return [Interval(x.lo, x.hi) for x in state]


def _within(x: Interval, y: Interval) -> bool:
    return bool(np.all(x.lo >= y.lo) and np.all(x.hi <= y.hi))


def _row(x: Interval, index: int) -> Interval:
    """One slice along the leading axis."""
    return each(x, lambda bounds: bounds[0 if bounds.shape[0] == 1 else index])
