"""What an integer program may contain: one record per operation, one allow-list per form.

A program is looked at in three forms, each closer to the machine: the *jaxpr* as traced, the
*StableHLO* handed to the compiler, the optimized *HLO* that the compiler runs. An operation passes
only if its name stands on the list of its form and every element type it touches is an integer or a
boolean. The lists name what is allowed, not what is forbidden: an operation that nobody thought of
fails, and so does a kernel whose inside cannot be seen (a custom call), whatever its types claim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

JAXPR, STABLEHLO, HLO = "jaxpr", "stablehlo", "hlo"
FORMS = (JAXPR, STABLEHLO, HLO)

INTEGER_TYPES = frozenset(
    ["bool"] + [f"{sign}int{bits}" for sign in ("", "u") for bits in (1, 2, 4, 8, 16, 32, 64)]
)
SIGNALS = frozenset(["barrier", "cluster_barrier"])
"""What a kernel's parts wait for one another by; no numbers."""


@dataclass(frozen=True)
class Operation:
    """One operation of a program in one of its forms.

    `operands` and `results` are element types by NumPy name (`int8`, `bool`, `float32`); operands
    include constants and types named by attributes. `opaque` is a name that must itself be allowed:
    the target of a custom call, or the kind of a backend's own fusion. `where` is only called for
    operations that are reported.
    """

    form: str
    name: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    where: Callable[[], str] = field(compare=False)
    opaque: str | None = None

    @property
    def label(self) -> str:
        """Its name, with the target or kind of an opaque one: `custom-call[Sharding]`."""
        return self.name if self.opaque is None else f"{self.name}[{self.opaque}]"

    @property
    def kind(self) -> str:
        """What it is counted under: its label; matrix products are told apart by their types."""
        return f"{self.label} {self.types}" if self.name in CONTRACTIONS else self.label

    @property
    def types(self) -> str:
        """For example `(int8, int8) -> int32`."""
        return f"({', '.join(self.operands)}) -> {', '.join(self.results) or 'nothing'}"

    @property
    def is_float(self) -> bool:
        """True if any operand, constant, parameter or result is floating point or complex."""
        return any(is_float_type(kind) for kind in (*self.operands, *self.results))

    def objection(self) -> str | None:
        """Why an integer program may not contain this operation; None if it may."""
        if self.is_float:
            return "floating point"
        for kind in (*self.operands, *self.results):
            if kind not in INTEGER_TYPES | SIGNALS:
                return f"element type {kind} is not known to be an integer"
        if self.opaque is not None and self.opaque not in TRANSPARENT:
            return "opaque kernel, its inside cannot be checked"
        if self.name not in ALLOWED[self.form]:
            return "not on the list of integer operations"
        return None


def is_float_type(name: str) -> bool:
    """True for the NumPy name of a floating-point or complex element type."""
    return name.startswith(("float", "bfloat", "complex"))


CONTRACTIONS = frozenset(
    ["dot_general", "stablehlo.dot_general", "dot", "dot_u8_s8", "dot_u8_packed", "wgmma_ref",
     "convolution", "conv_general_dilated", "stablehlo.convolution"]
)  # fmt: skip

_JAXPR = """
    abs add add_any and argmax argmin bitcast_convert_type broadcast_in_dim clamp clz concatenate
    conv_general_dilated convert_element_type copy copy_p cummax cummin cumprod cumsum div
    dot_general dynamic_slice dynamic_update_slice eq gather ge gt integer_pow iota le lt max min
    mul ne neg not or pad population_count reduce reduce_and reduce_max reduce_min reduce_or
    reduce_prod reduce_sum reduce_window reduce_window_max reduce_window_min reduce_window_sum
    reduce_xor rem reshape rev scatter scatter-add scatter-max scatter-min scatter-mul select_n
    shift_left shift_right_arithmetic shift_right_logical sign slice sort split square squeeze
    stack sub tile top_k transpose unstack xor
    checkpoint closed_call cond core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr
    jit pallas_call pjit platform_index remat2 run_state scan shard_map while
    device_put layout_constraint mesh_cast name optimization_barrier reshard sharding_constraint
    stop_gradient
    all_gather all_to_all axis_index pbroadcast pmax pmin ppermute psum psum_invariant pvary
    addupdate empty get masked_load masked_swap num_programs program_id swap
    barrier_arrive barrier_wait commit_smem copy_gmem_to_smem copy_smem_to_gmem custom_vmap_call
    debug_barrier_p inline_mgpu_p layout_cast load mpmd_map run_scoped set_max_registers_p
    wait_smem_to_gmem wgmma_accumulator_deref_p wgmma_ref wgmma_wait
    input output constant dot_u8_s8 dot_u8_packed
"""

_STABLEHLO = """
    abs add all_gather all_reduce all_to_all and bitcast_convert broadcast broadcast_in_dim case
    clamp collective_broadcast collective_permute compare composite concatenate constant convert
    convolution count_leading_zeros custom_call divide dot_general dynamic_broadcast_in_dim
    dynamic_gather dynamic_iota dynamic_pad dynamic_reshape dynamic_slice dynamic_update_slice
    gather get_dimension_size get_tuple_element if iota maximum minimum multiply negate not
    optimization_barrier or pad partition_id popcnt power reduce reduce_scatter reduce_window
    remainder replica_id reshape return reverse scatter select select_and_scatter shift_left
    shift_right_arithmetic shift_right_logical sign slice sort subtract transpose tuple while xor
"""

_MLIR_FRAME = """
    builtin.module chlo.scan func.call func.func func.return
    sdy.all_gather sdy.all_reduce sdy.all_slice sdy.all_to_all sdy.collective_permute
    sdy.constant sdy.manual_computation sdy.mesh sdy.named_computation sdy.propagation_barrier
    sdy.reshard sdy.return sdy.sharding_constraint sdy.sharding_group
"""

_HLO = """
    abs add add-dependency all-gather all-gather-done all-gather-start all-reduce all-reduce-done
    all-reduce-start all-to-all and async-done async-start async-update bitcast bitcast-convert
    broadcast call clamp collective-broadcast collective-permute collective-permute-done
    collective-permute-start compare concatenate conditional constant convert convolution copy
    copy-done copy-start count-leading-zeros custom-call divide domain dot dynamic-reshape
    dynamic-slice dynamic-update-slice fusion gather get-dimension-size get-tuple-element iota map
    maximum minimum multiply negate not opt-barrier or pad parameter partition-id popcnt power
    reduce reduce-scatter reduce-window remainder replica-id reshape reverse scatter select
    select-and-scatter set-dimension-size shift-left shift-right-arithmetic shift-right-logical
    sign slice sort subtract topk transpose tuple while xor
"""

ALLOWED: dict[str, frozenset[str]] = {
    JAXPR: frozenset(_JAXPR.split()),
    STABLEHLO: frozenset(f"stablehlo.{name}" for name in _STABLEHLO.split())
    | frozenset(_MLIR_FRAME.split()),
    HLO: frozenset(_HLO.split()),
}

# Custom calls that only mark a layout or a sharding, and kernels whose computation stands where
# every operation of it is checked: a backend's own fusions in the HLO, Pallas kernels in the jaxpr
# (a kernel from anywhere else would be an operation there that is not on the jaxpr's list).
TRANSPARENT = frozenset(
    ["LayoutConstraint", "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape",
     "annotate_device_placement", "xla.sdy.FuncResultSharding", "xla.sdy.GlobalToLocalShape",
     "xla.sdy.LocalToGlobalShape",
     "__ynn_fusion", "__xnn_fusion", "__onednn_fusion",
     "__gpu$xla.gpu.triton", "triton_kernel_call_ffi", "mosaic_gpu_v2",  # Pallas
     "__triton", "__triton_gemm", "__triton_nested_gemm_fusion", "__dynamic_memcpy",
     "__custom_fusion",  # a kernel with the slice that it reads
     # One instruction, which saturates two int32 to int8.
     "ibert_jax.integer.pallas_hopper.saturate_pairs",
     # oneDNN's integer product adds in int32, which is asked of it for every shape
     # (integer.packed); one with a bias, a function or a scale is named otherwise.
     "__onednn$matmul",
     # cuBLAS has no integer product with anything but integer arithmetic; operands are typed.
     "__cublas$gemm", "__cublas$lt$matmul"]
)  # fmt: skip
