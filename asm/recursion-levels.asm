; recursion-levels: once, twice, three times, four times: each table read and written as a page
;
; Each pass through the recursive slot makes the CPU end its walk one level early. Once through it,
; and what the CPU takes for the frame is the level 1 table; twice, the level 2 table; three times,
; the level 3 table; four times, the level 4 table itself. The kernel computes the four addresses
; of the entries of one virtual address (TARGET) and, level by level, reads the entry, overwrites
; it with its neighbour's (which it reads through the same page), invalidates TARGET's page, and
; reads TARGET: the neighbour's data are there. Then it restores the entry and sees the old data.
;
; The neighbour at level n is the page that differs from TARGET in the level n index alone, by one:
; TARGET + 4 KiB, + 2 MiB, + 1 GiB, + 512 GiB. TARGET's own frame holds 0x10, theirs 0x11 to 0x14.
;
; In:  RDI = TARGET, with its four neighbours mapped and writable; RCX = the recursive slot.
; Out: R12 to R15 = the addresses of the level 1, 2, 3 and 4 entries of TARGET. R8 to R11 = what
;      TARGET showed while its level 1, 2, 3 and 4 entry was the neighbour's. RBX = how many of the
;      four times the old data came back. At `entries`, the four entries as they were read.
;
; It proves that reading and writing both work at all levels: a read that hit the wrong table would
; find another entry, and a write that did not reach the table would leave 0x10.
;
; [machine]
; ram = "16M"
; identity = "0"
; recursive = 511
; map = [
;     { va = 0x07f000, pa = 0x07f000, size = "4K" },                    # the stack
;     { va = 0x100000, pa = 0x100000, size = "8K" },                    # this code and its data
;     { va = 0x201048443000, pa = 0x200000, size = "4K" },
;     { va = 0x201048444000, pa = 0x201000, size = "4K" },
;     { va = 0x201048643000, pa = 0x202000, size = "4K" },
;     { va = 0x201088443000, pa = 0x203000, size = "4K" },
;     { va = 0x209048443000, pa = 0x204000, size = "4K" },
; ]
;
; [in]
; rdi = 0x201048443000       # 0o000000_100_101_102_103_0000
; rcx = 511
;
; [out]
; r8 = 0x11
; r9 = 0x12
; r10 = 0x13
; r11 = 0x14
; rbx = 4
; r12 = 0xffffff9008242218   # 0o177777_777_100_101_102_1030
; r13 = 0xffffffffc8041210   # 0o177777_777_777_100_101_1020
; r14 = 0xffffffffffe40208   # 0o177777_777_777_777_100_1010
; r15 = 0xfffffffffffff200   # 0o177777_777_777_777_777_1000
;
; [out.memory]
; 0x101000 = 0x200063           # the level 1 entry: TARGET's frame, written to (A and D)
; 0x101008 = 0x7063             # the tables: D too, for each was just written as a page
; 0x101010 = 0x6063
; 0x101018 = 0x5063
; 0x7218 = 0x200063             # and all are restored where they belong
; 0x6210 = 0x7063
; 0x5208 = 0x6063
; 0x1200 = 0x5063

    mov rbp, rcx
    mov qword ptr [rdi], 0x10
    mov r11d, 0x11
    mov ecx, 12
mark_neighbour:
    mov eax, 1
    shl rax, cl
    mov [rdi + rax], r11
    inc r11d
    add ecx, 9
    cmp ecx, 48
    jne mark_neighbour

    xor ebx, ebx
    mov ecx, 1                      // the level
level:
    // One more pass: the indices move one place to the right, and the slot enters on the left.
    mov rsi, rdi
    mov edx, ecx
pass:
    shr rsi, 9
    mov rax, 0x7ffffff000           // indices 3, 2, 1
    and rsi, rax
    mov rax, rbp
    shl rax, 39
    or rsi, rax
    dec edx
    jnz pass
    shl rsi, 16                     // sign extension
    sar rsi, 16

    // The entry within the table: the index of this level, * 8.
    lea eax, [rcx + rcx * 8]        // 9 * level
    xchg eax, ecx
    mov rdx, rdi
    shr rdx, cl                     // the index now begins at bit 3
    xchg eax, ecx
    and edx, 0xff8
    or rsi, rdx

    mov rax, [rsi]                  // read the entry,
    lea rdx, [rip + entries]
    mov [rdx + rcx * 8 - 8], rax
    lea rdx, [rip + addresses]
    mov [rdx + rcx * 8 - 8], rsi
    mov rdx, [rsi + 8]              // and its neighbour,
    mov [rsi], rdx                  // write,
    invlpg [rdi]
    mov r8, [rdi]                   // see the new frame,
    lea rdx, [rip + seen]
    mov [rdx + rcx * 8 - 8], r8
    mov [rsi], rax                  // restore,
    invlpg [rdi]
    cmp qword ptr [rdi], 0x10       // and see the old one.
    jne not_restored
    inc ebx
not_restored:
    inc ecx
    cmp ecx, 5
    jne level

    lea rsi, [rip + addresses]
    mov r12, [rsi]
    mov r13, [rsi + 8]
    mov r14, [rsi + 16]
    mov r15, [rsi + 24]
    mov r8, [rsi + 32]
    mov r9, [rsi + 40]
    mov r10, [rsi + 48]
    mov r11, [rsi + 56]
    hlt

.org 0x101000
entries:
    .zero 32
addresses:
    .zero 32
seen:
    .zero 32
