; identity-conflict: identity-mapped tables break up virtual memory, and regions rule out frames
;
; The CPU starts with paging off. The code builds six tables, at 4, 8, 12, 16, 24 and 1004 KiB, and
; identity maps them in the first 2 MiB; it moves itself to 1 GiB, out of the way. Then it asks the
; CPU the lecture's two questions, page by page, by a read that either faults or does not.
;
; First: where can a region of 1000 KiB begin, from 28 KiB on? A page that faults is free. At 28 KiB
; it would overlap the page at 1004 KiB, which shows a page table: R9 is what a region there would
; overwrite, the entry that maps this very code. The first place is 1008 KiB.
;
; Second: the region is mapped there, 1008 to 2008 KiB, to frames elsewhere, and each of its pages
; marked. Which frames can no longer hold an identity-mapped page table? Those whose own address
; shows the region's mark. (The lecture says 'between 1000 KiB and 2008 KiB'; the frame at 1000 KiB
; would still do, and 1004 KiB holds a table.) The frame at 1500 KiB is one: seen through another
; mapping it holds R15, but at its own address is the region (R12; 0 if another region was asked
; for, and nothing is there).
;
; In:  EDI = where to begin, ESI = the size of the region, a multiple of 4 KiB. At `extra`, up to 64
;      more pages of the first 2 MiB, by number, to be identity mapped.
; Out: R8 = the first address where the region is free (below 4 MiB, else all ones). R10 = the first
;      frame ruled out, R11 = the end of the last, RBX = how many. R9, R12 and R15 as above.
;
; [machine]
; mode = "protected"
; ram = "16M"
;
; [in]
; rdi = 0x7000                # 28 KiB
; rsi = 0xfa000               # 1000 KiB
;
; [out]
; r8 = 0xfc000                # 1008 KiB
; r9 = 0x100063               # this code's level 1 entry
; r10 = 0xfc000               # 1008 KiB
; r11 = 0x1f6000              # 2008 KiB
; rbx = 250
; r12 = 0x100000177000       # the region's mark at 1500 KiB
; r15 = 0x7ab1e               # what is in the frame at 1500 KiB
; exit = 1

LEVEL_3      = 8 * 1024
LEVEL_2      = 12 * 1024
LEVEL_1      = 16 * 1024                // of the first 2 MiB
CODE_LEVEL_2 = 24 * 1024
CODE_LEVEL_1 = 1004 * 1024
FLAGS   = 3                             // PRESENT | WRITABLE
CODE    = 0x40100000                    // 1 GiB and 1 MiB
MOVE    = CODE - 0x100000
WINDOW  = MOVE + 300 * 4096             // a page that the code's level 1 table has free
FRAMES  = 0x400000                      // for the region
MARK    = 0x100000000000
END     = 0x400000
EXTRA   = 64

.include "include/selectors.inc"

    mov dword ptr [PML4], LEVEL_3 + FLAGS
    mov dword ptr [LEVEL_3], LEVEL_2 + FLAGS
    mov dword ptr [LEVEL_2], LEVEL_1 + FLAGS
    mov dword ptr [LEVEL_3 + 8], CODE_LEVEL_2 + FLAGS
    mov dword ptr [CODE_LEVEL_2], CODE_LEVEL_1 + FLAGS
    mov ebp, tables
identity_map:
    mov eax, [ebp]
    mov ebx, eax
    shr ebx, 9
    add eax, FLAGS
    mov [ebx + LEVEL_1], eax
    add ebp, 4
    cmp ebp, tables_end
    jne identity_map
    mov dword ptr [CODE_LEVEL_1 + 256 * 8], 0x100000 + FLAGS
    mov dword ptr [CODE_LEVEL_1 + 257 * 8], 0x101000 + FLAGS
    mov dword ptr [LEVEL_1 + 256 * 8], 0x100000 + FLAGS

.include "include/long-mode.inc"

    mov rax, MOVE
    add rsp, rax
    lea rdx, [rip + moved]
    add rdx, rax
    jmp rdx
moved:                                  // now at CODE
    add [rip + gdt_pointer + 2], rax
    add [rip + idt_pointer + 2], rax
    add [rip + tss + 4], rax
    call install_tables
    lea rax, [rip + page_fault]
    mov ecx, 14
    call set_gate

    mov edx, LEVEL_1
    mov ecx, 0x100000
    mov qword ptr [rdx + 256 * 8], 0
    invlpg [rcx]
    lea rbp, [rip + extra]
map_extra:
    movzx ecx, word ptr [rbp]
    test ecx, ecx
    jz extra_done
    mov eax, ecx
    shl eax, 12
    or eax, FLAGS
    mov [rdx + rcx * 8], rax
    add rbp, 2
    jmp map_extra
extra_done:

    mov r9d, CODE_LEVEL_1
    mov r9, [r9 + 256 * 8]

    // The first question.
    mov r8, rdi                         // where the region may begin
    mov rdx, rdi
search:
    call is_free
    jc page_is_free
    lea r8, [rdx + 4096]
page_is_free:
    add rdx, 4096
    mov rax, rdx
    sub rax, r8
    cmp rax, rsi
    je found
    cmp rdx, END
    jne search
    mov r8, -1
    jmp end
found:

    // Map the region, if it is one of the first 2 MiB, and mark it.
    mov rdx, r8
    mov ecx, FRAMES
    mov rdi, MARK
map_region:
    mov rax, rdx
    shr rax, 9
    lea rbx, [rcx + FLAGS]
    cmp rdx, 0x200000
    jae end
    mov [rax + LEVEL_1], rbx
    invlpg [rdx]
    lea rax, [rdx + rdi]
    mov [rdx], rax
    add rdx, 4096
    add ecx, 4096
    mov rax, rdx
    sub rax, r8
    cmp rax, rsi
    jne map_region

    // The second question, for each frame of the first 2 MiB.
    xor ebx, ebx
    xor edx, edx
    mov r10, -1
    xor r11d, r11d
each_frame:
    call is_free
    jc not_ruled_out
    lea rax, [rdx + rdi]
    cmp [rdx], rax
    jne not_ruled_out                   // its own address shows the frame itself: a table
    inc ebx
    cmp r10, -1
    jne not_the_first
    mov r10, rdx
not_the_first:
    lea r11, [rdx + 4096]
not_ruled_out:
    add edx, 4096
    cmp edx, 0x200000
    jne each_frame

    mov ecx, CODE_LEVEL_1
    mov eax, 1500 * 1024
    lea rdx, [rax + FLAGS]
    mov [rcx + 300 * 8], rdx
    mov rdx, WINDOW
    mov qword ptr [rdx], 0x7ab1e
    mov r15, [rdx]
    xor r12d, r12d
    lea r14, [rip + end]                // where to go on if that page is not the region's
    mov r12, [rax]
end:
    xor eax, eax
    out 0xf4, al
    hlt

is_free:                                // RDX = page; CF if a read of it faults
    lea r14, [rip + 1f]
    xor r13d, r13d
    mov al, [rdx]
1:
    bt r13d, 0
    ret

page_fault:                             // go on at R14, and say so
    add rsp, 8                          // the error code
    mov r13d, 1
    mov [rsp], r14
    iretq

tables:
    .long PML4, LEVEL_3, LEVEL_2, LEVEL_1, CODE_LEVEL_2, CODE_LEVEL_1
tables_end:
extra:
    .zero 2 * (EXTRA + 1)

.include "include/exceptions.inc"
