; temporary-limit: 511 temporary mappings, and not one more
;
; A level 1 table has 512 entries, and one of them maps the table itself: 511 are left to lend. The
; kernel builds the lecture's tables (level 4 at 4 KiB, 3 at 16 KiB, 2 at 24 KiB, 1 at 32 KiB, in
; its own entry 8), moves itself out of the first 2 MiB to a mapping of its code at 3 MiB, and sets
; all entries but entry 8 to unused. Then it maps one frame after the other, from 4 MiB of physical
; memory on, without giving any back, until the search finds no free entry. Each page is written
; with its number; afterwards each is read: all 511 mappings are there at once. In the end one entry
; is given back, and one more mapping is possible: the one that was given back.
;
; Out: R8 = how many mappings succeeded. R9 = what the search for the next one returned. R10 = how
;      many pages show their number. R11 = the first page, R12 = the page after index 7, R13 = the
;      last page. R14 = the page of the mapping after page 0x64000 was given back.
;
; [machine]
; mode = "protected"
; ram = "16M"
;
; [out]
; r8 = 511
; r9 = -1
; r10 = 511
; r11 = 0x0
; r12 = 0x9000                # 32 KiB is skipped: its entry holds the table
; r13 = 0x1ff000
; r14 = 0x64000
;
; [out.memory]
; 0x8040 = 0x8063             # entry 8
; 0x400000 = 0                # the frames hold their numbers
; 0x4ff000 = 255              # the one where this code was first, too
; 0x5fe000 = 510
; 0x5ff000 = 511              # the frame that was mapped at last

LEVEL_3 = 16 * 1024
LEVEL_2 = 24 * 1024
LEVEL_1 = 32 * 1024
CODE_LEVEL_1 = 40 * 1024                // controls 2 to 4 MiB
CODE    = 0x300000
FLAGS   = 3                             // PRESENT | WRITABLE
UNUSED  = 0
FRAMES  = 0x400000

    mov dword ptr [PML4], LEVEL_3 + FLAGS
    mov dword ptr [LEVEL_3], LEVEL_2 + FLAGS
    mov dword ptr [LEVEL_2], LEVEL_1 + FLAGS
    mov dword ptr [LEVEL_2 + 8], CODE_LEVEL_1 + FLAGS
    mov dword ptr [LEVEL_1 + 8 * 8], LEVEL_1 + FLAGS
    mov dword ptr [LEVEL_1 + 256 * 8], 0x100000 + FLAGS
    mov dword ptr [CODE_LEVEL_1 + 256 * 8], 0x100000 + FLAGS

.include "include/long-mode.inc"

    mov rax, CODE - 0x100000
    add rsp, rax
    lea rdx, [rip + moved]
    add rax, rdx
    jmp rax
moved:                                  // now at 3 MiB
    mov rsi, LEVEL_1
    mov edi, 0x100000
    mov qword ptr [rsi + 256 * 8], UNUSED
    invlpg [rdi]

    xor r8d, r8d
    mov rdi, FRAMES
    mov r11, -1
    mov r12, -1
map_next:
    call map_temporarily
    mov r9, rax
    cmp rax, -1
    je full
    mov [rax], r8
    mov r13, rax
    test r8, r8
    jnz not_first
    mov r11, rax
not_first:
    cmp r8, 8
    jne not_after_the_table
    mov r12, rax
not_after_the_table:
    inc r8
    add rdi, 4096
    jmp map_next
full:

    xor r10d, r10d
    xor ebx, ebx                        // number
    xor edx, edx                        // page
check:
    cmp edx, LEVEL_1
    je check_next                       // the table's own page
    cmp [rdx], rbx
    jne wrong
    inc r10d
wrong:
    inc ebx
check_next:
    add edx, 4096
    cmp edx, 0x200000
    jne check

    mov eax, 0x64000
    call unmap_temporary
    call map_temporarily
    mov r14, rax
    mov [rax], r8
    hlt

.include "include/map-temporarily.inc"
