; active-level-4-table: the level 4 table through the full physical map, and what is in it
;
; CR3 holds the table's physical address, which a kernel cannot dereference. All of physical memory
; is mapped at an offset, 0x18000000000 as in the lecture, so the table is at offset + CR3:
; `active_level_4_table(offset)`. The loop is the lecture's too: every entry that is not unused (not
; zero; present or not) is printed with its index, in hexadecimal as `{:02x}` does. The lecture
; names four of them: kernel code, kernel stack, physical memory mapping, boot information.
;
; In:  RDI = the physical map's offset.
; Out: RAX = the table's virtual address, RBX = how many entries are not unused.
;
; It proves that the table is reached through the offset: neither the table nor any other page of
; low memory but the kernel's own is identity mapped, so that CR3 + 0 faults.
;
; [machine]
; ram = "16M"
; identity = "0"
; map = [
;     { va = 0x07f000, pa = 0x07f000, size = "4K" },                    # stack of this code
;     { va = 0x100000, pa = 0x100000, size = "4K" },                    # this code
;     { va = 0x10000000000, pa = 0x200000, size = "512K" },             # a kernel stack
;     { va = 0x18000000000, pa = 0, size = "16M", page = "2M" },        # physical memory
;     { va = 0xfffff00000000000, pa = 0x15000, size = "4K" },           # boot information
; ]
;
; [in]
; rdi = 0x18000000000
;
; [out]
; rax = 0x18000001000
; rbx = 4
; serial = """
; L4 Entry 00: 0x0000000000002023
; L4 Entry 02: 0x0000000000005003
; L4 Entry 03: 0x0000000000008023
; L4 Entry 1e0: 0x000000000000a003
; FIN
; """

    call active_level_4_table
    mov r12, rax
    xor ebx, ebx
    xor r13d, r13d
each:
    cmp qword ptr [r12 + r13 * 8], 0    // entry.is_unused()
    je next
    inc ebx
    lea rsi, [rip + entry]
    call print_string
    mov rax, r13
    mov ecx, 2
    cmp eax, 0x100
    jb two_digits                       // {:02x}: at least two
    mov ecx, 3
two_digits:
    call print_hex
    lea rsi, [rip + colon]
    call print_string
    mov rax, [r12 + r13 * 8]
    mov ecx, 16
    call print_hex
    lea rsi, [rip + newline]
    call print_string
next:
    inc r13d
    cmp r13d, 512
    jne each
    lea rsi, [rip + fin]
    call print_string
    mov rax, r12
    hlt

active_level_4_table:                   // RDI = offset; RAX = the table
    mov rax, cr3
    mov rdx, 0x000ffffffffff000
    and rax, rdx
    add rax, rdi
    ret

entry:   .asciz "L4 Entry "
colon:   .asciz ": 0x"
fin:     .ascii "FIN"
newline: .asciz "\n"

.include "include/print.inc"
