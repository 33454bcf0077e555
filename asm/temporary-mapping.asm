; temporary-mapping: one level 1 table that maps itself, with the lecture's own numbers
;
; The CPU starts with paging off. The code builds the lecture's hierarchy: the level 4 table at
; 4 KiB, level 3 at 16 KiB, level 2 at 24 KiB, and one level 1 table at 32 KiB, reached from CR3 by
; following index 0 three times, so that it controls the first 2 MiB. (The lecture does not say
; where the level 3 table is.) Its entry 8 maps the page at 32 KiB to the frame at 32 KiB: the table
; itself, identity mapped, which is all that a kernel needs to reach every frame. Entries 256 to 263
; map this code; all others are unused.
;
; First the lecture's two mappings: entry 0 to the frame at 24 KiB shows the level 2 table at page
; 0 KiB, and entry 9 to the frame at 4 KiB shows the level 4 table at page 36 KiB. Set back to
; unused, and invalidated, both pages fault. Then the general process, for each frame of a list:
; search a free entry, map it to the frame, read the frame's first word through the page, set the
; entry back to unused, `invlpg`. It gets the same page each time, so a forgotten invalidation would
; show the frame before.
;
; In:  `count` frames at `frames` (the kernel's own list: the four tables, none of which is mapped).
; Out: R8 = the level 2 table's entry 0, read at 0 KiB. R9 = the level 4 table's entry 0, read at
;      36 KiB. R10 and R11 = the addresses of the two page faults. RBX = how many frames of the list
;      were read; the page of each is in `pages`, its first word in `words`.
;
; [machine]
; mode = "protected"
; ram = "16M"
;
; [out]
; r8 = 0x8023                 # level 2, entry 0: the table at 32 KiB (and A)
; r9 = 0x4023                 # level 4, entry 0: the table at 16 KiB
; r10 = 0x0
; r11 = 0x9000                # 36 KiB
; rbx = 4
; events = ["#PF", "#PF"]
; exit = 1
;
; [out.memory]
; 0x8000 = 0                  # entry 0 is unused again,
; 0x8048 = 0                  # and entry 9,
; 0x8040 = 0x8063             # and entry 8 is the table itself
; 0x104000 = 0                # each time entry 0, and so page 0
; 0x104018 = 0
; 0x106000 = 0x4023           # the level 4 table
; 0x106008 = 0x6023           # level 3
; 0x106010 = 0x8023           # level 2
; 0x106018 = 0x8023           # level 1: its entry 0, by which it is being read

LEVEL_3 = 16 * 1024
LEVEL_2 = 24 * 1024
LEVEL_1 = 32 * 1024
FLAGS   = 3                             // PRESENT | WRITABLE
UNUSED  = 0
LARGEST = 1024                          // frames in the list

.include "include/selectors.inc"

    mov dword ptr [PML4], LEVEL_3 + FLAGS
    mov dword ptr [LEVEL_3], LEVEL_2 + FLAGS
    mov dword ptr [LEVEL_2], LEVEL_1 + FLAGS
    mov dword ptr [LEVEL_1 + 8 * 8], LEVEL_1 + FLAGS
    mov edi, LEVEL_1 + 256 * 8
    mov eax, 0x100000 + FLAGS
code_page:
    mov [edi], eax
    add edi, 8
    add eax, 0x1000
    cmp eax, 0x108000 + FLAGS
    jne code_page

.include "include/long-mode.inc"

    call install_tables
    lea rax, [rip + page_fault]
    mov ecx, 14
    call set_gate

    // The lecture's two mappings.
    mov rsi, LEVEL_1                    // virtual 32 KiB
    xor edi, edi
    mov qword ptr [rsi + 0 * 8], LEVEL_2 + FLAGS
    mov r8, [rdi]                       // the level 2 table, at page 0 KiB
    mov qword ptr [rsi + 9 * 8], PML4 + FLAGS
    mov r9, [rdi + 36 * 1024]           // the level 4 table, at page 36 KiB

    mov qword ptr [rsi + 0 * 8], UNUSED
    invlpg [rdi]
    mov qword ptr [rsi + 9 * 8], UNUSED
    invlpg [rdi + 36 * 1024]
    lea r14, [rip + first]              // where the handler goes on
    mov r10, -1
    mov r12, [rdi]
first:
    mov r10, r13
    lea r14, [rip + second]
    mov r12, [rdi + 36 * 1024]
second:
    mov r11, r13

    // The general process.
    xor ebx, ebx
each_frame:
    cmp rbx, [rip + count]
    je done
    lea rdx, [rip + frames]
    mov rdi, [rdx + rbx * 8]
    call map_temporarily
    lea rdx, [rip + pages]
    mov [rdx + rbx * 8], rax
    mov rdi, [rax]                      // use it
    lea rdx, [rip + words]
    mov [rdx + rbx * 8], rdi
    call unmap_temporary
    inc rbx
    jmp each_frame
done:
    xor eax, eax
    out 0xf4, al
    hlt

page_fault:
    add rsp, 8                          // the error code
    mov r13, cr2
    mov [rsp], r14
    iretq

.include "include/exceptions.inc"
.include "include/map-temporarily.inc"

.org 0x102000
count:
    .quad 4
frames:
    .quad PML4, LEVEL_3, LEVEL_2, LEVEL_1
    .zero 8 * (LARGEST - 5)
.org 0x104000
pages:
    .fill LARGEST, 8, 0x55
.org 0x106000
words:
    .zero 8 * LARGEST
