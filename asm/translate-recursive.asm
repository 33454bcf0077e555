; translate-recursive: virtual to physical through a recursive slot, any slot, huge pages and all
;
; Entry r of the level 4 table points to that table itself. An address whose first n indices are r
; shows a level-n table, so all the entries of one level lie in one array in virtual memory, in the
; order of the addresses that they translate. Four bases are all the arithmetic there is:
;
;     level 1 entries   0o_SSSSSS_RRR_000_000_000_0000  + index 4, 3, 2, 1 as one number, * 8
;     level 2 entries   0o_SSSSSS_RRR_RRR_000_000_0000  + index 4, 3, 2, * 8
;     level 3 entries   0o_SSSSSS_RRR_RRR_RRR_000_0000  + index 4, 3, * 8
;     level 4 entries   0o_SSSSSS_RRR_RRR_RRR_RRR_0000  + index 4, * 8
;
; SSSSSS copies the slot's highest bit: without this sign extension every slot from 256 on would
; give addresses that are not canonical, and #GP. A level is read only after the one above it
; proved to hold a table; an entry below a huge page would be data, and one below nothing a fault.
;
; In:  RDI = array of virtual addresses, RSI = array for the results, RDX = how many (not 0),
;      RCX = the recursive slot. Four levels.
; Out: each result is a physical address, or all ones where nothing is mapped (or the address is
;      not canonical). R12 to R15 = the bases of the entries of level 4, 3, 2 and 1.
;
; It proves that one slot shows every table of every level, with nothing else of physical memory
; mapped: the tables of this machine have no mapping of their own.
;
; [machine]
; ram = "16M"
; identity = "0"
; recursive = 510
; map = [
;     { va = 0x07f000, pa = 0x07f000, size = "4K" },            # the stack
;     { va = 0x0b8000, pa = 0x0b8000, size = "4K" },            # the VGA text buffer
;     { va = 0x100000, pa = 0x100000, size = "8K" },            # this code and its data
;     { va = 0x201000, pa = 0x400000, size = "4K", flags = "" },
;     { va = 0x10000201000, pa = 0x27d000, size = "8K", flags = "WX" },
;     { va = 0xffff800000000000, pa = 0x300000, size = "4K" },    # the kernel's half
;     { va = 0x18000000000, pa = 0, size = "16M", page = "2M" },
;     { va = 0x10040000000, pa = 0x40000000, size = "1G", page = "1G" },
; ]
;
; [in]
; rdi = "addresses"
; rsi = "results"
; rdx = 11
; rcx = 510
;
; [out]
; r12 = 0xffff_ff7f_bfdf_e000
; r13 = 0xffff_ff7f_bfc0_0000
; r14 = 0xffff_ff7f_8000_0000
; r15 = 0xffff_ff00_0000_0000
;
; [out.memory]
; 0x101000 = 0xb8000
; 0x101008 = 0x400008
; 0x101010 = 0x27da10
; 0x101018 = 0x0              # a huge page, and address 0
; 0x101020 = 0x612345
; 0x101028 = 0x7fffffff       # in a 1 GiB page
; 0x101030 = -1               # not mapped
; 0x101038 = -1               # not canonical
; 0x101040 = "PML4"           # the level 4 table, where the slot shows it
; 0x101048 = 0x300456         # bits 63:47 are ones
; 0x101050 = -1               # not canonical, though 47:0 are those of a page

    mov rax, rcx
    shl rax, 55
    sar rax, 16                     // the slot at bits 47:39, and its sign above
    mov r15, rax
    mov r10, rcx
    shl r10, 30
    mov r14, r15
    or r14, r10
    shr r10, 9
    mov r13, r14
    or r13, r10
    shr r10, 9
    mov r12, r13
    or r12, r10

    mov r8, 0x000ffffffffff000      // an entry's bits 51:12
    mov r11, 0x7ffffffff8           // four indices, * 8
next:
    mov r9, [rdi]
    mov rax, r9
    shl rax, 16
    sar rax, 16
    cmp rax, r9
    jne unmapped

    shr rax, 36
    and eax, 0xff8
    mov rax, [r12 + rax]            // level 4
    test al, 1
    jz unmapped

    mov rax, r9
    shr rax, 27
    and eax, 0x1ffff8
    mov rax, [r13 + rax]            // level 3
    mov r10d, eax
    and r10d, 0x81                  // HUGE_PAGE | PRESENT
    cmp r10d, 1
    jne no_level_2

    mov rax, r9
    shr rax, 18
    and eax, 0x3ffffff8
    mov rax, [r14 + rax]            // level 2
    mov r10d, eax
    and r10d, 0x81
    cmp r10d, 1
    jne no_level_1

    mov rax, r9
    shr rax, 9
    and rax, r11
    mov rax, [r15 + rax]            // level 1
    test al, 1
    jz unmapped
    and rax, r8
    and r9d, 0xfff
    or rax, r9
store:
    mov [rsi], rax
    add rdi, 8
    add rsi, 8
    dec rdx
    jnz next
    hlt

no_level_2:
    mov r10, 0x3fffffff
    jmp huge
no_level_1:
    mov r10, 0x1fffff
huge:                               // R10 = the page's size - 1: bits 12 and up may be flags here
    test al, 1
    jz unmapped
    and rax, r8
    or rax, r10
    xor rax, r10
    and r9, r10
    or rax, r9
    jmp store

unmapped:
    mov rax, -1
    jmp store

addresses:
    .quad 0xb8000, 0x201008, 0x10000201a10, 0x18000000000
    .quad 0x18000612345, 0x1007fffffff, 0x5555_0000_0000, 0x0000_8000_0000_0000
    .quad 0xffff_ff7f_bfdf_e000
    .quad 0xffff_8000_0000_0456, 0x0001_0000_000b_8000
.org 0x101000
results:
    .fill 11, 8, 0x55
