; boot-info: what the bootloader passed, and what it makes possible
;
; RDI holds the address of the BootInfo. Its field physical_memory_offset, at byte 1544 with the
; feature map_physical_memory, is all that the kernel needs: plus CR3 it is the level 4 table.
;
; [out]
; rax = 0x180_0000_0000       # physical_memory_offset: 1649267441664, as in the lecture's printout
; rbx = 16                    # regions in the memory map
; rcx = 0x1000                # CR3: the first frame of the first PageTable region
; rdx = 0x2023                # the level 4 table's entry 0
; r8 = 5                      # entries of the level 4 table that are not empty

    mov rax, [rdi + 1544]
    mov rbx, [rdi + 1536]
    mov rcx, cr3
    lea rsi, [rax + rcx]
    mov rdx, [rsi]
    xor r8, r8
    xor r9, r9
next:
    mov r10, [rsi + 8 * r9]
    test r10, r10
    jz empty
    inc r8
empty:
    inc r9
    cmp r9, 512
    jb next
    hlt
