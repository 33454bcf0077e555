; fixed-offset: a new page table, and the mapping that shows it, at 10 TiB
;
; Only the page tables are mapped, each at its physical address plus 10 TiB: a window with seven
; pages in it, for the seven tables of this machine, its own three among them. The kernel maps a
; page for which three tables are missing. Each new table needs a new mapping before it can be
; filled: the kernel sets the window's level 1 entry for it, through the window, where the window's
; level 1 table is visible too. (A level 1 table for another part of the window could not be made
; so: it would have to be visible to be filled. So new tables must be within the first 2 MiB here.)
;
; In:  RDI = page, RSI = its frame, RDX = flags. RCX = the offset. R8 = the first free frame for
;      tables, below 2 MiB, R9 = the end of the free frames.
; Out: RAX = 0, or map_to's error. RBX = what was written to the page and read again. R8 = the next
;      free frame. R10 = the address of the fault of reading the first free frame through the
;      window before it was a table. R11 = of reading the page's frame through the window.
;
; It proves that nothing but this address space's tables can be seen at the offset: not a frame that
; is going to be one, and not the frame that was mapped (it could be a table of another address
; space: those cannot be reached either).
;
; [machine]
; ram = "16M"
; identity = "0"
; map = [
;     { va = 0x07f000, pa = 0x07f000, size = "4K" },                    # the stack
;     { va = 0x100000, pa = 0x100000, size = "16K" },                   # this code and its data
;     { va = 0xa0000001000, pa = 0x1000, size = "28K" },                # the seven tables
; ]
;
; [in]
; rdi = 0x444444444000
; rsi = 0x300000
; rdx = 3
; rcx = 0xa0000000000         # 10 TiB
; r8 = 0x10000                # 64 KiB
; r9 = 0x20000
; r12 = 0x123456789abcdef0
;
; [out]
; rax = 0
; rbx = 0x123456789abcdef0
; r8 = 0x13000
; r10 = 0xa0000010000
; r11 = 0xa0000300000
; events = ["#PF", "#PF"]
; exit = 1
;
; [out.memory]
; 0x300000 = 0x123456789abcdef0
; 0x7080 = 0x10063            # the window's level 1 table shows the three new tables
; 0x7088 = 0x11063
; 0x7090 = 0x12063
; 0x1440 = 0x10023            # and they are linked: level 4, index 136,
; 0x10888 = 0x11023           # level 3, index 273,
; 0x11110 = 0x12023           # level 2, index 34,
; 0x12220 = 0x300063          # level 1, index 68

.include "include/flags.inc"
.include "include/selectors.inc"

    mov r15, rcx
    mov rbp, rdx
    lea rax, [rip + next_frame]
    mov [rax], r8
    lea rax, [rip + end_of_frames]
    mov [rax], r9
    call install_tables
    lea rax, [rip + page_fault]
    mov ecx, 14
    call set_gate

    lea r14, [rip + before]             // where the handler goes on
    xor r13d, r13d
    mov rax, [r15 + r8]
before:
    mov r10, r13

    mov rdx, rbp
    call map_to
    mov rbp, rax
    test rax, rax
    jnz end
    mov [rdi], r12
    mov rbx, [rdi]

    lea r14, [rip + after]
    xor r13d, r13d
    mov rax, [r15 + rsi]
after:
    mov r11, r13
end:
    mov r8, [rip + next_frame]
    mov rax, rbp
    out 0xf4, al
    hlt

page_fault:
    add rsp, 8                          // the error code
    mov r13, cr2
    mov [rsp], r14
    iretq

allocate_frame:
    mov rax, [rip + next_frame]
    cmp rax, [rip + end_of_frames]
    je no_frame
    add qword ptr [rip + next_frame], 4096
    ret
no_frame:
    xor eax, eax
    ret

show_table:                             // the mapping that a new table needs: offset + frame
    push rax
    push rbx
    push rcx
    push rdi
    mov rdi, rax
    add rdi, r15
    push rax
    call find_entry                     // RBX = where the window's level 1 entry appears
    pop rax
    cmp ecx, 12
    jne outside
    or rax, PRESENT | WRITABLE
    mov [rbx], rax
    invlpg [rdi]
    pop rdi
    pop rcx
    pop rbx
    pop rax
    ret
outside:                                // the window has no level 1 table for it
    ud2

.include "include/map-to.inc"
.include "include/exceptions.inc"

next_frame:
    .quad 0
end_of_frames:
    .quad 0
