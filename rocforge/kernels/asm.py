"""What Triton cannot say and a target's instruction set can, each with a portable twin. The only inline assembly.

`ISA` is `Target.isa`: "ptx" (NVIDIA), "gcn" (GCN, CDNA, RDNA2), "rdna" (RDNA3 and 4), or "portable",
which the interpreter and unknown targets take.
"""

import triton
import triton.language as tl


@triton.jit
def dot4(a, b, c, ISA: tl.constexpr):
    """c + the sum over the four signed bytes of a[i] * b[i]; int32 tensors of one shape, exact."""
    if ISA == "ptx":
        return tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
        )
    elif ISA == "gcn":
        return tl.inline_asm_elementwise(
            "v_dot4_i32_i8 $0, $1, $2, $3", "=v,v,v,v", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
        )
    elif ISA == "rdna":  # each operand signed or not, by neg_lo
        return tl.inline_asm_elementwise(
            "v_dot4_i32_iu8 $0, $1, $2, $3 neg_lo:[1,1,0]", "=v,v,v,v", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        total = c
        for i in tl.static_range(4):
            total += ((a << (24 - 8 * i)) >> 24) * ((b << (24 - 8 * i)) >> 24)
        return total


@triton.jit
def dot4_unsigned(a, b, c, ISA: tl.constexpr):
    """c + the sum over the four bytes of a[i] * b[i], a's unsigned and b's signed: where one instruction does that."""
    if ISA == "ptx":
        return tl.inline_asm_elementwise(
            "dp4a.u32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        tl.static_assert(ISA == "rdna")
        return tl.inline_asm_elementwise(
            "v_dot4_i32_iu8 $0, $1, $2, $3 neg_lo:[0,1,0]", "=v,v,v,v", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
        )


@triton.jit
def byte_of(word, i: tl.constexpr, ISA: tl.constexpr):
    """Byte i of a word, 0 the lowest, with its sign."""
    if ISA == "ptx" and i < 3:  # index + 8 is the sign of that byte, in all bits
        indices: tl.constexpr = "0x8880" if i == 0 else ("0x9991" if i == 1 else "0xaaa2")
        return tl.inline_asm_elementwise(
            f"prmt.b32 $0, $1, 0, {indices};", "=r,r", [word], dtype=tl.int32, is_pure=True, pack=1
        )  # fmt: skip
    else:
        return (word << (24 - 8 * i)) >> 24


@triton.jit
def dot2(a0, a1, b, SECOND: tl.constexpr):
    """PTX: a0 * b0 + a1 * b1, a's below 2^15, b0 and b1 being the first two of b's four signed bytes, or the SECOND."""
    which: tl.constexpr = "hi" if SECOND else "lo"
    return tl.inline_asm_elementwise(
        f"""{{
        .reg .b32 a;
        prmt.b32 a, $1, $2, 0x5410;
        dp2a.{which}.s32.s32 $0, a, $3, 0;
        }}""",
        "=r,r,r,r", [a0, a1, b], dtype=tl.int32, is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit
def halves_of(words, MASK: tl.constexpr, ISA: tl.constexpr):
    """float16 (byte & MASK) * 2^-24 of each of the four bytes of the words, lowest first: exact, and no conversion.

    That is what a half is worth whose last bits these are, all others being 0.
    """
    if ISA == "ptx":
        mask: tl.constexpr = f"{MASK * 0x00010001:#x}"
        return tl.inline_asm_elementwise(
            f"""{{
            .reg .b32 even, odd;
            and.b32 even, $4, {mask};
            shr.u32 odd, $4, 8;
            and.b32 odd, odd, {mask};
            mov.b32 {{$0, $2}}, even;
            mov.b32 {{$1, $3}}, odd;
            }}""",
            "=h,=h,=h,=h,r", [words], dtype=(tl.float16,) * 4, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        even, odd = words & MASK * 0x00010001, (words >> 8) & MASK * 0x00010001
        return low_half(even), low_half(odd), low_half(even >> 16), low_half(odd >> 16)


@triton.jit
def low_half(words):
    return words.to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit
def merged(upper, lower, MASK: tl.constexpr, ISA: tl.constexpr):
    """The bits that MASK has in a byte from the words `lower`, all others from `upper`."""
    mask: tl.constexpr = MASK * 0x01010101
    if ISA == "ptx":
        return tl.inline_asm_elementwise(
            f"lop3.b32 $0, $1, $2, {mask}, 0xd8;", "=r,r,r", [upper, lower], dtype=tl.int32, is_pure=True, pack=1
        )  # fmt: skip
    else:
        return (lower & mask) | (upper & ~mask)


@triton.jit
def filled(n, bit: tl.constexpr):
    """255 in the bytes that have the bit, 0 in the others."""
    one = (n >> bit) & 0x01010101
    return (one << 8) - one


@triton.jit
def pick(a, b, mask):
    return a ^ ((a ^ b) & mask)


@triton.jit
def lookup_nibbles(words, t0: tl.constexpr, t1: tl.constexpr, t2: tl.constexpr, t3: tl.constexpr, ISA: tl.constexpr):
    """(low, high): table[i] for the low nibble of each byte of the words, and for the high one, as bytes.

    t0 holds table[0] (lowest byte) to table[3], and so on.
    """
    if ISA == "ptx":
        # prmt takes its four indices as nibbles of 16 bits: half a word gives four bytes, low and high in turn.
        return tl.inline_asm_elementwise(
            f"""{{
            .reg .b32 i, which, a, b, low, high;
            and.b32 i, $2, 0x77777777;
            shr.u32 which, $2, 1;
            and.b32 which, which, 0x44444444;
            or.b32 which, which, 0x32103210;
            prmt.b32 low, {t0}, {t1}, i;
            prmt.b32 high, {t2}, {t3}, i;
            prmt.b32 a, low, high, which;
            shr.u32 i, i, 16;
            shr.u32 which, which, 16;
            prmt.b32 low, {t0}, {t1}, i;
            prmt.b32 high, {t2}, {t3}, i;
            prmt.b32 b, low, high, which;
            prmt.b32 $0, a, b, 0x6420;
            prmt.b32 $1, a, b, 0x7531;
            }}""",
            "=r,=r,r", [words], dtype=(tl.int32, tl.int32), is_pure=True, pack=1,
        )  # fmt: skip
    else:
        low, high = words & 0x0F0F0F0F, (words >> 4) & 0x0F0F0F0F
        return lookup16(low, t0, t1, t2, t3, ISA), lookup16(high, t0, t1, t2, t3, ISA)


@triton.jit
def dot_levels(words, x_low, x_high, c, t0, t1, t2, t3):
    """PTX: c + the sum over the words' bytes of table[low nibble] * x_low's byte + table[high nibble] * x_high's, the table as in
    lookup_nibbles: its lower half below 0, its upper half between 0 and 126.

    An index above 7 gives prmt the sign of what is at index - 8, in all bits: -1 in the lower half of the table, and 0 for
    those of the lower half in the upper one. So the sum of both lookups is the value, if the upper table has one more.
    """
    # Half a word's nibbles are low and high in turn: activations are brought to that order, once for all rows.
    x0 = tl.inline_asm_elementwise("prmt.b32 $0, $1, $2, 0x5140;", "=r,r,r", [x_low, x_high], dtype=tl.int32, is_pure=True, pack=1)
    x1 = tl.inline_asm_elementwise("prmt.b32 $0, $1, $2, 0x7362;", "=r,r,r", [x_low, x_high], dtype=tl.int32, is_pure=True, pack=1)
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 i, j, a;
        xor.b32 j, $1, 0x88888888;
        prmt.b32 a, $5, $6, $1;
        dp4a.s32.s32 $0, a, $2, $4;
        prmt.b32 a, $7, $8, j;
        dp4a.s32.s32 $0, a, $2, $0;
        shr.u32 i, $1, 16;
        shr.u32 j, j, 16;
        prmt.b32 a, $5, $6, i;
        dp4a.s32.s32 $0, a, $3, $0;
        prmt.b32 a, $7, $8, j;
        dp4a.s32.s32 $0, a, $3, $0;
        }""",
        "=&r,r,r,r,r,r,r,r,r", [words, x0, x1, c, t0, t1, t2 + 0x01010101, t3 + 0x01010101], dtype=tl.int32, is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit
def lookup16(n, t0: tl.constexpr, t1: tl.constexpr, t2: tl.constexpr, t3: tl.constexpr, ISA: tl.constexpr):
    """table[i] for each byte i < 16 of the words n."""
    if ISA == "gcn" or ISA == "rdna":
        # v_perm_b32: index bytes 0-3 choose from the second operand, 4-7 from the first.
        i, zero = n & 0x07070707, n ^ n
        low = tl.inline_asm_elementwise(
            "v_perm_b32 $0, $1, $2, $3", "=v,v,v,v", [zero + t1, zero + t0, i], dtype=tl.int32, is_pure=True, pack=1
        )
        high = tl.inline_asm_elementwise(
            "v_perm_b32 $0, $1, $2, $3", "=v,v,v,v", [zero + t3, zero + t2, i], dtype=tl.int32, is_pure=True, pack=1
        )
        return pick(low, high, filled(n, 3))
    else:
        zero = n ^ n
        found = zero
        for i in tl.static_range(16):
            word = t0 if i < 4 else (t1 if i < 8 else (t2 if i < 12 else t3))
            byte = ((zero + word) >> (8 * (i % 4))) & 255
            byte |= byte << 8
            byte |= byte << 16
            other = n ^ (i * 0x01010101)  # 0 in the bytes that are i
            found |= byte & ~filled(other | (other >> 1) | (other >> 2) | (other >> 3), 0)
        return found


@triton.jit
def settle_products(order, ISA: tl.constexpr):
    """Waits for the products of a warpgroup on the matrix units that are under way; gives `order`, a number, back.

    Triton lets them run on into a loop's next turn, until one more is asked for. Their weights lie in registers, and the assembler of
    Triton 3.6 (CUDA 12.8) takes those for free from a loop's end on: what the next turn computed was written over weights that were
    still to be read.
    """
    tl.static_assert(ISA == "ptx")
    return tl.inline_asm_elementwise(
        "wgmma.wait_group.sync.aligned 0;\nmov.b32 $0, $1;", "=r,r", [tl.cast(order, tl.int32)], dtype=tl.int32, is_pure=False, pack=1
    )
