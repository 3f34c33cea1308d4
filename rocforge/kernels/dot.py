"""Four products of signed bytes and their sum, by the target's own instruction. The only inline assembly."""

import triton
import triton.language as tl


@triton.jit
def dot4(a, b, c, DOT: tl.constexpr):
    """c + the sum over the four signed bytes of a[i] * b[i]; int32 tensors of one shape, exact.

    DOT is `Target.dot`. The interpreter has no assembly, and neither has every target an instruction:
    for "" the bytes are taken apart.
    """
    if DOT == "dp4a":  # PTX
        return tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
        )
    elif DOT == "v_dot4_i32_i8":  # GCN, CDNA, RDNA2
        return tl.inline_asm_elementwise(
            "v_dot4_i32_i8 $0, $1, $2, $3", "=v,v,v,v", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
        )
    elif DOT == "v_dot4_i32_iu8":  # RDNA3 and 4: each operand signed or not, by neg_lo
        return tl.inline_asm_elementwise(
            "v_dot4_i32_iu8 $0, $1, $2, $3 neg_lo:[1,1,0]", "=v,v,v,v", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        total = c
        for i in tl.static_range(4):
            total += ((a << (24 - 8 * i)) >> 24) * ((b << (24 - 8 * i)) >> 24)
        return total
