"""GNU as as an independent judge: same statement, same meaning, and nothing valid refused.

A few hundred statements of the kind that kernels use, from templates with varying registers,
sizes, addresses and immediates. Both assemblers' bytes go through objdump and must read the same.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.asm import assemble

TOOLS = [tool for tool in ("as", "objdump", "objcopy") if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(TOOLS), reason=f"not on this machine: {', '.join(TOOLS)}")

BASE = 0x1000
SLOT = 64


def _words(text: str) -> list[str]:
    return text.split()


REGISTERS = {
    "q": _words("rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r12 r13 r15"),
    "d": _words("eax ecx edx ebx esp ebp esi edi"),
    "w": _words("ax cx dx bx sp bp si di"),
    "b": _words("al cl dl bl"),
    "h": _words("ah ch dh bh"),
    "x": _words("xmm0 xmm1 xmm7"),
    "s": _words("ds es fs gs ss"),
}
NUMBERS = {
    "i8": ["0", "1", "-1", "0x7f", "0x80", "0xff", "-0x80"],
    "i16": ["0", "-1", "0x7f", "0x80", "0x7fff", "0x8000", "0xffff"],
    "i32": ["0", "-1", "0x7f", "0x80", "0x12345678", "0x80000000", "0xffffffff"],
    "s32": ["0", "-1", "0x7f", "0x80", "-0x81", "0x7fffffff", "-0x80000000"],
    "i64": ["0x80000000", "0x112233445566", "-0x80000001", "0xffff800000000000"],
    "u5": ["1", "3", "12", "31"],
}
CONDITIONS = _words("o no b c nae ae e z ne nz be na a nbe s ns p np l nge ge nl le ng g nle")

BOTH = """
mov R, R|mov R, m|mov m, R|mov R, IR|mov P m, IP|mov h, b|mov h, h|add h, i8|xchg b, h
add R, R|adc R, m|sub m, R|sbb R, IR|and P m, IP|or R, IR|xor R, R|cmp R, IR|cmp P m, IP|test R, R
test m, R|test P m, IP|test R, IR|shl R, 1|shr R, cl|sar P m, u5|rol R, u5|ror P m, cl|sal P m, 1
rcl R, u5|inc R|dec P m|neg P m|not R|mul P m|imul R|div R|idiv P m|xchg R, R|xchg m, R
lock xadd m, R|lock cmpxchg m, R|lock inc P m|lock or m, R|xadd R, R|cmpxchg R, R
imul W, W|imul W, m|imul W, W, IW|bt W, W|bts m, W|btr W, u5|btc V m, u5|lock bts m, W|bsf W, W
bsr W, m|tzcnt W, W|lzcnt W, m|popcnt W, W|cmovC W, W|cmovC W, m|setC b|setC byte ptr m
movzx d, byte ptr m|movzx d, w|movsx w, b|movsx d, word ptr m|lea W, m|shld W, W, u5|shrd m, W, cl
jC 0x1010|jmp 0x1003|jmp 0x2000|jC 0x3000|call 0x5000|loop 0x1010|loope 0x1000
push N|push m|pop N|pop m|push w|push word ptr m|push s32|call N|call m|jmp N|jmp m|push fs|pop gs
ret|ret 8|enter 16, 0|leave|rep movsb|rep movsw|rep movsd|rep stosb|rep stosd|lodsb|lodsd|stosw
scasb|repne scasb|repe cmpsb|cmpsd|movsb|rep insb|rep outsd|xlatb|cld|std|clc|stc|cmc|lahf|sahf
lgdt m|lidt m|sgdt m|sidt m|ltr w|ltr word ptr m|lldt w|str w|sldt word ptr m|smsw w|lmsw w
mov cr0, N|mov N, cr2|mov cr3, N|mov N, cr4|mov dr7, N|mov N, dr6|mov N, cr0
mov s, d|mov w, s|mov d, s|mov word ptr m, s|mov s, word ptr m
clts|invlpg m|wbinvd|invd|rdmsr|wrmsr|cpuid|cli|sti|hlt|pause|nop|rdtsc|rdtscp|clac|stac|mfence
lfence|sfence|ud2|int3|int 0x80|int 14|rdpkru|wrpkru|xgetbv|xsetbv|cwd|cdq|cbw|cwde|fninit
in al, dx|in ax, dx|in eax, dx|out dx, al|out dx, eax|in al, 0x60|out 0x80, al|out 0xe9, al
bswap d|rdrand d|movups x, m|movaps m, x|movdqu x, xmmword ptr m|movdqa x, x|xorps x, x|pxor x, m
paddq x, x|movq x, m|movq qword ptr m, x|movd x, d|movd d, x|movss x, m|movsd m, x|movnti m, d
cvtsi2sd x, d|cvttsd2si d, x|pshufd x, x, 0x1b|movntdq m, x|fxsave m|fxrstor m|ldmxcsr m|stmxcsr m
clflush m|prefetcht0 m|cmpxchg8b m|lock cmpxchg8b m|crc32 d, b|monitor|mwait|nop dword ptr m
mov al, [0x1000]|mov [0x2000], eax|mov byte ptr [0x5100], 1|lgdt [0x5100]|add dword ptr [8], s32
mov eax, fs:[0x10]|mov gs:[8], ecx|inc dword ptr gs:[0]
"""
ONLY_64 = """
mov q, i64|movabs q, i64|mov q, s32|and q, s32|cmp qword ptr m, s32
movsxd q, d|movsxd q, dword ptr m|iretq|retfq|syscall|sysretq|swapgs|pushfq|popfq|cqo|cdqe
rep movsq|rep stosq|lodsq|scasq|cmpsq
mov cr8, q|mov q, cr8|invpcid q, m|cmpxchg16b m|lock cmpxchg16b m|bswap q|movq x, q|movq q, x
rdfsbase q|wrgsbase q|fxsave64 m|jrcxz 0x1010|jecxz 0x1010|rdrand q|movzx q, b|movsx q, w
mov sil, r8b|add r9b, spl|mov r10w, r11w|mov r14d, r15d|xor r8d, r8d|endbr64|mov rax, [0x1122334455]
mov [0x1122334455], al|mov rcx, [0xffffffff80001000]|mov rax, gs:[0x10]|lea rax, [rip + 0x10]
mov dword ptr [rip + 0x20], s32|mov eax, [ecx + edx*4 + 8]|mov rax, [r8d]|add [esi], r9
"""
ONLY_32 = """
iretd|retf|pushad|popad|pushfd|popfd|push ds|pop es|push cs|ljmp 8:0x10100|lcall 0x10:0x2000
jecxz 0x1010|mov ebx, [0xffff8000]|lea eax, [ebx + 0xffffffff]|mov eax, [0xfee00000]|les eax, m
mov ecx, 0xc0000080|jmp 0xf0000000|call 0x80000000|jcxz 0x1010|endbr32|lgdt gs:m|sidt fs:m
"""


def corpus(bits: int) -> list[str]:
    rng = random.Random(bits)
    widths = "bwdq" if bits == 64 else "bwd"
    words = {"b": "byte ptr", "w": "word ptr", "d": "dword ptr", "q": "qword ptr"}
    immediates = {"b": "i8", "w": "i16", "d": "i32", "q": "s32"}

    def address() -> str:
        names = REGISTERS["q" if bits == 64 else "d"]
        base = rng.choice(names)
        index = rng.choice([name for name in names if name not in ("rsp", "esp")])
        scaled = f"{index}*{rng.choice([2, 4, 8])}"
        disp = rng.choice(["+ 8", "- 8", "+ 0x7f", "+ 0x80", "- 0x80", "+ 0x12345678"])
        form = rng.choice([base, f"{base} {disp}", f"{base} + {scaled}", f"{scaled} {disp}",
                           f"{base} + {scaled} {disp}", f"{base} + {index}"])  # fmt: skip
        return f"[{form}]"

    def fill(template: str) -> str:
        width, wide = rng.choice(widths), rng.choice(widths[1:])
        native = "q" if bits == 64 else "d"

        def one(match: re.Match[str]) -> str:
            mark = match[0]
            mark = {"R": width, "W": wide, "N": native}.get(mark, mark)
            mark = {"IR": immediates[width], "IP": immediates[width]}.get(mark, mark)
            mark = immediates[wide] if mark == "IW" else mark
            if mark in REGISTERS:
                return rng.choice(REGISTERS[mark])
            if mark in NUMBERS:
                return rng.choice(NUMBERS[mark])
            if mark == "m":
                return address()
            return words[wide if mark == "V" else width]  # P and V

        head, _, rest = template.partition(" ")
        if head in ("lock", "rep", "repe", "repne"):
            word, _, rest = rest.partition(" ")
            head = f"{head} {word}"
        head = re.sub(r"C$", lambda _: rng.choice(CONDITIONS), head)
        pattern = r"\b(IR|IP|IW|i8|i16|i32|s32|i64|u5|[RWNPVmqdwbhxs])\b"
        return f"{head} {re.sub(pattern, one, rest)}".strip()

    text = BOTH + (ONLY_64 if bits == 64 else ONLY_32)
    templates = [part.strip() for line in text.splitlines() for part in line.split("|")]
    found = {fill(template) for template in templates if template for _ in range(4)}
    return sorted(found)


def read(code: bytes, bits: int, folder: Path) -> list[str]:
    """Disassemble the first instruction of every slot, as if the slot stood at BASE."""
    (folder / "slots.bin").write_bytes(code)
    machine = "i386:x86-64" if bits == 64 else "i386"
    command = ["objdump", "-D", "-b", "binary", "-m", machine, "-M", "intel"]
    command += ["--insn-width=16", f"--adjust-vma={BASE}", str(folder / "slots.bin")]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^ *([0-9a-f]+):\t(?:[0-9a-f]{2} )+ *\t?([^#<\n]*)", text, re.MULTILINE)
    texts = []
    for at, words in rows:
        offset = int(at, 16) - BASE
        if offset % SLOT == 0:
            branch = re.match(r"(j\w+|call|loop\w*) +0x(\w+)", words)
            if branch:
                words = f"{branch[1]} {(int(branch[2], 16) - offset) % (1 << bits):#x}"
            # A superfluous 66 before `mov [rax], ds` changes nothing.
            texts.append(re.sub(r"\s+|^data16 ", " ", words).strip())
    return texts


def gnu(statements: list[str], bits: int, folder: Path) -> bytes:
    """Assemble each statement with GNU as in its own slot."""
    lines = [".intel_syntax noprefix", f".code{bits}"]
    for statement in statements:
        branch = re.match(r"(j\w+|call|loop\w*) (0x\w+)$", statement)
        if branch:  # in its slot, as far from the target as from BASE
            statement = f"{branch[1]} 8b - {BASE} + {branch[2]}"
        lines += ["8:", statement, f".org 8b + {SLOT}, 0x90"]
    (folder / "g.s").write_text("\n".join(lines) + "\n")
    flags = ["--64" if bits == 64 else "--32", "g.s", "-o", "g.o"]
    done = subprocess.run(["as", *flags], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    copy = ["objcopy", "-O", "binary", "-j", ".text", "g.o", "g.bin"]
    subprocess.run(copy, cwd=folder, check=True)
    return (folder / "g.bin").read_bytes()


@pytest.mark.parametrize("bits", [32, 64])
def test_same_meaning_as_gas(bits: int, tmp_path: Path) -> None:
    statements = corpus(bits)
    assert len(statements) > 500
    theirs = read(gnu(statements, bits, tmp_path), bits, tmp_path)
    code = [assemble(statement, base=BASE, bits=bits).code for statement in statements]
    ours = read(b"".join(c.ljust(SLOT, b"\x90") for c in code), bits, tmp_path)
    assert len(ours) == len(theirs) == len(statements)
    different = [row for row in zip(statements, ours, theirs, strict=True) if row[1] != row[2]]
    assert different == []
