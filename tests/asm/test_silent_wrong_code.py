"""Each line that Keystone 0.9.2 silently gets wrong is an error here, or made right.

The first table is the list in docs/quirks.md, Keystone; the second was found while this assembler
was written.
"""

from __future__ import annotations

import pytest

from harness.asm import assemble
from harness.errors import AssemblyError

# statement, bits, what Keystone makes of it, part of the reason
REFUSED = [
    # docs/quirks.md, Keystone
    ("mov rcx,[0xffff800000000000]", 64, "mov rcx, qword ptr [0]", "within 2 GiB"),
    ("mov rax, [rbx+0x80000000]", 64, "mov rax, qword ptr [rbx - 0x80000000]", "displacement"),
    ("push 0x112233445566", 64, "push 0x5566", "32 bits with a sign"),
    ("mov eax,0x1ffffffff", 64, "mov eax, 0xffffffff", "between -0x80000000 and 0xffffffff"),
    ("jmp 0xffffffff80000000", 64, "jmp 0x80000000", "within 2 GiB"),
    ("iret", 64, "iretw", "write iretq"),
    ("iret", 32, "iretw", "write iretd"),
    ("mov byte [0x1000], 1", 64, None, "`byte ptr [...]`"),
    # found since: immediates
    ("push 0x80000000", 64, "push 0", "32 bits with a sign"),
    ("mov al, 0x1ff", 64, "mov al, 0xff", "between -0x80 and 0xff"),
    ("mov ax, 0x12345", 64, "mov ax, 0x2345", "between -0x8000 and 0xffff"),
    ("mov word ptr [rax], 0x12345", 64, "mov word ptr [rax], 0x2345", "0xffff"),
    ("mov byte ptr [rax], 0x123", 64, "mov byte ptr [rax], 0x23", "0xff"),
    ("mov dword ptr [rax], 0x1ffffffff", 64, "mov dword ptr [rax], 0xffffffff", "0xffffffff"),
    ("add al, 0x100", 64, "add al, 0", "0xff"),
    ("add ax, 0x10000", 64, "add ax, 0", "0xffff"),
    ("cmp eax, 0x1ffffffff", 64, "cmp eax, 0xffffffff", "0xffffffff"),
    ("test al, 0x1ff", 64, "test al, 0xff", "0xff"),
    ("imul ax, bx, 0x12345", 64, "imul ax, bx, 0x2345", "0xffff"),
    ("imul eax, ebx, 0x1ffffffff", 64, "imul eax, ebx, 0xffffffff", "0xffffffff"),
    ("or al, -129", 64, "or al, 0x7f", "-0x80"),
    ("mov rax, -0x8000000000000001", 64, "movabs rax, 0x7fffffffffffffff", "-0x80000000000000"),
    ("ret 0x10000", 64, "ret 0", "0xffff"),
    ("ret -1", 64, "ret 0xffff", "between 0x0"),
    ("enter 0x12345, 1", 64, "enter 0x2345, 1", "0xffff"),
    ("enter 8, 0x101", 64, "enter 8, 1", "0xff"),
    # addresses
    ("mov rax, [rbx+0x112233445566]", 64, "mov rax, qword ptr [rbx + 0x33445566]", "32 bits"),
    ("mov rax, [rbx-0x80000001]", 64, "mov rax, qword ptr [rbx + 0x7fffffff]", "32 bits"),
    ("mov rax, [rbx+rcx*8+0xffffffff]", 64, "mov rax, qword ptr [rbx + rcx*8 - 1]", "32 bits"),
    ("mov rax, [rbx+rsp*2]", 64, "mov rax, qword ptr [rbx + riz*2]", "rbx + rsp*2"),
    ("add qword ptr [0x8000000000], 1", 64, "add qword ptr [0], 1", "within 2 GiB"),
    ("lea rax, [0x8000000000]", 64, "lea rax, [0]", "within 2 GiB"),
    # targets
    ("call 0xffffffff80000000", 64, "call 0x80000000", "within 2 GiB"),
    ("ja 0xffffffff80000000", 64, "ja 0x80000000", "within 2 GiB"),
    ("jmp 0x180000000", 64, None, "within 2 GiB"),
    # widths that hang on a suffix
    ("pushf", 64, "pushfw", "write pushfq"),
    ("popf", 32, "popfw", "write popfd"),
    ("retf", 64, "retf", "write retfq"),
    ("sysret", 64, "sysretq", "write sysretq"),
    ("sysexit", 64, "sysexitq", "write sysexitq"),
    # one that a CPU refuses
    ("lock mov [rax], ebx", 64, "undecodable bytes f0 89 18", "a CPU decodes"),
    ("lock add eax, [rbx]", 64, "lock add eax, dword ptr [rbx]", "lock must stand before"),
    ("ljmp 8:0x10100", 64, "undecodable bytes ea 00 01 01 00 08 00", "selector:offset"),
    ("mov rax, cr1", 64, "mov rax, cr1", "a control register must be one of"),
    ("mov cs, ax", 64, "mov cs, ax", "cs must be loaded"),
    ("rep ret", 64, "repz ret", "rep must stand before a string instruction"),
    ("swapgs", 32, "swapgs", "64-bit code"),
    # Keystone leaves out the F3 that is part of it
    ("montmul", 64, None, "must begin with an instruction"),
    # AVX-512 where AVX was meant, and a size picked in silence
    ("vextractps edx, xmm1, 5", 64, "vextractps edx, xmm1, 5", "must not be AVX-512's"),
    (
        "vcvtpd2dq xmm1, [rbx]",
        64,
        "vcvtpd2dq xmm1, ymmword ptr [rbx]",
        "the size of the memory operand must be written",
    ),
    ("lss ecx, qword ptr [rbx]", 64, "lss ecx, ptr [rbx]", "must be written without a size"),
    ("lgdt tbyte ptr [eax]", 32, "lgdt [eax]", "must be 10 bytes, not 6"),
    # sizes left open
    ("push word ptr 5", 64, None, "word must be followed by a memory operand"),
    ("shl [rax], cl", 64, None, "Keystone"),
    ("movzx eax, [rax]", 64, None, "Keystone"),
    ("inc [rax]", 64, None, "Keystone"),
    ("mov [rax], 1", 64, None, "dword ptr"),
]


@pytest.mark.parametrize(("statement", "bits", "made", "reason"), REFUSED)
def test_refused(statement: str, bits: int, made: str | None, reason: str) -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble(f"nop\n  {statement} ; why\nhlt", base=0x1000, bits=bits, file="k.asm")
    error = caught.value
    assert (error.file, error.line) == ("k.asm", 2)
    assert error.statement == statement
    assert error.made == made
    message = str(error)
    assert message.startswith(f"k.asm:2: `{statement}`: ")
    assert reason in message
    assert (f"Keystone made `{made}` of it" in message) == (made is not None)


# Keystone ends the process, never returns, or writes to standard error on these.
DEADLY = [
    "mov ah, r8b",
    "mov byte ptr [r8], ah",
    "movzx rax, ah",
    "mov ah, sil",
    "data16 fs, byte ptr [rax]",
    "addr32 5, 6, 7",
    "cmpsd qword ptr [rsi], dword ptr [rdi]",
    "xlatb byte ptr [rbx]",
]


@pytest.mark.parametrize("statement", DEADLY)
def test_what_keystone_dies_of_never_reaches_it(
    statement: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AssemblyError):
        assemble(statement, base=0)
    assert capfd.readouterr().err == ""


# statement, bits, the right bytes at 0x1000
RIGHT = [
    ("ljmp 8:0x10100", 32, "ea000101000800"),
    ("jmp far 8:0x10100", 32, "ea000101000800"),
    ("lcall 8:0x10100", 32, "9a000101000800"),
    ("mov byte ptr [0x1000],1", 64, "c604250010000001"),
    ("lgdt [0x5100]", 64, "0f01142500510000"),
    ("lgdt [0x5100]", 32, "0f011500510000"),
    ("lgdt gs:[eax]", 32, "650f0110"),
    ("lgdt fword ptr [eax]", 32, "0f0110"),
    ("lgdt tbyte ptr [rax]", 64, "0f0110"),
    ("push ds", 32, "1e"),
    ("pop gs", 32, "0fa9"),
    ("push 0xffff", 64, "68ffff0000"),
    ("push 0xffffffff", 32, "6aff"),
    ("sysretq", 64, "480f07"),
    ("sysretd", 64, "0f07"),
    ("iretq", 64, "48cf"),
    ("endbr64", 64, "f30f1efa"),
    ("jmp far [rax]", 64, "ff28"),
    ("jmp far tbyte ptr [r8]", 64, "49ff28"),
    ("jmp tbyte ptr [rax]", 64, "48ff28"),
    ("lcall fword ptr [rax]", 64, "ff18"),
    ("jmp fword ptr [eax]", 32, "ff28"),
    ("mov rax, 0o777", 64, "48c7c0ff010000"),
    ("rep movsd", 32, "f3a5"),
    ("movsd", 64, "a5"),
    ("jmp short 0x1010", 64, "eb0e"),
    ("jmp near 0x1010", 64, "e90b000000"),
    ("jrcxz 0x1010", 64, "e30e"),
    ("jecxz 0x1010", 64, "67e30d"),
    ("jcxz 0x1010", 32, "67e30d"),
    ("loopnz 0x1000", 64, "e0fe"),
    ("mov rax, [0xffff800000000000]", 64, "48a100000000" + "0080ffff"),
    ("mov byte ptr [0xffffffff80000000], 1", 64, "c604250000008001"),
    ("mov ebx, [0x80000000]", 64, "8b1dfaefff7f"),
    ("mov rax, gs:[0x10]", 64, "65488b042510000000"),
    ("mov rax, 0x80000000", 64, "48b80000008000000000"),
    ("mov rax, 0xffffffff80000000", 64, "48c7c000000080"),
    ("movabs rax, 5", 64, "48b80500000000000000"),
    ("and rax, 0xfffffffffffff000", 64, "482500f0ffff"),
    ("pop [rax]", 64, "8f00"),
]


@pytest.mark.parametrize(("statement", "bits", "code"), RIGHT)
def test_made_right(statement: str, bits: int, code: str) -> None:
    assert assemble(statement, base=0x1000, bits=bits).code.hex() == code
