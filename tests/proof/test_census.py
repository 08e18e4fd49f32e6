"""An integer program counts zero floats in all three forms; anything planted is named.

Strategy: one clean function that uses what integer networks use, then the same function with one
foreign operation planted in as many hiding places as JAX offers. A plant must be named in every
form in which the compiler lets it live; for those that the optimizer may remove, in the first two.
"""

import dataclasses
import functools
import importlib
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec

from ibert_jax.proof import Census, census
from ibert_jax.proof.operations import ALLOWED, FORMS, HLO, INTEGER_TYPES, JAXPR, STABLEHLO
from ibert_jax.proof.walk_hlo import _opaque, decode, walk_hlo

X = jax.ShapeDtypeStruct((8, 32), jnp.int32)


def clean(weight, table, x):
    """Integer matmul, requantization, table look-up, softmax-like sums and loops."""
    q = jnp.clip(x, -128, 127).astype(jnp.int8)
    y = lax.dot_general(q, weight, (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32)
    y = jnp.where(y > 100, y >> 3, -(y // 3) % 7)
    y = y - jnp.max(y, axis=1, keepdims=True)
    y = jnp.cumsum(jnp.abs(y) & 1023, axis=1) ^ jnp.sum(y, axis=0, keepdims=True)
    y = y + jnp.take(table, jnp.clip(y, 0, 6), mode="clip") + lax.clz(y)
    y = y + (lax.bitcast_convert_type(y, jnp.uint32) >> 16).astype(jnp.int32)
    _, y = lax.while_loop(lambda c: c[0] < 5, lambda c: (c[0] + 1, c[1] * 2), (jnp.int32(0), y))
    y, last = lax.scan(lambda c, row: (c + row, c[0]), y, jnp.stack([y, y]))
    y = lax.cond(
        last[0, 0] > 0, lambda v: v + 1, lambda v: jnp.concatenate([v, v], axis=1)[:, :16], y
    )
    return y, jnp.argmax(y, axis=1).astype(jnp.int32), jnp.sort(y, axis=1)


CLEAN_ARGS = (
    jax.ShapeDtypeStruct((32, 16), jnp.int8),
    jax.ShapeDtypeStruct((7,), jnp.int32),
    X,
)


@functools.cache
def count_clean() -> Census:
    return census(clean, *CLEAN_ARGS)


def test_integer_function_is_clean_in_all_forms():
    counted = count_clean()
    assert [str(finding) for finding in counted.findings] == []
    assert counted.float_operations == dict.fromkeys(FORMS, 0)
    assert counted.operations[JAXPR]["dot_general (int8, int8) -> int32"] == 1
    assert counted.operations[STABLEHLO]["stablehlo.dot_general (int8, int8) -> int32"] == 1
    products = [kind for kind in counted.operations[HLO] if kind.startswith("dot ")]
    assert products == ["dot (int8, int8) -> int32"]


def test_operations_of_inner_jaxprs_are_counted():
    operations = count_clean().operations[JAXPR]
    assert operations["while"] == operations["scan"] == operations["cond"] == 1
    assert operations["lt"] >= 1  # only the condition of the while loop compares so
    assert operations["mul"] == 1  # only its body multiplies


def optimized(jitted, *args):
    executable = jitted.lower(*args).compile().runtime_executable()
    assert executable is not None
    (module,) = executable.hlo_modules()
    return module


def opcode(instruction) -> str:
    name = str(instruction.opcode.name).removeprefix("k").lower()
    return {"clz": "countleadingzeros"}.get(name, name)


def test_hlo_walk_agrees_with_the_modules_own_listing():
    module = optimized(jax.jit(clean), *CLEAN_ARGS)
    listed = [i for c in module.computations() for i in c.instructions()]
    walked = list(walk_hlo(module))
    told = sorted(opcode(i) for i in listed)
    assert sorted(operation.name.replace("-", "") for operation in walked) == told
    text = module.to_string()
    assert "s8[" in text and any("int8" in operation.operands for operation in walked)


def as_int(x):
    return x.astype(jnp.int32)


def as_float(x):
    return x.astype(jnp.float32)


@jax.custom_vjp
def hidden_by_custom_vjp(x):
    return as_int(jnp.sqrt(as_float(x)))


hidden_by_custom_vjp.defvjp(lambda x: (x, None), lambda _, g: (g,))


@jax.custom_jvp
def hidden_by_custom_jvp(x):
    return as_int(jnp.sqrt(as_float(x)))


hidden_by_custom_jvp.defjvp(lambda p, t: (p[0], t[0]))


def hidden_by_pallas(x):
    def kernel(source, target):
        target[...] = as_int(jnp.sqrt(as_float(source[...])))

    return pl.pallas_call(kernel, out_shape=X, interpret=True)(x)


def hidden_by_shard_map(x):
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec("rows")
    body = jax.shard_map(
        lambda v: as_int(jnp.sqrt(as_float(v))), mesh=mesh, in_specs=rows, out_specs=rows
    )
    return body(x)


ROOT = lambda x: as_int(jnp.sqrt(as_float(x)))  # noqa: E731

SQRT = ("sqrt", "stablehlo.sqrt", "sqrt")
CONVERT = ("convert_element_type", "stablehlo.convert", "convert")
SORT = ("sort", "stablehlo.sort", "sort")

# Name -> (planted function, words that each form must name).
FLOATS = {
    "add": (lambda x: as_int(as_float(x) + as_float(x[::-1])), ("add", "stablehlo.add", "add")),
    "sqrt": (ROOT, SQRT),
    "divide": (lambda x: as_int(x / 3), ("div", "stablehlo.divide", "multiply")),
    "mean": (lambda x: as_int(jnp.mean(x, axis=1, keepdims=True)) + x,
             ("reduce_sum", "stablehlo.reduce", "reduce")),
    "constant": (lambda x: as_int(as_float(x) * 0.37), ("mul", "stablehlo.constant", "constant")),
    "round trip": (lambda x: as_int(as_float(x)), CONVERT),
    "bfloat16": (lambda x: as_int(x.astype(jnp.bfloat16)),
                 CONVERT),
    "complex": (lambda x: as_int(jnp.abs(lax.complex(as_float(x), as_float(x + 1)))),
                ("complex", "stablehlo.complex", "convert")),
    "float matmul": (lambda x: as_int(as_float(x) @ as_float(x.T)),
                     ("dot_general", "stablehlo.dot_general", "dot")),
    "scan body": (lambda x: lax.scan(lambda c, row: (c + ROOT(row), None), x[0], x)[0],
                  SQRT),
    "scan carry": (lambda x: as_int(lax.fori_loop(0, 3, lambda i, c: c * 1.5, as_float(x))),
                   ("scan", "stablehlo.while", "while")),
    "while condition": (lambda x: lax.while_loop(lambda v: jnp.sqrt(as_float(v[0, 0])) < 9.0,
                                                 lambda v: v + 1, x),
                        SQRT),
    "cond branch": (lambda x: lax.cond(x[0, 0] > 0, ROOT, lambda v: v, x),
                    SQRT),
    "switch branch": (lambda x: lax.switch(x[0, 0], [lambda v: v, lambda v: v + 1, ROOT], x),
                      SQRT),
    "inner jit": (lambda x: jax.jit(ROOT)(x) + 1, SQRT),
    "checkpoint": (lambda x: jax.checkpoint(ROOT)(x), SQRT),
    "custom_vjp": (hidden_by_custom_vjp, SQRT),
    "custom_jvp": (hidden_by_custom_jvp, SQRT),
    "vmap": (jax.vmap(ROOT), SQRT),
    "shard_map": (hidden_by_shard_map, SQRT),
    "pallas": (hidden_by_pallas, SQRT),
    "float sort": (lambda x: as_int(jnp.sort(as_float(x), axis=1)), SORT),
    "linalg": (lambda x: as_int(jnp.linalg.cholesky(as_float(x @ x.T))) + x[:, :8],
               ("cholesky", "stablehlo.custom_call", "custom-call")),
    "random": (lambda x: as_int(jax.random.normal(jax.random.key(0), x.shape) * 9) + x,
               ("erf_inv", "stablehlo.multiply", "multiply")),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOATS)
def test_planted_float_is_named_in_every_form(name):
    planted, words = FLOATS[name]
    counted = census(planted, X)
    assert not counted.ok
    for form, word in zip(FORMS, words, strict=True):
        named = [f for f in counted.findings if f.form == form and f.operation.startswith(word)]
        assert named, f"{form} names {[f.operation for f in counted.findings if f.form == form]}"
        assert counted.float_operations[form] > 0


@pytest.mark.filterwarnings("ignore")
def test_plant_that_the_optimizer_removes_is_named_before():
    counted = census(lambda x: x + 0 * as_int(as_float(x) * 0.5), X)
    for form in (JAXPR, STABLEHLO):
        assert any("convert" in f.operation for f in counted.findings if f.form == form)
    assert counted.float_operations[HLO] == 0


def test_float_input_output_and_constant_are_named():
    table = jnp.arange(5, dtype=jnp.float32)
    counted = census(lambda x: table, X)
    assert {"constant", "output"} <= {f.operation for f in counted.findings if f.form == JAXPR}
    unused = census(lambda x, scale: x, X, jax.ShapeDtypeStruct((), jnp.float32))
    assert [f.operation for f in unused.findings if f.form == JAXPR] == ["input"]


def test_opaque_kernels_are_named_even_if_they_claim_integers():
    def callback(x):
        return jax.pure_callback(lambda v: np.asarray(v), X, x) + 1

    by_form = {f.form: f for f in census(callback, X).findings}
    assert by_form[JAXPR].operation == "pure_callback"
    assert "callback" in by_form[STABLEHLO].operation and "opaque" in by_form[STABLEHLO].reason
    assert "callback" in by_form[HLO].operation and "opaque" in by_form[HLO].reason
    assert census(callback, X).float_operations == dict.fromkeys(FORMS, 0)


def test_integer_operation_off_the_list_is_named():
    counted = census(lambda x: x + jax.random.randint(jax.random.key(0), x.shape, 0, 3), X)
    reasons = {f.operation: f.reason for f in counted.findings if f.form == JAXPR}
    assert "random_seed" in reasons and "random_bits" in reasons


def test_findings_say_where_and_how_often():
    def plant(x):
        for _ in range(3):
            x = as_int(jnp.sqrt(as_float(x)))
        return x

    counted = census(plant, X)
    roots = [f for f in counted.findings if "sqrt" in f.operation]
    assert {f.form: f.count for f in roots if f.form == JAXPR} == {JAXPR: 3}
    assert all("test_census.py" in f.where for f in roots if f.form in (JAXPR, STABLEHLO))
    assert all("sqrt" in f.where for f in roots if f.form == HLO)
    line = str(next(f for f in roots if f.form == JAXPR))
    assert line.startswith("jaxpr: sqrt (float32) -> float32 at ") and line.endswith("(3 times)")


def test_a_jitted_function_is_used_as_it_is():
    jitted = jax.jit(lambda x, n: x + n, static_argnames="n")
    assert census(jitted, X, n=3).ok


def test_compiled_as_the_programs_are(monkeypatch):
    unknown = {"xla_cpu_no_such_option": 1}
    module = importlib.import_module("ibert_jax.proof.census")  # the package has its function
    monkeypatch.setattr(module, "compiler_options", lambda: unknown)
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_cpu_no_such_option"):
        census(lambda x: x + 1, X)
    assert census(jax.jit(lambda x: x + 1), X).ok  # has options of its own


def test_allow_lists_hold_no_operation_that_only_floats_have():
    floats = {"sqrt", "rsqrt", "exp", "log", "tanh", "erf", "floor", "round", "logistic", "fft",
              "reduce_precision", "cholesky", "rng_uniform", "custom_call_tpu"}  # fmt: skip
    for form in FORMS:
        assert not {name.removeprefix("stablehlo.") for name in ALLOWED[form]} & floats
    assert not any("float" in kind for kind in INTEGER_TYPES)


def test_truncated_or_foreign_protocol_buffers_are_refused():
    with pytest.raises(ValueError, match="truncated"):
        decode(b"\x0a\x05ab")
    with pytest.raises(ValueError, match="wire type"):
        decode(b"\x0f")


def test_layout_of_hlo_that_does_not_match_is_an_error():
    module = optimized(jax.jit(lambda x: x + 1), X)

    class Moved:
        computations = module.computations

        @staticmethod
        def as_serialized_hlo_module_proto():
            return b""

    with pytest.raises(ValueError, match="cannot read"):
        list(walk_hlo(Moved()))


def test_sharded_program_on_two_devices_is_clean():
    script = """
import jax, jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from ibert_jax.proof import census
mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
x = jax.ShapeDtypeStruct((8, 4), jnp.int32, sharding=jax.NamedSharding(mesh, P("rows")))
f = jax.shard_map(lambda v: jax.lax.psum(v, "rows"), mesh=mesh, in_specs=P("rows"), out_specs=P())
counted = census(f, x)
assert counted.ok, [str(f) for f in counted.findings]
assert any(kind.startswith("all-reduce") for kind in counted.operations["hlo"])
print("clean")
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu",
             "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.stdout.strip() == "clean", result.stderr


def test_a_program_is_not_taken_for_another_of_the_same_fields():
    """JAX's caches confuse about one pair in a hundred of such classes."""

    def kind(times):
        class Adder:
            def run(self, x):
                for _ in range(times):
                    x = x + self.term
                return x

        return jax.tree_util.register_dataclass(
            dataclasses.make_dataclass("Kind", ["term"], bases=(Adder,)), ["term"], []
        )

    def run(program, x):
        return program.run(x)

    counts = range(1, 65)
    found = [census(run, kind(times)(X), X).operations[JAXPR] for times in counts]
    assert [by_kind["add"] for by_kind in found] == [*counts]


def test_a_float_among_an_operations_parameters_is_named():
    def filled(x):
        return x.at[jnp.array([1])].get(mode="fill", fill_value=0.5)

    found = census(filled, jax.ShapeDtypeStruct((8,), jnp.int32)).findings
    assert [f.operation for f in found if f.form == JAXPR] == ["gather"]


def opaque(opcode: str, config: str, target: str = "", kind: str = "") -> str | None:
    """What an instruction of these fields, numbered as in XLA's protocol buffers, is known as."""
    raw = {28: [target.encode()], 11: [kind.encode()], 43: [config.encode()]}
    return _opaque(opcode, raw)


@pytest.mark.parametrize(
    ("config", "more"),
    [
        ({}, ""),
        ({"alpha_real": 1.0, "alpha_imag": 0.0, "beta": 0}, ""),
        ({"beta": 1, "epilogue": "BIAS"}, ""),
        ({"beta": 0.5}, " with scaling"),
        ({"alpha_real": 2}, " with scaling"),
        ({"alpha_imag": 1.0}, " with scaling"),
        ({"epilogue": "GELU"}, " with scaling"),
        (None, " that does not say how it scales"),
    ],
)
def test_a_product_of_cublas_may_do_nothing_more(config, more):
    told = json.dumps({} if config is None else {"gemm_backend_config": config})
    assert opaque("custom-call", told, "__cublas$gemm") == f"__cublas$gemm{more}"


def test_a_product_of_cublas_that_is_told_otherwise_is_not_plain():
    assert opaque("custom-call", "no JSON", "__cublas$gemm") != "__cublas$gemm"


def test_a_backends_own_fusion_is_known_by_its_kind():
    told = json.dumps({"fusion_backend_config": {"kind": "__cudnn$fusion"}})
    assert opaque("fusion", told, kind="kCustom") == "__cudnn$fusion"
    assert opaque("fusion", "{}", kind="kCustom") == "unnamed custom fusion"
    assert opaque("fusion", told, kind="kLoop") is None
